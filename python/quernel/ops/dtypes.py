"""Names of dtypes and PyTorch's promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from quernel.errors import DTypeError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

# In order of promotion within a kind; kinds are ordered bool < integer < floating.
HALF = ("float16", "bfloat16")  # casts and a few products have them
FLOATING = (*HALF, "float32", "float64")
INTEGER = ("uint8", "int8", "int32", "int64")
DTYPES = ("bool", *INTEGER, *FLOATING)

_RANK = {name: i for i, name in enumerate(DTYPES)}


def dtype_name(dtype: DTypeLike) -> str:
    """The name of a dtype given as a name, a NumPy dtype or a Python type.

    Raises:
        DTypeError: Tensors do not have this dtype.
    """
    if isinstance(dtype, str) and dtype in _RANK:
        return dtype
    try:
        name = np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _RANK:
        raise DTypeError(f"[dtype] tensors cannot hold {name}; use one of {', '.join(DTYPES)}")
    return name


def kind(dtype: str) -> int:
    """0 for bool, 1 for integers, 2 for floating dtypes."""
    return 2 if dtype in FLOATING else 1 if dtype in INTEGER else 0


def promote_types(a: str, b: str) -> str:
    """The dtype of an operation on two tensors that both have dimensions.

    As in PyTorch, with one difference: uint8 with int8 gives int32, because there is no int16.
    """
    if {a, b} == {"uint8", "int8"}:
        return "int32"
    if {a, b} == {"float16", "bfloat16"}:
        return "float32"
    return max(a, b, key=_RANK.__getitem__)


def scalar_dtype(value: bool | float) -> str:
    """The dtype of a Python number on its own."""
    if isinstance(value, bool | np.bool_):
        return "bool"
    return "int64" if isinstance(value, int | np.integer) else "float32"


def whole_range(dtype: str) -> tuple[int, int]:
    """The least and the largest value of an integer dtype."""
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def combine(higher: str, lower: str) -> str:
    """The dtype of an operation whose second operand matters only if it is of a higher kind."""
    return promote_types(higher, lower) if kind(lower) > kind(higher) else higher
