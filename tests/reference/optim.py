"""Optimizers: one step in float64, number `step` (from 1); each returns the parameter and what it keeps."""

from __future__ import annotations

import numpy as np

from tests.reference.common import Array, wide


def penalized(param: Array, grad: Array, weight_decay: float, l1: float) -> Array:
    """The gradient of loss + weight_decay / 2 |p|^2 + l1 |p|."""
    return wide(grad) + weight_decay * wide(param) + l1 * np.sign(wide(param))


def sgd(
    param: Array, grad: Array, momentum_buffer: Array | None, step: int, lr: float, weight_decay: float = 0.0,
    l1: float = 0.0, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
) -> tuple[Array, Array | None]:  # fmt: skip
    g = penalized(param, grad, weight_decay, l1)
    if momentum_buffer is None or momentum == 0:
        return wide(param) - lr * g, momentum_buffer
    buffer = g if step == 1 else momentum * wide(momentum_buffer) + (1 - dampening) * g
    return wide(param) - lr * (g + momentum * buffer if nesterov else buffer), buffer


def adagrad(
    param: Array, grad: Array, total: Array, step: int, lr: float, weight_decay: float = 0.0, l1: float = 0.0,
    lr_decay: float = 0.0, initial: float = 0.0, eps: float = 1e-10,
) -> tuple[Array, Array]:  # fmt: skip
    g = penalized(param, grad, weight_decay, l1)
    total = (np.full_like(wide(total), initial) if step == 1 else wide(total)) + g * g
    return wide(param) - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(total) + eps), total


def rmsprop(
    param: Array, grad: Array, squares: Array, buffer: Array | None, mean: Array | None, lr: float,
    weight_decay: float = 0.0, l1: float = 0.0, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0,
) -> tuple[Array, Array, Array | None, Array | None]:  # fmt: skip
    g = penalized(param, grad, weight_decay, l1)
    squares = alpha * wide(squares) + (1 - alpha) * g * g
    variance = squares
    if mean is not None:
        mean = alpha * wide(mean) + (1 - alpha) * g
        variance = squares - mean * mean
    update = g / (np.sqrt(variance) + eps)
    if buffer is not None and momentum:
        update = buffer = momentum * wide(buffer) + update
    return wide(param) - lr * update, squares, buffer, mean


def adam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, weight_decay: float = 0.0, l1: float = 0.0,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, decoupled: bool = False,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """AdamW if decoupled."""
    g = penalized(param, grad, 0.0 if decoupled else weight_decay, l1)
    p = wide(param) * (1 - lr * weight_decay) if decoupled else wide(param)
    m = beta1 * wide(m) + (1 - beta1) * g
    v = beta2 * wide(v) + (1 - beta2) * g * g
    return p - lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps), m, v


def nadam(
    param: Array, grad: Array, m: Array, v: Array, step: int, lr: float, weight_decay: float = 0.0, l1: float = 0.0,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, momentum_decay: float = 4e-3,
) -> tuple[Array, Array, Array]:  # fmt: skip
    g = penalized(param, grad, weight_decay, l1)
    m = beta1 * wide(m) + (1 - beta1) * g
    v = beta2 * wide(v) + (1 - beta2) * g * g
    mu = beta1 * (1 - 0.5 * 0.96 ** (np.arange(1, step + 2) * momentum_decay))
    product = np.prod(mu[:-1])
    update = (1 - mu[-2]) / (1 - product) * g + mu[-1] / (1 - product * mu[-1]) * m
    return wide(param) - lr * update / (np.sqrt(v / (1 - beta2**step)) + eps), m, v


def lion(
    param: Array, grad: Array, m: Array, lr: float, weight_decay: float = 0.0, l1: float = 0.0, beta1: float = 0.9,
    beta2: float = 0.99,
) -> tuple[Array, Array]:  # fmt: skip
    g = penalized(param, grad, 0.0, l1)
    p = wide(param) * (1 - lr * weight_decay) - lr * np.sign(beta1 * wide(m) + (1 - beta1) * g)
    return p, beta2 * wide(m) + (1 - beta2) * g


def moving_average(average: Array, param: Array, step: int, decay: float, warmup: bool) -> Array:
    decay = min(decay, (1 + step) / (10 + step)) if warmup else decay
    return decay * wide(average) + (1 - decay) * wide(param)
