"""What stands between the brackets of ``x[index]``, worked out for a shape.

An index goes through up to three stages. Boolean masks become arrays of positions (`without_masks`), which reads them
on the host, because the size of the result depends on them. Whole numbers, slices, None and ``...`` then choose a
strided box (`Box`). Arrays of whole numbers at last choose rows of that box, seen as (outer, rows, inner): where
several arrays index several dimensions, these are merged into one and the arrays folded into one index
(`Rows`).
"""

from __future__ import annotations

import math
import operator
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import _core
from quernel.errors import DTypeError, OutOfRangeError, ShapeError, StateError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import INTEGER
from quernel.ops.embedding import index_operand
from quernel.ops.layout import reshape
from quernel.ops.shapes import broadcast_shapes
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

Item = int | slice | EllipsisType | None | Tensor  # of an index without masks
Shape = tuple[int, ...]

_BASIC = (int, slice, EllipsisType, type(None))


def is_basic(index: Any) -> bool:
    """Whether an index has neither arrays nor masks: whole numbers, slices, None and ``...`` alone."""
    if type(index) is not tuple:
        return type(index) in _BASIC
    for item in index:  # noqa: SIM110 - all() takes twice as long
        if type(item) not in _BASIC:
            return False
    return True


def expanded(name: str, shape: Shape, index: Any) -> list[Any]:
    """The items of an index, its ``...`` (or its end) replaced by full slices for the dimensions it leaves out.

    A ``...`` for no dimension at all stays: in NumPy it parts the arrays on its sides.
    """
    items = list(index) if isinstance(index, tuple) else [index]
    used, dots, at = 0, 0, len(items)
    for i, item in enumerate(items):
        if item is Ellipsis:
            dots, at = dots + 1, i
        else:
            used += 1 if type(item) is int or type(item) is slice else _consumed(item)
    if used > len(shape) or dots > 1:
        shown = ", ".join(f"array {i.shape}" if isinstance(i, Tensor) else repr(i) for i in items)
        raise ShapeError(f"[{name}] index [{shown}] does not fit a tensor of shape {shape}")
    if used < len(shape):
        items[at : at + 1] = [slice(None)] * (len(shape) - used)
    return items


def _consumed(item: Any) -> int:
    """How many dimensions an item indexes."""
    if item is None or isinstance(item, bool):
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype == "bool" else 1


def _position(name: str, item: Any, size: int, axis: int) -> int:
    position = operator.index(item)
    if not -size <= position < size:
        raise OutOfRangeError(f"[{name}] index {position} is out of range for axis {axis} of size {size}")
    return position + size if position < 0 else position


class Box:
    """Whole numbers, slices and None worked out for a shape: a strided box, and the shape under which it is returned."""

    def __init__(self, name: str, shape: Shape, items: Sequence[Any]) -> None:
        self.starts: list[int] = []
        self.steps: list[int] = []
        self.sizes: list[int] = []
        result: list[int] = []
        for item in items:
            if item is None or item is Ellipsis:
                result.extend([1] if item is None else [])
                continue
            axis = len(self.starts)
            if isinstance(item, slice):
                start, stop, step = item.indices(shape[axis])
                count = len(range(start, stop, step))
                result.append(count)
            else:
                start, step, count = _position(name, item, shape[axis], axis), 1, 1
            self.starts.append(start if count else 0)
            self.steps.append(step)
            self.sizes.append(count)
        self.shape = tuple(result)
        self.is_all = tuple(self.sizes) == shape and all(s == 1 for s in self.steps)


