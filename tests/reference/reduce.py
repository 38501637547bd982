"""Reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.reference.common import Array, wide


def sum(x: Array, axes: Sequence[int]) -> Array:
    return np.asarray(wide(x).sum(tuple(axes)))


def mean(x: Array, axes: Sequence[int]) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sum(x, axes) / np.float64(math.prod(x.shape[a] for a in axes)))


def max(x: Array, axes: Sequence[int]) -> Array:
    return np.asarray(np.asarray(x).max(tuple(axes)))


def prod(x: Array, axes: Sequence[int]) -> Array:
    return np.asarray(wide(x).prod(tuple(axes)))


def cumsum(x: Array, axis: int, reverse: bool = False) -> Array:
    flip = np.flip if reverse else lambda a, _: a
    return np.asarray(flip(np.cumsum(flip(wide(x), axis), axis), axis))


def ranks(x: Array, largest: bool = True) -> Array:
    """The places of the elements along the last axis in order: equals in their order, NaN counts as largest."""
    x = np.asarray(x)
    order = np.argsort(x, axis=-1, kind="stable")
    if not largest:
        return order
    # A stable order downwards: sort the reversed row upwards, and read that backwards.
    n = x.shape[-1]
    return n - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
