"""One NumPy definition per op, for clarity only: float64 for floats, exact integer arithmetic for integers.

Longer than 400 lines, because one place defines every op. Layouts are the engine's: images (N, H, W, C), conv
weights (O, KH, KW, I / groups). Contractions keep integer inputs integers (int64), so the same text defines the int8
ops. Functions of float32 inputs give float64: the answer before the last rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[int, int]


def wide(x: npt.ArrayLike) -> Array:
    """float64, or int64 for integers."""
    a = np.asarray(x)
    return a.astype(np.float64 if a.dtype.kind == "f" else np.int64)


# ---- elementwise --------------------------------------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    x = wide(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def erf(x: Array) -> Array:
    return np.asarray(_erf(wide(x))) if np.size(x) else wide(x)


def erfc(x: Array) -> Array:
    return np.vectorize(math.erfc, otypes=[np.float64])(wide(x)) if np.size(x) else wide(x)


def gelu(x: Array) -> Array:
    """x Phi(x), with erfc so that the left tail keeps its relative accuracy; the limit 0 at -inf."""
    x = np.where(np.isneginf(wide(x)), -1000.0, wide(x))
    return x * 0.5 * erfc(-x / math.sqrt(2))


def silu(x: Array) -> Array:
    """x sigmoid(x); the limit 0 at -inf."""
    return np.where(np.isneginf(wide(x)), -1000.0, wide(x)) * sigmoid(x)


def relu(x: Array) -> Array:
    return np.where(np.isnan(wide(x)), np.nan, np.maximum(wide(x), 0))


UNARY = {
    "neg": lambda x: -wide(x), "abs": lambda x: np.abs(wide(x)), "sign": lambda x: np.sign(wide(x)),
    "square": lambda x: wide(x) ** 2, "sqrt": lambda x: np.sqrt(wide(x)), "reciprocal": lambda x: 1 / wide(x),
    "exp": lambda x: np.exp(wide(x)), "log": lambda x: np.log(wide(x)), "tanh": lambda x: np.tanh(wide(x)),
    "sigmoid": sigmoid, "relu": relu, "gelu": gelu, "silu": silu, "logical_not": lambda x: ~np.asarray(x, bool),
}  # fmt: skip

BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}  # fmt: skip


# Gradients (first operand: what the forward pass saved, second: the incoming gradient).
def gelu_grad(x: Array, g: Array) -> Array:
    x = wide(x)
    return wide(g) * (0.5 * erfc(-x / math.sqrt(2)) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def silu_grad(x: Array, g: Array) -> Array:
    s = sigmoid(x)
    return wide(g) * (s * (1 + wide(x) * (1 - s)))


UNARY_GRAD = {
    "relu_grad": lambda y, g: np.where(wide(y) > 0, wide(g), 0), "tanh_grad": lambda y, g: wide(g) * (1 - wide(y) ** 2),
    "sigmoid_grad": lambda y, g: wide(g) * wide(y) * (1 - wide(y)), "gelu_grad": gelu_grad, "silu_grad": silu_grad,
    "abs_grad": lambda x, g: wide(g) * np.sign(wide(x)),
}  # fmt: skip


def clip(x: Array, lo: float, hi: float) -> Array:
    return np.minimum(np.maximum(x, lo), hi)


def activate(x: Array, activation: str) -> Array:
    return x if activation == "none" else UNARY[activation](x)


# ---- matmul and conv ----------------------------------------------------------------------------------------------


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    a, b = wide(a), wide(b)
    return (a.swapaxes(-1, -2) if transpose_a else a) @ (b.swapaxes(-1, -2) if transpose_b else b)


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: str = "none",
) -> Array:
    """activation(x W^T + bias + residual), W (O, I)."""
    y = wide(x) @ wide(weight).T
    for addend in (bias, residual):
        if addend is not None:
            y = y + wide(addend)
    return activate(y, activation)


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


# ---- pool ---------------------------------------------------------------------------------------------------------


def _windows(x: Array, kernel_size: Pair, stride: Pair, padding: Pair, value: float) -> Array:
    """(KH * KW, N, OH, OW, C): the taps of every window, `value` outside the image."""
    oh, ow = (conv_out(x.shape[1 + d], kernel_size[d], stride[d], padding[d]) for d in (0, 1))
    padded = _pad(x, padding, value)
    taps = [
        padded[_tap(oh, ow, i, j, stride, (1, 1))]
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    ]
    return np.stack(taps)


def max_pool2d(x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)) -> tuple[Array, Array]:
    """Maximum and the number of the tap (row-major in the window) it came from: the first one; NaN wins."""
    x = np.asarray(x)
    inside = _windows(np.ones(x.shape, bool), kernel_size, stride, padding, False)
    lowest = -math.inf if x.dtype.kind == "f" else np.iinfo(np.int64).min
    taps = np.where(inside, _windows(wide(x), kernel_size, stride, padding, 0), lowest)
    # argmax returns the first maximum and the first NaN; a tap outside must not win over an inside -inf.
    rank = np.where(np.isnan(taps), math.inf, taps)
    best = np.isnan(taps) if np.isnan(taps).any() else np.zeros(taps.shape, bool)
    index = np.where(best.any(0), best.argmax(0), np.argmax((rank == rank.max(0)) & inside, 0)).astype(
        np.int32
    )
    return np.take_along_axis(taps, index[None], 0)[0].astype(x.dtype), index


def _scatter(taps: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair) -> Array:
    """The transpose of `_windows`: adds every tap to where it was read."""
    n, h, w, c = x_shape
    (ph, pw) = padding
    dx = np.zeros((n, h + 2 * ph, w + 2 * pw, c), taps.dtype)
    oh, ow = taps.shape[2:4]
    for t in range(taps.shape[0]):
        dx[_tap(oh, ow, t // kernel_size[1], t % kernel_size[1], stride, (1, 1))] += taps[t]
    return np.ascontiguousarray(dx[:, ph : ph + h, pw : pw + w])


def max_pool2d_grad(
    g: Array, index: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)
) -> Array:
    taps = np.arange(kernel_size[0] * kernel_size[1])[:, None, None, None, None]
    return _scatter(np.where(index[None] == taps, wide(g)[None], 0), x_shape, kernel_size, stride, padding)


def _pool_counts(
    x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair, count_include_pad: bool
) -> Array:
    """(1, OH, OW, 1): by what an average divides."""
    inside = _windows(
        np.ones((1, *x_shape[1:3], 1), np.int64), kernel_size, stride, padding, int(count_include_pad)
    )
    return inside.sum(0)


def avg_pool2d(
    x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0), count_include_pad: bool = True
) -> Array:
    total = _windows(wide(x), kernel_size, stride, padding, 0).sum(0)
    return total / _pool_counts(x.shape, kernel_size, stride, padding, count_include_pad)


def avg_pool2d_grad(
    g: Array, x_shape: Sequence[int], kernel_size: Pair, stride: Pair, padding: Pair = (0, 0),
    count_include_pad: bool = True,
) -> Array:  # fmt: skip
    each = wide(g) / _pool_counts(x_shape, kernel_size, stride, padding, count_include_pad)
    return _scatter(
        np.repeat(each[None], kernel_size[0] * kernel_size[1], 0), x_shape, kernel_size, stride, padding
    )


# ---- reduce, softmax, cross-entropy -------------------------------------------------------------------------------


def sum(x: Array, axes: Sequence[int]) -> Array:
    return np.asarray(wide(x).sum(tuple(axes)))


def mean(x: Array, axes: Sequence[int]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sum(x, axes) / np.float64(math.prod(x.shape[a] for a in axes)))


def max(x: Array, axes: Sequence[int]) -> Array:
    return np.asarray(np.asarray(x).max(tuple(axes)))


def log_softmax(x: Array) -> Array:
    x = wide(x)
    with np.errstate(invalid="ignore"):
        shifted = x - x.max(-1, keepdims=True, initial=-math.inf)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def softmax(x: Array) -> Array:
    return np.exp(log_softmax(x))


def softmax_grad(y: Array, g: Array) -> Array:
    y, g = wide(y), wide(g)
    return y * (g - (y * g).sum(-1, keepdims=True))


def log_softmax_grad(y: Array, g: Array) -> Array:
    y, g = wide(y), wide(g)
    return g - np.exp(y) * g.sum(-1, keepdims=True)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Losses (N) of logits (N, C) and labels (N)."""
    return -np.take_along_axis(log_softmax(logits), np.asarray(labels)[:, None], 1)[:, 0]


