"""Scaled dot-product attention."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.common import Array, wide
from tests.reference.random import philox4x32


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


def attention_keep(seed: int, base: int, p: float, shape: tuple[int, int, int, int]) -> Array:
    """Factors of dropout, (N, H, Tq, Tk): a matrix whose rows are padded to whole blocks of four draws."""
    *lead, keys = shape
    row = -(-keys // 4)
    blocks = (np.arange(math.prod(lead) * row, dtype=np.uint64) + np.uint64(base)).reshape(*lead, row, 1)
    low, high = blocks & np.uint64(0xFFFFFFFF), blocks >> np.uint64(32)
    counters = np.concatenate([low, high, 0 * low, 0 * low], -1)
    draws = philox4x32(counters, np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint64))
    kept = draws.reshape(*lead, 4 * row)[..., :keys] >= p * 2.0**32
    return kept / (1 - p) if p < 1 else 0.0 * kept


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    past: int = 0,
    keep: Array | float = 1.0,
) -> Array:
    return (keep * attention_weights(attention_scores(q, k, mask, causal, scale, past))) @ wide(v)


def attention_grad(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    mask: Array | None,
    causal: bool,
    scale: float,
    past: int = 0,
    keep: Array | float = 1.0,
) -> tuple[Array, Array, Array, Array]:
    """Gradients of q, k, v and of a mask of the scores' shape."""
    p = attention_weights(attention_scores(q, k, mask, causal, scale, past))
    slopes = keep * (wide(g) @ np.swapaxes(wide(v), -1, -2))
    ds = p * (slopes - (p * slopes).sum(-1, keepdims=True))
    return (
        scale * ds @ wide(k),
        scale * np.swapaxes(ds, -1, -2) @ wide(q),
        np.swapaxes(keep * p, -1, -2) @ wide(g),
        ds,
    )
