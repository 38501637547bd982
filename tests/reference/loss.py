"""Losses, and their slopes in the output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.reference.common import Array, wide
from tests.reference.elementwise import sigmoid
from tests.reference.softmax import log_softmax, softmax

IGNORED = -100


def mixture(
    shape: tuple[int, ...], target: Array, weight: Array | None = None, smoothing: float = 0.0
) -> Array:
    """What each class counts in the cross-entropy of a row: the weights of its logarithms, (N, C)."""
    target = np.asarray(target)
    hit = wide(target) if target.ndim == 2 else np.arange(shape[1])[None] == target[:, None]
    q = (1 - smoothing) * hit + smoothing / shape[1]
    if weight is not None:
        q = q * wide(weight)
    if target.ndim == 1:
        q = np.where(target[:, None] == IGNORED, 0.0, q)
    return q


def cross_entropy(logits: Array, target: Array, weight: Array | None = None, smoothing: float = 0.0) -> Array:
    """Losses (N) of logits (N, C) and labels (N) or distributions (N, C)."""
    q = mixture(logits.shape, target, weight, smoothing)
    with np.errstate(invalid="ignore"):
        return np.where(q == 0, 0.0, -q * log_softmax(logits)).sum(-1)


def cross_entropy_grad(
    logits: Array, target: Array, g: Array, weight: Array | None = None, smoothing: float = 0.0
) -> Array:
    q = mixture(logits.shape, target, weight, smoothing)
    return (q.sum(-1, keepdims=True) * softmax(logits) - q) * wide(g)[:, None]


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def huber(x: Array, t: Array, delta: float) -> Array:
    d = np.abs(x - t)
    return np.where(d < delta, d * d / 2, delta * (d - delta / 2))


def huber_slope(x: Array, t: Array, delta: float) -> Array:
    return np.clip(x - t, -delta, delta)


def bce(x: Array, t: Array) -> Array:
    with np.errstate(divide="ignore"):
        return -(t * np.maximum(np.log(x), -100) + (1 - t) * np.maximum(np.log1p(-x), -100))


def bce_slope(x: Array, t: Array) -> Array:
    return (x - t) / np.maximum(x * (1 - x), 1e-12)


def bce_logits(x: Array, t: Array, weight: Array | float = 1.0) -> Array:
    return weight * t * softplus(-x) + (1 - t) * softplus(x)


def bce_logits_slope(x: Array, t: Array, weight: Array | float = 1.0) -> Array:
    return (1 - t) * sigmoid(x) - weight * t * sigmoid(-x)


def focal_logits(x: Array, t: Array, gamma: float, alpha: float = -1.0) -> Array:
    yes, no = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    return yes * t * sigmoid(-x) ** gamma * softplus(-x) + no * (1 - t) * sigmoid(x) ** gamma * softplus(x)


def focal_logits_slope(x: Array, t: Array, gamma: float, alpha: float = -1.0) -> Array:
    def slope(z: Array) -> Array:
        return -(sigmoid(-z) ** gamma) * (gamma * sigmoid(z) * softplus(-z) + sigmoid(-z))

    yes, no = (alpha, 1 - alpha) if alpha >= 0 else (1.0, 1.0)
    return yes * t * slope(x) - no * (1 - t) * slope(-x)


def focal(ce: Array, gamma: float) -> Array:
    """Of a cross-entropy."""
    return (-np.expm1(-ce)) ** gamma * ce


def focal_slope(ce: Array, gamma: float) -> Array:
    m = -np.expm1(-ce)
    ratio = np.divide(ce, m, out=np.ones_like(m), where=m > 0)
    return m**gamma * (gamma * np.exp(-ce) * ratio + 1)


def kl(x: Array, t: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(t > 0, t * (np.log(t) - x), 0.0)


def kl_log(x: Array, t: Array) -> Array:
    return np.exp(t) * (t - x)


# Losses of an output and a target by the op's name, each with its slope in the output.
PAIRS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "mse_loss": (lambda x, t: (x - t) ** 2, lambda x, t: 2 * (x - t)),
    "l1_loss": (lambda x, t: np.abs(x - t), lambda x, t: np.sign(x - t)),
    "huber_loss": (huber, huber_slope),
    "smooth_l1_loss": (lambda x, t, a: huber(x, t, a) / a, lambda x, t, a: huber_slope(x, t, a) / a),
    "binary_cross_entropy": (bce, bce_slope),
    "binary_cross_entropy_with_logits": (bce_logits, bce_logits_slope),
    "sigmoid_focal_loss": (focal_logits, focal_logits_slope),
    "kl_div": (kl, lambda x, t: -t + 0 * x),
    "kl_div_log": (kl_log, lambda x, t: -np.exp(t) + 0 * x),
}