class Rows:
    """An index with arrays worked out for a shape.

    Attributes:
        items: The index of the box: arrays have become full slices, whole numbers slices of size 1.
        order: How the box's dimensions are permuted, or None. As in NumPy, indexed dimensions with anything between
            them go to the front.
        view: The box, permuted, as (outer, rows, inner).
        shape: Of the result.
    """

    def __init__(self, name: str, shape: Shape, items: Sequence[Any]) -> None:
        self.name = name
        self.items: list[Any] = []
        self._arrays: list[tuple[int, int, Tensor]] = []  # axis of x, its size, indices
        indexed: list[int] = []  # dimensions of the box
        axis = 0
        gap = apart = False  # whether something else stands behind an indexed dimension, and between two
        for item in items:
            if item is None or item is Ellipsis or isinstance(item, slice):
                gap = bool(indexed)
                self.items.extend([] if item is Ellipsis else [item])
                axis += isinstance(item, slice)
                continue
            apart |= gap
            indexed.append(len(self.items))
            if isinstance(item, Tensor):
                self._arrays.append((axis, shape[axis], item))
                self.items.append(slice(None))
            else:
                position = _position(name, item, shape[axis], axis)
                self.items.append(slice(position, position + 1))
            axis += 1
        self.box = Box(name, shape, self.items)
        self.index_shape: Shape = ()
        for _, _, array in self._arrays:
            self.index_shape = broadcast_shapes(name, self.index_shape, array.shape)
        sizes, first, last = self.box.shape, indexed[0], indexed[-1] + 1
        self.order: Shape | None = None
        if apart:
            rest = [i for i in range(len(sizes)) if i not in indexed]
            self.order = (*indexed, *rest)
            sizes, first, last = tuple(sizes[i] for i in self.order), 0, len(indexed)
        self.view = (math.prod(sizes[:first]), math.prod(sizes[first:last]), math.prod(sizes[last:]))
        self.count = math.prod(self.index_shape)
        self.shape = (*sizes[:first], *self.index_shape, *sizes[last:])

    def index(self) -> _core.Tensor:
        """The row numbers, checked by dimension."""
        folded: _core.Tensor | None = None
        for axis, size, array in self._arrays:
            native = index_operand(self.name, array)._t
            if len(self._arrays) == 1:
                return native
            if native.shape != self.index_shape:
                native = _core.fold_index(self.name, axis, True, None, native, size)
                native = _core.broadcast_to(native, self.index_shape)
            folded = _core.fold_index(self.name, axis, True, folded, native, size)
        assert folded is not None
        return folded

    @property
    def axis(self) -> int:
        """The first indexed dimension, for messages."""
        return self._arrays[0][0]


def without_masks(name: str, x: Tensor, index: Any) -> tuple[Tensor, tuple[Item, ...]]:
    """Masks replaced by arrays of positions, in x with the masked dimensions merged; lists and arrays by tensors."""
    items = [item_of(name, item) for item in (index if isinstance(index, tuple) else (index,))]
    if not any(isinstance(i, bool) or (isinstance(i, Tensor) and i.dtype == "bool") for i in items):
        return x, tuple(items)
    shape: list[int] = []
    axis, result = 0, list[Item]()
    for item in expanded(name, x.shape, tuple(items)):
        if isinstance(item, bool):  # picks all or nothing of a new dimension
            shape.append(1)
            result.append(as_tensor(np.zeros(int(item), np.int64)))
            continue
        consumed = 0 if item is Ellipsis else _consumed(item)
        covered = x.shape[axis : axis + consumed]
        if consumed == 0 and isinstance(item, Tensor):
            shape.append(1)
            result.append(_true_positions(name, item))
        elif isinstance(item, Tensor) and item.dtype == "bool":
            if item.shape != covered:
                raise ShapeError(
                    f"[{name}] a mask of shape {item.shape} does not fit the dimensions {covered} from axis {axis} on "
                    f"(x: {x.shape})"
                )
            shape.append(math.prod(covered))
            result.append(_true_positions(name, item))
        else:
            shape.extend(covered)
            result.append(item)
        axis += consumed
    return reshape(x, tuple(shape)), tuple(result)


def item_of(name: str, item: Any) -> Any:
    """One item of an index: a whole number, a slice, None, ``...``, a bool or a tensor."""
    if isinstance(item, bool | np.bool_):
        return bool(item)
    if type(item) in _BASIC:
        return item
    if not isinstance(item, Tensor):
        if isinstance(item, list) and not item:
            item = np.zeros(0, np.int64)
        if isinstance(item, np.ndarray | list) or (
            hasattr(item, "__array__") and not hasattr(item, "__index__")
        ):
            item = as_tensor(item)
        elif hasattr(item, "__index__"):
            return operator.index(item)
        else:
            raise DTypeError(
                f"[{name}] indices are whole numbers, slices, None, ... and arrays of whole numbers or booleans, "
                f"got {item!r}"
            )
    if item.dtype not in (*INTEGER, "bool"):
        raise DTypeError(
            f"[{name}] arrays of indices hold whole numbers or booleans, got {item.dtype}; cast with .astype('int64')"
        )
    return item


def _true_positions(name: str, mask: Tensor) -> Tensor:
    """Where a mask holds, in row-major order, counted over all its dimensions."""
    return Tensor(_core.from_numpy(np.flatnonzero(mask_values(name, mask)), True, mask.device))


def mask_values(name: str, mask: Tensor) -> np.ndarray[Any, Any]:
    """The values of a mask whose number of true ones decides the size of a result."""
    if mask.is_traced:
        raise StateError(
            f"[{name}] how much a mask selects depends on data, which a traced graph cannot hold; use where() or "
            "masked_fill()"
        )
    values: np.ndarray[Any, Any] = mask._host(f"{name} with a mask").numpy()
    return values
