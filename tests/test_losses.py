"""Losses as users call them: values by hand, gradients, weights of samples, errors, layers, plans."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError
from tests.checks import gradcheck

REDUCTIONS = ("mean", "sum", "none")
rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((6, 5))
LABELS = np.array([0, 3, -100, 1, 4, 3])
SOFT = rng.dirichlet(np.ones(5), 6)
WEIGHT = np.array([0.5, 1.0, 2.0, 0.25, 3.0])
A, B = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
P, Y = rng.uniform(0.05, 0.95, (4, 3)), rng.uniform(0, 1, (4, 3))
HARD = rng.integers(0, 2, (4, 3))
LOG_P = np.log(P / P.sum(1, keepdims=True))


def test_losses_by_hand_and_their_gradients() -> None:
    logits = qn.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype="float64", requires_grad=True)
    loss = losses.cross_entropy(logits, np.array([0, 0]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, rel=1e-14)
    loss.backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[-0.25, 0.25], [-0.125, 0.125]], rtol=1e-14)
    assert losses.cross_entropy(logits.detach(), np.array([0, 0]), reduction="none").shape == (2,)
    x = qn.tensor([1.0, 4.0], requires_grad=True)
    losses.mse(x, np.array([0.0, 2.0], np.float32)).backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 2.0]


# Losses of (output, target) with their operands; a target in the list of operands wants a gradient too.
CASES: dict[str, tuple[Callable[..., qn.Tensor], list[np.ndarray]]] = {
    "cross_entropy": (lambda x, r: losses.cross_entropy(x, LABELS, r), [LOGITS]),
    "weighted": (lambda x, r: losses.cross_entropy(x, LABELS, r, weight=WEIGHT), [LOGITS]),
    "smoothed": (
        lambda x, r: losses.cross_entropy(x, LABELS, r, weight=WEIGHT, label_smoothing=0.2),
        [LOGITS],
    ),
    "soft": (lambda x, r: losses.cross_entropy(x, SOFT, r, label_smoothing=0.1), [LOGITS]),
    "learned": (
        lambda x, t, r: losses.cross_entropy(x, t, r, weight=WEIGHT, label_smoothing=0.1),
        [LOGITS, SOFT],
    ),
    "nll": (lambda x, r: losses.nll(x, LABELS, r, weight=WEIGHT), [LOGITS]),
    "bce": (losses.binary_cross_entropy, [P, Y]),
    "bce_with_logits": (losses.binary_cross_entropy_with_logits, [A, Y]),
    "pos_weight": (
        lambda x, t, r: losses.binary_cross_entropy_with_logits(x, t, r, pos_weight=WEIGHT[:3]),
        [A, Y],
    ),
    "mse": (losses.mse, [A, B]),
    "mae": (losses.mae, [A, B]),
    "huber": (lambda x, t, r: losses.huber(x, t, r, delta=0.7), [A, B]),
    "smooth_l1": (lambda x, t, r: ops.smooth_l1_loss(x, t, r, 0.7), [A, B]),
    "focal": (
        lambda x, r: losses.focal(x, np.abs(LABELS) % 5, r, gamma=1.5, alpha=WEIGHT),
        [LOGITS],
    ),
    "binary focal": (lambda x, t, r: losses.focal(x, t, r, alpha=0.25), [A, Y]),
    "kl": (losses.kl_divergence, [LOG_P, Y]),
    "kl of logarithms": (lambda x, t, r: losses.kl_divergence(x, t, r, log_target=True), [LOG_P, LOG_P - 1]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients(name: str, reduction: str) -> None:
    loss, operands = CASES[name]
    gradcheck(lambda *given: loss(*given, reduction), *operands)


@pytest.mark.parametrize("name", [name for name, (_, operands) in CASES.items() if len(operands) == 2])
def test_a_gradient_of_the_target_alone(name: str) -> None:
    loss, (x, target) = CASES[name]
    gradcheck(lambda t: loss(x, t, "mean"), target)


def test_batchmean_is_the_divergence_of_a_sample() -> None:
    each = losses.kl_divergence(LOG_P, Y, "none").numpy()
    assert losses.kl_divergence(LOG_P, Y).item() == pytest.approx(each.sum() / 4, rel=1e-14)
    gradcheck(losses.kl_divergence, LOG_P, Y)


def test_the_mean_of_labels_leaves_out_ignored_ones() -> None:
    each = losses.cross_entropy(LOGITS, LABELS, "none").numpy()
    assert each[2] == 0
    kept = LABELS >= 0
    assert losses.cross_entropy(LOGITS, LABELS).item() == pytest.approx(each.sum() / 5, rel=1e-14)
    weighted = losses.cross_entropy(LOGITS, LABELS, weight=WEIGHT).item()
    w = WEIGHT[LABELS[kept]]
    assert weighted == pytest.approx((each[kept] * w).sum() / w.sum(), rel=1e-14)
    assert math.isnan(losses.cross_entropy(LOGITS[:1], [-100]).item())
    own = np.where(LABELS < 0, 3, LABELS)
    assert losses.cross_entropy(LOGITS, own, ignore_index=3).item() == pytest.approx(
        each[kept & (own != 3)].mean(), rel=1e-14
    )


# By function: what each sample's weight multiplies.
WEIGHABLE: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {
    "cross_entropy": (losses.cross_entropy, LOGITS, LABELS),
    "soft": (losses.cross_entropy, LOGITS, SOFT),
    "nll": (losses.nll, LOGITS, LABELS),
    "focal": (losses.focal, LOGITS, np.abs(LABELS) % 5),
    "binary focal": (losses.focal, A, HARD),
    "bce": (losses.binary_cross_entropy, P, HARD),
    "bce_with_logits": (losses.binary_cross_entropy_with_logits, A, HARD),
    "mse": (losses.mse, A, B),
    "mae": (losses.mae, A, B),
    "huber": (losses.huber, A, B),
    "smooth_l1": (losses.smooth_l1, A, B),
    "kl": (losses.kl_divergence, LOG_P, Y),
}


@pytest.mark.parametrize("name", WEIGHABLE)
def test_weights_of_samples(name: str) -> None:
    """Each sample's losses times its weight; the mean divides by the number of losses."""
    loss, x, t = WEIGHABLE[name]
    s = np.arange(1.0, len(x) + 1)
    each = loss(x, t, "none").numpy()
    column = s.reshape(-1, *[1] * (each.ndim - 1))
    np.testing.assert_allclose(loss(x, t, "none", sample_weight=s).numpy(), each * column, rtol=1e-14)
    assert loss(x, t, "sum", sample_weight=s).item() == pytest.approx((each * column).sum(), rel=1e-13)
    count = each.size - (LABELS == -100).sum() if t is LABELS else each.size
    assert loss(x, t, "mean", sample_weight=s).item() == pytest.approx(
        (each * column).sum() / count, rel=1e-13
    )
    ones = loss(x, t, "mean", sample_weight=np.ones(len(x))).item()
    assert ones == pytest.approx(loss(x, t, "mean").item(), rel=1e-13)
    gradcheck(lambda x: loss(x, t, "mean", sample_weight=s), x)
    with pytest.raises(ShapeError, match=rf"sample_weight has shape \(2,\), expected \({len(x)},\)"):
        loss(x, t, sample_weight=np.ones(2))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.CrossEntropyLoss, "cross_entropy"),
        (nn.NLLLoss, "nll"),
        (nn.FocalLoss, "focal"),
        (nn.BCELoss, "bce"),
        (nn.BCEWithLogitsLoss, "bce_with_logits"),
        (nn.MSELoss, "mse"),
        (nn.L1Loss, "mae"),
        (nn.HuberLoss, "huber"),
        (nn.SmoothL1Loss, "smooth_l1"),
    ],
)
def test_layers_weigh_samples_as_their_functions_do(layer: Any, name: str) -> None:
    loss, x, t = WEIGHABLE[name]
    s = np.arange(1.0, len(x) + 1)
    assert layer()(x, t, sample_weight=s).item() == loss(x, t, sample_weight=s).item()


