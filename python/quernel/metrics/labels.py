"""From what a model returns to class numbers: how every metric of classes reads outputs and targets.

====================== ================= ===========================================================================
output                 target            meaning
====================== ================= ===========================================================================
floats (..., C), C > 1 whole (...)       scores of C classes; the first largest one is the decision
floats (..., C), C > 1 floats (..., C)   the same; each row of the target is a distribution over the classes (one-hot,
                                         soft labels), its first largest entry is the label
floats of one shape,   numbers 0 and 1   scores of class 1; above the threshold is the decision 1
or (..., 1) to (...)
integers or booleans   whole, same shape the decisions themselves
====================== ================= ===========================================================================

Targets equal to `ignore_index` (-100, as in `losses.cross_entropy`) are left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from quernel.arrays import numbers_of
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.metrics.base import Array, weights_of

IGNORED = -100


class Decisions(NamedTuple):
    """Decided and true classes (int64), and the weight of each or None, all flat; `classes` is a lower bound."""

    decided: Array
    true: Array
    weights: Array | None
    classes: int


class Scores(NamedTuple):
    """Scores (n, C), true classes (n,) and the weight of each or None; C is 1 for the scores of class 1 alone."""

    scores: Array
    true: Array
    weights: Array | None


def scores_of(name: str, output: Any, target: Any, sample_weight: Any, ignore_index: int = IGNORED) -> Scores:
    """Reads a batch whose outputs are scores.

    Raises:
        ShapeError, DTypeError, ArgumentError: outputs, targets and weights do not fit each other.
    """
    output, target = numbers_of(name, "output", output), numbers_of(name, "target", target)
    if output.ndim == 0:
        raise ShapeError(f"[{name}] output is a single number; the first axis must count the samples")
    several = output.ndim > 1 and output.shape[-1] > 1
    if several and target.shape == output.shape:
        target = _most_probable(name, target)
    if target.shape not in ((output.shape[:-1],) if several else _shapes_of_one(output)):
        wanted = output.shape[:-1] if several or output.shape[-1:] == (1,) else output.shape
        raise ShapeError(
            f"[{name}] output has shape {output.shape}, expected labels {wanted}, got {target.shape}"
        )
    classes = output.shape[-1] if several else 1
    weights = weights_of(name, sample_weight, target.shape)
    true = _whole(name, target).reshape(-1)
    scores = output.reshape(-1, classes)
    kept = true != ignore_index
    if not kept.all():
        scores, true, weights = scores[kept], true[kept], None if weights is None else weights[kept]
    check_labels(name, true, max(classes, 2), kept)
    return Scores(scores, true, weights)


def decisions_of(
    name: str, output: Any, target: Any, sample_weight: Any, threshold: float, ignore_index: int = IGNORED
) -> Decisions:
    """Reads a batch whose outputs are scores or decisions.

    Raises:
        ShapeError, DTypeError, ArgumentError: outputs, targets and weights do not fit each other.
    """
    output, target = numbers_of(name, "output", output), numbers_of(name, "target", target)
    if output.dtype.kind == "f":
        scores, true, weights = scores_of(name, output, target, sample_weight, ignore_index)
        classes = scores.shape[1]
        decided = scores.argmax(1) if classes > 1 else (scores[:, 0] > threshold).astype(np.int64)
        return Decisions(decided, true, weights, max(classes, 2))
    if output.shape != target.shape or output.ndim == 0:
        raise ShapeError(
            f"[{name}] decisions have shape {output.shape}, labels {target.shape}; expected one shape"
        )
    decided, true = output.astype(np.int64).reshape(-1), _whole(name, target).reshape(-1)
    weights = weights_of(name, sample_weight, target.shape)
    kept = true != ignore_index
    decided, true = decided[kept], true[kept]
    check_labels(name, true, None, kept)
    if (decided < 0).any():
        raise ArgumentError(f"[{name}] decisions are class numbers from 0, got {decided.min()}")
    most = int(max(decided.max(initial=0), true.max(initial=0)))
    return Decisions(decided, true, None if weights is None else weights[kept], most + 1)


def check_labels(name: str, true: Array, classes: int | None, kept: Array) -> None:
    """Raises ArgumentError for a label outside the classes; `kept` says which rows of the batch `true` comes from."""
    wrong = np.flatnonzero((true < 0) | (true >= (np.inf if classes is None else classes)))
    if wrong.size:
        row = int(np.flatnonzero(kept)[wrong[0]])
        there_are = "" if classes is None else f" for {classes} classes (0 to {classes - 1})"
        raise ArgumentError(f"[{name}] label {true[wrong[0]]} at row {row} is out of range{there_are}")


def _shapes_of_one(output: Array) -> tuple[tuple[int, ...], ...]:
    return (output.shape, output.shape[:-1]) if output.shape[-1] == 1 and output.ndim > 1 else (output.shape,)


def _whole(name: str, target: Array) -> Array:
    if target.dtype.kind == "f":
        wrong = np.flatnonzero(target != np.floor(target))  # NaN is one
        if wrong.size:
            raise DTypeError(f"[{name}] labels are whole numbers, got {target.reshape(-1)[wrong[0]]}")
    return target.astype(np.int64)


def _most_probable(name: str, target: Array) -> Array:
    if not ((target >= 0).all() and np.allclose(target.sum(-1, dtype=np.float64), 1, atol=1e-3)):
        raise ShapeError(
            f"[{name}] expected labels {target.shape[:-1]}, or a distribution over the {target.shape[-1]} classes in each "
            f"row of the target; got {target.shape}. For independent yes-or-no outputs compare x.ravel() and y.ravel()"
        )
    labels: Array = target.argmax(-1)
    return labels
