"""Functions of one element at a time, and their gradients."""

from __future__ import annotations

import math

import numpy as np

from tests.reference.common import Array, wide

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    x = wide(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def erf(x: Array) -> Array:
    return np.asarray(_erf(wide(x))) if np.size(x) else wide(x)


def erfc(x: Array) -> Array:
    return np.vectorize(math.erfc, otypes=[np.float64])(wide(x)) if np.size(x) else wide(x)


def gelu(x: Array) -> Array:
    """x Phi(x), with erfc so that the left tail keeps its relative accuracy; the limit 0 at -inf."""
    x = np.where(np.isneginf(wide(x)), -1000.0, wide(x))
    return x * 0.5 * erfc(-x / math.sqrt(2))


def silu(x: Array) -> Array:
    """x sigmoid(x); the limit 0 at -inf."""
    return np.where(np.isneginf(wide(x)), -1000.0, wide(x)) * sigmoid(x)


def relu(x: Array) -> Array:
    return np.where(np.isnan(wide(x)), np.nan, np.maximum(wide(x), 0))


def round_to_even(x: Array) -> Array:
    return np.rint(wide(x))


def softplus_beyond(x: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    """log(1 + e^(beta x)) / beta, and x beyond the threshold."""
    t = beta * wide(x)
    return np.where(t > threshold, wide(x), np.logaddexp(0, t) / beta)


def mish(x: Array) -> Array:
    """x tanh(log(1 + e^x)); the limit 0 at -inf."""
    x = np.where(np.isneginf(wide(x)), -1000.0, wide(x))
    return x * np.tanh(np.logaddexp(0, x))


def elu(x: Array, a: float = 1.0, b: float = 1.0, c: float = 1.0) -> Array:
    """b x where x > 0, else a (e^(c x) - 1)."""
    return np.where(wide(x) > 0, b * wide(x), a * np.expm1(c * np.minimum(wide(x), 0)))


def leaky_relu(x: Array, slope: float) -> Array:
    return np.where(wide(x) > 0, wide(x), slope * wide(x))


def hardsigmoid(x: Array) -> Array:
    return np.clip(wide(x) + 3, 0, 6) / 6


def hardswish(x: Array) -> Array:
    """x relu6(x + 3) / 6; the limit 0 at -inf."""
    x = np.where(np.isneginf(wide(x)), -1000.0, wide(x))
    return np.where(x >= 3, x, x * hardsigmoid(x))


UNARY = {
    "neg": lambda x: -wide(x), "abs": lambda x: np.abs(wide(x)), "sign": lambda x: np.sign(wide(x)),
    "square": lambda x: wide(x) ** 2, "sqrt": lambda x: np.sqrt(wide(x)), "reciprocal": lambda x: 1 / wide(x),
    "exp": lambda x: np.exp(wide(x)), "log": lambda x: np.log(wide(x)), "tanh": lambda x: np.tanh(wide(x)),
    "sigmoid": sigmoid, "relu": relu, "gelu": gelu, "silu": silu, "logical_not": lambda x: ~np.asarray(x, bool),
    "floor": lambda x: np.floor(wide(x)), "ceil": lambda x: np.ceil(wide(x)), "round": round_to_even,
    "rsqrt": lambda x: 1 / np.sqrt(wide(x)), "expm1": lambda x: np.expm1(wide(x)), "log1p": lambda x: np.log1p(wide(x)),
    "sin": lambda x: np.sin(wide(x)), "cos": lambda x: np.cos(wide(x)), "erf": erf, "mish": mish,
    "relu6": lambda x: np.clip(wide(x), 0, 6), "hardswish": hardswish, "hardsigmoid": hardsigmoid,
    "logsigmoid": lambda x: -np.logaddexp(0, -wide(x)), "softsign": lambda x: wide(x) / (1 + np.abs(wide(x))),
}  # fmt: skip

BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "floor_divide": np.floor_divide, "remainder": np.remainder,
}  # fmt: skip


# Gradients (first operand: what the forward pass saved, second: the incoming gradient).
def gelu_grad(x: Array, g: Array) -> Array:
    x = wide(x)
    return wide(g) * (0.5 * erfc(-x / math.sqrt(2)) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def silu_grad(x: Array, g: Array) -> Array:
    s = sigmoid(x)
    return wide(g) * (s * (1 + wide(x) * (1 - s)))


def mish_grad(x: Array, g: Array) -> Array:
    t = np.tanh(np.logaddexp(0, wide(x)))
    return wide(g) * (t + wide(x) * sigmoid(x) * (1 - t * t))


def hardswish_grad(x: Array, g: Array) -> Array:
    x = wide(x)
    return wide(g) * np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + 0.5))


def elu_grad(x: Array, g: Array, a: float = 1.0, b: float = 1.0, c: float = 1.0) -> Array:
    return wide(g) * np.where(wide(x) > 0, b, a * c * np.exp(c * np.minimum(wide(x), 0)))


def softplus_grad(x: Array, g: Array, beta: float = 1.0, threshold: float = 20.0) -> Array:
    t = beta * wide(x)
    return wide(g) * np.where(t > threshold, 1, sigmoid(t))


UNARY_GRAD = {
    "relu_grad": lambda y, g: np.where(wide(y) > 0, wide(g), 0), "tanh_grad": lambda y, g: wide(g) * (1 - wide(y) ** 2),
    "sigmoid_grad": lambda y, g: wide(g) * wide(y) * (1 - wide(y)), "gelu_grad": gelu_grad, "silu_grad": silu_grad,
    "abs_grad": lambda x, g: wide(g) * np.sign(wide(x)), "mish_grad": mish_grad, "hardswish_grad": hardswish_grad,
    "hardsigmoid_grad": lambda x, g: wide(g) * (np.abs(wide(x)) < 3) / 6,
    "logsigmoid_grad": lambda x, g: wide(g) * sigmoid(-wide(x)),
    "softsign_grad": lambda y, g: wide(g) * (1 - np.abs(wide(y))) ** 2,
}  # fmt: skip


def clip(x: Array, lo: float, hi: float) -> Array:
    return np.minimum(np.maximum(x, lo), hi)


def activate(x: Array, activation: str) -> Array:
    return x if activation == "none" else UNARY[activation](x)
