"""Convolutions in bfloat16: exactness, error bounds, bits of the product that they are, and gradients."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, ops
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, check_exact
from tests.ops.test_conv import geometry, options, output_shape, terms
from tests.strategies import arrays, conv_geometry, integer_fill

Array = npt.NDArray[Any]

# Beyond what random draws reach.
GEOMETRIES = [
    geometry((2, 9, 8, 70), (130, 3, 4, 70), padding=(1, 1)),  # several panels of columns, of K and of dW
    geometry((1, 8, 8, 20), (24, 1, 1, 20), stride=(3, 2)),  # phases without taps
    geometry((1, 2, 3, 5), (7, 3, 3, 5), padding=(4, 5), stride=(2, 3)),  # taps that see padding only
    geometry((2, 17, 17, 3), (64, 7, 7, 3), padding=(3, 3), stride=(2, 2)),
    geometry((3, 40, 40, 4), (8, 3, 3, 4), padding=(1, 1)),  # pixels in splits, items of several strips
    geometry((2, 5, 6, 64), (20, 1, 1, 64)),  # pixels read where they lie
    geometry((30, 4, 4, 9), (18, 3, 3, 9), padding=(1, 1)),  # a strip spans images
    geometry((2, 1, 700, 3), (5, 1, 5, 3), padding=(0, 2)),  # a sequence
    geometry((1, 14, 33, 5), (6, 3, 3, 5), dilation=(2, 2), padding=(2, 2), stride=(2, 1)),
    geometry((1, 11, 12, 5), (6, 3, 4, 5), dilation=(2, 3), padding=(2, 2), stride=(4, 2)),
    geometry((1, 3, 3, 1), (1, 2, 2, 1)),
    geometry((1, 5, 5, 192), (19, 3, 3, 192), padding=(1, 1), stride=(2, 1)),
]


def name(g: dict[str, Any]) -> str:
    return f"{g['x_shape']}-{g['weight_shape']}"


def one_group() -> st.SearchStrategy[dict[str, Any]]:
    return conv_geometry().filter(lambda g: g["groups"] == 1)


def rounded(a: Array) -> Array:
    return a.astype(ml_dtypes.bfloat16).astype(np.float32)


def shapes(g: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    return g["x_shape"], g["weight_shape"], output_shape(g)


def normal(g: dict[str, Any], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype("f4") for shape in shapes(g)]


def forward(x: Array, w: Array, **o: Any) -> Array:
    return N(_core.conv2d(T(x), T(w), bf16=True, **o)[0])


def grad_input(g: Array, w: Array, x_shape: tuple[int, ...], **o: Any) -> Array:
    return N(_core.conv2d_grad_input(T(g), T(w), list(x_shape), bf16=True, **o))


def grad_weight(x: Array, g: Array, w_shape: tuple[int, ...], **o: Any) -> Array:
    return N(_core.conv2d_grad_weight(T(x), T(g), list(w_shape), bf16=True, **o))


def patches(x: Array, g: dict[str, Any]) -> Array:
    """The matrix (N·OH·OW, KH·KW·C) whose product with the weights the convolution is."""
    _, kh, kw, c = g["weight_shape"]
    unit = np.eye(kh * kw * c, dtype=np.float32).reshape(-1, kh, kw, c)
    return np.asarray(reference.conv2d(x, unit, **options(g)).reshape(-1, kh * kw * c), np.float32)


@pytest.mark.usefixtures("quant_isa", "threads")
@given(st.data(), one_group())
def test_integers_convolve_exactly(data: st.DataObject, g: dict[str, Any]) -> None:
    x, w, gy = (np.clip(data.draw(integer_fill(shape, terms(g))), -256, 256) for shape in shapes(g))
    check_all(g, x, w, gy)


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("g", GEOMETRIES, ids=name)
def test_chosen_geometries_convolve_exactly(g: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    check_all(g, *(rng.integers(-5, 6, shape).astype("f4") for shape in shapes(g)))


def check_all(g: dict[str, Any], x: Array, w: Array, gy: Array) -> None:
    o = options(g)
    check_exact(forward(x, w, **o), reference.conv2d(x, w, **o), np.float32)
    check_exact(grad_input(gy, w, x.shape, **o), reference.conv2d_grad_input(gy, w, x.shape, **o), np.float32)
    check_exact(
        grad_weight(x, gy, w.shape, **o), reference.conv2d_grad_weight(x, gy, w.shape, **o), np.float32
    )


@pytest.mark.usefixtures("quant_isa")
@given(st.data(), one_group())
@example(None, GEOMETRIES[0])
@example(None, GEOMETRIES[4])
def test_rounding_stays_within_the_bound(data: st.DataObject | None, g: dict[str, Any]) -> None:
    """Operands rounded to bfloat16, then nothing but the rounding of float32 sums: products are exact."""
    x, w, gy = normal(g) if data is None else (data.draw(arrays(shape)) for shape in shapes(g))
    o = options(g)
    rx, rw, rg = map(rounded, (x, w, gy))
    ax, aw, ag = map(abs, (rx, rw, rg))
    check_contraction(
        forward(x, w, **o), reference.conv2d(rx, rw, **o), reference.conv2d(ax, aw, **o), 2 * w[0].size
    )
    check_contraction(
        grad_input(gy, w, x.shape, **o),
        reference.conv2d_grad_input(rg, rw, x.shape, **o),
        reference.conv2d_grad_input(ag, aw, x.shape, **o),
        2 * w[..., 0].size,
    )
    check_contraction(
        grad_weight(x, gy, w.shape, **o),
        reference.conv2d_grad_weight(rx, rg, w.shape, **o),
        reference.conv2d_grad_weight(ax, ag, w.shape, **o),
        2 * gy[..., 0].size,
    )


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("g", GEOMETRIES, ids=name)
def test_bits_are_those_of_a_product(g: dict[str, Any]) -> None:
    """Of the matrix of patches with the weights, which bits depend on neither rows nor threads."""
    x, w, _ = normal(g)
    y = forward(x, w, **options(g))
    columns = w.reshape(len(w), -1).T
    check_equal(y.reshape(-1, len(w)), N(_core.matmul_bf16(T(patches(x, g)), T(columns))))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("g", GEOMETRIES, ids=name)
def test_bits_depend_on_no_split(g: dict[str, Any]) -> None:
    """Images one by one, and one thread or more: the same bits."""
    x, w, gy = normal(g)
    o = options(g)
    dx, dw = grad_input(gy, w, x.shape, **o), grad_weight(x, gy, w.shape, **o)
    for i in range(len(x)):
        check_equal(grad_input(gy[i : i + 1], w, (1, *x.shape[1:]), **o), dx[i : i + 1])
    before = _core.num_threads()
    try:
        _core.set_num_threads(1)
        check_equal(grad_weight(x, gy, w.shape, **o), dw)
    finally:
        _core.set_num_threads(before)


@pytest.mark.usefixtures("quant_isa")
@given(st.data(), conv_geometry(most_channels=40, most_size=6), st.sampled_from(["none", "relu", "gelu"]))
def test_a_fused_epilogue_equals_separate_ops(
    data: st.DataObject, g: dict[str, Any], activation: str
) -> None:
    """Also of the transposed convolution, whose phases finish each its own pixels."""
    o = options(g) | {"bf16": True}
    x, w, gy = normal(g)
    bias, residual, pre = (data.draw(st.booleans()) for _ in range(3))

    def check(run: Any, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(1)
        b = T(rng.standard_normal(shape[-1:]).astype("f4")) if bias else None
        r = T(rng.standard_normal(shape).astype("f4")) if residual else None
        y, y_pre = run(b, r, activation, pre)
        v = run(None, None, "none", False)[0]
        v = v if b is None else _core.add(v, b)
        v = v if r is None else _core.add(v, r)
        if y_pre is not None:
            check_equal(N(y_pre), N(v))
        check_equal(N(y), N(v if activation == "none" else getattr(_core, activation)(v)))

    check(lambda *rest: _core.conv2d(T(x), T(w), *rest, **o), gy.shape)
    check(lambda *rest: _core.conv_transpose2d(T(gy), T(w), list(x.shape), *rest, **o), x.shape)


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("g", GEOMETRIES, ids=name)
def test_nan_reaches_what_reads_it_and_nothing_else(g: dict[str, Any]) -> None:
    x, w, gy = normal(g)
    o = options(g)
    x[0, x.shape[1] // 2, x.shape[2] // 2, -1] = np.nan
    gy[0, gy.shape[1] // 2, gy.shape[2] // 2, -1] = np.nan
    with np.errstate(invalid="ignore"):
        expected = (
            reference.conv2d(x, w, **o),
            reference.conv2d_grad_input(gy, w, x.shape, **o),
            reference.conv2d_grad_weight(abs(np.nan_to_num(x)), gy, w.shape, **o),
        )
    results = (
        forward(x, w, **o),
        grad_input(gy, w, x.shape, **o),
        grad_weight(np.nan_to_num(x), gy, w.shape, **o),
    )
    for y, e in zip(results, expected, strict=True):
        check_equal(np.isnan(y), np.isnan(e))


def test_convolutions_in_groups_stay_float32() -> None:
    for channels, groups in ((12, 12), (12, 3)):
        g = geometry((2, 6, 7, channels), (24, 3, 3, channels // groups), groups=groups)
        x, w, gy = normal(g)
        o = options(g)
        check_equal(forward(x, w, **o), N(_core.conv2d(T(x), T(w), **o)[0]))
        check_equal(
            grad_input(gy, w, x.shape, **o),
            N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o)),
        )
        check_equal(
            grad_weight(x, gy, w.shape, **o),
            N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o)),
        )


# ---- the ops --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
def test_gradients_are_products_in_bfloat16(rank: int, transposed: bool) -> None:
    """Integers: exactly those of float32. Thirds: those of operands rounded before the product, and only there."""
    run: Any = getattr(ops, f"conv{'_transpose' if transposed else ''}{rank}d")
    rng = np.random.default_rng(0)
    size, kernel = ((9,), (3,)) if rank == 1 else ((6, 7), (3, 2))
    x = rng.integers(-5, 6, (2, *size, 5)).astype("f4")
    w = rng.integers(-5, 6, (5, *kernel, 5)).astype("f4")

    def gradients(precision: str | None, x: Array, w: Array, scale: float) -> list[Array]:
        tensors = [qn.tensor(a, requires_grad=True) for a in (x, w, np.zeros(5, "f4"))]
        y = run(*tensors, stride=2, padding=1, precision=precision)
        assert y.dtype == "float32"
        (y * scale).sum().backward()
        return [y.numpy(), *(t.grad.numpy() for t in tensors if t.grad is not None)]

    for a, b in zip(gradients("bf16", x, w, 1.0), gradients(None, x, w, 1.0), strict=True):
        check_equal(a, b)
    third = float(np.float32(1 / 3))
    got = gradients("bf16", x, w, third)
    expected = gradients(None, x, w, float(rounded(np.float32([third]))[0]))
    check_exact(got[1], expected[1], np.float32)
    check_exact(got[2], expected[2], np.float32)
    check_equal(got[3], gradients(None, x, w, third)[3])


def test_a_recorded_step_equals_the_eager_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 8, 9, 6)).astype("f4")
    first, w, u, v = (
        qn.tensor(rng.standard_normal(shape).astype("f4"), requires_grad=True)
        for shape in ((6, 1, 1, 6), (7, 3, 3, 6), (7, 1, 1, 6), (7, 2, 2, 4))
    )

    def step(x: Any) -> Any:
        first.grad = w.grad = u.grad = v.grad = None
        x = ops.conv2d(x, first, precision="bf16")
        shortcut = ops.conv2d(x, u, stride=2, precision="bf16")  # most of whose phases have no taps
        y = ops.conv2d(x, w, stride=2, padding=1, activation="gelu", residual=shortcut, precision="bf16")
        z = ops.conv_transpose2d(y, v, stride=2, precision="bf16")
        (z * z).sum().backward()
        return z, first.grad, w.grad, u.grad, v.grad

    want = [t.numpy() for t in step(qn.tensor(x))]
    recorded = qn.jit(step)
    for _ in range(3):
        for a, b in zip(recorded(qn.tensor(x)), want, strict=True):
            check_equal(a.numpy(), b)
    assert len(recorded.plans()) == 1


def test_errors_say_what_to_do() -> None:
    x, w = np.ones((1, 3, 3, 2)), np.ones((4, 1, 1, 2))
    with pytest.raises(TypeError, match=r"\[conv2d\] precision 'bf16' takes float32, x is float64; cast it"):
        ops.conv2d(x, w, precision="bf16")
    with pytest.raises(ValueError, match=r"\[conv_transpose2d\] precision is 'bf16' or None, got 'fp8'"):
        ops.conv_transpose2d(x, np.ones((2, 1, 1, 4)), precision="fp8")
    with pytest.raises(
        TypeError, match=r"\[conv2d\] x must be float32 for a product in bfloat16, is float64"
    ):
        _core.conv2d(T(x), T(w), bf16=True)
