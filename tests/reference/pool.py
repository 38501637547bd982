"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tests.reference.common import Array, Pair, wide
from tests.reference.conv import _pad, _tap, conv_out


def pool_out(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """The number of windows; with `ceil_mode` also the last one, unless it would begin behind the image."""
    if not ceil_mode:
        return conv_out(size, kernel, stride, padding, dilation)
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


def _windows(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    value: float,
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> Array:
    """(KH * KW, N, OH, OW, C): the taps of every window, `value` in the padding, 0 where windows reach beyond it."""
    oh, ow = (
        pool_out(x.shape[1 + d], kernel_size[d], stride[d], padding[d], dilation[d], ceil_mode)
        for d in (0, 1)
    )
    beyond = [
        max(
            0,
            (out - 1) * stride[d] + dilation[d] * (kernel_size[d] - 1) + 1 - x.shape[1 + d] - 2 * padding[d],
        )
        for d, out in enumerate((oh, ow))
    ]
    padded = np.pad(_pad(x, padding, value), [(0, 0), (0, beyond[0]), (0, beyond[1]), (0, 0)])
    taps = [
        padded[_tap(oh, ow, i, j, stride, dilation)]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]
    return np.stack(taps)


def max_pool2d(
    x: Array,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Maximum and the number of the tap (row-major in the window) it came from: the first one; NaN wins.

    A window that lies in the padding altogether gives -inf and tap -1.
    """
    x = np.asarray(x)
    inside = _windows(np.ones(x.shape, bool), kernel_size, stride, padding, False, dilation, ceil_mode)
    lowest = -math.inf if x.dtype.kind == "f" else np.iinfo(np.int64).min
    taps = np.where(inside, _windows(wide(x), kernel_size, stride, padding, 0, dilation, ceil_mode), lowest)
    # argmax returns the first maximum and the first NaN; a tap outside must not win over an inside -inf.
    rank = np.where(np.isnan(taps), math.inf, taps)
    best = np.isnan(taps) if np.isnan(taps).any() else np.zeros(taps.shape, bool)
    index = np.where(best.any(0), best.argmax(0), np.argmax((rank == rank.max(0)) & inside, 0)).astype(
        np.int32
    )
    y = np.take_along_axis(taps, index[None], 0)[0].astype(x.dtype)
    return y, np.where(inside.any(0), index, np.int32(-1))


def _scatter(
    taps: Array,
    x_shape: Sequence[int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
) -> Array:
    """The transpose of `_windows`: adds every tap to where it was read."""
    n, h, w, c = x_shape
    (ph, pw) = padding
    oh, ow = taps.shape[2:4]
    reach = [(out - 1) * stride[d] + dilation[d] * (kernel_size[d] - 1) + 1 for d, out in enumerate((oh, ow))]
    dx = np.zeros((n, max(h + 2 * ph, reach[0]), max(w + 2 * pw, reach[1]), c), taps.dtype)
    for t in range(taps.shape[0]):
        dx[_tap(oh, ow, t // kernel_size[1], t % kernel_size[1], stride, dilation)] += taps[t]
    return np.ascontiguousarray(dx[:, ph : ph + h, pw : pw + w])


def max_pool2d_grad(
    g: Array, index: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair = (0, 0),
    dilation: Pair = (1, 1), ceil_mode: bool = False,  # noqa: ARG001 - which the shape of g tells
) -> Array:  # fmt: skip
    taps = np.arange(kernel_size[0] * kernel_size[1])[:, None, None, None, None]
    hits = np.where(index[None] == taps, wide(g)[None], 0)
    return _scatter(hits, x_shape, kernel_size, stride, padding, dilation)


def _pool_counts(
    x_shape: Sequence[int],
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    count_include_pad: bool,
    ceil_mode: bool = False,
) -> Array:
    """(1, OH, OW, 1): by what an average divides."""
    ones = np.ones((1, *x_shape[1:3], 1), np.int64)
    return _windows(ones, kernel_size, stride, padding, int(count_include_pad), ceil_mode=ceil_mode).sum(0)


def avg_pool2d(
    x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:  # fmt: skip
    total = _windows(wide(x), kernel_size, stride, padding, 0, ceil_mode=ceil_mode).sum(0)
    return total / _pool_counts(x.shape, kernel_size, stride, padding, count_include_pad, ceil_mode)


def avg_pool2d_grad(
    g: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:  # fmt: skip
    each = wide(g) / _pool_counts(x_shape, kernel_size, stride, padding, count_include_pad, ceil_mode)
    return _scatter(
        np.repeat(each[None], kernel_size[0] * kernel_size[1], 0), x_shape, kernel_size, stride, padding
    )


def _adaptive_windows(x_shape: Sequence[int], output: Pair) -> Iterator[tuple[int, int, slice, slice]]:
    """Each window's place in the output, and its rows and columns."""

    def span(i: int, count: int, size: int) -> slice:
        return slice(i * size // count, -(-(i + 1) * size // count))

    for i in range(output[0]):
        for j in range(output[1]):
            yield i, j, span(i, output[0], x_shape[1]), span(j, output[1], x_shape[2])


def adaptive_avg_pool2d(x: Array, output: Pair) -> Array:
    y = np.zeros((x.shape[0], *output, x.shape[3]))
    for i, j, rows, columns in _adaptive_windows(x.shape, output):
        y[:, i, j] = wide(x)[:, rows, columns].mean((1, 2))
    return y


def adaptive_avg_pool2d_grad(g: Array, x_shape: Sequence[int]) -> Array:
    dx = np.zeros(tuple(x_shape))
    for i, j, rows, columns in _adaptive_windows(x_shape, g.shape[1:3]):
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        dx[:, rows, columns] += wide(g)[:, None, None, i, j] / count
    return dx


def adaptive_max_pool2d(x: Array, output: Pair) -> tuple[Array, Array]:
    """Maximum, and the pixel (row * W + column) it came from: the first one; NaN wins."""
    n, _, w, c = x.shape
    y, pixel = np.zeros((n, *output, c), x.dtype), np.zeros((n, *output, c), np.int64)
    for i, j, rows, columns in _adaptive_windows(x.shape, output):
        window = x[:, rows, columns]
        flat = window.reshape(n, window.shape[1] * window.shape[2], c)
        best = flat.argmax(1)  # the first maximum, or the first NaN
        y[:, i, j] = np.take_along_axis(flat, best[:, None], 1)[:, 0]
        across = window.shape[2]
        pixel[:, i, j] = (rows.start + best // across) * w + columns.start + best % across
    return y, pixel


def adaptive_max_pool2d_grad(g: Array, pixel: Array, x_shape: Sequence[int]) -> Array:
    n, h, w, c = x_shape
    dx = np.zeros((n, h * w, c))
    for at in np.ndindex(*g.shape):
        dx[at[0], pixel[at], at[3]] += g[at]
    return dx.reshape(n, h, w, c)