def test_in_fit_a_loss_means_the_same_as_a_name_and_as_a_layer() -> None:
    found = []
    for loss in ("cross_entropy", nn.CrossEntropyLoss()):
        net = nn.Sequential(nn.Identity())
        net.compile(loss=loss)
        found.append(net.evaluate(LOGITS, LABELS, sample_weight=np.arange(1.0, 7.0))["loss"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda w: ops.cross_entropy(LOGITS, np.abs(LABELS) % 5, weight=w),
        lambda w: ops.binary_cross_entropy_with_logits(A[:, :1] @ np.ones((1, 5)), np.zeros((4, 5)), pos_weight=w),
    ],
)  # fmt: skip
def test_gradients_of_class_weights_are_refused(call: Any) -> None:
    weight = qn.tensor(WEIGHT, requires_grad=True)
    with pytest.raises(StateError, match=r"weight has no gradient here; pass .*weight\.detach\(\)"):
        call(weight)
    with qn.no_grad():
        assert call(weight).item() == call(weight.detach()).item()


def test_class_factors_of_the_focal_loss_are_part_of_a_plan(caplog: pytest.LogCaptureFixture) -> None:
    step = qn.jit(lambda x, t, alpha: losses.focal(x, t, alpha=alpha))
    values = {step(LOGITS, np.abs(LABELS) % 5, WEIGHT).item() for _ in range(4)}
    assert len(values) == 1 and len(step.plans()) == 1 and not caplog.records


