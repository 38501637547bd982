"""Metrics: what `fit` and `evaluate` report beside the loss, and functions of the same computations for direct use.

`fit` gathers a `Metric` batch by batch: the number of an epoch is that of all its samples, not a mean of means.

    >>> qn.metrics.accuracy(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]))
    0.5
    >>> metric = qn.metrics.F1(average="macro")
    >>> for batch in (slice(0, 2), slice(2, 4)):
    ...     metric.update(np.array([1, 1, 0, 0])[batch], np.array([1, 0, 0, 0])[batch])
    >>> round(metric.compute(), 4)
    0.7333
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import isfunction
from typing import Any

from quernel.errors import ArgumentError
from quernel.metrics.base import Mean, Metric
from quernel.metrics.classification import F1, Accuracy, ConfusionMatrix, Precision, Recall, TopKAccuracy
from quernel.metrics.functions import (
    accuracy,
    confusion_matrix,
    f1,
    mae,
    mse,
    perplexity,
    precision,
    r2,
    recall,
    rmse,
    roc_auc,
    top_k_accuracy,
)
from quernel.metrics.plot import plot_confusion_matrix
from quernel.metrics.regression import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from quernel.metrics.scores import ROCAUC, Perplexity
from quernel.suggest import suggestion

METRICS: dict[str, Callable[[], Metric]] = {
    "accuracy": Accuracy,
    "top5_accuracy": TopKAccuracy,
    "precision": Precision,
    "recall": Recall,
    "f1": F1,
    "roc_auc": ROCAUC,
    "perplexity": Perplexity,
    "mse": MeanSquaredError,
    "rmse": RootMeanSquaredError,
    "mae": MeanAbsoluteError,
    "r2": R2,
}

# A function given as a metric must not become a mean over batches where its class does better.
_CLASS_OF: dict[Any, Callable[[], Metric]] = {
    accuracy: Accuracy, top_k_accuracy: TopKAccuracy, precision: Precision, recall: Recall, f1: F1, roc_auc: ROCAUC,
    perplexity: Perplexity, mse: MeanSquaredError, rmse: RootMeanSquaredError, mae: MeanAbsoluteError, r2: R2,
}  # fmt: skip


def as_metric(value: Any, threshold: float | None = None) -> Metric:
    """What a user gave as a metric: a name, a `Metric`, a class of them, or a function of (output, target) arrays.

    Args:
        value: of these.
        threshold: of metrics that decide between two classes, but for a `Metric` object, which has its own; None leaves
            it at 0.5.

    Raises:
        ArgumentError: it is none of these.
    """
    if isinstance(value, Metric):
        return value
    if isinstance(value, str) and value not in METRICS:
        raise ArgumentError(f"[compile] unknown metric {value!r}{suggestion(value, METRICS)}")
    if isinstance(value, ConfusionMatrix) or value is ConfusionMatrix or value is confusion_matrix:
        raise ArgumentError(
            "[compile] a confusion matrix is no number; call metrics.confusion_matrix(net.predict(x), y) after training"
        )
    if not (isinstance(value, str) or callable(value)):
        raise ArgumentError(f"[compile] metric is a name or a function, got {value!r}")
    if isinstance(value, str):
        metric = METRICS[value]()
    elif isinstance(value, type) and issubclass(value, Metric):
        metric = value()
    else:
        metric = _CLASS_OF[value]() if isfunction(value) and value in _CLASS_OF else Mean(value)
    if threshold is not None and hasattr(metric, "threshold"):
        metric.threshold = threshold
    return metric


__all__ = [  # noqa: RUF022 - by kind
    "Metric", "Mean", "METRICS", "as_metric",
    "Accuracy", "TopKAccuracy", "ConfusionMatrix", "Precision", "Recall", "F1", "ROCAUC", "Perplexity",
    "MeanSquaredError", "RootMeanSquaredError", "MeanAbsoluteError", "R2",
    "accuracy", "top_k_accuracy", "confusion_matrix", "precision", "recall", "f1", "roc_auc", "perplexity",
    "mse", "rmse", "mae", "r2", "plot_confusion_matrix",
]  # fmt: skip
