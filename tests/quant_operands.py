"""Operands of the int8 ops: where results go, and fills that reach the ends of both types."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.checks import Array, T
from tests.strategies import lay_out, seeds

zero_points = st.sampled_from([0, 1, 127, 128, 254, 255])


@st.composite
def output_params(draw: st.DrawFn, channels: int, terms: int) -> dict[str, Any]:
    """Bias, scales that spread the sums of `terms` products over more than 0..255, zero point and range."""
    rng = np.random.default_rng(draw(seeds))
    bias = rng.integers(-5000, 5000, channels).astype(np.int32)
    scale = (rng.uniform(0.2, 2, channels) / (128 * max(terms, 1) ** 0.5)).astype(np.float32)
    lo, hi = sorted((draw(zero_points), draw(zero_points)))
    return {
        "bias": lay_out(bias, "guard_end"),
        "scale": lay_out(scale, "guard_end"),
        "zero_point": draw(zero_points),
        "lo": 0 if draw(st.booleans()) else lo,
        "hi": 255 if draw(st.booleans()) else hi,
        "out_float": draw(st.booleans()),
    }


def output(channels: int, **changes: Any) -> dict[str, Any]:
    """Arguments that say where results go: no bias, scale 1, range 0..255."""
    bias, scale = np.zeros(channels, np.int32), np.ones(channels, np.float32)
    return {"bias": bias, "scale": scale, "zero_point": 0, "lo": 0, "hi": 255} | changes


def scales(channels: int, value: float) -> Array:
    return np.full(channels, value, np.float32)


def native(args: dict[str, Any]) -> dict[str, Any]:
    return {k: T(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}


def filled(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, fill: str) -> Array:
    """Uniform over the dtype, or all one extreme."""
    info = np.iinfo(dtype)
    if fill == "uniform":
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return np.full(shape, info.min if fill == "least" else info.max, dtype)
