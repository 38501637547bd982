"""Native pooling against windows in NumPy: exact where only comparisons happen, adjoint, NaN-propagating."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, check_exact
from tests.strategies import guarded, near

FLOATS = ("float32", "float64")
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], Window]:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2)))
    size = [max(draw(st.integers(1, 9)), kernel[d] - 2 * padding[d]) for d in (0, 1)]
    return (draw(st.integers(0, 3)), *size, draw(near(35, 0))), (kernel, stride, padding)


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
@given(case=cases(), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99))
def test_max_pool(case: Any, dtype: str, seed: int) -> None:
    shape, window = case
    x = images(shape, dtype, seed, specials=True)
    y, index = _core.max_pool2d(T(x), *window)
    want, want_index = reference.max_pool2d(x, *window)
    check_equal(N(y), want)
    check_equal(N(index), want_index)
    g = images(want.shape, dtype, seed + 1)
    dx = _core.max_pool2d_grad(T(g), index, shape, *window)
    check_exact(N(dx), reference.max_pool2d_grad(g, want_index, shape, *window))


@pytest.mark.usefixtures("isa", "threads")
@given(case=cases(), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99), count=st.booleans())
def test_avg_pool(case: Any, dtype: str, seed: int, count: bool) -> None:
    shape, window = case
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


@given(case=cases(), seed=st.integers(0, 99))
def test_against_torch(case: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    shape, (kernel, stride, padding) = case
    if 0 in shape:
        return
    x = torch.tensor(np.array(images(shape, "float32", seed))).permute(0, 3, 1, 2)
    want = torch.nn.functional.max_pool2d(x, kernel, stride, padding).permute(0, 2, 3, 1)
    check_equal(
        N(_core.max_pool2d(T(x.permute(0, 2, 3, 1).contiguous().numpy()), kernel, stride, padding)[0]),
        want.numpy(),
    )


def test_batch_split_gives_the_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal((4, 9, 9, 17), dtype=np.float32)
    whole = N(_core.avg_pool2d(T(x), (3, 3), (2, 2), (1, 1), False))
    parts = [N(_core.avg_pool2d(T(x[i : i + 1]), (3, 3), (2, 2), (1, 1), False)) for i in range(4)]
    check_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize(
    ("shape", "window", "message"),
    [
        ((2, 8, 8), ((2, 2), (2, 2), (0, 0)), r"\[max_pool2d\] expected an image of rank 4"),
        ((1, 2, 8, 3), ((3, 3), (1, 1), (0, 0)), "kernel size 3 exceeds the padded image"),
        ((1, 8, 8, 3), ((2, 2), (0, 2), (0, 0)), "stride must be at least 1"),
        ((1, 8, 8, 3), ((2, 2), (2, 2), (2, 0)), "padding must be at most half"),
        ((1, 8, 8, 3), ((2**62, 2), (2, 2), (2**61, 0)), r"less than 2\^31, got 46116"),
        ((1, 8, 8, 3), ((2, 2), (2, 2**62), (0, 0)), r"less than 2\^31, got 2 and 46116"),
        ((1, 2, 2, 1), ((2**16, 2**16), (2, 2), (2**15, 2**15)), r"elements, got 65536 x 65536"),
    ],
)
def test_errors(shape: tuple[int, ...], window: Window, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.max_pool2d(T(np.zeros(shape, np.float32)), *window)
