"""Batch norm: all axes but the last are the batch."""

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
