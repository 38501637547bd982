"""Scaled dot-product attention."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.common import Array, wide


def attention_scores(
    q: Array, k: Array, mask: Array | None, causal: bool, scale: float, past: int = 0
) -> Array:
    """(..., Tq, Tk), -inf where the key does not take part."""
    scores = scale * wide(q) @ np.swapaxes(wide(k), -1, -2)
    if mask is not None:
        scores = np.where(mask, scores, -math.inf) if mask.dtype == bool else scores + wide(mask)
    if causal:
        later = np.arange(k.shape[-2]) > past + np.arange(q.shape[-2])[:, None]
        scores = np.where(later, -math.inf, scores)
    return scores


def attention_weights(scores: Array) -> Array:
    """The softmax of the rows, 0 in a row of nothing but -inf."""
    top = scores.max(-1, keepdims=True, initial=-math.inf)
    e = np.exp(scores - np.where(np.isneginf(top), 0, top))
    return np.divide(e, e.sum(-1, keepdims=True), where=np.isfinite(top), out=np.zeros_like(e))


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float, past: int = 0
) -> Array:
    return attention_weights(attention_scores(q, k, mask, causal, scale, past)) @ wide(v)


def attention_grad(
    q: Array, k: Array, v: Array, g: Array, mask: Array | None, causal: bool, scale: float, past: int = 0
) -> tuple[Array, Array, Array]:
    p = attention_weights(attention_scores(q, k, mask, causal, scale, past))
    slopes = wide(g) @ np.swapaxes(wide(v), -1, -2)
    ds = p * (slopes - (p * slopes).sum(-1, keepdims=True)) * scale
    return ds @ wide(k), np.swapaxes(ds, -1, -2) @ wide(q), np.swapaxes(p, -1, -2) @ wide(g)
