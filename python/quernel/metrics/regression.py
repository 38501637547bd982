"""Metrics of numbers: outputs and targets of one shape, samples along the first axis."""

from __future__ import annotations

import math

import numpy as np

from quernel.arrays import numbers_of
from quernel.errors import ShapeError
from quernel.metrics.base import Array, Metric, weights_of


def _rows(name: str, output: Array, target: Array, sample_weight: Array | None) -> tuple[Array, Array, Array]:
    """Outputs and targets as (N, D) in float64, and the weights of the samples."""
    output, target = numbers_of(name, "output", output), numbers_of(name, "target", target)
    if output.shape != target.shape or output.ndim == 0:
        raise ShapeError(
            f"[{name}] output has shape {output.shape}, target {target.shape}; expected one shape, samples first"
        )
    rows = len(output)
    weights = weights_of(name, sample_weight, (rows,))
    shape = (rows, math.prod(output.shape[1:]))
    return (
        output.reshape(shape).astype(np.float64),
        target.reshape(shape).astype(np.float64),
        np.ones(rows) if weights is None else weights,
    )


class _MeanError(Metric):
    """The mean of an error of each element."""

    _default = ""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or self._default
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self._total, self._weight = 0.0, 0.0

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        output, target, weights = _rows(self.name, output, target, sample_weight)
        self._total += float((self._error(output - target) * weights[:, None]).sum())
        self._weight += float(weights.sum()) * output.shape[1]

    @staticmethod
    def _error(difference: Array) -> Array:
        return np.square(difference)

    def compute(self) -> float:
        """The mean over all elements since `reset`; NaN if there were none."""
        return self._total / self._weight if self._weight else math.nan


class MeanSquaredError(_MeanError):
    """Mean of ``(output - target)²``.

    Example:
        >>> metric = MeanSquaredError()
        >>> metric.update(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
        >>> metric.compute()
        2.0
    """

    _default = "mse"


class RootMeanSquaredError(_MeanError):
    """Square root of the mean of ``(output - target)²`` over all samples and all outputs."""

    _default = "rmse"

    def compute(self) -> float:
        """The root over all elements since `reset`; NaN if there were none."""
        return math.sqrt(super().compute())


class MeanAbsoluteError(_MeanError):
    """Mean of ``|output - target|``."""

    _default = "mae"

    @staticmethod
    def _error(difference: Array) -> Array:
        return np.abs(difference)


class R2(Metric):
    """Coefficient of determination, ``1 - sum((target - output)²) / sum((target - mean(target))²)``.

    1 is perfect, 0 is as good as always answering the mean. Several outputs: the mean of theirs. A target that is constant
    gives 1 if the outputs equal it and 0 otherwise, as scikit-learn has it; fewer than two samples give NaN.

    Args:
        name: in the history.

    Example:
        >>> metric = R2()
        >>> metric.update(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
        >>> metric.compute()
        0.5
    """

    def __init__(self, name: str = "r2") -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self._samples, self._weight = 0, 0.0
        self._mean: Array = np.zeros(0)
        self._spread: Array = np.zeros(0)  # weighted sum of (target - mean)²
        self._error: Array = np.zeros(0)

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        output, target, weights = _rows(self.name, output, target, sample_weight)
        if self._samples and output.shape[1] != len(self._mean):
            raise ShapeError(
                f"[{self.name}] a sample has {output.shape[1]} outputs, earlier {len(self._mean)}"
            )
        if len(output) == 0:
            return
        if not self._samples:
            self._mean, self._spread, self._error = (np.zeros(output.shape[1]) for _ in range(3))
        self._samples += len(output)
        total = float(weights.sum())
        if total == 0:
            return
        # Means and spreads of two sets are combined as by Chan, Golub and LeVeque (1979).
        column = weights[:, None]
        mean = target[0] + (column * (target - target[0])).sum(0) / total  # exact if the target is constant
        gap = mean - self._mean
        merged = self._weight + total
        self._spread = (
            self._spread
            + (column * np.square(target - mean)).sum(0)
            + gap**2 * (self._weight * total / merged)
        )
        self._mean = self._mean + gap * (total / merged)
        self._error = self._error + (column * np.square(target - output)).sum(0)
        self._weight = merged

    def compute(self) -> float:
        """The mean over the outputs; NaN for fewer than two samples."""
        if self._samples < 2 or not self._weight:
            return math.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(
                self._spread > 0, 1 - self._error / self._spread, np.where(self._error > 0, 0.0, 1.0)
            )
        return float(each.mean())
