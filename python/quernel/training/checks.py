"""What data must be: finite, of the losses' kind, of the outputs' shape."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import losses
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.tensor import Tensor
from quernel.training.objective import function_of, name_of

Array = NDArray[Any]

_CLASSES = frozenset({losses.cross_entropy, losses.nll})  # want a class number for each sample
_LIKE_OUTPUT = frozenset(  # want a target of the output's shape
    {
        losses.mse,
        losses.mae,
        losses.huber,
        losses.smooth_l1,
        losses.binary_cross_entropy,
        losses.binary_cross_entropy_with_logits,
        losses.kl_divergence,
    }
)
_PROBABILITIES = frozenset(
    {losses.binary_cross_entropy, losses.binary_cross_entropy_with_logits, losses.kl_divergence}
)


_OF_LOGITS = frozenset({losses.binary_cross_entropy_with_logits, losses.focal})


def threshold_of(loss: Any) -> float | None:
    """What decides between two classes in an output that `loss` trains; None: 0.5."""
    return 0.0 if function_of(loss) in _OF_LOGITS else None


def wants_classes(loss: Any, target: Array, output: Tensor) -> bool:
    """Whether targets are class numbers, one for each vector of scores."""
    function = function_of(loss)
    if function is losses.focal:  # of classes, or of yes-or-no decisions
        return bool(target.ndim < output.ndim)
    return function in _CLASSES and not _is_distribution(loss, target, output)


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
    function = function_of(loss)
    if function is losses.ctc:
        _check_spelled(verb, name, loss, target, output[0] if isinstance(output, tuple) else output)
    if not isinstance(output, Tensor):
        return
    if wants_classes(loss, target, output):
        _check_labels(verb, name, loss, target, output.shape[1:-1])
        _check_range(verb, target, output.shape[-1], _ignored(loss))
    elif _is_distribution(loss, target, output):
        _check_probabilities(verb, name, loss, target, "whole class numbers, or probabilities")
    elif function in _LIKE_OUTPUT:
        _check_shape(loss, name, target, output)
        if function in _PROBABILITIES and not _options(loss).get("log_target"):
            _check_probabilities(verb, name, loss, target, "probabilities")


def _check_spelled(verb: str, name: str, loss: Any, target: Array, log_probs: Any) -> None:
    """Raises if no alignment spells a target, so that its loss and the mean would be infinite."""
    if _options(loss).get("zero_infinity") or target.ndim != 2 or log_probs.ndim != 3:
        return  # other shapes are named by the loss
    there = target >= 0
    needed = there.sum(1) + ((target[:, 1:] == target[:, :-1]) & there[:, 1:]).sum(1)
    steps = log_probs.shape[1]
    if needed.max(initial=0) > steps:
        row = int((needed > steps).argmax())
        raise ArgumentError(
            f"[{verb}] row {row} of {name} has {there[row].sum()} labels, which take {needed[row]} steps with a blank between equal "
            f"neighbours; the model gives {steps} ({(needed > steps).sum()} of {len(target)} rows): drop such rows, or compile "
            "with nn.CTCLoss(zero_infinity=True), which leaves them out"
        )


def _check_probabilities(verb: str, name: str, loss: Any, target: Array, wanted: str) -> None:
    wrong = np.argwhere(~((target >= 0) & (target <= 1 + 1e-5)))  # as the kernel has it
    if wrong.size:
        first = tuple(int(i) for i in wrong[0])
        raise ArgumentError(
            f"[{verb}] {name_of(loss)} wants {wanted} from 0 to 1; {name} is {target[first]} at {first}"
        )


def _options(loss: Any) -> dict[str, Any]:
    """What a loss was made with."""
    return loss.keywords if isinstance(loss, functools.partial) else getattr(loss, "__dict__", {})


def _is_distribution(loss: Any, target: Array, output: Tensor) -> bool:
    """Whether a target gives each sample probabilities of the classes."""
    fits = target.dtype.kind == "f" and target.shape[1:] == output.shape[1:]
    return fits and function_of(loss) is losses.cross_entropy


def _ignored(loss: Any) -> int:
    """The label that a loss leaves out."""
    return int(_options(loss).get("ignore_index", -100))


def _check_labels(verb: str, name: str, loss: Any, target: Array, wanted: tuple[int, ...]) -> None:
    """Raises if targets are no class numbers, or not one for each vector of scores."""
    if target.dtype.kind == "f":
        raise DTypeError(
            f"[{verb}] {name_of(loss)} wants whole class numbers, {name} holds {target.dtype}; use "
            + (f"{name}.argmax(-1) for one-hot rows" if target.ndim > 1 else f"{name}.astype('int64')")
        )
    if target.shape[1:] != wanted:
        way = f"{name}.argmax(-1) for one-hot rows"
        if math.prod(target.shape[1:]) == math.prod(wanted):
            way = f"{name}.reshape({(-1, *wanted)})" if wanted else f"{name}.ravel()"
        shape = "(" + ", ".join(["N", *map(str, wanted)]) + ("" if wanted else ",") + ")"
        raise ShapeError(
            f"[{verb}] {name_of(loss)} wants labels {shape}, {name} has shape {target.shape}; use {way}"
        )


def _check_range(verb: str, target: Array, classes: int, ignored: int) -> None:
    wrong = np.argwhere(((target < 0) | (target >= classes)) & (target != ignored))
    if wrong.size:
        first = tuple(int(i) for i in wrong[0])
        place = f", position {first[1:]}," if len(first) > 1 else ""
        raise ArgumentError(
            f"[{verb}] label {target[first]} of sample {first[0]}{place} is out of range: the model has {classes} classes, "
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
