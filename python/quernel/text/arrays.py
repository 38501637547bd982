"""Arrays that a caller hands over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def array_of(name: str, what: str, value: ArrayLike) -> NDArray[Any]:
    """`value` as an array; lists that differ in length are none."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"[{name}] {what} is no array ({error})") from None


def numbers_of(name: str, what: str, value: ArrayLike, whole: bool = False) -> NDArray[Any]:
    """`value` as an array of real numbers, or of whole ones; one without elements may be of any type."""
    array = array_of(name, what, value)
    real = array.dtype.kind in ("iu" if whole else "biuf") or (array.dtype.name == "bfloat16" and not whole)
    if array.size and not real:
        raise DTypeError(f"[{name}] {what} holds {'whole ' if whole else ''}numbers, got {array.dtype}")
    return array
