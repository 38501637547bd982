"""Softmax and cross-entropy."""

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


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Losses (N) of logits (N, C) and labels (N)."""
    return -np.take_along_axis(log_softmax(logits), np.asarray(labels)[:, None], 1)[:, 0]


def cross_entropy_grad(logits: Array, labels: Array, g: Array) -> Array:
    onehot = np.arange(logits.shape[1])[None] == np.asarray(labels)[:, None]
    return (softmax(logits) - onehot) * wide(g)[:, None]
