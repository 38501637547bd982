"""Native matmul and linear: exactness, error bounds, guard pages, bits that depend on nothing but K, N, dtype and ISA."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_adjoint, check_contraction, check_equal, check_exact
from tests.strategies import arrays, broadcastable, integer_fill, near

DTYPES = ("float32", "float64")
ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish")

sizes = st.tuples(near(70), near(200), near(140))  # M, N, K
flags = st.booleans()


def stored(a: Any, transposed: bool) -> Any:
    return T(np.ascontiguousarray(np.swapaxes(a, -1, -2))) if transposed else T(a)


def magnitude(a: Any, b: Any, *addends: Any) -> Any:
    total = reference.matmul(abs(a), abs(b))
    for addend in addends:
        total = total + abs(addend.astype(np.float64))
    return total


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [3, 8, 21])
def test_any_number_of_columns_and_rows_has_the_bits_of_a_wide_product(dtype: str, depth: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((14, depth)).astype(dtype), rng.standard_normal((depth, 128)).astype(dtype)
    bias = rng.standard_normal(128).astype(dtype)
    wide = N(_core.matmul(T(a), T(b)))
    fused = N(_core.linear(T(a), T(b.T.copy()), T(bias), None, "relu")[0])
    for cols in range(5, 90):
        for rows in (1, 3, 6, 8, 14):
            part, few = T(a[:rows].copy()), T(b[:, :cols].copy())
            check_equal(N(_core.matmul(part, few)), wide[:rows, :cols])
            weight = T(b[:, :cols].T.copy())
            check_equal(
                N(_core.linear(part, weight, T(bias[:cols].copy()), None, "relu")[0]), fused[:rows, :cols]
            )


@pytest.mark.usefixtures("isa", "threads")
@given(st.data(), sizes, st.sampled_from(DTYPES), flags, flags)
@example(None, (7, 65, 2500), "float32", False, False)  # several blocks of K
@example(None, (13, 70, 2500), "float32", True, True)
@example(None, (100, 300, 600), "float32", False, False)  # B packed though plain
@example(None, (50, 300, 600), "float32", False, False)  # each item packs its panel, block by block
@example(None, (30, 1100, 300), "float32", False, False)
@example(None, (64, 200, 300), "float64", True, True)
@example(None, (1, 200, 600), "float32", False, True)
@example(None, (100, 300, 600), "float64", True, False)
@example(None, (5, 70, 700), "float32", True, True)  # few rows, columns of B turned in registers
@example(None, (8, 41, 300), "float64", False, True)
@example(None, (333, 65, 3), "float32", False, False)  # a sum so short that rows are made one by one
@example(None, (50, 310, 8), "float64", True, True)
@example(None, (1, 3000, 45), "float32", False, False)  # a row of A and rows of B in stretches
@example(None, (1, 1100, 20), "float64", True, False)
@example(None, (101, 700, 300), "float32", True, False)  # rows of A packed for several panels
@example(None, (55, 1024, 40), "float32", False, False)  # rows of B that are whole pages
@example(None, (45, 1, 2100), "float32", False, False)  # few columns: products of one sum in lanes
@example(None, (301, 1, 1071), "float64", True, False)
@example(None, (261, 2, 1100), "float32", True, True)
@example(None, (26, 3, 1045), "float32", False, False)
@example(None, (1, 4, 1029), "float32", False, False)
def test_integers_multiply_exactly(
    data: st.DataObject | None, size: tuple[int, int, int], dtype: str, ta: bool, tb: bool
) -> None:
    m, n, k = size
    if data is None:
        rng = np.random.default_rng(0)
        a, b = (rng.integers(-9, 10, shape).astype(dtype) for shape in ((m, k), (k, n)))
        ta_, tb_ = stored(a, ta), stored(b, tb)
    else:
        a = data.draw(integer_fill((k, m) if ta else (m, k), k, dtype))
        b = data.draw(integer_fill((n, k) if tb else (k, n), k, dtype))
        ta_, tb_ = T(a), T(b)
        a, b = a.T if ta else a, b.T if tb else b
    check_exact(N(_core.matmul(ta_, tb_, ta, tb)), reference.matmul(a, b), dtype)


@pytest.mark.usefixtures("isa", "threads")
@given(
    st.data(), st.lists(st.integers(0, 4), max_size=3), st.tuples(near(20), near(70), near(40)), flags, flags
)
def test_batches_broadcast(
    data: st.DataObject, batch: list[int], size: tuple[int, int, int], ta: bool, tb: bool
) -> None:
    m, n, k = size
    a_batch, b_batch = data.draw(broadcastable(batch)), data.draw(broadcastable(batch))
    a = data.draw(integer_fill((*a_batch, *((k, m) if ta else (m, k))), k))
    b = data.draw(integer_fill((*b_batch, *((n, k) if tb else (k, n))), k))
    check_exact(N(_core.matmul(T(a), T(b), ta, tb)), reference.matmul(a, b, ta, tb), "float32")


@given(st.data(), near(40), near(70))
def test_one_dimensional_operands_follow_numpy(data: st.DataObject, n: int, k: int) -> None:
    v, w = data.draw(integer_fill((k,), k)), data.draw(integer_fill((k,), k))
    b = data.draw(integer_fill((3, k, n), k))
    check_exact(N(_core.matmul(T(v), T(w))), np.asarray(v @ w))
    check_exact(N(_core.matmul(T(v), T(b))), v @ b)
    check_exact(N(_core.matmul(T(b), T(v), True)), np.swapaxes(b, -1, -2) @ v)


@pytest.mark.usefixtures("isa")
@given(st.data(), sizes, st.sampled_from(DTYPES))
@example(None, (6, 64, 4096), "float32")
def test_rounding_stays_within_the_bound(
    data: st.DataObject | None, size: tuple[int, int, int], dtype: str
) -> None:
    m, n, k = size
    if data is None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    else:
        a, b = data.draw(arrays((m, k), dtype)), data.draw(arrays((k, n), dtype))
    # At the scalar level, and for the float64 reference itself, each product is rounded too.
    check_contraction(N(_core.matmul(T(a), T(b))), reference.matmul(a, b), magnitude(a, b), 2 * k, dtype)


@pytest.mark.usefixtures("isa")
@given(st.data(), st.tuples(near(20, 1), near(70, 1), near(40, 1)))
def test_nan_and_infinity_arrive(data: st.DataObject, size: tuple[int, int, int]) -> None:
    m, n, k = size
    a, b = data.draw(arrays((m, k), specials=None)), data.draw(arrays((k, n), specials=None))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = reference.matmul(a, b)
        check_contraction(N(_core.matmul(T(a), T(b))), expected, magnitude(a, b), 2 * k, alarm=False)
    # relu keeps NaN, and a NaN reaches its row only.
    a = np.ones((m, k), "f4")
    a[m // 2, k // 2] = math.nan
    y = N(_core.linear(T(a), T(np.ones((n, k), "f4")), activation="relu")[0])
    check_equal(np.isnan(y), np.repeat(np.arange(m)[:, None] == m // 2, n, 1))


@pytest.mark.usefixtures("isa", "threads")
@given(st.data(), sizes, st.sampled_from(DTYPES))
@example(None, (101, 300, 1300), "float32")
@example(None, (50, 300, 1300), "float32")
@example(None, (50, 300, 600), "float64")
@example(None, (40, 200, 5), "float32")
@example(None, (3, 2200, 50), "float32")
@example(None, (301, 1, 2100), "float32")
@example(None, (150, 2, 1037), "float32")
@example(None, (37, 3, 45), "float32")
@example(None, (139, 4, 1031), "float64")
@example(None, (1, 4, 1031), "float32")
def test_bits_depend_on_nothing_but_k_and_n(
    data: st.DataObject | None, size: tuple[int, int, int], dtype: str
) -> None:
    """Rows alone, batches split anywhere, transposed operands, packed or not, one thread or more: the same bits."""
    m, n, k = size
    rng = np.random.default_rng(m)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    cut = m // 3 if data is None else data.draw(st.integers(0, m))
    whole = N(_core.matmul(T(a), T(b)))
    parts = [N(_core.matmul(T(part), T(b))) for part in (a[:cut], a[cut:])]
    check_equal(np.concatenate(parts), whole)
    for ta in (False, True):
        check_equal(N(_core.matmul(stored(a, ta), stored(b, True), ta, True)), whole)
    check_equal(N(_core.linear(T(a), stored(b, True))[0]), whole)
    before = _core.num_threads()
    _core.set_num_threads(1)
    check_equal(N(_core.matmul(T(a), T(b))), whole)
    _core.set_num_threads(before)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(st.data(), st.tuples(near(20), near(140, 1), near(40)), flags, flags, flags)
def test_a_fused_epilogue_equals_separate_ops(
    dtype: str,
    activation: str,
    data: st.DataObject,
    size: tuple[int, int, int],
    bias: bool,
    residual: bool,
    pre: bool,
) -> None:
    m, n, k = size
    x, w = data.draw(arrays((m, k), dtype)), data.draw(arrays((n, k), dtype))
    b = T(data.draw(arrays((n,), dtype))) if bias else None
    r = T(data.draw(arrays((m, n), dtype))) if residual else None
    y, y_pre = _core.linear(T(x), T(w), b, r, activation, pre)
    expected, _ = _core.linear(T(x), T(w))
    expected = expected if b is None else _core.add(expected, b)
    expected = expected if r is None else _core.add(expected, r)
    assert (y_pre is not None) == pre
    if y_pre is not None:
        check_equal(N(y_pre), N(expected))
    check_equal(N(y), N(expected if activation == "none" else getattr(_core, activation)(expected)))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
@given(st.data(), st.tuples(st.integers(1, 300), near(40, 9)), flags, flags, st.sampled_from(ACTIVATIONS))
def test_few_columns_are_those_of_single_rows(
    dtype: str,
    n: int,
    data: st.DataObject,
    size: tuple[int, int],
    bias: bool,
    residual: bool,
    activation: str,
) -> None:
    """Rows alone, of A by rows or by columns, of B by rows or by columns, and an epilogue over many rows at once."""
    m, k = size
    x, w = data.draw(arrays((m, k), dtype)), data.draw(arrays((n, k), dtype))
    b = T(np.linspace(-1, 1, n).astype(dtype)) if bias else None
    r = np.random.default_rng(k).standard_normal((m, n)).astype(dtype) if residual else None
    whole = N(_core.matmul(T(x), T(w), False, True))
    check_equal(N(_core.matmul(stored(x, True), stored(w, True), True)), whole)
    for i in {0, m // 2, m - 1}:
        check_equal(N(_core.matmul(T(x[i : i + 1]), stored(w, True))), whole[i : i + 1])
    expected = T(whole) if b is None else _core.add(T(whole), b)
    expected = expected if r is None else _core.add(expected, T(r))
    y, _ = _core.linear(T(x), T(w), b, None if r is None else T(r), activation)
    check_equal(N(y), N(expected if activation == "none" else getattr(_core, activation)(expected)))


@pytest.mark.usefixtures("isa")
@given(st.data(), st.tuples(near(20, 1), near(70, 1), near(40, 1)))
def test_linear_is_accurate_and_takes_leading_dimensions(
    data: st.DataObject, size: tuple[int, int, int]
) -> None:
    m, n, k = size
    x, w = data.draw(arrays((2, m, 1, k))), data.draw(arrays((n, k)))
    b, r = data.draw(arrays((n,))), data.draw(arrays((2, m, 1, n)))
    y, _ = _core.linear(T(x), T(w), T(b), T(r))
    check_contraction(N(y), reference.linear(x, w, b, r), magnitude(x, w.T, b, r), 2 * k + 2)


@pytest.mark.usefixtures("isa")
@given(st.data(), st.tuples(near(30, 1), near(70, 1), near(70, 1)))
def test_gradients_are_adjoint(data: st.DataObject, size: tuple[int, int, int]) -> None:
    m, n, k = size
    x, w, g = (data.draw(integer_fill(shape, m * n * k)) for shape in ((m, k), (n, k), (m, n)))
    check_adjoint(lambda x: N(_core.linear(T(x), T(w))[0]), lambda g: N(_core.matmul(T(g), T(w))), x, g)
    check_adjoint(lambda w: N(_core.linear(T(x), T(w))[0]), lambda g: N(_core.matmul(T(g), T(x), True)), w, g)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_sum_is_zero_plus_bias(dtype: str) -> None:
    x, w, bias = np.zeros((3, 0), dtype), np.zeros((70, 0), dtype), np.arange(70).astype(dtype)
    check_equal(N(_core.matmul(T(x), T(w), False, True)), np.zeros((3, 70), dtype))
    check_equal(N(_core.linear(T(x), T(w), T(bias))[0]), np.tile(bias, (3, 1)))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3), (4, 5), r"\[matmul\] a has 3 columns, b has 4 rows \(a: \(2, 3\), b: \(4, 5\)\)"),
        ((), (4, 5), r"\[matmul\] operands need at least one dimension"),
        ((2, 2, 3), (3, 3, 5), r"\[matmul\] .*\(2,\).*\(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(a: tuple[int, ...], b: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.matmul(T(np.zeros(a, "f4")), T(np.zeros(b, "f4")))


def test_linear_names_what_is_wrong() -> None:
    x, w = T(np.zeros((2, 3), "f4")), T(np.zeros((5, 3), "f4"))
    with pytest.raises(ValueError, match=r"\[linear\] weight expects 4 input features, x has 3"):
        _core.linear(x, T(np.zeros((5, 4), "f4")))
    with pytest.raises(ValueError, match=r"\[linear\] bias has shape \(4,\), the output has 5 channels"):
        _core.linear(x, w, T(np.zeros(4, "f4")))
    with pytest.raises(ValueError, match=r"\[linear\] residual has shape \(2, 4\)"):
        _core.linear(x, w, None, T(np.zeros((2, 4), "f4")))
    with pytest.raises(ValueError, match=r"\[linear\] unknown activation 'selu'"):
        _core.linear(x, w, None, None, "selu")
    with pytest.raises(TypeError, match=r"\[linear\] x is float32, weight is float64"):
        _core.linear(x, T(np.zeros((5, 3))))
    with pytest.raises(TypeError, match=r"\[linear\] x must be float32 or float64, is int32"):
        _core.linear(T(np.zeros((2, 3), "i4")), w)
