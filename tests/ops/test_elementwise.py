"""Native elementwise kernels against NumPy: every operation, dtype, ISA level and thread count; broadcasting; errors."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_equal, check_ulp, ulp_error
from tests.conftest import DEVICE
from tests.strategies import arrays, broadcastable, guarded, shapes

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "uint8", "int32", "int64")
# Rounded once, so equal to NumPy's bits; and the vectorized functions.
EXACT_UNARY = (
    *("neg", "abs", "sign", "square", "sqrt", "reciprocal", "relu", "floor", "ceil", "round", "relu6"),
)
FLOAT_ONLY = ("sqrt", "reciprocal", "floor", "ceil", "round", "relu6")
VECTORIZED = (
    *("exp", "log", "tanh", "sigmoid", "gelu", "silu", "expm1", "log1p", "sin", "cos", "erf", "rsqrt"),
    *("mish", "hardswish", "hardsigmoid", "logsigmoid", "softsign"),
)
EXACT_BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or")
GRADS = (
    *("relu_grad", "tanh_grad", "sigmoid_grad", "gelu_grad", "silu_grad", "abs_grad", "mish_grad"),
    *("hardswish_grad", "hardsigmoid_grad", "logsigmoid_grad", "softsign_grad"),
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def numpy_unary(name: str, x: Any) -> Any:
    """The operation in the dtype of x, rounded as NumPy does."""
    if name in ("relu", "relu6"):
        y = np.where(x < 0, x.dtype.type(0), x)
        return y if name == "relu" else np.where(y > 6, x.dtype.type(6), y)
    if name == "neg":
        return -x if x.dtype.kind != "u" else (0 - x.astype(np.int64)).astype(x.dtype)
    return np.rint(x) if name == "round" else getattr(np, name)(x)


@functools.cache
def sweep(count: int = 1 << 19) -> Any:
    """float32 over the whole range, evenly in bits, and densely where functions bend."""
    bits = np.linspace(0, 2**32 - 1, count).astype(np.uint32).view(np.float32)
    edges = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.7228, 88.73, -87.3, -87.4, -103.97, -104.0]
    lines = [np.linspace(-s, s, count // 4) for s in (0.01, 1.0, 16.0, 130.0)]
    return np.concatenate([bits, *lines, edges]).astype(np.float32)


@functools.cache
def swept(name: str) -> Any:
    return reference.UNARY[name](sweep())


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", VECTORIZED)
def test_vectorized_functions_stay_within_4_ulp_over_all_floats(name: str) -> None:
    check_ulp(N(getattr(_core, name)(T(sweep()))), swept(name), 4)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ["tanh", "expm1", "log1p", "erf", "sin", "relu", "softsign"])
def test_zeros_keep_their_sign(name: str, dtype: str) -> None:
    x = np.tile(np.array([0.0, -0.0], dtype), 20)
    y = N(getattr(_core, name)(T(x)))
    check_equal(y, x)
    check_equal(np.signbit(y), np.signbit(x))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("gelu_grad", [0, 1, np.nan]),
        ("silu_grad", [0, 1, np.nan]),
        ("mish_grad", [0, 1, np.nan]),
        ("hardswish_grad", [0, 1, np.nan]),
        ("hardsigmoid_grad", [0, 0, 0]),
        ("logsigmoid_grad", [1, 0, np.nan]),
    ],
)
def test_slopes_are_accurate_to_an_absolute_2_ulp_of_one(name: str, ends: list[float]) -> None:
    x = np.linspace(-60, 60, 400_001).astype(np.float32)
    actual = N(getattr(_core, name)(T(x), 1.0))
    assert np.abs(actual - reference.UNARY_GRAD[name](x, np.ones_like(x))).max() < 2 * np.finfo("f4").eps
    actual = N(getattr(_core, name)(T(np.array([-np.inf, np.inf, np.nan], "f4")), 1.0))
    np.testing.assert_array_equal(actual, ends)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), name=st.sampled_from(EXACT_UNARY), dtype=st.sampled_from(FLOATS + INTEGERS))
def test_unary(data: Any, name: str, dtype: str) -> None:
    if name in FLOAT_ONLY and dtype in INTEGERS:
        dtype = "float32"
    x = data.draw(arrays(data.draw(shapes()), dtype, specials=None))
    actual = N(getattr(_core, name)(T(x)))
    if dtype in FLOATS:
        check_ulp(actual, numpy_unary(name, x), 0, dtype)
    else:
        check_equal(actual, numpy_unary(name, x))


@given(data=st.data(), name=st.sampled_from(VECTORIZED))
def test_float64_functions(data: Any, name: str) -> None:
    x = data.draw(arrays(data.draw(shapes()), "float64", specials=None, scale=5))
    error = ulp_error(N(getattr(_core, name)(T(x))), reference.UNARY[name](x))
    # erfc amplifies the roundings of its argument x / sqrt(2), two here and two in the reference, by x^2.
    limit = 4 + 2 * (np.nan_to_num(x, posinf=0, neginf=0).clip(-40, 40) ** 2 if name == "gelu" else 0)
    assert (error <= limit).all()


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from((*FLOATS, *INTEGERS, "bool")))
def test_copy_and_logical_not(data: Any, dtype: str) -> None:
    x = data.draw(arrays(data.draw(shapes()), dtype, specials=None))
    check_equal(N(_core.copy(T(x))), x)
    check_equal(N(_core.logical_not(T(x))), np.logical_not(x))


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(), name=st.sampled_from(EXACT_BINARY + COMPARISONS), dtype=st.sampled_from(FLOATS + INTEGERS)
)
def test_binary_broadcasts(data: Any, name: str, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=5))
    a = data.draw(arrays(data.draw(broadcastable(shape)), dtype, specials=None))
    b = data.draw(arrays(data.draw(broadcastable(shape)), dtype, specials=None))
    actual = N(getattr(_core, name)(T(a), T(b)))
    if name == "div" and dtype in INTEGERS:
        wide = np.where(b == 0, 0, np.trunc(a / np.where(b == 0, 1, b)))
        check_equal(actual, wide.astype(np.int64).astype(dtype))
    elif name in COMPARISONS or dtype in INTEGERS:
        check_equal(actual, reference.BINARY[name](a, b))
    else:
        check_ulp(actual, reference.BINARY[name](a, b), 0, dtype)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), name=st.sampled_from(GRADS), dtype=st.sampled_from(FLOATS))
def test_gradient_factors(data: Any, name: str, dtype: str) -> None:
    shape = data.draw(shapes())
    s, g = data.draw(arrays(shape, dtype)), data.draw(arrays(shape, dtype))
    expected = reference.UNARY_GRAD[name](s, g)
    size = np.abs(np.asarray(g, "f8")) * (1 + np.abs(np.asarray(s, "f8")) ** 2)
    actual = N(getattr(_core, name)(T(s), T(g)))
    assert actual.dtype == dtype and actual.shape == expected.shape
    assert (np.abs(actual - expected) <= 4 * np.finfo(dtype).eps * size).all()


@pytest.mark.usefixtures("isa")
@given(data=st.data(), name=st.sampled_from(EXACT_BINARY[:4] + COMPARISONS), first=st.booleans())
def test_scalar_operand(data: Any, name: str, first: bool) -> None:
    x = data.draw(arrays(data.draw(shapes()), specials=None))
    scalar = data.draw(st.sampled_from([0.0, 1.0, -2.5, 0.1, float("inf"), float("nan")]))
    operands = (np.float32(scalar), x) if first else (x, np.float32(scalar))
    expected = reference.BINARY[name](*operands)
    actual = N(getattr(_core, name)(*((scalar, T(x)) if first else (T(x), scalar))))
    if name in COMPARISONS:
        check_equal(actual, np.asarray(expected))
    else:
        check_ulp(actual, np.asarray(expected), 0)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize(
    ("rows", "inner"),
    [(9000, 3), (700, 10), (40, 300), (3, 5000), (2, 1023), (3, 1024), (3, 1025), (5, 2049)],
)
def test_bias_patterns_and_threads(rows: int, inner: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, inner)).astype("f4")
    for shape in ((inner,), (rows, 1), (1,), (rows, inner), (1, inner)):
        b = rng.standard_normal(shape).astype("f4")
        check_equal(N(_core.sub(T(a), T(b))), a - b)
        check_equal(N(_core.sub(T(b), T(a))), b - a)


@pytest.mark.usefixtures("isa")
def test_pow() -> None:
    a = np.array([0, -0.0, 1, -1, 2, 0.5, 10, -2, np.inf, np.nan, 3], "f4")
    b = np.array([0, 1, -1, 2, 3, 0.5, -0.5, np.inf, np.nan, 30], "f4")
    x, y = np.repeat(a, b.size), np.tile(b, a.size)
    check_ulp(N(_core.pow(T(x), T(y))), np.power(x.astype("f8"), y.astype("f8")), 1)
    check_ulp(
        N(_core.pow(T(x.astype("f8")), T(y.astype("f8")))), np.power(x.astype("f8"), y.astype("f8")), 1, "f8"
    )
    base = np.array([2, -3, 0, 1, -1, 7, 2, -1, 1, 0], "i4")
    exponent = np.array([10, 3, 0, 5, 7, 20, -1, -3, -2, -1], "i4")
    with np.errstate(over="ignore"):
        expected = np.array([1024, -27, 1, 1, -1, np.int64(7**20).astype("i4"), 0, -1, 1, 0], "i4")
    check_equal(N(_core.pow(T(base), T(exponent))), expected)


# Powers of two, so that beta x is exact: its rounding would show in the left tail, |beta x| times as large.
PARAMETRIC = [
    ("leaky_relu", reference.leaky_relu, (0.01,)),
    ("leaky_relu", reference.leaky_relu, (-2.5,)),
    ("elu", reference.elu, (1.0, 1.0, 1.0)),
    ("elu", reference.elu, (1.7580993408473766, 1.0507009873554805, 1.0)),
    ("elu", reference.elu, (0.5, 1.0, 2.0)),
    ("softplus", reference.softplus_beyond, (1.0, 20.0)),
    ("softplus", reference.softplus_beyond, (0.5, 3.0)),
]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("name", "definition", "params"), PARAMETRIC)
def test_functions_with_parameters(name: str, definition: Any, params: tuple[float, ...]) -> None:
    rounded = [float(np.float32(p)) for p in params]
    check_ulp(N(getattr(_core, name)(T(sweep()), params)), definition(sweep(), *rounded), 5)
    x = np.linspace(-30, 30, 1001)
    check_ulp(N(getattr(_core, name)(T(x), params)), definition(x, *params), 8, "f8")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_of_functions_with_parameters(dtype: str) -> None:
    x = np.concatenate([np.linspace(-40, 40, 2001), [0.0, -0.0, -1.0, 2.0, 1e30, -1e30]]).astype(dtype)
    g = np.random.default_rng(0).standard_normal(x.shape).astype(dtype)

    def check(name: str, params: tuple[float, ...], expected: Any) -> None:
        actual = N(getattr(_core, name)(T(x), T(g), params))
        assert actual.dtype == dtype
        assert (np.abs(actual - expected) <= 8 * np.finfo(dtype).eps * np.abs(g)).all()

    check("leaky_relu_grad", (0.25,), np.where(x > 0, g, g * 0.25))
    check("clamp_grad", (-1.0, 2.0), np.where((x <= -1) | (x >= 2), 0, g))
    check("elu_grad", (1.5, 1.25, 0.5), reference.elu_grad(x, g, 1.5, 1.25, 0.5))
    check("softplus_grad", (0.5, 4.0), reference.softplus_grad(x, g, 0.5, 4.0))


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(),
    name=st.sampled_from(["floor_divide", "remainder"]),
    dtype=st.sampled_from(FLOATS + INTEGERS),
)
def test_division_that_rounds_down(data: Any, name: str, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=3))
    a = data.draw(arrays(data.draw(broadcastable(shape)), dtype, specials=None, scale=9))
    b = data.draw(arrays(data.draw(broadcastable(shape)), dtype, specials=None, scale=3))
    actual = N(getattr(_core, name)(T(a), T(b)))
    expected = np.asarray(reference.BINARY[name](a, b))
    if dtype in INTEGERS:
        check_equal(actual, expected)
    else:
        check_ulp(actual, expected, 0, dtype)


@pytest.mark.usefixtures("isa")
def test_integer_extremes_do_not_trap() -> None:
    for dtype in INTEGERS:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        a = np.array([low, low, high, 5, -1 if low else 1], dtype)
        b = np.array([-1 if low else 1, 0, high, -2 if low else 2, 1], dtype)
        quotient = [low, 0, 1, -2 if low else 2, -1 if low else 1]
        check_equal(N(_core.div(T(a), T(b))), np.array(quotient, dtype))
        check_equal(N(_core.abs(T(a))), np.abs(a))
        check_equal(N(_core.remainder(T(a), T(b))), np.remainder(a, b))
        down = [low, 0, 1, -3 if low else 2, -1 if low else 1]
        check_equal(N(_core.floor_divide(T(a), T(b))), np.array(down, dtype))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from((*FLOATS, *INTEGERS, "bool")))
def test_where(data: Any, dtype: str) -> None:
    shape = data.draw(shapes())
    c = data.draw(arrays(data.draw(broadcastable(shape)), "bool"))
    a, b = (data.draw(arrays(data.draw(broadcastable(shape)), dtype, specials=None)) for _ in range(2))
    check_equal(N(_core.where(T(c), T(a), T(b))), np.where(c, a, b))
    check_equal(N(_core.where(T(c), T(a), 1.0)), np.where(c, a, np.asarray(1, dtype)))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(FLOATS + INTEGERS))
def test_clip(data: Any, dtype: str) -> None:
    x = data.draw(arrays(data.draw(shapes()), dtype, specials=None))
    lo, hi = data.draw(st.sampled_from([(-1.0, 2.0), (-np.inf, 1.0), (0.0, np.inf), (3.0, -3.0)]))
    y = N(_core.clip(T(x), lo, hi))
    if dtype in FLOATS:
        check_ulp(y, reference.clip(x, lo, hi), 0, dtype)
    else:
        info = np.iinfo(dtype)
        limits = [int(min(max(v, info.min), info.max)) for v in (lo, hi)]
        check_equal(y, np.minimum(np.maximum(x, limits[0]), limits[1]).astype(dtype))


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(),
    source=st.sampled_from((*FLOATS, *INTEGERS, "bool")),
    target=st.sampled_from((*FLOATS, *INTEGERS, "bool")),
)
def test_cast(data: Any, source: str, target: str) -> None:
    x = data.draw(arrays(data.draw(shapes()), source, scale=40))
    if source in FLOATS and target == "uint8":
        x = np.abs(x)
    check_equal(N(_core.cast(T(x), target)), x.astype(target))


@pytest.mark.usefixtures("isa")
def test_casts_of_unrepresentable_floats_are_defined() -> None:
    for source in FLOATS:
        x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 300.7, -1.5], source)
        low32, low64 = np.iinfo("i4").min, np.iinfo("i8").min
        check_equal(N(_core.cast(T(x), "int32")), np.array([low32] * 5 + [300, -1], "i4"))
        check_equal(N(_core.cast(T(x), "int64")), np.array([low64] * 5 + [300, -1], "i8"))
        check_equal(N(_core.cast(T(x), "uint8")), np.array([0] * 5 + [44, 255], "u1"))
        check_equal(N(_core.cast(T(x), "bool")), np.ones(7, bool))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from((*FLOATS, *INTEGERS, "bool")))
def test_in_place(data: Any, dtype: str) -> None:
    shape = data.draw(shapes())
    x = data.draw(arrays(shape, dtype, layouts=("C",), specials=None))
    dst = _core.full(shape, 1.0, dtype)
    check_equal(N(dst), np.ones(shape, dtype))
    version = dst.version
    _core.copy_into_(dst, T(x))
    check_equal(N(dst), x)
    if dtype != "bool":
        addend = data.draw(arrays(data.draw(broadcastable(shape)), dtype))
        _core.add_into_(dst, T(addend))
        check_equal(N(dst), x + addend)
    assert dst.version > version
    _core.fill_(dst, 0.0)
    check_equal(N(dst), np.zeros(shape, dtype))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("end", [True, False])
def test_every_tail_against_guard_pages(dtype: str, end: bool) -> None:
    for n in range(1, 70):
        a, b, c = guarded((n,), dtype, end), guarded((n,), dtype, end), guarded((n,), bool, end)
        a[...], b[...], c[...] = np.arange(n), 2, np.arange(n) % 3 == 0
        check_equal(N(_core.mul(T(a), T(b))), a * b)
        check_equal(N(_core.lt(T(a), T(b))), a < b)
        check_equal(N(_core.where(T(c), T(a), T(b))), np.where(c, a, b))
        check_equal(N(_core.sqrt(T(a))), np.sqrt(a))
        check_equal(N(_core.tanh(T(a)))[:1], np.zeros(1, dtype))
        check_equal(N(_core.leaky_relu(T(a), (0.5,))), a)
        check_equal(N(_core.clamp_grad(T(a), T(b), (1.0, 3.0))), np.where(a == 2, b, 0).astype(dtype))


def test_bool_arithmetic() -> None:
    a, b = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    check_equal(N(_core.add(T(a), T(b))), a | b)
    check_equal(N(_core.mul(T(a), T(b))), a & b)
    check_equal(N(_core.maximum(T(a), T(b))), a | b)
    with pytest.raises(TypeError, match=r"\[sub\] is not defined for bool"):
        _core.sub(T(a), T(b))


def test_errors_name_both_sides() -> None:
    a, b = T(np.zeros((3, 4), "f4")), T(np.zeros((3, 5), "f4"))
    with pytest.raises(ValueError, match=r"\[add\].*\(3, 4\).*\(3, 5\)"):
        _core.add(a, b)
    with pytest.raises(TypeError, match=r"\[mul\].*float32 and int64"):
        _core.mul(a, T(np.zeros(4, "i8")))
    with pytest.raises(TypeError, match=r"\[exp\] expects a floating-point tensor, x is int32"):
        _core.exp(T(np.zeros(4, "i4")))
    with pytest.raises(TypeError, match=r"\[where\] condition must be bool"):
        _core.where(a, a, a)
    with pytest.raises(ValueError, match=r"\[add\] the scalar 2.5 is not exactly a value of dtype int32"):
        _core.add(T(np.zeros(4, "i4")), 2.5)
    with pytest.raises(ValueError, match=r"\[eq\] the scalar 300 is not exactly a value of dtype uint8"):
        _core.eq(T(np.zeros(4, "u1")), 300.0)
    with pytest.raises(ValueError, match=r"\[add\] the scalar .* is not exactly a value of dtype int64"):
        _core.add(T(np.zeros(4, "i8")), 2**60)
    with pytest.raises(ValueError, match=r"\[copy\]"):
        _core.copy_into_(a, b)
    with pytest.raises(TypeError, match=r"\[mish\] expects a floating-point tensor, x is int32"):
        _core.mish(T(np.zeros(4, "i4")))
    with pytest.raises(ValueError, match=r"\[elu\] takes at most 3 parameters, got 4"):
        _core.elu(a, (1.0, 1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"\[clip\] the limits"):
        _core.clip(a, float("nan"), 1.0)


@pytest.mark.skipif(DEVICE != "cpu", reason="only the CPU borrows arrays")
def test_borrowed_arrays_are_not_written() -> None:
    with pytest.raises(RuntimeError, match=r"\[fill\] cannot write into a read-only array"):
        _core.fill_(T(np.zeros((3, 4), "f4")), 1.0)
