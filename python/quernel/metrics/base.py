"""What a metric is, and what metrics share: arrays of a batch, weights of samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.arrays import array_of, numbers_of
from quernel.errors import ArgumentError, ShapeError

Array = NDArray[Any]
Function = Callable[[Array, Array], float]


class Metric(ABC):
    """A number that is gathered batch by batch and means all samples since `reset`.

    ``update`` on batch after batch and ``update`` on everything at once give the same number, up to the rounding of
    float64 sums. A subclass defines `reset`, `update` and `compute`, sets `name` and calls `reset` once.

    Attributes:
        name: under which it appears in the history.

    Example:
        >>> class Largest(Metric):
        ...     name = "largest"
        ...
        ...     def reset(self):
        ...         self.value = float("-inf")
        ...
        ...     def update(self, output, target, sample_weight=None):
        ...         self.value = max(self.value, float(np.max(output)))
        ...
        ...     def compute(self):
        ...         return self.value
        >>> metric = Largest()
        >>> metric.reset()
        >>> metric.update(np.array([1.0, 3.0]), np.array([0, 1]))
        >>> metric.compute()
        3.0
    """

    name: str

    @abstractmethod
    def reset(self) -> None:
        """Forgets all samples."""

    @abstractmethod
    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch.

        Args:
            output: What the model returned, samples along the first axis.
            target: What it should have returned, as many samples.
            sample_weight: (N,), not negative; None counts every sample once.
        """

    @abstractmethod
    def compute(self) -> float:
        """The metric over all samples since `reset`; NaN if there were none."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Mean(Metric):
    """The mean over samples of a function of one batch, which is what a plain function becomes in `fit`.

    The function sees no weights: its values are averaged by the number of samples in each batch.

    Args:
        function: of (output, target) arrays; returns the mean over the samples of that batch.
        name: in the history; that of the function by default.

    Example:
        >>> metric = Mean(lambda output, target: np.abs(output - target).max(), "worst")
        >>> metric.update(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 7.0]))
        >>> metric.update(np.array([0.0]), np.array([0.0]))
        >>> metric.compute()
        3.0
    """

    def __init__(self, function: Function, name: str | None = None) -> None:
        self.function = function
        self.name = name if name is not None else getattr(function, "__name__", type(function).__name__)
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self._total, self._samples = 0.0, 0

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:  # noqa: ARG002
        """Takes in a batch; weights are not looked at."""
        size = len(target)
        if size:
            self._total += float(self.function(output, target)) * size
            self._samples += size

    def compute(self) -> float:
        """The mean over all samples since `reset`; NaN if there were none."""
        return self._total / self._samples if self._samples else math.nan

    def __repr__(self) -> str:
        return f"Mean({self.name})"


def weights_of(name: str, sample_weight: Any, shape: tuple[int, ...]) -> Array | None:
    """Weights of targets of a shape, flat: each sample's weight counts for all its targets.

    Raises:
        ShapeError: there are not as many as samples.
        ArgumentError: one is negative or not finite.
    """
    if sample_weight is None:
        return None
    given = numbers_of(name, "sample_weight", sample_weight).astype(np.float64)
    if given.shape != shape and given.shape != shape[:1]:
        raise ShapeError(f"[{name}] sample_weight has shape {given.shape}, expected {shape[:1]}")
    wrong = np.argwhere(~((given >= 0) & np.isfinite(given)))
    if wrong.size:
        row = int(wrong[0][0])
        raise ArgumentError(
            f"[{name}] sample_weight[{row}] is {given[tuple(wrong[0])]}; weights are finite and not negative"
        )
    full = np.broadcast_to(given.reshape(given.shape + (1,) * (len(shape) - given.ndim)), shape)
    return np.ascontiguousarray(full).reshape(-1)


def once(metric: Metric, output: Any, target: Any, sample_weight: Any) -> float:
    """The metric of these samples alone."""
    metric.reset()
    weights = None if sample_weight is None else array_of(metric.name, "sample_weight", sample_weight)
    metric.update(array_of(metric.name, "output", output), array_of(metric.name, "target", target), weights)
    return metric.compute()
