"""Metrics of decisions between classes. `quernel.metrics.labels` says how outputs and targets are read."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from quernel.errors import ArgumentError
from quernel.metrics.base import Array, Metric
from quernel.metrics.labels import IGNORED, check_labels, decisions_of, scores_of

AVERAGES = ("auto", "binary", "macro", "micro", "weighted")
_MOST_CLASSES = 10_000  # a table of 800 MB


class _Share(Metric):
    """A weighted share of the targets."""

    def reset(self) -> None:
        """Forgets all samples."""
        self._hits, self._total = 0.0, 0.0

    def _count(self, hit: Array, weights: Array | None) -> None:
        self._hits += float(np.count_nonzero(hit) if weights is None else weights[hit].sum())
        self._total += float(hit.size if weights is None else weights.sum())

    def compute(self) -> float:
        """The share; NaN if there were no samples."""
        return self._hits / self._total if self._total else math.nan


class Accuracy(_Share):
    """Share of right decisions.

    Args:
        threshold: for one score per sample: above it the decision is class 1. 0.5 is right for probabilities, 0 for
            logits; `compile` takes 0 with the loss "bce_with_logits".
        ignore_index: targets of this value are left out.
        name: in the history.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]))
        >>> metric.compute()
        0.5
    """

    def __init__(self, threshold: float = 0.5, ignore_index: int = IGNORED, name: str = "accuracy") -> None:
        self.threshold, self.ignore_index, self.name = threshold, ignore_index, name
        self.reset()

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        read = decisions_of(self.name, output, target, sample_weight, self.threshold, self.ignore_index)
        self._count(read.decided == read.true, read.weights)


class TopKAccuracy(_Share):
    """Share of samples whose class is among the k largest scores.

    Of equal scores those of the lower class numbers count as larger, as if ``argsort(-scores, stable)`` were cut at k.

    Args:
        k: how many.
        ignore_index: targets of this value are left out.
        name: in the history; "top5_accuracy" for 5.

    Example:
        >>> metric = TopKAccuracy(2)
        >>> metric.update(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), np.array([1, 2]))
        >>> metric.compute()
        0.5
    """

    def __init__(self, k: int = 5, ignore_index: int = IGNORED, name: str | None = None) -> None:
        if k < 1:
            raise ArgumentError(f"[TopKAccuracy] k is at least 1, got {k}")
        self.k, self.ignore_index, self.name = k, ignore_index, name or f"top{k}_accuracy"
        self.reset()

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        scores, true, weights = scores_of(self.name, output, target, sample_weight, self.ignore_index)
        if scores.shape[1] == 1:
            raise ArgumentError(
                f"[{self.name}] expected scores (N, C) of several classes, got {np.shape(output)}"
            )
        own = np.take_along_axis(scores, true[:, None], 1)
        earlier = np.arange(scores.shape[1]) < true[:, None]
        # NaN beats every number, as it does in argmax; an own score of NaN is beaten by nothing but an earlier NaN.
        above = (scores > own) | (np.isnan(scores) & ~np.isnan(own))
        level = (scores == own) | (np.isnan(scores) & np.isnan(own))
        self._count((above | (level & earlier)).sum(1) < self.k, weights)

    def __repr__(self) -> str:
        return f"TopKAccuracy(k={self.k})"


class ConfusionMatrix:
    """How many samples of class i (row) were taken for class j (column).

    It is gathered like a `Metric`, but is no number: it cannot go into a history.

    Args:
        classes: how many there are; by default as many as are seen.
        threshold: for one score per sample; see `Accuracy`.
        ignore_index: targets of this value are left out.

    Example:
        >>> matrix = ConfusionMatrix()
        >>> matrix.update(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))
        >>> matrix.compute()
        array([[2, 1],
               [0, 1]])
    """

    name = "confusion_matrix"

    def __init__(
        self, classes: int | None = None, threshold: float = 0.5, ignore_index: int = IGNORED
    ) -> None:
        self.classes, self.threshold, self.ignore_index = classes, threshold, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        size = self.classes or 0
        self._counts = np.zeros((size, size))
        self._weighted = False

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        self._gather(self.name, output, target, sample_weight)

    def _gather(self, name: str, output: Array, target: Array, sample_weight: Array | None) -> None:
        decided, true, weights, classes = decisions_of(
            name, output, target, sample_weight, self.threshold, self.ignore_index
        )
        if self.classes is not None:
            everything = np.ones(len(true), bool)
            for numbers in (true, decided):
                check_labels(name, numbers, self.classes, everything)
            classes = self.classes
        size = max(classes, len(self._counts))
        if size > _MOST_CLASSES:
            raise ArgumentError(
                f"[{name}] class number {size - 1} would need a table of {size}² counts; number the classes from 0 on"
            )
        counts = (
            np.bincount(true * size + decided, weights, size * size).reshape(size, size).astype(np.float64)
        )
        before = len(self._counts)
        counts[:before, :before] += self._counts
        self._counts = counts
        self._weighted |= weights is not None

    def compute(self) -> Array:
        """The matrix (C, C): int64, or float64 sums of weights."""
        return self._counts.copy() if self._weighted else self._counts.astype(np.int64)

    def __repr__(self) -> str:
        return f"ConfusionMatrix({'' if self.classes is None else self.classes})"


class _FromCounts(Metric):
    """A ratio per class, of true positives, decisions and support, and its average over the classes."""

    def __init__(
        self, average: str = "auto", threshold: float = 0.5, ignore_index: int = IGNORED, name: str = ""
    ) -> None:
        if average not in AVERAGES:
            raise ArgumentError(
                f"[{type(self).__name__}] average is one of {', '.join(map(repr, AVERAGES))}, got {average!r}"
            )
        self.average, self.threshold, self.name = average, threshold, name or type(self).__name__.lower()
        self._matrix = ConfusionMatrix(None, threshold, ignore_index)

    def reset(self) -> None:
        """Forgets all samples."""
        self._matrix.reset()

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        self._matrix.threshold = self.threshold
        self._matrix._gather(self.name, output, target, sample_weight)
        if self.average == "binary" and len(self._matrix._counts) > 2:
            raise ArgumentError(
                f"[{self.name}] average 'binary' is for two classes, there are {len(self._matrix._counts)}; "
                "choose 'macro', 'micro' or 'weighted'"
            )

    def compute(self) -> float:
        """The metric over all samples since `reset`; NaN if there were none."""
        counts = self._matrix._counts
        counts = np.pad(counts, (0, max(0, 2 - len(counts))))
        hits, decided, support = np.diagonal(counts), counts.sum(0), counts.sum(1)
        if not support.sum():
            return math.nan
        average = self.average
        if average == "auto":
            average = "binary" if len(counts) == 2 else "macro"
        if average == "binary":
            return float(self._ratio(hits, decided, support)[1])
        if average == "micro":
            return float(self._ratio(hits.sum(), decided.sum(), support.sum()))
        each, seen = self._ratio(hits, decided, support), decided + support > 0
        if average == "macro":
            return float(each[seen].mean())
        return float((each * support).sum() / support.sum())

    @staticmethod
    @abstractmethod
    def _ratio(hits: Array, decided: Array, support: Array) -> Array: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}(average={self.average!r})"


def _divided(a: Array, b: Array) -> Array:
    """a / b, and 0 where b is 0."""
    ratio: Array = np.divide(a, b, out=np.zeros(np.shape(b)), where=np.asarray(b) > 0)
    return ratio


class Precision(_FromCounts):
    """Share of right decisions among the decisions for a class, TP / (TP + FP); 0 for a class never decided for.

    Args:
        average: "binary" is that of class 1. Over several classes, "macro" is the mean over the classes that occur among
            labels or decisions, "weighted" the mean weighted by the number of samples of each class, and "micro" counts
            all decisions together, which is the accuracy. "auto" is "binary" for two classes, else "macro".
        threshold: for one score per sample; see `Accuracy`.
        ignore_index: targets of this value are left out.
        name: in the history.

    Example:
        >>> metric = Precision()
        >>> metric.update(np.array([0.9, 0.8, 0.3]), np.array([1, 0, 1]))
        >>> metric.compute()
        0.5
    """

    @staticmethod
    def _ratio(hits: Array, decided: Array, support: Array) -> Array:  # noqa: ARG004
        return _divided(hits, decided)


class Recall(_FromCounts):
    """Share of the samples of a class that were recognized, TP / (TP + FN); 0 for a class without samples.

    The arguments are those of `Precision`.
    """

    @staticmethod
    def _ratio(hits: Array, decided: Array, support: Array) -> Array:  # noqa: ARG004
        return _divided(hits, support)


class F1(_FromCounts):
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); 0 for a class that does not occur.

    The arguments are those of `Precision`.
    """

    @staticmethod
    def _ratio(hits: Array, decided: Array, support: Array) -> Array:
        return _divided(2 * hits, decided + support)
