"""Every op's gradient: by central differences in float64, and for linear ops exactly, by the adjoint identity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from quernel.errors import StateError
from tests.checks import check_adjoint, gradcheck
from tests.strategies import broadcastable, conv_geometry, seeds, shapes

Array = np.ndarray[Any, Any]
SMALL = shapes(0, 3, most=9, least=1, volume=200)
ACTIVATIONS = (None, *ops.ACTIVATIONS)


def normal(seed: int, *shape: int) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


def off_kinks(a: Array, *kinks: float) -> Array:
    """Moves values away from where a function has no derivative."""
    for kink in kinks:
        a = np.where(np.abs(a - kink) < 0.01, a + 0.1, a)
    return a


BINARY: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "add": lambda a, b: (a, b),
    "sub": lambda a, b: (a, b),
    "mul": lambda a, b: (a, b),
    "div": lambda a, b: (a, np.sign(b) * (np.abs(b) + 0.5)),
    "pow": lambda a, b: (np.abs(a) + 0.5, b),
    "maximum": lambda a, b: (a, b),
    "minimum": lambda a, b: (a, b),
}
UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": lambda a: a,
    "abs": lambda a: off_kinks(a, 0),
    "square": lambda a: a,
    "sqrt": lambda a: np.abs(a) + 0.5,
    "exp": lambda a: a,
    "log": lambda a: np.abs(a) + 0.5,
    "tanh": lambda a: a,
    "sigmoid": lambda a: a,
    "relu": lambda a: off_kinks(a, 0),
    "gelu": lambda a: a,
    "silu": lambda a: a,
    "reciprocal": lambda a: np.sign(a) * (np.abs(a) + 0.5),
    "rsqrt": lambda a: np.abs(a) + 0.5,
    "log1p": lambda a: np.abs(a) - 0.5,
    **{
        name: lambda a: a
        for name in ("expm1", "sin", "cos", "erf", "mish", "softplus", "logsigmoid", "softsign")
    },
    **{name: lambda a: off_kinks(a, 0) for name in ("leaky_relu", "elu", "selu", "celu")},
    "relu6": lambda a: off_kinks(a * 3, 0, 6),
    "hardtanh": lambda a: off_kinks(a, -1, 1),
    **{name: lambda a: off_kinks(a * 2, -3, 3) for name in ("hardsigmoid", "hardswish")},
}


@pytest.mark.parametrize("name", BINARY)
@given(data=st.data(), shape=SMALL, seed=seeds)
def test_binary(name: str, data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    other = data.draw(broadcastable(shape))
    a, b = BINARY[name](normal(seed, *shape), normal(seed + 1, *other))
    gradcheck(getattr(ops, name), a, b)
    gradcheck(getattr(ops, name), *BINARY[name](normal(seed + 2, *other), normal(seed + 3, *shape)))


@pytest.mark.parametrize("name", BINARY)
def test_binary_with_a_number(name: str) -> None:
    a, b = BINARY[name](normal(0, 5), normal(1, 5))
    fn = getattr(ops, name)
    gradcheck(lambda x: fn(x, 1.7), a)
    gradcheck(lambda x: fn(1.7, x), b)


@pytest.mark.parametrize("name", UNARY)
@given(shape=SMALL, seed=seeds)
def test_unary(name: str, shape: tuple[int, ...], seed: int) -> None:
    gradcheck(getattr(ops, name), UNARY[name](normal(seed, *shape) * 2))


def test_functions_with_parameters() -> None:
    a = off_kinks(normal(0, 40) * 3, 0, -0.5, 1.5, 2.5)
    gradcheck(lambda x: ops.leaky_relu(x, 0.3), a)
    gradcheck(lambda x: ops.elu(x, 0.7), a)
    gradcheck(lambda x: ops.celu(x, 0.7), a)
    gradcheck(lambda x: ops.softplus(x, 2.0, 5.0), a)
    gradcheck(lambda x: ops.hardtanh(x, -0.5, 1.5), a)
    gradcheck(ops.prelu, a.reshape(8, 5), normal(1, 5))
    gradcheck(ops.prelu, a.reshape(8, 5), normal(1, 1))
    b = np.sign(normal(2, 40)) * 2.3
    gradcheck(ops.remainder, np.where(np.abs(a % b) < 0.01, a + 0.1, a), b)


def test_powers() -> None:
    a = normal(0, 6)
    for exponent in (0, 1, 2, 3, 2.0, -1):
        gradcheck(lambda x, e=exponent: ops.pow(x, e), off_kinks(a, 0))
    x = qn.tensor([0.0, 0.0, 2.0], requires_grad=True)
    e = qn.tensor([0.0, 2.0, 3.0], requires_grad=True)
    (x**e).sum().backward()
    assert x.grad is not None and e.grad is not None
    assert x.grad.tolist() == [0, 0, 12]
    assert e.grad.tolist()[:2] == [0, 0]
    (2.0**e + 0.0**e).sum().backward()
    assert np.isfinite(e.grad.numpy()).all()


def test_ties_share_the_gradient() -> None:
    a = qn.tensor([1.0, 2.0, 2.0], requires_grad=True)
    b = qn.tensor([1.0, 0.0, 5.0], requires_grad=True)
    ops.maximum(a, b).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert a.grad.tolist() == [0.5, 1, 0]
    assert b.grad.tolist() == [0.5, 0, 1]
    a.grad = None
    a.max().backward()
    assert a.grad is not None and a.grad.tolist() == [0, 0.5, 0.5]


def test_clip() -> None:
    a = off_kinks(normal(0, 4, 5), -0.5, 0.7)
    gradcheck(lambda x: ops.clip(x, -0.5, 0.7), a)
    gradcheck(lambda x: ops.clip(x, min=-0.5), a)
    gradcheck(lambda x: ops.clip(x, max=0.7), a)
    gradcheck(lambda x: ops.clip(x, max=qn.tensor(np.linspace(0, 1, 5))), off_kinks(a, *np.linspace(0, 1, 5)))


def test_a_bound_of_clip_that_has_changed_is_noticed() -> None:
    x, low = qn.tensor([1.0, 2.0], requires_grad=True), qn.tensor([0.0, 2.5])
    y = ops.clip(x, low)
    low[...] = 9.0
    with pytest.raises(StateError, match="that clip needs was changed in place"):
        y.sum().backward()


def test_a_power_of_zero_is_flat_everywhere() -> None:
    x = qn.tensor([np.inf, np.nan, 0.0, 2.0], requires_grad=True)
    (x**0).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 0, 0]


def test_clip_with_learned_bounds() -> None:
    low, high = normal(1, 5) * 0.1 - 0.5, normal(2, 5) * 0.1 + 0.5
    gradcheck(ops.clip, normal(0, 4, 5), low, high)


def test_where_and_cast() -> None:
    a, b = normal(0, 3, 4), normal(1, 4)
    gradcheck(lambda x, y: ops.where(a > 0, x, y), a, b)
    gradcheck(lambda x: ops.where(a > 0, x, 2.0), a)
    x = qn.tensor([1.5, 2.5], requires_grad=True)
    (x.astype("float64") * 2).sum().backward()
    assert x.grad is not None and (x.grad.dtype, x.grad.tolist()) == ("float32", [2, 2])


@given(st.data(), shapes(1, 4, most=9, least=1, volume=200), seeds, st.booleans())
def test_reductions(data: st.DataObject, shape: tuple[int, ...], seed: int, keepdims: bool) -> None:
    axes = data.draw(st.none() | st.sets(st.integers(0, len(shape) - 1), min_size=1).map(tuple))
    a = np.random.default_rng(seed).permutation(math.prod(shape)).reshape(shape) / 7.0  # no ties
    for fn in (ops.sum, ops.mean, ops.max, ops.min, ops.logsumexp):
        gradcheck(lambda x, fn=fn: fn(x, axes, keepdims), a)
    b = normal(seed, *shape)
    gradcheck(lambda x: ops.prod(x, axes, keepdims), off_kinks(b, 0))
    for correction in (0, 1):
        if math.prod(shape[i] for i in axes or range(len(shape))) > 1:
            gradcheck(lambda x, c=correction: ops.var(x, axes, c, keepdims), b)
            gradcheck(lambda x, c=correction: ops.std(x, axes, c, keepdims), b)
    for p in (1, 2, math.inf):
        gradcheck(lambda x, p=p: ops.norm(x, p, axes, keepdims), off_kinks(b, 0))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(data=st.data(), shape=shapes(1, 3, most=9, least=1, volume=200), seed=seeds)
def test_softmax(name: str, data: st.DataObject, shape: tuple[int, ...], seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    gradcheck(lambda x: getattr(ops, name)(x, axis), normal(seed, *shape))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses(reduction: str) -> None:
    labels = np.random.default_rng(0).integers(0, 7, (3, 4))
    gradcheck(lambda x: ops.cross_entropy(x, labels, reduction), normal(0, 3, 4, 7))
    gradcheck(lambda x, y: ops.mse_loss(x, y, reduction), normal(1, 3, 4), normal(2, 3, 4))


def test_losses_of_one_row_each() -> None:
    """A gradient that differs between rows."""
    labels = np.array([2, 0])
    weights = qn.tensor([3.0, -5.0])
    x = qn.tensor(normal(0, 2, 3).astype(np.float32), requires_grad=True)
    (ops.cross_entropy(x, labels, "none") * weights).sum().backward()
    assert x.grad is not None
    p = np.exp(x.numpy()) / np.exp(x.numpy()).sum(1, keepdims=True)
    p[[0, 1], labels] -= 1
    np.testing.assert_allclose(x.grad.numpy(), p * [[3], [-5]], rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (2, 4, 3)),
        ((2, 3, 4), (4,)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    gradcheck(ops.matmul, normal(0, *a), normal(1, *b))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_linear(activation: str | None, batch: tuple[int, ...]) -> None:
    x, w, b, r = normal(0, *batch, 4), normal(1, 5, 4), normal(2, 5), normal(3, *batch, 5)
    gradcheck(lambda x, w, b, r: ops.linear(x, w, b, activation, r), x, w, b, r)
    gradcheck(lambda x, w: ops.linear(x, w, activation=activation), x, w)


@given(conv_geometry(most_channels=6, most_size=4), seeds, st.sampled_from(ACTIVATIONS))
def test_conv2d(geometry: dict[str, Any], seed: int, activation: str | None) -> None:
    x, w = normal(seed, *geometry.pop("x_shape")), normal(seed + 1, *geometry.pop("weight_shape"))
    b = normal(seed + 2, w.shape[0])
    shape = ops.conv2d(x, w, b, **geometry).shape
    if math.prod(shape):
        r = normal(seed + 3, *shape)
        gradcheck(
            lambda x, w, b, r: ops.conv2d(x, w, b, activation=activation, residual=r, **geometry), x, w, b, r
        )


@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (3, 3), (4, 4)])
def test_conv2d_same(kernel: tuple[int, int]) -> None:
    x, w = normal(0, 2, 5, 6, 2), normal(1, 3, *kernel, 2)
    assert ops.conv2d(x, w, padding="same").shape == (2, 5, 6, 3)
    gradcheck(lambda x, w: ops.conv2d(x, w, padding="same", dilation=2), x, w)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((1, 3), (2, 1), (0, 1)), (3, 1, 1)]
)
def test_pooling(kernel: Any, stride: Any, padding: Any) -> None:
    x = np.random.default_rng(0).permutation(2 * 7 * 6 * 3).reshape(2, 7, 6, 3) / 10.0
    gradcheck(lambda x: ops.max_pool2d(x, kernel, stride, padding), x)
    for count in (True, False):
        gradcheck(lambda x, c=count: ops.avg_pool2d(x, kernel, stride, padding, c, not c), x)
    gradcheck(ops.global_avg_pool2d, x)
    gradcheck(ops.global_max_pool2d, x)
    gradcheck(lambda x: ops.max_pool2d(x, kernel, stride, padding, (2, 1), True), x)
    for fn in (ops.adaptive_avg_pool2d, ops.adaptive_max_pool2d):
        for size in (3, (4, None), (9, 2)):
            gradcheck(lambda x, fn=fn, size=size: fn(x, size), x)
    for one in (ops.max_pool1d, ops.avg_pool1d):
        gradcheck(lambda x, one=one: one(x, 3, 2, 1, ceil_mode=True), x[0])


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 2, 5)])
def test_batch_norm(shape: tuple[int, ...]) -> None:
    c = shape[-1]
    x, w, b = normal(0, *shape) * 3 + 1, normal(1, c), normal(2, c)
    mean, var = qn.tensor(normal(3, c)), qn.tensor(np.abs(normal(4, c)) + 0.5)
    gradcheck(lambda x, w, b: ops.batch_norm(x, None, None, w, b, training=True), x, w, b)
    gradcheck(lambda x, w, b: ops.batch_norm(x, mean, var, w, b), x, w, b)
    gradcheck(lambda x: ops.batch_norm(x, mean, var), x)
    gradcheck(lambda x: ops.batch_norm(x, None, None), x)


def test_dropout_uses_one_mask_both_ways() -> None:
    x = qn.tensor(np.full(1000, 2.0), requires_grad=True)
    y = ops.dropout(x, 0.25)
    y.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy() * 2.0, y.numpy())
    assert 100 < (y.numpy() == 0).sum() < 400


# Linear ops: with small integers <Ax, y> == <x, A'y> holds exactly, in float32 too.

LINEAR: dict[str, tuple[Callable[[qn.Tensor], qn.Tensor], tuple[int, ...]]] = {
    "reshape": (lambda x: ops.reshape(x, (4, -1)), (3, 4, 2)),
    "flatten": (lambda x: ops.flatten(x, 1), (3, 4, 2)),
    "transpose": (lambda x: ops.permute(x, (2, 0, 1)), (3, 4, 2)),
    "concat": (lambda x: ops.concat([x, x, x], -1), (3, 4)),
    "pad": (lambda x: ops.pad(x, [(1, 0), (2, 3)]), (3, 4)),
    "slice": (lambda x: x[::-2, None, 1:], (5, 4)),
    "row": (lambda x: x[1], (5, 4)),
    "all": (lambda x: x[None, ...], (5, 4)),
    "broadcast": (lambda x: ops.broadcast_to(x, (2, 3, 4)), (3, 1)),
    "sum": (lambda x: x.sum((0, 2)), (3, 4, 2)),
    "cumsum": (lambda x: x.cumsum(1), (3, 4, 2)),
    "cumsum of rows": (lambda x: x.cumsum(-1), (3, 70)),
    "topk": (lambda x: x.topk(3, dim=1)[0], (3, 7, 2)),
    "sort": (lambda x: x.sort(dim=0)[0], (9, 4)),
    "clone": (ops.clone, (3,)),
    "to_device": (lambda x: ops.to_device(x, "cpu"), (3,)),
    "avg_pool": (lambda x: ops.avg_pool2d(x, 2, 1, 1), (2, 5, 4, 3)),
    "adaptive_pool": (lambda x: ops.adaptive_avg_pool2d(x, (4, 2)), (2, 8, 4, 3)),
    "nearest": (lambda x: ops.interpolate(x, (7, 3)), (2, 5, 4, 3)),
    "bilinear": (lambda x: ops.interpolate(x, scale_factor=2, mode="bilinear"), (2, 5, 4, 3)),
    "conv": (lambda x: ops.conv2d(x, _WEIGHT, stride=2, padding=1, groups=2), (2, 5, 4, 4)),
    "linear": (lambda x: ops.linear(x, _WEIGHT.reshape(6, 8)), (3, 8)),
    "matmul": (lambda x: ops.matmul(x, _WEIGHT.reshape(8, 6)), (2, 3, 8)),
}
_WEIGHT = np.asarray(np.random.default_rng(5).integers(-4, 5, (4, 2, 3, 2)), np.float32)


@pytest.mark.parametrize("name", LINEAR)
def test_adjoint(name: str, isa: str) -> None:  # noqa: ARG001
    fn, shape = LINEAR[name]
    rng = np.random.default_rng(0)
    x = np.asarray(rng.integers(-8, 9, shape), np.float32)
    y = np.asarray(rng.integers(-8, 9, fn(qn.tensor(x)).shape), np.float32)

    def adjoint(v: Array) -> Array:
        t = qn.tensor(x, requires_grad=True)
        fn(t).backward(v)
        assert t.grad is not None
        return t.grad.numpy()

    check_adjoint(lambda a: fn(qn.tensor(a)).numpy(), adjoint, x, y)


def test_weight_gradient_is_the_adjoint_too() -> None:
    rng = np.random.default_rng(0)
    x = np.asarray(rng.integers(-4, 5, (2, 6, 5, 4)), np.float32)

    def forward(w: Array) -> Array:
        return ops.conv2d(x, w, stride=(2, 1), padding=1, dilation=(1, 2), groups=2).numpy()

    def adjoint(v: Array) -> Array:
        w = qn.tensor(_WEIGHT, requires_grad=True)
        ops.conv2d(x, w, stride=(2, 1), padding=1, dilation=(1, 2), groups=2).backward(v)
        assert w.grad is not None
        return w.grad.numpy()

    y = np.asarray(rng.integers(-4, 5, forward(_WEIGHT).shape), np.float32)
    check_adjoint(forward, adjoint, _WEIGHT, y)