def test_a_weight_of_samples_in_kl_batchmean() -> None:
    s = np.array([1.0, 0.0, 2.0, 5.0])
    each = losses.kl_divergence(LOG_P, Y, "none").numpy()
    value = losses.kl_divergence(LOG_P, Y, sample_weight=s).item()
    assert value == pytest.approx((each * s[:, None]).sum() / 4, rel=1e-13)


def test_every_integer_dtype_is_a_label() -> None:
    want = losses.cross_entropy(LOGITS, np.abs(LABELS) % 5).item()
    for dtype in ("int8", "int16", "uint16", "int32", "uint32", "uint64", "uint8"):
        assert losses.cross_entropy(LOGITS, (np.abs(LABELS) % 5).astype(dtype)).item() == want
    assert losses.focal(LOGITS, (np.abs(LABELS) % 5).astype("uint16"), gamma=0.0).item() == pytest.approx(
        want
    )


def test_the_dtype_of_a_loss_is_that_of_the_output() -> None:
    x = qn.tensor(A, dtype="float32", requires_grad=True)
    for target in (B, HARD, HARD.astype(bool), B.astype("f4")):
        loss = losses.mse(x, target)
        assert loss.dtype == "float32"
        loss.backward()
    assert losses.cross_entropy(LOGITS.astype("f4"), SOFT).dtype == "float32"


