"""argmax, argmin, top-k and sorting: against NumPy, ties and NaN included; bits on any thread count; guard pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_equal
from tests.strategies import arrays, guarded, seeds, shapes

DTYPES = ("float32", "float64", "int8", "uint8", "int32", "int64", "bool")
FEW = (0.0, -0.0, 1.0, np.inf, -np.inf, np.nan)  # so that ties are frequent


@st.composite
def with_ties(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> Any:
    x = draw(arrays(shape, dtype, specials=None))
    if draw(st.booleans()):
        return x
    rng = np.random.default_rng(draw(seeds))
    values = FEW if dtype.startswith("float") else (0, 1)
    return rng.choice(np.array(values, dtype), shape)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(DTYPES), smallest=st.booleans())
def test_the_first_extreme(data: Any, dtype: str, smallest: bool) -> None:
    shape = data.draw(shapes(min_rank=1, max_rank=4, least=1))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = data.draw(with_ties(shape, dtype))
    expected = (np.argmin if smallest else np.argmax)(x, axis)
    check_equal(N(_core.arg_reduce(T(x), axis, smallest)), np.asarray(expected, "i8"))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=st.sampled_from(DTYPES), largest=st.booleans())
def test_topk(data: Any, dtype: str, largest: bool) -> None:
    shape = data.draw(shapes(min_rank=1, max_rank=3))
    x = data.draw(with_ties(shape, dtype))
    k = data.draw(st.integers(0, shape[-1]))
    places = reference.ranks(x, largest)[..., :k]
    values, indices = _core.topk(T(x), k, largest)
    check_equal(N(indices), places)
    # Each value is the very element, sign of zero included.
    check_equal(N(values), np.take_along_axis(x, places, -1))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_long_rows(dtype: str) -> None:
    x = np.random.default_rng(0).integers(-3000, 3000, (3, 5001)).astype(dtype)
    for k in (1, 2, 31, 5000, 5001):
        for largest in (True, False):
            check_equal(N(_core.topk(T(x), k, largest)[1]), reference.ranks(x, largest)[:, :k])
    for smallest, fn in ((False, np.argmax), (True, np.argmin)):
        check_equal(N(_core.arg_reduce(T(x), 1, smallest)), fn(x, 1))
        check_equal(N(_core.arg_reduce(T(x), 0, smallest)), fn(x, 0))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_puts_values_where_they_came_from(dtype: str) -> None:
    rng = np.random.default_rng(0)
    for rows, cols, k in [(1, 1, 1), (5, 9, 4), (3, 70, 70), (4, 3, 0), (0, 4, 2)]:
        g = rng.standard_normal((rows, k)).astype(dtype)
        indices = np.argsort(rng.random((rows, cols)), -1)[:, :k]
        expected = np.zeros((rows, cols), dtype)
        np.put_along_axis(expected, indices, g, -1)
        check_equal(N(_core.topk_grad(T(g), T(indices), cols)), expected)


def test_bits_do_not_depend_on_threads(isa: str) -> None:  # noqa: ARG001
    x = np.random.default_rng(1).integers(0, 50, (200, 3000)).astype("f4")
    before = _core.num_threads()
    try:
        results = []
        for threads in (1, 2):
            _core.set_num_threads(threads)
            found = [_core.arg_reduce(T(x), axis, False) for axis in (0, 1)] + list(
                _core.topk(T(x), 40, True)
            )
            results.append([N(t) for t in [*found, _core.cumsum(T(x), 0, False), _core.prod(T(x), [0])]])
        for one, two in zip(*results, strict=True):
            check_equal(one, two)
    finally:
        _core.set_num_threads(before)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("end", [True, False])
def test_every_tail_against_guard_pages(end: bool) -> None:
    for n in range(1, 70):
        x = guarded((3, n), "f4", end)
        x[...] = np.random.default_rng(n).integers(0, 9, x.shape)
        check_equal(N(_core.arg_reduce(T(x), 1, False)), x.argmax(1))
        check_equal(N(_core.arg_reduce(T(x), 0, True)), x.argmin(0))
        check_equal(N(_core.topk(T(x), (n + 1) // 2, True)[1]), reference.ranks(x)[:, : (n + 1) // 2])


def test_zero_sizes_and_errors() -> None:
    x = T(np.zeros((3, 0, 2), "f4"))
    check_equal(N(_core.arg_reduce(x, 0, False)), np.zeros((0, 2), "i8"))
    check_equal(N(_core.arg_reduce(T(np.float32(3)), 0, False)), np.array(0))
    with pytest.raises(ValueError, match=r"\[argmin\] of no elements.*\(3, 0, 2\)"):
        _core.arg_reduce(x, 1, True)
    with pytest.raises(ValueError, match=r"\[argmax\] axis 3 is out of range for rank 3"):
        _core.arg_reduce(x, 3, False)
    with pytest.raises(ValueError, match=r"\[topk\] k is 3, x has 2 elements"):
        _core.topk(x, 3, True)
    with pytest.raises(ValueError, match=r"\[topk\] the gradient has shape \(2, 2\), the indices \(2, 3\)"):
        _core.topk_grad(T(np.zeros((2, 2), "f4")), T(np.zeros((2, 3), "i8")), 5)
