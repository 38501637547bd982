"""Weights of samples: given one by one, or by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.tensor import Tensor
from quernel.training.checks import wants_classes
from quernel.training.objective import Head, Heads, check_takes_weights
from quernel.training.samples import as_numbers, per_output

Array = NDArray[Any]


def checked_weights(
    verb: str,
    heads: Heads,
    sample_weight: Any,
    class_weight: Any,
    targets: Sequence[Array | None],
    outputs: Sequence[Any],
    length: int,
    dtype: str | None,
) -> tuple[Array | None, ...]:
    """The product of both kinds of weights, for each output.

    Args:
        verb: for messages.
        heads: the outputs.
        sample_weight: an array (N,), for all outputs, or one for each in a tuple or a dictionary.
        class_weight: weights by class, as a dictionary or an array (C,).
        targets, outputs: for each output, and what the model makes of one sample.
        length: the number of samples.
        dtype: of the model.
    """
    weights = _given(verb, heads, sample_weight, length, dtype)
    if class_weight is not None:
        if len(heads.heads) != 1:
            raise ArgumentError(
                f"[{verb}] class_weight is for models with one output; give sample_weight for each output instead"
            )
        by_class = _of_classes(verb, heads.heads[0], class_weight, targets[0], outputs[0], dtype)
        weights = [by_class if weights[0] is None else weights[0] * by_class]
    for head, weight in zip(heads.heads, weights, strict=True):
        if weight is not None and head.loss is not None:
            check_takes_weights(head.loss)
    return tuple(weights)


def _given(verb: str, heads: Heads, sample_weight: Any, length: int, dtype: str | None) -> list[Array | None]:
    count = len(heads.heads)
    if sample_weight is None:
        return [None] * count
    if heads.names is None or isinstance(sample_weight, Mapping | tuple):
        given = per_output(verb, "sample_weight", sample_weight, heads.names, [True] * count)
    else:
        given = [("sample_weight", sample_weight)] * count
    return [
        None if value is None else _checked(verb, name, value, length, dtype or "float32")
        for name, value in given
    ]


def _checked(verb: str, name: str, value: Any, length: int, dtype: str) -> Array:
    weights = as_numbers(verb, name, value, dtype).astype(dtype, copy=False)
    if weights.shape != (length,):
        raise ShapeError(
            f"[{verb}] {name} has shape {weights.shape}, expected one number a sample: ({length},)"
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if wrong.size:
        raise ArgumentError(
            f"[{verb}] {name} is {weights[wrong[0]]} at row {wrong[0]}; weights are finite and not negative"
        )
    return weights


def _of_classes(
    verb: str, head: Head, class_weight: Any, target: Array | None, output: Any, dtype: str | None
) -> Array:
    """The weight of each sample's class."""
    if target is None or (target.dtype.kind == "f" and (target != np.rint(target)).any()):
        raise DTypeError(f"[{verb}] class_weight needs class numbers in y, whole numbers; use sample_weight")
    if target.ndim != 1 and target.size != len(target):
        raise ShapeError(
            f"[{verb}] class_weight needs one class a sample, y has shape {target.shape}; use sample_weight"
        )
    labels = target.reshape(len(target)).astype(np.int64)
    scores = isinstance(output, Tensor) and wants_classes(head.loss, target, output)
    classes = output.shape[-1] if scores else max(2, int(labels.max()) + 1)
    table = np.ones(classes, dtype or "float32")
    for label, weight in _pairs(verb, class_weight, classes):
        if not (isinstance(weight, int | float | np.number) and np.isfinite(weight) and weight >= 0):
            raise ArgumentError(
                f"[{verb}] class_weight of class {label} is {weight!r}; weights are finite and not negative"
            )
        if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < classes:
            raise ArgumentError(
                f"[{verb}] class_weight has a weight for class {label!r}, the model has {classes} classes, "
                f"0 to {classes - 1}"
            )
        table[label] = weight
    weights: Array = table[np.clip(labels, 0, classes - 1)]
    return weights


def _pairs(verb: str, class_weight: Any, classes: int) -> list[tuple[Any, Any]]:
    if isinstance(class_weight, Mapping):
        return list(class_weight.items())
    table = np.asarray(class_weight)
    if table.shape != (classes,) or table.dtype.kind not in "iuf":
        raise ArgumentError(
            f"[{verb}] class_weight is a dictionary, or an array with one weight for each of {classes} classes; "
            f"got {class_weight!r}"
        )
    return list(enumerate(table.tolist()))
