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


UNARY = {
    "neg": lambda x: -wide(x), "abs": lambda x: np.abs(wide(x)), "sign": lambda x: np.sign(wide(x)),
    "square": lambda x: wide(x) ** 2, "sqrt": lambda x: np.sqrt(wide(x)), "reciprocal": lambda x: 1 / wide(x),
    "exp": lambda x: np.exp(wide(x)), "log": lambda x: np.log(wide(x)), "tanh": lambda x: np.tanh(wide(x)),
    "sigmoid": sigmoid, "relu": relu, "gelu": gelu, "silu": silu, "logical_not": lambda x: ~np.asarray(x, bool),
}  # fmt: skip

BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}  # fmt: skip


# Gradients (first operand: what the forward pass saved, second: the incoming gradient).
def gelu_grad(x: Array, g: Array) -> Array:
    x = wide(x)
    return wide(g) * (0.5 * erfc(-x / math.sqrt(2)) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def silu_grad(x: Array, g: Array) -> Array:
    s = sigmoid(x)
    return wide(g) * (s * (1 + wide(x) * (1 - s)))


UNARY_GRAD = {
    "relu_grad": lambda y, g: np.where(wide(y) > 0, wide(g), 0), "tanh_grad": lambda y, g: wide(g) * (1 - wide(y) ** 2),
    "sigmoid_grad": lambda y, g: wide(g) * wide(y) * (1 - wide(y)), "gelu_grad": gelu_grad, "silu_grad": silu_grad,
    "abs_grad": lambda x, g: wide(g) * np.sign(wide(x)),
}  # fmt: skip


def clip(x: Array, lo: float, hi: float) -> Array:
    return np.minimum(np.maximum(x, lo), hi)


def activate(x: Array, activation: str) -> Array:
    return x if activation == "none" else UNARY[activation](x)
