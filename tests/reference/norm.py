"""Batch norm (all axes but the last are the batch), layer norm, group norm."""

from __future__ import annotations

import numpy as np

from tests.reference.common import Array, wide


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


def layer_norm(
    x: Array, columns: int, weight: Array | None, bias: Array | None, eps: float, rms: bool = False
) -> Array:
    """Over rows of `columns`; `rms` leaves the mean where it is and has no bias."""
    rows = wide(x).reshape(-1, columns)
    centered = rows if rms else rows - rows.mean(1, keepdims=True)
    y = centered / np.sqrt((centered**2).mean(1, keepdims=True) + eps)
    y = y if weight is None else y * wide(weight).reshape(-1)
    return (y if bias is None else y + wide(bias).reshape(-1)).reshape(x.shape)


def layer_norm_grad(
    x: Array, g: Array, columns: int, weight: Array | None, eps: float, rms: bool = False
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias)."""
    rows, grads = wide(x).reshape(-1, columns), wide(g).reshape(-1, columns)
    centered = rows if rms else rows - rows.mean(1, keepdims=True)
    rstd = 1 / np.sqrt((centered**2).mean(1, keepdims=True) + eps)
    z = centered * rstd
    h = grads if weight is None else grads * wide(weight).reshape(-1)
    mean = 0 if rms else h.mean(1, keepdims=True)
    dx = rstd * (h - mean - z * (h * z).mean(1, keepdims=True))
    return dx.reshape(x.shape), (grads * z).sum(0), grads.sum(0)


def _grouped(x: Array, groups: int) -> Array:
    """(N, positions, groups, channels of a group)."""
    return wide(x).reshape(x.shape[0], -1, groups, x.shape[-1] // groups)


def group_norm_stats(x: Array, groups: int) -> tuple[Array, Array]:
    rows = _grouped(x, groups)
    return rows.mean((1, 3)), rows.var((1, 3))


def group_norm(
    x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
) -> Array:
    rows = _grouped(x, mean.shape[1])
    y = (rows - wide(mean)[:, None, :, None]) / np.sqrt(wide(var)[:, None, :, None] + eps)
    y = y.reshape(x.shape)
    y = y if weight is None else y * wide(weight)
    return y if bias is None else y + wide(bias)


def group_norm_grad(
    x: Array, g: Array, mean: Array, var: Array, weight: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    """(dx, dweight, dbias), in which mean and var depend on x."""
    groups = mean.shape[1]
    rstd = 1 / np.sqrt(wide(var)[:, None, :, None] + eps)
    z = (_grouped(x, groups) - wide(mean)[:, None, :, None]) * rstd
    h = _grouped(g if weight is None else wide(g) * wide(weight), groups)
    dx = rstd * (h - h.mean((1, 3), keepdims=True) - z * (h * z).mean((1, 3), keepdims=True))
    axes = tuple(range(x.ndim - 1))
    return dx.reshape(x.shape), (wide(g) * z.reshape(x.shape)).sum(axes), wide(g).sum(axes)
