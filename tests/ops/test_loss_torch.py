"""Losses beside PyTorch's, values and gradients, on random configurations in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, ops

torch = pytest.importorskip("torch")
F = torch.nn.functional

REDUCTIONS = ("mean", "sum", "none")


def compare(ours: Any, theirs: Any, *operands: np.ndarray) -> None:
    """Outputs and all gradients. Both sides round differently in float64: some hundred roundings."""
    a = [qn.tensor(x, requires_grad=True) for x in operands]
    b = [torch.tensor(x, requires_grad=True) for x in operands]
    y, z = ours(*a), theirs(*b)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-13)
    g = np.random.default_rng(0).standard_normal(z.shape)
    y.backward(np.asarray(g))
    z.backward(torch.tensor(g))
    for p, q in zip(a, b, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("seed", range(24))
def test_cross_entropy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = ((), (7,), (3, 4))[seed % 3]
    classes, reduction = int(rng.integers(1, 40)), REDUCTIONS[seed // 3 % 3]
    x = rng.standard_normal((*shape, classes)) * 3
    weight = rng.uniform(0.1, 3, classes) if rng.random() < 0.5 else None
    smoothing = float(rng.choice([0.0, 0.1, 0.7]))
    last_to_second = lambda t: t.movedim(-1, 1) if t.ndim > 2 else t
    theirs = {
        "weight": None if weight is None else torch.tensor(weight),
        "reduction": reduction,
        "label_smoothing": smoothing,
    }
    ignored = int(rng.choice([-100, 0]))
    labels = np.asarray(rng.integers(0, classes, shape))
    if classes > 1 and shape:
        labels[rng.random(shape) < 0.2] = ignored
        labels.flat[0] = classes - 1
    elif ignored == 0:
        ignored = -100
    compare(
        lambda x: losses.cross_entropy(x, labels, reduction, weight=weight, ignore_index=ignored, label_smoothing=smoothing),
        lambda x: F.cross_entropy(last_to_second(x), torch.tensor(labels), ignore_index=ignored, **theirs),
        x,
    )  # fmt: skip
    compare(
        lambda x: ops.nll_loss(x, labels, reduction, weight, ignored),
        lambda x: F.nll_loss(last_to_second(x), torch.tensor(labels), theirs["weight"], ignore_index=ignored, reduction=reduction),
        x,
    )  # fmt: skip
    soft = rng.dirichlet(np.ones(classes), shape) if shape else rng.dirichlet(np.ones(classes))
    compare(
        lambda x: losses.cross_entropy(x, soft, reduction, weight=weight, label_smoothing=smoothing),
        lambda x: F.cross_entropy(last_to_second(x), last_to_second(torch.tensor(soft)), **theirs),
        x,
    )
    compare(
        lambda x, t: losses.cross_entropy(x, t, reduction, weight=weight, label_smoothing=smoothing),
        lambda x, t: F.cross_entropy(last_to_second(x), last_to_second(t), **theirs),
        x,
        soft,
    )


def test_all_labels_ignored() -> None:
    x, labels = np.zeros((3, 4)), np.full(3, -100)
    for reduction in REDUCTIONS:
        ours = losses.cross_entropy(x, labels, reduction).numpy()
        theirs = F.cross_entropy(torch.tensor(x), torch.tensor(labels), reduction=reduction).numpy()
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("seed", range(9))
def test_losses_of_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = ((5,), (3, 4), (2, 3, 4))[seed % 3]
    reduction = REDUCTIONS[seed // 3]
    x, t = rng.standard_normal(shape) * 2, rng.standard_normal(shape)
    compare(
        lambda x, t: losses.mse(x, t, reduction), lambda x, t: F.mse_loss(x, t, reduction=reduction), x, t
    )
    compare(lambda x, t: losses.mae(x, t, reduction), lambda x, t: F.l1_loss(x, t, reduction=reduction), x, t)
    delta = float(rng.uniform(0.2, 3))
    compare(
        lambda x, t: losses.huber(x, t, reduction, delta=delta),
        lambda x, t: F.huber_loss(x, t, reduction=reduction, delta=delta),
        x,
        t,
    )
    for beta in (delta, 0.0):
        compare(
            lambda x, t, beta=beta: ops.smooth_l1_loss(x, t, reduction, beta),
            lambda x, t, beta=beta: F.smooth_l1_loss(x, t, reduction=reduction, beta=beta),
            x,
            t,
        )
    p, soft, hard = rng.uniform(0.01, 0.99, shape), rng.uniform(0.01, 0.99, shape), rng.integers(0, 2, shape)
    bce = losses.binary_cross_entropy
    compare(
        lambda x, t: bce(x, t, reduction),
        lambda x, t: F.binary_cross_entropy(x, t, reduction=reduction),
        p,
        soft,
    )
    edge = np.where(hard == 1, p.round(), p)  # values alone: torch's bound of the slope, 1e-12, is a float32
    theirs = F.binary_cross_entropy(torch.tensor(edge), torch.tensor(hard * 1.0), reduction=reduction)
    np.testing.assert_allclose(bce(edge, hard, reduction).numpy(), theirs.numpy(), rtol=1e-12)
    with_logits = F.binary_cross_entropy_with_logits
    compare(
        lambda x, t: losses.binary_cross_entropy_with_logits(x, t, reduction),
        lambda x, t: with_logits(x, t, reduction=reduction),
        x,
        soft,
    )
    weight = rng.uniform(0.1, 4, shape[-1])
    compare(
        lambda x, t: losses.binary_cross_entropy_with_logits(x, t, reduction, pos_weight=weight),
        lambda x, t: with_logits(x, t, reduction=reduction, pos_weight=torch.tensor(weight)),
        x,
        soft,
    )


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.filterwarnings("ignore:reduction.*batchmean:UserWarning")
def test_kl_div(reduction: str) -> None:
    rng = np.random.default_rng(1)
    x, t = np.log(rng.dirichlet(np.ones(7), 5)), rng.dirichlet(np.ones(7), 5)
    compare(lambda x, t: ops.kl_div(x, t, reduction), lambda x, t: F.kl_div(x, t, reduction=reduction), x, t)
    compare(
        lambda x, t: ops.kl_div(x, t, reduction, True),
        lambda x, t: F.kl_div(x, t, reduction=reduction, log_target=True),
        x,
        np.log(t),
    )
    hard = np.eye(7)[:5]
    compare(
        lambda x: ops.kl_div(x, hard, reduction),
        lambda x: F.kl_div(x, torch.tensor(hard), reduction=reduction),
        x,
    )


def test_focal_loss_of_hard_targets() -> None:
    """The definition of the paper's authors: cross-entropy times (1 - p_t)^gamma, times alpha_t."""
    rng = np.random.default_rng(2)
    x, hard = rng.standard_normal((6, 4)) * 3, rng.integers(0, 2, (6, 4)).astype(np.float64)

    def theirs(x: Any) -> Any:
        t = torch.tensor(hard)
        p, ce = torch.sigmoid(x), F.binary_cross_entropy_with_logits(x, t, reduction="none")
        p_t = p * t + (1 - p) * (1 - t)
        return (ce * (1 - p_t) ** 2.5 * (0.3 * t + 0.7 * (1 - t))).mean()

    compare(lambda x: ops.sigmoid_focal_loss(x, hard, alpha=0.3, gamma=2.5), theirs, x)
    labels = rng.integers(0, 4, 6)

    def of_classes(x: Any) -> Any:
        log_p = F.log_softmax(x, -1)[torch.arange(6), torch.tensor(labels)]
        return (-((1 - log_p.exp()) ** 1.5) * log_p).sum()

    compare(lambda x: ops.focal_loss(x, labels, "sum", gamma=1.5), of_classes, x)
