"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.reference.common import Array, Pair, wide
from tests.reference.elementwise import activate


def conv_out(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _pad(x: Array, padding: Pair, value: float = 0) -> Array:
    (ph, pw) = padding
    return np.pad(x, [(0, 0), (ph, ph), (pw, pw), (0, 0)], constant_values=value)


def _tap(oh: int, ow: int, i: int, j: int, stride: Pair, dilation: Pair) -> tuple[slice, slice, slice]:
    """Where in the padded image tap (i, j) of the kernel reads, for all output positions."""
    h, w = i * dilation[0], j * dilation[1]
    rows = slice(h, h + (oh - 1) * stride[0] + 1, stride[0])
    return slice(None), rows, slice(w, w + (ow - 1) * stride[1] + 1, stride[1])


def _conv_terms(
    weight_shape: Sequence[int],
    oh: int,
    ow: int,
    stride: Pair,
    dilation: Pair,
    groups: int,
    out_channels: int,
) -> Any:
    """Yields (tap in the padded image, kernel position, input channels, output channels), group by group."""
    _, kh, kw, ci = weight_shape
    co = out_channels // groups
    for i in range(kh):
        for j in range(kw):
            tap = _tap(oh, ow, i, j, stride, dilation)
            for g in range(groups):
                yield tap, (i, j), slice(g * ci, (g + 1) * ci), slice(g * co, (g + 1) * co)


def conv2d(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: str = "none",
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    pad_value: float = 0,
) -> Array:
    x, w = wide(x), wide(weight)
    o, kh, kw, _ = w.shape
    oh = conv_out(x.shape[1], kh, stride[0], padding[0], dilation[0])
    ow = conv_out(x.shape[2], kw, stride[1], padding[1], dilation[1])
    padded = _pad(x, padding, pad_value)
    y = np.zeros((x.shape[0], oh, ow, o), np.result_type(x, w))
    for tap, (i, j), ins, outs in _conv_terms(w.shape, oh, ow, stride, dilation, groups, o):
        y[..., outs] += padded[tap][..., ins] @ w[outs, i, j].T
    for addend in (bias, residual):
        if addend is not None:
            y = y + wide(addend)
    return activate(y, activation)


def conv2d_grad_input(
    g: Array, weight: Array, x_shape: Sequence[int], stride: Pair = (1, 1), padding: Pair = (0, 0),
    dilation: Pair = (1, 1), groups: int = 1,
) -> Array:  # fmt: skip
    g, w = wide(g), wide(weight)
    n, h, wd, c = x_shape
    (ph, pw) = padding
    dx = np.zeros((n, h + 2 * ph, wd + 2 * pw, c), np.result_type(g, w))
    for tap, (i, j), ins, outs in _conv_terms(w.shape, *g.shape[1:3], stride, dilation, groups, w.shape[0]):
        dx[(*tap, ins)] += g[..., outs] @ w[outs, i, j]
    return np.ascontiguousarray(dx[:, ph : ph + h, pw : pw + wd])


def conv_transpose2d(
    x: Array, weight: Array, stride: Pair = (1, 1), padding: Pair = (0, 0), output_padding: Pair = (0, 0),
    groups: int = 1, dilation: Pair = (1, 1),
) -> Array:  # fmt: skip
    """weight (I, KH, KW, O / groups): every pixel adds its multiple of the window to the result."""
    x, w = wide(x), wide(weight)
    n, h, wd, c = x.shape
    (ph, pw), (eh, ew) = padding, output_padding
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[1:3], strict=True)]
    full = [(m - 1) * s + r for m, s, r in zip((h, wd), stride, reach, strict=True)]
    y = np.zeros((n, full[0] + eh, full[1] + ew, w.shape[3] * groups), np.result_type(x, w))
    ci, co = c // groups, w.shape[3]
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            tap = _tap(h, wd, i, j, stride, dilation)
            for g in range(groups):
                ins, outs = slice(g * ci, (g + 1) * ci), slice(g * co, (g + 1) * co)
                y[(*tap, outs)] += x[..., ins] @ w[ins, i, j]
    return np.ascontiguousarray(y[:, ph : full[0] - ph + eh, pw : full[1] - pw + ew])


def conv2d_grad_weight(
    x: Array, g: Array, weight_shape: Sequence[int], stride: Pair = (1, 1), padding: Pair = (0, 0),
    dilation: Pair = (1, 1), groups: int = 1,
) -> Array:  # fmt: skip
    x, g = wide(x), wide(g)
    dw = np.zeros(tuple(weight_shape), np.result_type(x, g))
    padded = _pad(x, padding)
    for tap, (i, j), ins, outs in _conv_terms(
        weight_shape, *g.shape[1:3], stride, dilation, groups, weight_shape[0]
    ):
        dw[outs, i, j] += np.tensordot(g[..., outs], padded[tap][..., ins], ([0, 1, 2], [0, 1, 2]))
    return dw
