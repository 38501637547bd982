"""Values and gradients beside PyTorch's, on random configurations in float64, where both sides agree to rounding.

The tolerance is 1e-11 of the largest value: float64 rounds at 1e-16, and no sum here has more than a few thousand terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from tests.strategies import conv_geometry, near, seeds

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional if torch else None

Array = np.ndarray[Any, Any]


def nchw(t: Any) -> Any:
    return t.permute(0, 3, 1, 2)


def nhwc(t: Any) -> Any:
    return t.permute(0, 2, 3, 1)


def close(actual: Array, expected: Array) -> None:
    assert actual.shape == tuple(expected.shape)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    assert np.abs(actual - expected).max(initial=0) <= 1e-11 * scale


def compare(ours: Callable[..., qn.Tensor], theirs: Callable[..., Any], *inputs: Array) -> None:
    """Runs both on the same inputs, then both backwards from the same gradient."""
    mine = [qn.tensor(a, requires_grad=True) for a in inputs]
    other = [torch.tensor(a, requires_grad=True) for a in inputs]
    y, z = ours(*mine), theirs(*other)
    close(y.numpy(), z.detach().numpy())
    g = np.random.default_rng(1).standard_normal(y.shape)
    (y * qn.tensor(g)).sum().backward()
    z.backward(torch.tensor(g))
    for a, b in zip(mine, other, strict=True):
        assert a.grad is not None
        close(a.grad.numpy(), b.grad.numpy())


def normal(seed: int, *shapes: Sequence[int]) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)) for shape in shapes]


ACTIVATIONS: list[tuple[str | None, Callable[[Any], Any]]] = [
    (None, lambda t: t), ("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid), ("gelu", F.gelu),
    ("silu", F.silu), ("relu6", F.relu6), ("hardswish", F.hardswish),
]  # fmt: skip


@given(conv_geometry(most_channels=20, most_size=8), st.sampled_from(ACTIVATIONS), st.booleans(), seeds)
def test_conv2d(geometry: dict[str, Any], activation: Any, residual: bool, seed: int) -> None:
    keep = {key: geometry[key] for key in ("stride", "padding", "dilation", "groups")}
    x, w = normal(seed, geometry["x_shape"], geometry["weight_shape"])
    b, r = normal(seed + 1, w.shape[:1], ops.conv2d(x, w, **keep).shape)
    name, act = activation

    def theirs(x: Any, w: Any, b: Any, *r: Any) -> Any:
        y = nhwc(F.conv2d(nchw(x), nchw(w), b, **keep))
        return act(y + r[0] if r else y)

    def ours(x: Any, w: Any, b: Any, *r: Any) -> qn.Tensor:
        return ops.conv2d(x, w, b, **keep, activation=name, residual=r[0] if r else None)

    compare(ours, theirs, x, w, b, *([r] if residual else []))


@given(near(40, 1), near(40, 1), st.lists(st.integers(1, 4), max_size=2), st.sampled_from(ACTIVATIONS), seeds)
def test_linear(i: int, o: int, batch: list[int], activation: Any, seed: int) -> None:
    name, act = activation
    compare(
        lambda x, w, b, r: ops.linear(x, w, b, activation=name, residual=r),
        lambda x, w, b, r: act(F.linear(x, w, b) + r),
        *normal(seed, (*batch, i), (o, i), (o,), (*batch, o)),
    )


@given(st.integers(0, 9), st.integers(1, 9), st.integers(0, 9), st.sampled_from(["", "a", "b", "ab"]), seeds)
def test_matmul_broadcasts_batches(m: int, k: int, n: int, batched: str, seed: int) -> None:
    a = (2, 1, m, k) if "a" in batched else (m, k)
    b = (3, k, n) if "b" in batched else (k, n)
    compare(ops.matmul, torch.matmul, *normal(seed, a, b))


POOLS = st.sampled_from([(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (1, 2), (1, 0))])


@given(POOLS, st.integers(3, 9), st.integers(3, 9), near(35, 1), seeds)
def test_max_pool2d(pool: Any, h: int, w: int, c: int, seed: int) -> None:
    (x,) = normal(seed, (2, h, w, c))
    compare(lambda x: ops.max_pool2d(x, *pool), lambda x: nhwc(F.max_pool2d(nchw(x), *pool)), x)


@given(POOLS, st.booleans(), st.integers(3, 9), st.integers(3, 9), near(35, 1), seeds)
def test_avg_pool2d(pool: Any, count: bool, h: int, w: int, c: int, seed: int) -> None:
    (x,) = normal(seed, (2, h, w, c))
    compare(
        lambda x: ops.avg_pool2d(x, *pool, count_include_pad=count),
        lambda x: nhwc(F.avg_pool2d(nchw(x), *pool, count_include_pad=count)),
        x,
    )


@given(st.integers(2, 9), near(35, 1), st.booleans(), seeds)
def test_batch_norm(rows: int, c: int, training: bool, seed: int) -> None:
    x, mean, var, w, b = normal(seed, (rows, 2, 2, c), (c,), (c,), (c,), (c,))
    running = [mean, np.abs(var) + 0.1]
    mine, other = [qn.tensor(a) for a in running], [torch.tensor(a) for a in running]
    compare(
        lambda x, w, b: ops.batch_norm(x, *mine, w, b, training=training, momentum=0.2, eps=1e-3),
        lambda x, w, b: nhwc(F.batch_norm(nchw(x), *other, w, b, training, 0.2, 1e-3)),
        x, w, b,
    )  # fmt: skip
    for a, t in zip(mine, other, strict=True):
        close(a.numpy(), t.numpy())


@given(st.integers(1, 9), near(67, 1), st.sampled_from(["none", "sum", "mean"]), seeds)
def test_cross_entropy(rows: int, classes: int, reduction: str, seed: int) -> None:
    (x,) = normal(seed, (rows, classes))
    labels = np.random.default_rng(seed).integers(0, classes, rows)
    compare(
        lambda x: ops.cross_entropy(x * 5, labels, reduction),
        lambda x: F.cross_entropy(x * 5, torch.tensor(labels), reduction=reduction),
        x,
    )


@given(st.sampled_from([(), (3,), (2, 5), (2, 3, 4)]), st.data())
def test_softmax_and_reductions(outer: tuple[int, ...], data: st.DataObject) -> None:
    shape = (*outer, data.draw(near(67, 1)))
    (x,) = normal(data.draw(seeds), shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    for ours, theirs in [
        (lambda x: ops.softmax(x, axis), lambda x: torch.softmax(x, axis)),
        (lambda x: ops.log_softmax(x, axis), lambda x: torch.log_softmax(x, axis)),
        (lambda x: ops.sum(x, axis), lambda x: x.sum(axis)),
        (lambda x: ops.mean(x, axis, keepdims=True), lambda x: x.mean(axis, keepdim=True)),
        (lambda x: ops.max(x, axis), lambda x: x.max(axis).values),
    ]:
        compare(ours, theirs, x)


@given(seeds, st.integers(0, 5))
def test_a_formula_with_reuse_and_broadcasting(seed: int, rows: int) -> None:
    """One expression through the operators of both tensors: reuse, broadcasting, slices, concat."""

    def formula(x: Any, y: Any, s: Any, concat: Any, exp: Any, transpose: Any) -> Any:
        z = x * y + exp(-(s**2)) * x - y / (2.0 + s * s)
        z = concat([z[:, 1:], z[:, :3] * 3.0, transpose(transpose(y))])
        return z[..., ::2] * z[..., 1::2]

    x, y, s = normal(seed, (rows, 7), (rows, 7), (7,))
    compare(
        lambda *a: formula(*a, lambda z: ops.concat(z, 1), ops.exp, lambda t: ops.transpose(t, 0, 1)),
        lambda *a: formula(*a, lambda z: torch.cat(z, 1), torch.exp, lambda t: t.T),
        x, y, s,
    )  # fmt: skip


OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.01}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(
    ("name", "options"), OPTIMIZERS, ids=lambda v: v if isinstance(v, str) else "-".join(v)
)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_thirty_steps_of_training(name: str, options: dict[str, Any], jit: bool) -> None:
    """A small CNN's weights after 30 steps. Training amplifies rounding, so this tolerance is wider: 1e-8 of float64."""
    from quernel import optim

    x, w1, b1, w2 = normal(0, (12, 6, 6, 2), (8, 3, 3, 2), (8,), (5, 8))
    labels = np.random.default_rng(0).integers(0, 5, 12)
    ours = [qn.tensor(0.3 * a, requires_grad=True) for a in (w1, b1, w2)]
    theirs = [torch.tensor(0.3 * a, requires_grad=True) for a in (w1, b1, w2)]
    mine, other = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)

    def step(x: Any, labels: Any) -> qn.Tensor:
        y = ops.conv2d(x, ours[0], ours[1], padding=1, activation="tanh")
        loss = ops.cross_entropy(ops.linear(ops.mean(y, (1, 2)), ours[2]), labels)
        mine.zero_grad()
        loss.backward()
        mine.step()
        return loss

    run = qn.jit(step) if jit else step
    for _ in range(30):
        loss = run(qn.tensor(x), labels)
        y = torch.tanh(F.conv2d(nchw(torch.tensor(x)), nchw(theirs[0]), theirs[1], padding=1))
        reference = F.cross_entropy(F.linear(y.mean((2, 3)), theirs[2]), torch.tensor(labels))
        other.zero_grad()
        reference.backward()
        other.step()
        assert abs(loss.item() - reference.item()) < 1e-8
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a.numpy() - b.detach().numpy()).max() < 1e-8
