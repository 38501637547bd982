"""Metrics of scores, before a decision is made: the area under the ROC curve, and perplexity."""

from __future__ import annotations

import math

import numpy as np

from quernel.errors import ArgumentError
from quernel.metrics.base import Array, Metric
from quernel.metrics.labels import IGNORED, scores_of

_SUM_TOLERANCE = 1e-4  # float32 probabilities of a few thousand classes sum to 1 within this


class ROCAUC(Metric):
    """Area under the ROC curve: how likely a sample of a class scores higher than one of another; ties count half.

    Exact, so all scores are kept until `reset`. Two classes: of class 1, from one score per sample or from the difference
    of two. More classes: each against the rest by its probability, then the mean over the classes that have samples on both
    sides ("one-vs-rest, macro"). Rows that are no probabilities (not negative, of sum 1) are taken for logits.

    NaN where labels of one class only were seen.

    Args:
        ignore_index: targets of this value are left out.
        name: in the history.

    Example:
        >>> metric = ROCAUC()
        >>> metric.update(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> metric.compute()
        0.75
    """

    def __init__(self, ignore_index: int = IGNORED, name: str = "roc_auc") -> None:
        self.ignore_index, self.name = ignore_index, name
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self._scores: list[Array] = []
        self._true: list[Array] = []
        self._weights: list[Array] = []

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch.

        Raises:
            ArgumentError: a score is NaN.
        """
        scores, true, weights = scores_of(self.name, output, target, sample_weight, self.ignore_index)
        wrong = np.flatnonzero(np.isnan(scores).any(1))
        if wrong.size:
            raise ArgumentError(f"[{self.name}] the score at row {wrong[0]} is NaN")
        if self._scores and _probabilities(scores).shape[1] != self._scores[0].shape[1]:
            raise ArgumentError(
                f"[{self.name}] output has {scores.shape[1]} columns, other than earlier batches"
            )
        self._scores.append(_probabilities(scores))
        self._true.append(true)
        self._weights.append(np.ones(len(true)) if weights is None else weights)

    def compute(self) -> float:
        """The area over all samples since `reset`; NaN if they are of one class."""
        if not self._scores:
            return math.nan
        scores, true, weights = (np.concatenate(x) for x in (self._scores, self._true, self._weights))
        if scores.shape[1] == 1:
            return binary_auc(scores[:, 0], true == 1, weights)
        each = [binary_auc(scores[:, c], true == c, weights) for c in range(scores.shape[1])]
        defined = [area for area in each if not math.isnan(area)]
        return sum(defined) / len(defined) if defined else math.nan


def _probabilities(scores: Array) -> Array:
    """Two columns: their difference, which orders samples like the probability. More: probabilities."""
    if scores.shape[1] == 1:
        return scores
    scores = scores.astype(np.float64)
    if scores.shape[1] == 2:
        return scores[:, 1:] - scores[:, :1]
    proper = (scores >= 0).all(1) & (np.abs(scores.sum(1) - 1) <= _SUM_TOLERANCE)
    soft = np.exp(_log_softmax(scores))
    return np.where(proper[:, None], scores, soft)


def _log_softmax(x: Array) -> Array:
    shifted = x - x.max(1, keepdims=True, initial=-np.inf)
    result: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def binary_auc(scores: Array, positive: Array, weights: Array) -> float:
    """The weighted share of pairs (positive, negative) in which the positive scores higher; ties count half.

    That is the area under the ROC curve (Hanley and McNeil 1982). NaN if either side has no weight.
    """
    order = np.argsort(scores, kind="stable")
    scores, positive, weights = scores[order], positive[order], weights[order]
    first = np.concatenate([[True], scores[1:] != scores[:-1]])[: len(scores)]
    group = np.cumsum(first) - 1
    ups = np.bincount(group, weights * positive)
    downs = np.bincount(group, weights * ~positive)
    pairs = float(ups.sum() * downs.sum())
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum()) / pairs if pairs else math.nan


class Perplexity(Metric):
    """e to the mean cross-entropy of the labels: among how many equally likely classes the model still wavers.

    Args:
        ignore_index: targets of this value are left out.
        name: in the history.

    Shapes:
        logits (or log-probabilities) (..., C), labels (...).

    Example:
        >>> metric = Perplexity()
        >>> metric.update(np.zeros((2, 10)), np.array([3, 7]))
        >>> round(metric.compute(), 6)
        10.0
    """

    def __init__(self, ignore_index: int = IGNORED, name: str = "perplexity") -> None:
        self.ignore_index, self.name = ignore_index, name
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self._loss, self._weight = 0.0, 0.0

    def update(self, output: Array, target: Array, sample_weight: Array | None = None) -> None:
        """Takes in a batch."""
        scores, true, weights = scores_of(self.name, output, target, sample_weight, self.ignore_index)
        if scores.shape[1] == 1:
            raise ArgumentError(
                f"[{self.name}] expected logits (..., C) of several classes, got {np.shape(output)}"
            )
        losses = -np.take_along_axis(_log_softmax(scores.astype(np.float64)), true[:, None], 1)[:, 0]
        # A sample of weight 0 must not turn an infinite loss into NaN.
        self._loss += float(
            losses.sum() if weights is None else (losses[weights > 0] * weights[weights > 0]).sum()
        )
        self._weight += float(len(true) if weights is None else weights.sum())

    def compute(self) -> float:
        """The perplexity, infinite if a label had probability 0; NaN if there were no samples."""
        return float(np.exp(np.float64(self._loss / self._weight))) if self._weight else math.nan
