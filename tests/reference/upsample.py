"""Resampling."""

from __future__ import annotations

import numpy as np

from tests.reference.common import Array, Pair, wide


def _axis(mode: str, size: int, out: int, scale: float) -> Array:
    """(out, size): what each output pixel takes of each input pixel. `scale`: input pixels per output pixel."""
    share = np.zeros((out, size))
    for o in range(out):
        if mode in ("nearest", "nearest-exact"):
            at = np.float32(o) + np.float32(0.5 if mode == "nearest-exact" else 0)
            share[o, min(int(np.floor(at * np.float32(scale))), size - 1)] = 1
            continue
        at = o * scale if mode == "linear-aligned" else (o + 0.5) * scale - 0.5
        left = min(int(max(at, 0)), size - 1)
        rest = min(max(at, 0) - left, 1)
        share[o, left] += 1 - rest
        share[o, min(left + 1, size - 1)] += rest
    return share


def upsample(x: Array, mode: str, size: Pair, scale: tuple[float, float]) -> Array:
    rows, columns = (_axis(mode, x.shape[1 + d], size[d], scale[d]) for d in (0, 1))
    return np.asarray(np.einsum("oh,pw,nhwc->nopc", rows, columns, wide(x)))


def upsample_grad(
    g: Array, x_shape: tuple[int, ...], mode: str, size: Pair, scale: tuple[float, float]
) -> Array:
    rows, columns = (_axis(mode, x_shape[1 + d], size[d], scale[d]) for d in (0, 1))
    return np.asarray(np.einsum("oh,pw,nopc->nhwc", rows, columns, wide(g)))
