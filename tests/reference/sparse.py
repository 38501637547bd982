"""Products with a matrix of which only some values are stored: the others are not multiplied, whatever they meet."""

from __future__ import annotations

import numpy as np

from tests.reference.common import Array, wide
from tests.reference.elementwise import activate


def spmm(a: Array, stored: Array, b: Array) -> Array:
    """y[i] = sum over the stored j of a[i, j] b[j]; `stored` (M, K) says which those are."""
    a, b = wide(a), wide(b)
    y = np.zeros((a.shape[0], *b.shape[1:]), b.dtype)
    for i, kept in enumerate(stored):
        y[i] = a[i, kept] @ b[kept]
    return y


def spmm_grads(a: Array, stored: Array, b: Array, g: Array) -> tuple[Array, Array]:
    """Gradients of a, zero where nothing is stored, and of b."""
    return wide(g) @ wide(b).T * stored, spmm(wide(a).T, stored.T, g)


def sparse_linear(
    x: Array,
    weight: Array,
    stored: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: str = "none",
) -> Array:
    """activation(x W^T + bias + residual) over the stored weights; x (N, K)."""
    y = spmm(weight, stored, np.asarray(x).T).T
    for addend in (bias, residual):
        if addend is not None:
            y = y + wide(addend)
    return activate(y, activation)
