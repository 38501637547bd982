"""Scores of linear models, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.data.tasks.common import Split

Array = NDArray[Any]


def logistic_regression(
    x: Array, y: Array, iterations: int = 150, penalty: float = 1e-4
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (D, C) and bias (C,) of multinomial logistic regression.

    Minimizes the mean cross-entropy plus ``penalty / 2 * |W|²`` by accelerated gradient descent (Nesterov 1983) on the
    whole set, with a step of one over the Lipschitz constant of the gradient. Nothing is random.

    Args:
        x: (N, D) features, of about one scale.
        y: (N,) class numbers.
        iterations: gradient steps.
        penalty: of the squared weights.
    """
    x = x.astype(np.float32, copy=False)
    classes = int(y.max()) + 1
    step = np.float32(1 / (0.5 * (_largest_eigenvalue(x) + 1) + penalty))
    target = np.eye(classes, dtype=np.float32)[y]
    weight, bias = np.zeros((x.shape[1], classes), np.float32), np.zeros(classes, np.float32)
    before = weight, bias
    for k in range(iterations):
        momentum = np.float32(k / (k + 3))
        ahead, ahead_bias = weight + momentum * (weight - before[0]), bias + momentum * (bias - before[1])
        before = weight, bias
        error = (_softmax(x @ ahead + ahead_bias) - target) / np.float32(len(x))
        weight = ahead - step * (x.T @ error + np.float32(penalty) * ahead)
        bias = ahead_bias - step * error.sum(0)
    return weight, bias


def linear_accuracy(data: Split, iterations: int = 150, penalty: float = 1e-4) -> float:
    """Test accuracy of logistic regression on the flattened, standardized inputs."""
    x, x_test = (part.reshape(len(part), -1) for part in (data.x, data.x_test))
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    weight, bias = logistic_regression((x - mean) / deviation, data.y, iterations, penalty)
    guess = (((x_test - mean) / deviation) @ weight + bias).argmax(1)
    return float((guess == data.y_test).mean())


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    result: Array = powers / powers.sum(1, keepdims=True)
    return result


def _largest_eigenvalue(x: Array) -> float:
    """Of x'x / N, by the power method, with a margin."""
    direction = np.ones(x.shape[1], np.float32)
    value = 0.0
    for _ in range(20):
        direction /= np.linalg.norm(direction)
        direction = x.T @ (x @ direction) / np.float32(len(x))
        value = float(np.linalg.norm(direction))
    return 1.1 * value
