"""The metrics as functions of all samples at once. The classes of the same names say what is computed."""

from __future__ import annotations

from typing import Any

from quernel.arrays import array_of
from quernel.metrics.base import Array, once
from quernel.metrics.classification import F1, Accuracy, ConfusionMatrix, Precision, Recall, TopKAccuracy
from quernel.metrics.labels import IGNORED
from quernel.metrics.regression import R2, MeanAbsoluteError, MeanSquaredError, RootMeanSquaredError
from quernel.metrics.scores import ROCAUC, Perplexity


def accuracy(
    output: Any,
    target: Any,
    sample_weight: Any = None,
    *,
    threshold: float = 0.5,
    ignore_index: int = IGNORED,
) -> float:
    """Share of right decisions; see `Accuracy`.

    Example:
        >>> accuracy(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1]))
        0.5
    """
    return once(Accuracy(threshold, ignore_index), output, target, sample_weight)


def top_k_accuracy(
    output: Any, target: Any, sample_weight: Any = None, *, k: int = 5, ignore_index: int = IGNORED
) -> float:
    """Share of samples whose class is among the k largest scores; see `TopKAccuracy`."""
    return once(TopKAccuracy(k, ignore_index), output, target, sample_weight)


def precision(
    output: Any,
    target: Any,
    sample_weight: Any = None,
    *,
    average: str = "auto",
    threshold: float = 0.5,
    ignore_index: int = IGNORED,
) -> float:
    """Share of right decisions among the decisions for a class; see `Precision`."""
    return once(Precision(average, threshold, ignore_index), output, target, sample_weight)


def recall(
    output: Any,
    target: Any,
    sample_weight: Any = None,
    *,
    average: str = "auto",
    threshold: float = 0.5,
    ignore_index: int = IGNORED,
) -> float:
    """Share of the samples of a class that were recognized; see `Recall`."""
    return once(Recall(average, threshold, ignore_index), output, target, sample_weight)


def f1(
    output: Any,
    target: Any,
    sample_weight: Any = None,
    *,
    average: str = "auto",
    threshold: float = 0.5,
    ignore_index: int = IGNORED,
) -> float:
    """Harmonic mean of precision and recall; see `F1`.

    Example:
        >>> f1([1, 1, 0, 0], [1, 0, 0, 0], average="macro")
        0.7333333333333334
    """
    return once(F1(average, threshold, ignore_index), output, target, sample_weight)


def confusion_matrix(
    output: Any,
    target: Any,
    sample_weight: Any = None,
    *,
    classes: int | None = None,
    threshold: float = 0.5,
    ignore_index: int = IGNORED,
) -> Array:
    """How many samples of class i (row) were taken for class j (column); see `ConfusionMatrix`.

    Example:
        >>> confusion_matrix([0, 1, 1, 0], [0, 1, 0, 0])
        array([[2, 1],
               [0, 1]])
    """
    matrix = ConfusionMatrix(classes, threshold, ignore_index)
    output, target = (array_of(matrix.name, name, x) for name, x in (("output", output), ("target", target)))
    matrix.update(output, target, sample_weight)
    return matrix.compute()


def roc_auc(output: Any, target: Any, sample_weight: Any = None, *, ignore_index: int = IGNORED) -> float:
    """Area under the ROC curve; see `ROCAUC`.

    Example:
        >>> roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    return once(ROCAUC(ignore_index), output, target, sample_weight)


def perplexity(output: Any, target: Any, sample_weight: Any = None, *, ignore_index: int = IGNORED) -> float:
    """e to the mean cross-entropy of the labels; see `Perplexity`."""
    return once(Perplexity(ignore_index), output, target, sample_weight)


def mse(output: Any, target: Any, sample_weight: Any = None) -> float:
    """Mean of ``(output - target)²``.

    Example:
        >>> mse([1.0, 2.0], [1.0, 4.0])
        2.0
    """
    return once(MeanSquaredError(), output, target, sample_weight)


def rmse(output: Any, target: Any, sample_weight: Any = None) -> float:
    """Square root of the mean of ``(output - target)²``."""
    return once(RootMeanSquaredError(), output, target, sample_weight)


def mae(output: Any, target: Any, sample_weight: Any = None) -> float:
    """Mean of ``|output - target|``."""
    return once(MeanAbsoluteError(), output, target, sample_weight)


def r2(output: Any, target: Any, sample_weight: Any = None) -> float:
    """Coefficient of determination; see `R2`."""
    return once(R2(), output, target, sample_weight)
