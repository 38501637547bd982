"""Softmax."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.common import Array, wide


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
