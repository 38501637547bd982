"""conv_transpose2d and conv_transpose1d: the adjoints of the convolutions, their gradients, and PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests import reference
from tests.checks import check_adjoint, check_contraction, check_equal, check_exact, gradcheck
from tests.strategies import lay_out, seeds


@st.composite
def transposed(draw: st.DrawFn, most_size: int = 6) -> dict[str, Any]:
    """A valid transposed convolution with at least one pixel in its result."""
    groups = draw(st.sampled_from([1, 1, 2, 5, 20]))
    inputs = groups * draw(st.sampled_from([1, 1, 3, 17]))
    outputs = draw(st.sampled_from([1, 1, 2, 5, 16])) if groups < 20 else 1
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    size, padding = [], []
    for k, d, s, e in zip(kernel, dilation, stride, extra, strict=True):
        size.append(draw(st.integers(1, most_size)))
        natural = (size[-1] - 1) * s + d * (k - 1) + e + 1
        padding.append(draw(st.integers(0, min(3, (natural - 1) // 2))))
    return {
        "x_shape": (draw(st.integers(0, 2)), *size, inputs),
        "weight_shape": (inputs, *kernel, outputs),
        "stride": stride,
        "padding": tuple(padding),
        "output_padding": extra,
        "groups": groups,
        "dilation": dilation,
    }


def operands(g: dict[str, Any], seed: int, dtype: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Small integers against guard pages, and the options."""
    g = dict(g)
    rng = np.random.default_rng(seed)
    x, w = (
        lay_out(rng.integers(-4, 5, g.pop(key)).astype(dtype), "guard_end")
        for key in ("x_shape", "weight_shape")
    )
    return x, w, g


@pytest.mark.usefixtures("isa", "threads")
@given(transposed(), st.sampled_from(("float32", "float64")), seeds)
def test_integers_convolve_exactly(g: dict[str, Any], dtype: str, seed: int) -> None:
    x, w, o = operands(g, seed, dtype)
    expected = reference.conv_transpose2d(x, w, **o)
    check_exact(ops.conv_transpose2d(x, w, **o).numpy(), expected, dtype)


@pytest.mark.usefixtures("isa")
@given(transposed(), seeds)
def test_it_is_the_adjoint_of_conv2d(g: dict[str, Any], seed: int) -> None:
    x, w, o = operands(g, seed, "float64")
    extra = o.pop("output_padding")
    y = ops.conv_transpose2d(x, w, output_padding=extra, **o).numpy()
    if any(e >= s for e, s in zip(extra, o["stride"], strict=True)):
        return  # conv2d makes more pixels of such an image than x has
    gy = np.random.default_rng(seed + 1).integers(-4, 5, y.shape).astype("f8")
    check_adjoint(
        lambda gy: ops.conv2d(gy, w, **o).numpy(),
        lambda x: ops.conv_transpose2d(x, w, output_padding=extra, **o).numpy(),
        gy,
        x,
    )


@pytest.mark.usefixtures("isa")
@given(transposed(most_size=4), seeds)
def test_gradients_are_adjoint(g: dict[str, Any], seed: int) -> None:
    """The op is linear in x and in the weight, so its gradients can be checked exactly."""
    x, w, o = operands(g, seed, "float64")
    a, b = qn.tensor(x, requires_grad=True), qn.tensor(w, requires_grad=True)
    y = ops.conv_transpose2d(a, b, **o)
    gy = np.random.default_rng(seed + 1).integers(-4, 5, y.shape).astype("f8")
    y.backward(gy)
    value = float(np.vdot(y.numpy(), gy))
    for operand, gradient in ((x, a.grad), (w, b.grad)):
        assert gradient is not None
        assert gradient.shape == operand.shape
        assert float(np.vdot(operand, gradient.numpy())) == value
    again = np.random.default_rng(seed + 2).integers(-4, 5, w.shape).astype("f8")
    assert float(np.vdot(again, b.grad.numpy())) == float(  # type: ignore[union-attr]
        np.vdot(ops.conv_transpose2d(x, again, **o).numpy(), gy)
    )


