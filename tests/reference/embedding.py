"""Reading, adding and overwriting by index; operands are (outer, rows, inner)."""

from __future__ import annotations

import numpy as np

from tests.reference.common import Array, wide


def take_rows(x: Array, index: Array) -> Array:
    return x[:, index.reshape(-1)]


def add_rows(base: Array | None, index: Array, src: Array, rows: int, skip: int = -1) -> Array:
    """In float64, so the answer before rounding."""
    y = np.zeros((src.shape[0], rows, src.shape[2]), wide(src).dtype) if base is None else wide(base).copy()
    for j, row in enumerate(index.reshape(-1)):
        if row != skip:
            y[:, row] += wide(src)[:, j]
    return y


def gather(x: Array, index: Array) -> Array:
    return np.take_along_axis(x, index, 1)


def scatter_add(base: Array | None, index: Array, src: Array, rows: int) -> Array:
    y = np.zeros((src.shape[0], rows, src.shape[2]), wide(src).dtype) if base is None else wide(base).copy()
    outer, inner = np.ogrid[: src.shape[0], : src.shape[2]]
    for j in range(src.shape[1]):
        y[outer, index[:, j], inner] += wide(src)[:, j]
    return y
