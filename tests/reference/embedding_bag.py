"""Sums, means and maxima of rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.reference.common import Array, wide


def bags(index: Array, offsets: Array | None, closed: bool = False) -> Sequence[Array]:
    """The positions among the lookups of each bag."""
    if offsets is None:
        return list(np.arange(index.size).reshape(index.shape))
    ends = offsets[1:] if closed else np.append(offsets[1:], index.size)
    return [np.arange(begin, end) for begin, end in zip(offsets, ends, strict=False)]


def embedding_bag(
    index: Array, table: Array, offsets: Array | None = None, mode: str = "sum", weights: Array | None = None,
    closed: bool = False, padding: int = -1,
) -> Array:  # fmt: skip
    """In float64, so the answer before rounding."""
    flat, factors = index.reshape(-1), None if weights is None else wide(weights).reshape(-1)
    rows = []
    for bag in bags(index, offsets, closed):
        kept = bag[flat[bag] != padding]
        x = wide(table)[flat[kept]]
        if factors is not None:
            x = x * factors[kept, None]
        empty = np.zeros(table.shape[1])
        reduced = {"sum": x.sum(0), "mean": x.sum(0) / max(len(kept), 1)}
        rows.append(reduced[mode] if mode != "max" else x.max(0) if len(kept) else empty)
    return np.array(rows).reshape(-1, table.shape[1])
