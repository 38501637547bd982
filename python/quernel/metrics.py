"""Metrics: functions of a batch's outputs and targets, as NumPy arrays. `fit` averages them over the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.errors import ShapeError

Metric = Callable[[NDArray[Any], NDArray[Any]], float]


def accuracy(output: NDArray[Any], target: NDArray[Any]) -> float:
    """Share of samples whose largest output is that of their class.

    Args:
        output: (N, C), one number per class (logits or probabilities).
        target: (N,), class numbers.

    Example:
        >>> accuracy(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]))
        0.5
    """
    if output.ndim != 2 or target.shape != output.shape[:1]:
        raise ShapeError(
            f"[accuracy] expected outputs (N, C) and labels (N,), got {output.shape} and {target.shape}"
        )
    return float(np.count_nonzero(output.argmax(axis=1) == target) / len(target))


def mean_squared_error(output: NDArray[Any], target: NDArray[Any]) -> float:
    """Mean of (output - target)²; both have one shape."""
    return float(np.square(_difference("mse", output, target)).mean())


def mean_absolute_error(output: NDArray[Any], target: NDArray[Any]) -> float:
    """Mean of |output - target|; both have one shape."""
    return float(np.abs(_difference("mae", output, target)).mean())


def _difference(name: str, output: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    if output.shape != target.shape:
        raise ShapeError(f"[{name}] output has shape {output.shape}, target {target.shape}")
    difference: NDArray[Any] = np.subtract(output, target, dtype=np.float64)
    return difference


METRICS: dict[str, Metric] = {"accuracy": accuracy, "mse": mean_squared_error, "mae": mean_absolute_error}
