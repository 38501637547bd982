"""What data must be: finite, of the losses' kind, of the outputs' shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import losses
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.tensor import Tensor
from quernel.training.objective import function_of, name_of

Array = NDArray[Any]

_CLASSES = frozenset({losses.cross_entropy})  # want a class number for each sample
_LIKE_OUTPUT = frozenset({losses.mse})  # want a target of the output's shape


def threshold_of(loss: Any) -> float | None:
    """What decides between two classes in an output that `loss` trains; None: 0.5."""
    return 0.0 if "logits" in name_of(loss) else None


def wants_classes(loss: Any) -> bool:
    """Whether targets are class numbers."""
    return function_of(loss) in _CLASSES


def check_finite(verb: str, name: str, array: Array) -> None:
    """Raises if something is NaN or infinite, and says where.

    A sum that is finite has finite terms, and costs a fraction of looking at each of them.
    """
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return
    good = np.isfinite(array)
    if good.all():  # it was the sum that did not fit
        return
    first = tuple(int(i) for i in np.unravel_index(int(np.argmin(good)), array.shape))
    rows = int((~good).reshape(len(good), -1).any(axis=1).sum())
    where = [f"row {first[0]}"]
    if array.ndim == 2:
        where.append(f"column {first[1]}")
    elif array.ndim > 2:
        where.append(f"position {first[1:]}")
    axes = (
        ""
        if array.ndim == 1
        else ".all(axis=1)"
        if array.ndim == 2
        else f".all(axis={tuple(range(1, array.ndim))})"
    )
    raise ArgumentError(
        f"[{verb}] {name} is {array[first]} in {', '.join(where)} ({rows} of {len(array)} rows have NaN or infinite "
        f"values); fill them, or keep the others: np.isfinite({name}){axes}"
    )


def check_target(verb: str, name: str, loss: Any, target: Array, output: Any) -> None:
    """Raises if a target is not what the loss wants, given what the model makes of one sample."""
    if not isinstance(output, Tensor):
        return
    if wants_classes(loss):
        check_labels(verb, name, target)
        _check_range(verb, name, target, output.shape[-1])
    elif function_of(loss) in _LIKE_OUTPUT:
        _check_shape(loss, name, target, output)


def check_labels(verb: str, name: str, target: Array) -> None:
    """Raises if targets are no class numbers."""
    if target.dtype.kind == "f":
        raise DTypeError(
            f"[{verb}] cross_entropy wants whole class numbers, {name} holds {target.dtype}; use "
            + (f"{name}.argmax(-1) for one-hot rows" if target.ndim > 1 else f"{name}.astype('int64')")
        )
    if target.ndim != 1:
        way = f"{name}.ravel()" if target.shape[1:] == (1,) else f"{name}.argmax(-1) for one-hot rows"
        raise ShapeError(
            f"[{verb}] cross_entropy wants labels (N,), {name} has shape {target.shape}; use {way}"
        )


def _check_range(verb: str, name: str, target: Array, classes: int) -> None:  # noqa: ARG001
    wrong = np.flatnonzero((target < 0) | (target >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise ArgumentError(
            f"[{verb}] label {target[first]} of sample {first} is out of range: the model has {classes} classes, "
            f"0 to {classes - 1}"
        )


def _check_shape(loss: Any, name: str, target: Array, output: Tensor) -> None:
    wanted = output.shape[1:]
    if target.shape[1:] == wanted:
        return
    fitting = math.prod(wanted) == math.prod(target.shape[1:])
    way = f"; use {name}.reshape({(-1, *wanted)})" if fitting else ""
    shape = "(" + ", ".join(["N", *map(str, wanted)]) + ("" if wanted else ",") + ")"
    raise ShapeError(f"[{name_of(loss)}] the model's output is {shape}, {name} has shape {target.shape}{way}")
