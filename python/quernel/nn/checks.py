"""Checks of layers' arguments."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, Literal

from quernel.errors import ArgumentError, DTypeError
from quernel.ops.create import as_tensor
from quernel.ops.op import NotTensorLike
from quernel.tensor import Tensor

Size2 = int | Sequence[int]
Pair = tuple[int, int]
Padding = Size2 | Literal["same"]


def positive(layer: str, name: str, value: int) -> int:
    """`value`, if it is an integer above 0."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise ArgumentError(f"[{layer}] {name} is a positive integer, got {value!r}")
    return int(value)


def pair(layer: str, name: str, value: Size2, least: int = 1) -> Pair:
    """`value` for height and width: an integer stands for both."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    for v in values:
        if isinstance(v, bool) or not hasattr(v, "__index__") or int(v) < least:
            raise ArgumentError(f"[{layer}] {name} holds integers from {least} on, got {value!r}")
    if len(values) != 2:
        raise ArgumentError(f"[{layer}] {name} is one integer or a pair (height, width), got {value!r}")
    return int(values[0]), int(values[1])


def number(layer: str, name: str, value: object) -> float:
    """`value`, if it is a real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"[{layer}] {name} is a number, got {value!r}")
    return float(value)


def in_unit_interval(layer: str, name: str, value: object) -> float:
    """`value`, if it lies in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise ArgumentError(f"[{layer}] {name} lies between 0 and 1, got {value!r}")
    return float(value)


def one_of(layer: str, name: str, value: Any, known: tuple[Any, ...]) -> Any:
    """`value`, if it is among those known."""
    if value not in known:
        raise ArgumentError(f"[{layer}] {name} is one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def operand(layer: str, name: str, value: Any) -> Tensor:
    """`value` as a tensor, where a layer looks at shapes before any op does: lists are operands too."""
    try:
        return as_tensor(value)
    except NotTensorLike as error:
        raise DTypeError(f"[{layer}] {name}: {error.reason}") from None
