"""Matrix products."""

from __future__ import annotations

from tests.reference.common import Array, wide
from tests.reference.elementwise import activate


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    a, b = wide(a), wide(b)
    return (a.swapaxes(-1, -2) if transpose_a else a) @ (b.swapaxes(-1, -2) if transpose_b else b)


def linear(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    residual: Array | None = None,
    activation: str = "none",
) -> Array:
    """activation(x W^T + bias + residual), W (O, I)."""
    y = wide(x) @ wide(weight).T
    for addend in (bias, residual):
        if addend is not None:
            y = y + wide(addend)
    return activate(y, activation)
