"""Native pooling against windows in NumPy: exact where only comparisons happen, adjoint, NaN-propagating."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, check_exact
from tests.strategies import guarded, near

FLOATS = ("float32", "float64")
Pair = tuple[int, int]
Window = tuple[Pair, Pair, Pair]


@st.composite
def cases(draw: st.DrawFn, dilated: bool = False) -> tuple[tuple[int, int, int, int], Window, Pair, bool]:
    """An image's shape, a window, its dilation, and whether sizes are rounded up."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3))) if dilated else (1, 1)
    spans = [dilation[d] * (kernel[d] - 1) + 1 for d in (0, 1)]
    padding = (draw(st.integers(0, spans[0] // 2)), draw(st.integers(0, spans[1] // 2)))
    size = [max(draw(st.integers(1, 9)), spans[d] - 2 * padding[d]) for d in (0, 1)]
    shape = (draw(st.integers(0, 3)), *size, draw(near(35, 0)))
    return shape, (kernel, stride, padding), dilation, draw(st.booleans())


def images(shape: tuple[int, ...], dtype: str, seed: int, specials: bool = False) -> np.ndarray:
    """Small integers, so that ties occur and every sum is exact."""
    rng = np.random.default_rng(seed)
    x = guarded(shape, dtype)
    x[...] = rng.integers(-4, 5, shape)
    if specials and x.size:
        where = rng.integers(0, x.size, 4)
        x.reshape(-1)[where] = [np.nan, np.inf, -np.inf, -np.inf]
    return x


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=12)
@given(case=cases(dilated=True), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_max_pool(case: Any, dtype: str, seed: int) -> None:
    shape, window, *more = case
    x = images(shape, dtype, seed, specials=True)
    y, index = _core.max_pool2d(T(x), *window, *more)
    want, want_index = reference.max_pool2d(x, *window, *more)
    check_equal(N(y), want)
    alone, none = _core.max_pool2d(T(x), *window, *more, want_taps=False)
    check_equal(N(alone), want)
    assert none is None
    check_equal(N(index), want_index)
    g = images(want.shape, dtype, seed + 1)
    dx = _core.max_pool2d_grad(T(g), index, shape, *window, *more)
    check_exact(N(dx), reference.max_pool2d_grad(g, want_index, shape, *window, *more))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [3, 5, 9, 12, 17, 20, 33])
def test_gradients_of_disjoint_windows_keep_to_their_channels(channels: int, dtype: str) -> None:
    for window in (((2, 2), (2, 2), (0, 0)), ((3, 3), (3, 3), (1, 1)), ((2, 1), (3, 2), (0, 0))):
        x = images((2, 7, 10, channels), dtype, channels)
        want, index = reference.max_pool2d(x, *window)
        g = images(want.shape, dtype, channels + 1)
        dx = _core.max_pool2d_grad(T(g), T(index), x.shape, *window)
        check_exact(N(dx), reference.max_pool2d_grad(g, index, x.shape, *window))


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=12)
@given(case=cases(), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99), count=st.booleans())
def test_avg_pool(case: Any, dtype: str, seed: int, count: bool) -> None:
    shape, geometry, _, ceil = case
    window = (*geometry, ceil)
    x = images(shape, dtype, seed)
    y = N(_core.avg_pool2d(T(x), *window, count))
    want = reference.avg_pool2d(x, *window, count)
    size = reference.avg_pool2d(np.abs(x), *window, count)
    taps = window[0][0] * window[0][1]
    check_contraction(y, want, size, taps + 1, dtype)
    g = images(y.shape, dtype, seed + 1)
    dx = N(_core.avg_pool2d_grad(T(g), shape, *window, count))
    bound = reference.avg_pool2d_grad(np.abs(g), shape, *window, count)
    check_contraction(dx, reference.avg_pool2d_grad(g, shape, *window, count), bound, taps + 1, dtype)


@st.composite
def adaptive_cases(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], Pair]:
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(near(35, 0)))
    return shape, (draw(st.integers(1, 14)), draw(st.integers(1, 14)))


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=12)
@given(case=adaptive_cases(), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_adaptive_pools(case: Any, dtype: str, seed: int) -> None:
    shape, output = case
    x = images(shape, dtype, seed)
    y = N(_core.adaptive_avg_pool2d(T(x), output))
    size = reference.adaptive_avg_pool2d(np.abs(x), output)
    taps = shape[1] * shape[2]
    check_contraction(y, reference.adaptive_avg_pool2d(x, output), size, taps + 1, dtype)
    g = images(y.shape, dtype, seed + 1)
    dx = N(_core.adaptive_avg_pool2d_grad(T(g), shape))
    bound = reference.adaptive_avg_pool2d_grad(np.abs(g), shape)
    check_contraction(dx, reference.adaptive_avg_pool2d_grad(g, shape), bound, y[0:1].size + 1, dtype)

    x = images(shape, dtype, seed, specials=True)
    y, index = _core.adaptive_max_pool2d(T(x), output)
    want, pixel = reference.adaptive_max_pool2d(x, output)
    check_equal(N(y), want)
    alone, none = _core.adaptive_max_pool2d(T(x), output, want_taps=False)
    check_equal(N(alone), want)
    assert none is None
    dx = N(_core.adaptive_max_pool2d_grad(T(g), index, shape))
    check_exact(dx, reference.adaptive_max_pool2d_grad(g, pixel, shape))


def test_a_large_window_loses_no_digits() -> None:
    """The chains of additions have the length of a side, not of the window, whose bound would be 400 times as large."""
    x = np.full((1, 512, 512, 1), 1.1, np.float32)
    mean = N(_core.adaptive_avg_pool2d(T(x), (1, 1)))
    assert abs(float(mean[0, 0, 0, 0]) - float(np.float32(1.1))) <= (512 + 128 + 3) * 2.0**-24 * 1.1


def test_batch_split_gives_the_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal((4, 9, 9, 17), dtype=np.float32)
    whole = N(_core.avg_pool2d(T(x), (3, 3), (2, 2), (1, 1), True, False))
    parts = [N(_core.avg_pool2d(T(x[i : i + 1]), (3, 3), (2, 2), (1, 1), True, False)) for i in range(4)]
    check_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize(
    ("shape", "window", "message"),
    [
        ((2, 8, 8), ((2, 2), (2, 2), (0, 0)), r"\[max_pool2d\] expected an image of rank 4"),
        ((1, 2, 8, 3), ((3, 3), (1, 1), (0, 0)), "kernel size 3 exceeds the padded image"),
        ((1, 8, 8, 3), ((2, 2), (0, 2), (0, 0)), "stride and dilation must be at least 1"),
        ((1, 8, 8, 3), ((2, 2), (2, 2), (2, 0)), "padding must be at most half"),
        ((1, 8, 8, 3), ((2**62, 2), (2, 2), (2**61, 0)), r"less than 2\^31, got 46116"),
        ((1, 8, 8, 3), ((2, 2), (2, 2**62), (0, 0)), r"less than 2\^31, got 2, 46116"),
        (
            (1, 2, 2, 1),
            ((2**16, 2**16), (2, 2), (2**15, 2**15)),
            r"at most 2\^24 elements, got 65536 x 65536",
        ),
    ],
)
def test_errors(shape: tuple[int, ...], window: Window, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.max_pool2d(T(np.zeros(shape, np.float32)), *window)
