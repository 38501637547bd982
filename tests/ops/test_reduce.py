"""Native reductions: exact on integers, within Higham's bound, NaN-propagating, the same bits on any thread count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, check_exact
from tests.strategies import arrays, guarded, integer_fill, near, shapes

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "uint8", "int32", "int64", "bool")


@st.composite
def axes_of(draw: st.DrawFn, rank: int) -> list[int]:
    axes = draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=rank)) if rank else []
    return [a - rank if draw(st.booleans()) else a for a in axes]


def terms(shape: tuple[int, ...], axes: list[int]) -> int:
    return math.prod(shape[a] for a in axes)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(FLOATS))
def test_sum_and_mean(data: Any, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=5))
    axes = data.draw(axes_of(len(shape)))
    x = data.draw(arrays(shape, dtype, specials=None if dtype == "float32" else ()))
    n = terms(shape, axes)
    with np.errstate(invalid="ignore"):
        expected, size = reference.sum(x, axes), reference.sum(np.abs(x), axes)
        check_contraction(N(_core.sum(T(x), axes)), expected, size, max(n, 1), dtype)
        if n:
            check_contraction(N(_core.mean(T(x), axes)), expected / n, size / n, n + 1, dtype)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(FLOATS))
def test_sums_of_small_integers_are_exact(data: Any, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=4))
    axes = data.draw(axes_of(len(shape)))
    x = data.draw(integer_fill(shape, max(terms(shape, axes), 1), dtype))
    check_exact(N(_core.sum(T(x), axes)), reference.sum(x, axes))


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(),
    rows=st.sampled_from((511, 512, 513, 2049, 8192, 8193, 16_500)),
    columns=near(70, 1),
    axis=st.integers(0, 1),
)
def test_long_reductions_are_exact(data: Any, rows: int, columns: int, axis: int) -> None:
    x = data.draw(integer_fill((rows, columns) if axis == 0 else (columns, rows), rows))
    check_exact(N(_core.sum(T(x), [axis])), reference.sum(x, [axis]))
    check_equal(N(_core.max(T(x), [axis])), x.max(axis))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(INTEGERS))
def test_integers(data: Any, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=4))
    axes = data.draw(axes_of(len(shape)))
    x = data.draw(arrays(shape, dtype, specials=None))
    check_equal(N(_core.sum(T(x), axes)), reference.sum(x, axes).astype(np.int64))
    if terms(shape, axes):
        check_equal(N(_core.max(T(x), axes)), x.max(tuple(axes)))


def test_integer_sums_do_not_overflow_their_input_type() -> None:
    for dtype in ("int8", "uint8", "int32"):
        x = np.full(100_000, np.iinfo(dtype).max, dtype)
        check_equal(N(_core.sum(T(x), [0])), np.array(100_000 * int(np.iinfo(dtype).max)))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from((*FLOATS, *INTEGERS)))
def test_prod(data: Any, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=4, most=40))
    axes = data.draw(axes_of(len(shape)))
    x = data.draw(arrays(shape, dtype))
    if dtype in INTEGERS:  # wraps around
        check_equal(N(_core.prod(T(x), axes)), reference.prod(x, axes))
        return
    n, expected = terms(shape, axes), reference.prod(x, axes)
    actual = N(_core.prod(T(x), axes))
    info = np.finfo(dtype)
    plain = (np.abs(expected) < info.max) & (
        np.abs(expected) > info.tiny / info.eps
    )  # no intermediate underflow
    assert actual.dtype == dtype and actual.shape == expected.shape
    error = np.abs(actual - expected)[plain]
    assert (error <= max(n - 1, 0) * info.eps * np.abs(expected)[plain]).all()


def test_products_of_powers_of_two_are_exact(isa: str) -> None:  # noqa: ARG001
    rng = np.random.default_rng(0)
    for shape in [(9000,), (700, 5), (3, 600, 70)]:
        x = np.where(rng.random(shape) < 0.01, rng.choice([-2.0, 0.5], shape), 1).astype("f4")
        for axis in range(len(shape)):
            check_equal(N(_core.prod(T(x), [axis])), x.prod(axis))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from((*FLOATS, *INTEGERS)), reverse=st.booleans())
def test_cumsum(data: Any, dtype: str, reverse: bool) -> None:
    shape = data.draw(shapes(min_rank=1, max_rank=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = data.draw(arrays(shape, dtype, specials=None if dtype == "float32" else ()))
    actual = N(_core.cumsum(T(x), axis, reverse))
    if dtype in INTEGERS:
        check_equal(actual, reference.cumsum(x, axis, reverse))
        return
    with np.errstate(invalid="ignore", over="ignore"):
        expected, size = (reference.cumsum(a, axis, reverse) for a in (x, np.abs(x)))
        check_contraction(actual, expected, size, 1 if dtype == "float32" else shape[axis], dtype)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(FLOATS))
def test_max_propagates_nan(data: Any, dtype: str) -> None:
    shape = data.draw(shapes(max_rank=4, least=1))
    axes = data.draw(axes_of(len(shape)))
    x = data.draw(arrays(shape, dtype, specials=(np.nan, np.inf, -np.inf)))
    actual = N(_core.max(T(x), axes))
    np.testing.assert_array_equal(actual, x.max(tuple(axes)))
    assert actual.dtype == dtype


@pytest.mark.usefixtures("isa")
def test_max_of_infinities() -> None:
    for n in range(1, 70):
        x = np.full((n, 3), -np.inf, "f4")
        check_equal(N(_core.max(T(x), [0])), x[0])
        check_equal(N(_core.max(T(x.T.copy()), [1])), x[0])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [(300_000,), (40_000, 7), (513, 600), (3, 20_000, 5), (2, 9, 17_000)])
def test_bits_do_not_depend_on_threads_or_batch(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype("f4")
    before = _core.num_threads()
    try:
        for axes in [[a] for a in range(len(shape))] + [list(range(len(shape)))]:
            results = []
            for threads in (1, 2):
                _core.set_num_threads(threads)
                results.append(N(_core.sum(T(x), axes)))
            check_equal(results[0], results[1])
            check_contraction(
                results[0], reference.sum(x, axes), reference.sum(np.abs(x), axes), terms(shape, axes)
            )
    finally:
        _core.set_num_threads(before)
    if len(shape) == 3:  # a batch split off the outer axis
        check_equal(N(_core.sum(T(x[1:2].copy()), [1])), N(_core.sum(T(x), [1]))[1:2])


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 140):
        for shape in ((n,), (n, 1), (3, n), (n, 3)):
            x = guarded(shape, "f4")
            x[...] = np.arange(x.size).reshape(shape)
            check_exact(N(_core.sum(T(x), [0])), reference.sum(x, [0]))
            check_equal(N(_core.max(T(x), [len(shape) - 1])), x.max(-1))
            check_exact(N(_core.cumsum(T(x), 0, True)), reference.cumsum(x, 0, True))


def test_zero_sizes() -> None:
    x = T(np.zeros((3, 0, 2), "f4"))
    check_equal(N(_core.sum(x, [1])), np.zeros((3, 2), "f4"))
    check_equal(N(_core.sum(x, [2])), np.zeros((3, 0), "f4"))
    assert np.isnan(N(_core.mean(x, [1]))).all()
    check_equal(N(_core.max(x, [0])), np.zeros((0, 2), "f4"))
    check_equal(N(_core.prod(x, [1])), np.ones((3, 2), "f4"))
    check_equal(N(_core.cumsum(x, 1, False)), np.zeros((3, 0, 2), "f4"))
    with pytest.raises(ValueError, match=r"\[max\] of no elements.*\(3, 0, 2\)"):
        _core.max(x, [1])


def test_errors() -> None:
    x = T(np.zeros((3, 4), "i4"))
    with pytest.raises(ValueError, match=r"\[sum\] axis 2 is out of range for rank 2"):
        _core.sum(x, [2])
    with pytest.raises(ValueError, match=r"\[max\] axis -1 appears twice"):
        _core.max(x, [1, -1])
    with pytest.raises(TypeError, match=r"\[mean\] expects a floating-point tensor, x is int32"):
        _core.mean(x, [0])