def cross_entropy_grad(logits: Array, labels: Array, g: Array) -> Array:
    onehot = np.arange(logits.shape[1])[None] == np.asarray(labels)[:, None]
    return (softmax(logits) - onehot) * wide(g)[:, None]


# ---- batch norm: all axes but the last are the batch --------------------------------------------------------------


def batch_norm_stats(x: Array) -> tuple[Array, Array]:
    rows = wide(x).reshape(-1, x.shape[-1])
    return rows.mean(0), rows.var(0)


def batch_norm(
    x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    y = (wide(x) - wide(mean)) / np.sqrt(wide(var) + eps)
    y = y if weight is None else y * wide(weight)
    return y if bias is None else y + wide(bias)


def batch_norm_update(batch: Array, running: Array, momentum: float, unbias: float = 1.0) -> Array:
    """The running statistic after a step; `unbias` is rows / (rows - 1) for the variance."""
    return (1 - momentum) * wide(running) + momentum * unbias * wide(batch)


def batch_norm_grad(
    x: Array, g: Array, mean: Array, var: Array, weight: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias) of training mode, in which mean and var depend on x."""
    rows, grads = wide(x).reshape(-1, x.shape[-1]), wide(g).reshape(-1, x.shape[-1])
    inv = 1 / np.sqrt(wide(var) + eps)
    normal = (rows - wide(mean)) * inv
    dweight, dbias = (grads * normal).sum(0), grads.sum(0)
    scale = inv if weight is None else inv * wide(weight)
    dx = scale * (grads - dbias / len(rows) - normal * dweight / len(rows))
    return dx.reshape(x.shape), dweight, dbias


# ---- random: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC'11) ------


def philox4x32(counter: Array, key: Array) -> Array:
    """Ten rounds over counters (…, 4) under keys (…, 2), all uint32 -> (…, 4)."""
    c = [np.asarray(counter)[..., i].astype(np.uint64) for i in range(4)]
    k = [np.asarray(key)[..., i].astype(np.uint64) for i in range(2)]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k[0], p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return np.stack(c, -1).astype(np.uint32)


# ---- optimizers: one step in float64 ------------------------------------------------------------------------------


def sgd(
    param: Array, grad: Array, momentum_buffer: Array | None, step: int, lr: float, momentum: float = 0.0,
    weight_decay: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
) -> tuple[Array, Array | None]:  # fmt: skip
    """PyTorch's SGD: (parameter, momentum buffer) after step number `step` (from 1)."""
    g = wide(grad) + weight_decay * wide(param)
    if momentum_buffer is None or momentum == 0:
        return wide(param) - lr * g, momentum_buffer
    buffer = g if step == 1 else momentum * wide(momentum_buffer) + (1 - dampening) * g
    return wide(param) - lr * (g + momentum * buffer if nesterov else buffer), buffer


def adam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999,
    eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Adam (AdamW if decoupled): (parameter, m, v) after step number `step` (from 1)."""
    p, g = wide(param), wide(grad)
    if decoupled:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    m = beta1 * wide(m) + (1 - beta1) * g
    v = beta2 * wide(v) + (1 - beta2) * g * g
    return p - lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps), m, v


# ---- int8: exact, as the engine must be at every ISA level ---------------------------------------------------------

f32 = np.float32


def quantize(x: Array, scale: float, zero_point: int) -> Array:
    """clip(rint_even(x / scale) + zp, 0, 255) in float32; NaN becomes the zero point."""
    with np.errstate(over="ignore"):
        q = np.rint(np.asarray(x, f32) / f32(scale)) + f32(zero_point)
    return np.where(np.isnan(q), f32(zero_point), np.clip(q, 0, 255)).astype(np.uint8)


def dequantize(q: Array, scale: float, zero_point: int) -> Array:
    return (wide(q) - zero_point).astype(f32) * f32(scale)


def requantize(acc: Array, scale: Array, zero_point: int, lo: int, hi: int, out_float: bool = False) -> Array:
    """rint_even(clamp(float(acc) * scale, lo - zp, hi - zp)) + zp in float32; acc wraps to int32, bias included."""
    scaled = wide(acc).astype(np.int32).astype(f32) * np.asarray(scale, f32)
    if out_float:
        return scaled
    clamped = np.minimum(np.maximum(scaled, f32(lo - zero_point)), f32(hi - zero_point))
    return (np.rint(clamped).astype(np.int64) + zero_point).astype(np.uint8)


def fold_zero_point(bias: Array, weight: Array, x_zero_point: int) -> Array:
    """The bias that absorbs the input's zero point: bias - zp * sum(weights of each output channel)."""
    return (wide(bias) - x_zero_point * wide(weight).reshape(weight.shape[0], -1).sum(1)).astype(np.int32)


def qlinear(
    x: Array,
    weight: Array,
    bias: Array,
    scale: Array,
    zero_point: int,
    lo: int,
    hi: int,
    out_float: bool = False,
) -> Array:
    return requantize(linear(x, weight, bias), scale, zero_point, lo, hi, out_float)


def qconv2d(
    x: Array, weight: Array, bias: Array, scale: Array, zero_point: int, lo: int, hi: int, x_zero_point: int,
    stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1, out_float: bool = False,
) -> Array:  # fmt: skip
    acc = conv2d(x, weight, bias, None, "none", stride, padding, dilation, groups, pad_value=x_zero_point)
    return requantize(acc, scale, zero_point, lo, hi, out_float)


def qadd(
    a: Array,
    a_scale: float,
    a_zp: int,
    b: Array,
    b_scale: float,
    b_zp: int,
    y_scale: float,
    y_zp: int,
    lo: int,
    hi: int,
) -> Array:
    total = dequantize(a, a_scale, a_zp) + dequantize(b, b_scale, b_zp)
    scaled = np.minimum(np.maximum(total / f32(y_scale), f32(lo - y_zp)), f32(hi - y_zp))
    return (np.rint(scaled).astype(np.int64) + y_zp).astype(np.uint8)


def qlookup(x: Array, table: Array) -> Array:
    return np.asarray(table)[np.asarray(x)]


def qmax_pool2d(x: Array, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)) -> Array:
    return max_pool2d(x, kernel_size, stride, padding)[0]


def _rounded_mean(total: Array, count: Any) -> Array:
    """total / count in integers, rounded half to even."""
    q, r = np.divmod(total, np.asarray(count, np.int64))
    return (q + ((2 * r > count) | ((2 * r == count) & (q % 2 == 1)))).astype(np.uint8)


def qavg_pool2d(
    x: Array, kernel_size: Pair, stride: Pair, padding: Pair, zero_point: int, count_include_pad: bool = True
) -> Array:
    """The mean of the windows, rounded half to even; padding counts as the zero point if it counts."""
    pad_value = zero_point if count_include_pad else 0
    total = _windows(wide(x), kernel_size, stride, padding, pad_value).sum(0)
    return _rounded_mean(total, _pool_counts(x.shape, kernel_size, stride, padding, count_include_pad))


def qmean_hw(x: Array) -> Array:
    """Global average pooling (N, H, W, C) -> (N, C)."""
    return _rounded_mean(wide(x).sum((1, 2)), x.shape[1] * x.shape[2])
