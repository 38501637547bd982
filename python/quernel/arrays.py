"""Arrays that a caller hands over: lists, arrays, tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.errors import DTypeError, ShapeError


def array_of(name: str, what: str, value: Any) -> NDArray[Any]:
    """`value` as an array; tensors lose their gradient.

    Raises:
        ShapeError: it is a list whose items differ in shape.
    """
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except ValueError as error:
        raise ShapeError(f"[{name}] {what} is no array, its items have different shapes ({error})") from None


def numbers_of(name: str, what: str, value: Any, whole: bool = False) -> NDArray[Any]:
    """`value` as an array of real numbers or booleans, or of whole numbers; bfloat16 as float32.

    Raises:
        ShapeError: it is a list whose items differ in shape.
        DTypeError: it holds something else. Without elements it may be of any type if `whole`.
    """
    array = array_of(name, what, value)
    if array.dtype.name == "bfloat16" and not whole:
        return array.astype(np.float32)
    if array.dtype.kind not in ("iu" if whole else "biuf") and (array.size or not whole):
        raise DTypeError(f"[{name}] {what} holds {array.dtype}, expected {'whole ' if whole else ''}numbers")
    return array