def test_gradients_of_all_that_is_fused() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((4, 3, 2, 3)), rng.standard_normal(6)
    r = rng.standard_normal((2, 6, 8, 6))
    for activation in ("gelu", "tanh", None):

        def fn(x: Any, w: Any, b: Any, r: Any, activation: Any = activation) -> Any:
            return ops.conv_transpose2d(x, w, b, 2, (1, 0), 1, 2, activation=activation, residual=r)[:, :, :8]

        r = rng.standard_normal(ops.conv_transpose2d(x, w, b, 2, (1, 0), 1, 2).shape)
        gradcheck(fn, x, w, b, r)
    sequence, kernel = rng.standard_normal((2, 5, 3)), rng.standard_normal((3, 4, 2))
    gradcheck(
        lambda x, w, b: ops.conv_transpose1d(x, w, b, 2, 1, 1, activation="silu"),
        sequence,
        kernel,
        rng.standard_normal(2),
    )


@pytest.mark.usefixtures("isa")
@given(transposed(), st.sampled_from(("relu", "tanh", "gelu")), seeds)
def test_a_fused_epilogue_equals_separate_ops(g: dict[str, Any], activation: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w, o = operands(g, seed, "float32")
    y = ops.conv_transpose2d(x, w, **o)
    b, r = rng.standard_normal(y.shape[-1:]).astype("f4"), rng.standard_normal(y.shape).astype("f4")
    fused = ops.conv_transpose2d(x, w, b, **o, activation=activation, residual=r)
    check_equal(fused.numpy(), getattr(ops, activation)(y + b + r).numpy())


@pytest.mark.usefixtures("isa", "threads")
def test_rounding_stays_within_the_bound_and_bits_depend_on_no_split() -> None:
    rng = np.random.default_rng(0)
    for groups, channels in ((1, 40), (33, 33)):
        x = rng.standard_normal((3, 9, 8, channels)).astype("f4")
        w = rng.standard_normal((channels, 4, 4, 70 if groups == 1 else 1)).astype("f4")
        o: dict[str, Any] = {"stride": (2, 2), "padding": (1, 1), "groups": groups}
        y = ops.conv_transpose2d(x, w, **o).numpy()
        size = reference.conv_transpose2d(abs(x), abs(w), **o)
        check_contraction(y, reference.conv_transpose2d(x, w, **o), size, 16 * channels // groups)
        check_equal(ops.conv_transpose2d(x[1:2], w, **o).numpy(), y[1:2])


def test_a_plan_replays_it() -> None:
    rng = np.random.default_rng(0)
    w = qn.tensor(rng.standard_normal((4, 3, 3, 6)).astype("f4"), requires_grad=True)
    b = qn.tensor(rng.standard_normal(6).astype("f4"), requires_grad=True)

    def step(x: Any) -> Any:
        y = ops.relu(ops.conv_transpose2d(x, w, stride=2, output_padding=1) + b)
        w.grad = b.grad = None
        (y * y).sum().backward()
        return y, w.grad, b.grad

    plan = qn.jit(step)
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((2, 5, 4, 4)).astype("f4")
        for ours, theirs in zip(plan(x), step(x), strict=True):
            check_equal(ours.numpy(), theirs.numpy())


@settings(max_examples=10)
@given(transposed(most_size=4), seeds)
def test_torch_agrees(g: dict[str, Any], seed: int) -> None:
    torch = pytest.importorskip("torch")
    x, w, o = operands(g, seed, "float64")
    tx, tw = (torch.tensor(a.transpose(0, 3, 1, 2).copy(), requires_grad=True) for a in (x, w))
    ty = torch.nn.functional.conv_transpose2d(tx, tw, **o)
    a, b = qn.tensor(x, requires_grad=True), qn.tensor(w, requires_grad=True)
    y = ops.conv_transpose2d(a, b, **o)
    gy = np.random.default_rng(seed + 1).integers(-4, 5, y.shape).astype("f8")
    check_exact(y.numpy(), ty.detach().numpy().transpose(0, 2, 3, 1))
    y.backward(gy)
    ty.backward(torch.tensor(gy.transpose(0, 3, 1, 2).copy()))
    for ours, theirs in ((a, tx), (b, tw)):
        assert ours.grad is not None
        check_exact(ours.grad.numpy(), theirs.grad.numpy().transpose(0, 2, 3, 1))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.booleans(), seeds)
def test_torch_agrees_on_sequences(
    t: int, k: int, stride: int, dilation: int, grouped: bool, seed: int
) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    groups = 2 if grouped else 1
    x, w, b = rng.standard_normal((2, t, 4)), rng.standard_normal((4, k, 3)), rng.standard_normal(3 * groups)
    o = {"stride": stride, "output_padding": stride - 1, "groups": groups, "dilation": dilation}
    tx, tw, tb = torch.tensor(x.transpose(0, 2, 1)), torch.tensor(w.transpose(0, 2, 1)), torch.tensor(b)
    theirs = torch.nn.functional.conv_transpose1d(tx, tw, tb, **o).numpy().transpose(0, 2, 1)
    np.testing.assert_allclose(ops.conv_transpose1d(x, w, b, **o).numpy(), theirs, atol=1e-12)


X, W = np.zeros((2, 5, 5, 4), "f4"), np.zeros((4, 3, 3, 6), "f4")


@pytest.mark.parametrize(
    ("error", "change", "message"),
    [
        (ShapeError, {"x": X[0]}, r"x must have 4 dimensions \(N, H, W, C\), got shape \(5, 5, 4\)"),
        (ShapeError, {"weight": W[0]}, r"weight must have 4 dimensions \(I, KH, KW, O / groups\)"),
        (ShapeError, {"x": X[..., :3]}, r"weight expects 4 input channels, x has 3"),
        (ArgumentError, {"groups": 3}, r"groups must divide the 4 input channels, got 3"),
        (
            ArgumentError,
            {"output_padding": 1},
            r"output_padding must be smaller than the stride or the dilation",
        ),
        (ArgumentError, {"padding": "same"}, r"padding must be one whole number or two .*, got 'same'"),
        (ArgumentError, {"padding": -1}, r"padding must be at least 0, got -1"),
        (ArgumentError, {"stride": (1, 2, 3)}, r"stride must be one whole number or two"),
        (ShapeError, {"padding": 4}, r"the result would be -1 x -1 .*pad less"),
        (ShapeError, {"bias": np.zeros(4, "f4")}, r"bias must have shape \(6,\), got \(4,\)"),
        (DTypeError, {"weight": W.astype("f8")}, r"weight is float64, x is float32"),
        (ArgumentError, {"activation": "swish"}, r"unknown activation 'swish'"),
    ],
)
def test_what_does_not_fit_is_named(error: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=r"\[conv_transpose2d\] " + message):
        ops.conv_transpose2d(**{"x": X, "weight": W, **change})


def test_zero_sizes() -> None:
    assert ops.conv_transpose2d(X[:0], W, stride=2).shape == (0, 11, 11, 6)
    empty = ops.conv_transpose2d(np.zeros((1, 2, 2, 0), "f4"), np.zeros((0, 3, 3, 5), "f4"), np.ones(5, "f4"))
    check_equal(empty.numpy(), np.ones((1, 4, 4, 5), "f4"))
    with pytest.raises(ShapeError, match=r"\[conv_transpose1d\] the result would be"):
        ops.conv_transpose1d(np.zeros((1, 0, 4), "f4"), np.zeros((4, 3, 2), "f4"))