def test_focal_loss_generalizes_cross_entropy() -> None:
    labels = np.abs(LABELS) % 5
    assert losses.focal(LOGITS, labels, gamma=0).item() == pytest.approx(
        losses.cross_entropy(LOGITS, labels).item(), rel=1e-14
    )
    assert losses.focal(A, HARD, gamma=0).item() == pytest.approx(
        losses.binary_cross_entropy_with_logits(A, HARD).item(), rel=1e-14
    )
    p = ops.softmax(LOGITS).numpy()[np.arange(6), labels]
    want = -WEIGHT[labels] * (1 - p) ** 2 * np.log(p)
    np.testing.assert_allclose(losses.focal(LOGITS, labels, "none", alpha=WEIGHT).numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(
        losses.focal(LOGITS, labels, "none", alpha=0.5).numpy(), want / WEIGHT[labels] / 2, rtol=1e-12
    )


def test_confident_samples_have_finite_gradients_at_any_gamma() -> None:
    for gamma in (0.0, 0.5, 1.0, 2.0):
        for x, t in ((np.array([[200.0, 0.0]], "f4"), [0]), (np.array([200.0, -200.0], "f4"), [1.0, 0.0])):
            leaf = qn.tensor(x, requires_grad=True)
            losses.focal(leaf, t, gamma=gamma).backward()
            assert leaf.grad is not None and np.isfinite(leaf.grad.numpy()).all()


V = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (DTypeError, "whole numbers.*got float64 of shape", lambda: losses.cross_entropy(V, np.zeros(2))),
        (ShapeError, r"need labels of shape \(2,\), got \(3,\)", lambda: losses.cross_entropy(V, np.zeros(3, int))),
        (ArgumentError, r"label 3 at row 1 is out of range for 3", lambda: losses.cross_entropy(V, np.array([0, 3]))),
        (ArgumentError, r"label -1 at row 0", lambda: losses.nll(V, np.array([-1, 0]))),
        (ArgumentError, r"1\.5 at position 4 is not in \[0, 1\]", lambda: losses.cross_entropy(V, np.array([[0, 0, 0], [0, 1.5, 0]]))),
        (ArgumentError, r"2 at position 0 is not in \[0, 1\]", lambda: losses.binary_cross_entropy_with_logits(V, V + 2)),
        (ArgumentError, r"-1 at position 0 is not in \[0, 1\]", lambda: losses.binary_cross_entropy(V - 1, V)),
        (ShapeError, r"\[cross_entropy\] weight is one number for each class, of shape \(3,\), got \(2,\)", lambda: losses.cross_entropy(V, [0, 1], weight=[1.0, 2.0])),
        (ShapeError, r"\[mse_loss\] target has shape \(3,\), x \(2, 3\)", lambda: losses.mse(V, V[0])),
        (ShapeError, r"\[l1_loss\] target has shape \(2,\), x \(2, 1\)", lambda: losses.mae(V[:, :1], V[:, 0])),
        (ShapeError, r"pos_weight of shape \(2,\) does not broadcast to the shape \(2, 3\)", lambda: losses.binary_cross_entropy_with_logits(V, V, pos_weight=[1.0, 2.0])),
        (DTypeError, r"\[mse_loss\] x must be floating, got int64", lambda: losses.mse(np.zeros(3, int), np.zeros(3))),
        (ArgumentError, "reduction must be 'mean', 'sum' or 'none', got 'average'", lambda: losses.mse(V, V, reduction="average")),
        (ArgumentError, "reduction must be 'mean', 'sum', 'none' or 'batchmean', got 'avg'", lambda: losses.kl_divergence(V, V, "avg")),
        (ArgumentError, "reduction must be", lambda: losses.focal(V, [0, 1], "batchmean")),
        (ArgumentError, "an empty batch has no mean loss", lambda: losses.kl_divergence(V[:0], V[:0])),
        (ArgumentError, r"label_smoothing lies in \[0, 1\], got 2", lambda: losses.cross_entropy(V, [0, 1], label_smoothing=2)),
        (ArgumentError, "gamma is not negative, got -1", lambda: losses.focal(V, [0, 1], gamma=-1)),
        (ArgumentError, r"alpha lies in \[0, 1\], got 3", lambda: losses.focal(V, V, alpha=3)),
        (ShapeError, r"alpha is a number or one for each class, \(3,\), got shape \(2,\)", lambda: losses.focal(V, [0, 1], alpha=[1.0, 2.0])),
        (ArgumentError, "delta is positive, got 0", lambda: losses.huber(V, V, delta=0)),
        (ArgumentError, "delta is positive", lambda: nn.HuberLoss(delta=-1)),
        (ArgumentError, "beta is not negative", lambda: nn.SmoothL1Loss(beta=-1)),
        (ArgumentError, "reduction is 'mean', 'sum' or 'none', got 'x'", lambda: nn.L1Loss("x")),
    ],
)  # fmt: skip
def test_losses_refuse_what_does_not_fit(error: Any, message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()


def test_layers_call_the_functions() -> None:
    labels = np.abs(LABELS) % 5
    pairs: list[tuple[nn.Module, qn.Tensor, Any]] = [
        (nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1), losses.cross_entropy(LOGITS, labels, weight=WEIGHT, label_smoothing=0.1), (LOGITS, labels)),
        (nn.NLLLoss(ignore_index=3), losses.nll(LOGITS, labels, ignore_index=3), (LOGITS, labels)),
        (nn.BCELoss("sum"), losses.binary_cross_entropy(P, HARD, "sum"), (P, HARD)),
        (nn.BCEWithLogitsLoss(pos_weight=[1, 2, 3]), losses.binary_cross_entropy_with_logits(A, HARD, pos_weight=[1.0, 2.0, 3.0]), (A, HARD)),
        (nn.MSELoss(), losses.mse(A, B), (A, B)),
        (nn.L1Loss(), losses.mae(A, B), (A, B)),
        (nn.HuberLoss(delta=0.5), losses.huber(A, B, delta=0.5), (A, B)),
        (nn.SmoothL1Loss(beta=0.5), ops.smooth_l1_loss(A, B, beta=0.5), (A, B)),
        (nn.KLDivLoss(), losses.kl_divergence(LOG_P, Y, "mean"), (LOG_P, Y)),
        (nn.KLDivLoss("batchmean", log_target=True), losses.kl_divergence(LOG_P, LOG_P, log_target=True), (LOG_P, LOG_P)),
        (nn.FocalLoss(1.0, WEIGHT), losses.focal(LOGITS, labels, gamma=1.0, alpha=WEIGHT), (LOGITS, labels)),
        (nn.FocalLoss(alpha=0.25), losses.focal(A, HARD, alpha=0.25), (A, HARD)),
    ]  # fmt: skip
    for layer, want, given in pairs:
        assert layer(*given).item() == want.item(), layer
    assert repr(nn.CrossEntropyLoss(label_smoothing=0.1)) == "CrossEntropyLoss(label_smoothing=0.1)"
    assert repr(nn.FocalLoss(alpha=0.25, reduction="sum")) == "FocalLoss(alpha=0.25, reduction='sum')"
    assert repr(nn.MSELoss()) == "MSELoss()"
    assert list(nn.CrossEntropyLoss(WEIGHT).state_dict()) == ["weight"]


