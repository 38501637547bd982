"""Optimizers: one step in float64."""

from __future__ import annotations

import numpy as np

from tests.reference.common import Array, wide


def sgd(
    param: Array, grad: Array, momentum_buffer: Array | None, step: int, lr: float, momentum: float = 0.0,
    weight_decay: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
) -> tuple[Array, Array | None]:  # fmt: skip
    """PyTorch's SGD: (parameter, momentum buffer) after step number `step` (from 1)."""
    g = wide(grad) + weight_decay * wide(param)
    if momentum_buffer is None or momentum == 0:
        return wide(param) - lr * g, momentum_buffer
    buffer = g if step == 1 else momentum * wide(momentum_buffer) + (1 - dampening) * g
    return wide(param) - lr * (g + momentum * buffer if nesterov else buffer), buffer


def adam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, beta1: float = 0.9, beta2: float = 0.999,
    eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Adam (AdamW if decoupled): (parameter, m, v) after step number `step` (from 1)."""
    p, g = wide(param), wide(grad)
    if decoupled:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    m = beta1 * wide(m) + (1 - beta1) * g
    v = beta2 * wide(v) + (1 - beta2) * g * g
    return p - lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps), m, v
