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