@pytest.mark.parametrize("name", CASES)
def test_plans_replay_losses_to_the_same_bits(name: str) -> None:
    loss, operands = CASES[name]
    x = operands[0].astype(np.float32)
    rest = [qn.tensor(a, dtype="float32") for a in operands[1:]]
    w = qn.tensor(np.float32(1.0), requires_grad=True)

    def step(x: qn.Tensor) -> tuple[qn.Tensor, qn.Tensor]:
        w.grad = None
        value = loss(x * w, *rest, "mean")
        value.backward()
        assert w.grad is not None
        return value, w.grad

    eager = [t.item() for t in step(qn.tensor(x))]
    jitted = qn.jit(step)
    for _ in range(4):
        seen = [t.item() for t in jitted(x)]
        assert seen == eager


def test_a_plan_refuses_bad_targets_before_it_changes_anything() -> None:
    net = nn.Linear(3, 2)
    optimizer = qn.optim.SGD(net.parameters(), lr=0.5)

    @qn.jit
    def step(x: Any, y: Any) -> qn.Tensor:
        optimizer.zero_grad()
        loss = losses.binary_cross_entropy_with_logits(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x, y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    for _ in range(4):
        step(x, y)
    before = net.weight.numpy().copy()
    with pytest.raises(ArgumentError, match=r"3 at position 0 is not in \[0, 1\]"):
        step(x, y * 3)
    np.testing.assert_array_equal(net.weight.numpy(), before)
    step(x, y)
    assert (net.weight.numpy() != before).any()


def test_names_for_compile() -> None:
    assert set(losses.LOSSES) >= {
        "cross_entropy",
        "bce",
        "bce_with_logits",
        "mse",
        "mae",
        "huber",
        "focal",
        "kl_div",
    }
    for name, loss in losses.LOSSES.items():
        if name == "ctc":  # no CUDA kernel
            with qn.runtime.device("cpu"):
                assert loss(qn.tensor(np.zeros((2, 5, 3))), np.array([[1, 2], [1, -1]])).shape == ()
            continue
        target: Any = np.array([0, 1]) if name in ("cross_entropy", "nll", "focal") else np.full((2, 3), 0.5)
        assert loss(qn.tensor(V + 0.25), target).shape == (), name
