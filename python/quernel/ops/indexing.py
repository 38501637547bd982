"""``x[index]`` and ``x[index] = value`` with everything that NumPy takes between the brackets; masks.

What an index means is worked out in `quernel.ops.subscript`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import _core
from quernel.autograd import Gradients, attach, is_grad_enabled
from quernel.errors import DTypeError, ShapeError, StateError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import promote_types
from quernel.ops.elementwise import where
from quernel.ops.layout import broadcast_to, permute
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast
from quernel.ops.shapes import broadcast_shapes, spec_of
from quernel.ops.subscript import Box, Rows, Shape, expanded, is_basic, item_of, mask_values, without_masks
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _has_arrays(items: list[Any]) -> bool:
    return any(isinstance(item, Tensor) for item in items)


# Reading.


def _getitem_rule(x: Any, index: Any) -> Spec:
    spec = spec_of(x)
    items = expanded("getitem", spec.shape, index)
    if _has_arrays(items):
        return Spec(Rows("getitem", spec.shape, items).shape, spec.dtype)
    return Spec(Box("getitem", spec.shape, items).shape, spec.dtype)


@op(shape=_getitem_rule, name="getitem")
def _getitem(x: TensorLike, index: Any) -> Tensor:
    """`getitem` of an index without masks and lists."""
    a = as_tensor(x)
    shape = a._t.shape
    items = expanded("getitem", shape, index)
    if is_basic(index) or not _has_arrays(items):
        return _slice(a, Box("getitem", shape, items))
    return _take(a, Rows("getitem", shape, items))


def getitem(x: TensorLike, index: Any) -> Tensor:
    """Returns ``x[index]`` as NumPy does; always a copy, unlike in NumPy.

    Args:
        x: Any tensor.
        index: Whole numbers, slices (of any step), None, ``...``, arrays of whole numbers (which broadcast against
            each other; negative ones count from the end) and boolean masks, or a tuple of these. The size of a masked
            result depends on data: such an index reads the mask on the host, so `qn.jit` runs it eagerly.

    Raises:
        OutOfRangeError: A position is out of range (an IndexError).
        ShapeError: Too many indices, arrays that do not broadcast, or a mask of another shape.
        StateError: A mask inside a traced graph.

    Example:
        >>> x = qn.tensor([[1, 2, 3], [4, 5, 6]])
        >>> x[:, ::-2]
        tensor([[3, 1],
               [6, 4]], dtype=int64)
        >>> x[[0, 1, 1], [0, 0, -1]], x[x > 4]
        (tensor([1, 4, 6], dtype=int64), tensor([5, 6], dtype=int64))
    """
    if is_basic(index):
        return _getitem(x, index)
    return _getitem(*without_masks("getitem", as_tensor(x), index))


def _slice(a: Tensor, box: Box) -> Tensor:
    before, dtype, device = a._t.shape, a._t.dtype, a._t.device
    taken = a._t if box.is_all else _core.slice(a._t, box.starts, box.steps, box.sizes)

    def backward(g: Tensor) -> Gradients:
        if box.is_all:
            return (Tensor(g._t.reshape(before)),)
        spread = _core.full(before, 0.0, dtype, device)
        _core.assign_slice_(spread, box.starts, box.steps, box.sizes, g._t.reshape(box.sizes))
        return (Tensor(spread),)

    return attach(taken.reshape(box.shape), (a,), backward)


def _take(x: Tensor, rows: Rows) -> Tensor:
    a = x if rows.box.shape == x._t.shape and rows.box.is_all else _slice(x, rows.box)
    if rows.order is not None:
        a = permute(a, rows.order)
    before, (outer, size, inner) = a._t.shape, rows.view
    index = rows.index()
    y = _core.take_rows("getitem", rows.axis, True, a._t.reshape(rows.view), index)

    def backward(g: Tensor, index: Tensor) -> Gradients:
        source = g._t.reshape((outer, rows.count, inner))
        total = _core.add_rows("getitem", rows.axis, True, None, index._t, source, size)
        return (Tensor(total.reshape(before)),)

    return attach(y.reshape(rows.shape), (a,), backward, (index,))


# Writing.


def assign_(x: Tensor, index: Any, value: TensorLike) -> None:
    """Does ``x[index] = value``: writes in place, for everybody who shares the memory.

    The index is as in `getitem`; where it names an element twice, the last value stays. The value is cast to x's dtype and
    broadcast. The write does not go on the tape: it may overwrite a leaf, but neither may the value need a gradient,
    nor may ``x`` be the result of an op that is on the tape.

    Raises:
        StateError: The write would make a gradient wrong, or ``x`` borrows a read-only array.
        OutOfRangeError: A position is out of range. Nothing has been written.
    """
    source = _assignable(x, value)
    if not is_basic(index):
        mask = item_of("setitem", index) if not isinstance(index, tuple) else None
        if isinstance(mask, Tensor) and mask.dtype == "bool" and _assign_masked(x, mask, source):
            return
        view, items = without_masks("setitem", x.detach(), index)
    else:
        view, items = x, index
    shape = view._t.shape
    every = expanded("setitem", shape, items)
    if _has_arrays(every):
        _assign_rows(view, Rows("setitem", shape, every), source)
    else:
        _assign_box(view, Box("setitem", shape, every), source)


def _assignable(x: Tensor, value: TensorLike) -> Tensor:
    """The value in x's dtype."""
    if x.is_traced:
        raise StateError(
            "[setitem] a traced tensor cannot be written to; combine tensors with where() or concat()"
        )
    if is_grad_enabled():
        if x._node is not None:
            raise StateError(
                "[setitem] this tensor is on the tape and cannot be written to; use detach() or where()"
            )
        if isinstance(value, Tensor) and value._requires_grad:
            raise StateError(
                "[setitem] the value needs a gradient, which a write in place would lose; use value.detach()"
            )
    if x._t.readonly:
        raise StateError("[setitem] this tensor borrows a read-only array; write to x.clone()")
    source = as_tensor(value)
    if source.device != x.device:
        source = Tensor(_core.to_device(source._t, x.device))
    if (
        x.dtype != source.dtype
        and promote_types(x.dtype, source.dtype) != x.dtype
        and isinstance(value, Tensor)
    ):
        raise DTypeError(
            f"[setitem] a {source.dtype} value does not fit a {x.dtype} tensor; cast it with .astype()"
        )
    return cast(source.detach(), x.dtype)


def _broadcast_value(source: Tensor, shape: Shape) -> _core.Tensor:
    have = source._t.shape
    if have == shape:
        return source._t
    lead = len(have) - len(shape)
    fits = all(m in (1, n) for m, n in zip(have[max(lead, 0) :], shape[max(-lead, 0) :], strict=True))
    if not fits or any(n != 1 for n in have[: max(lead, 0)]):
        raise ShapeError(f"[setitem] a value of shape {have} does not broadcast to {shape}")
    return _core.broadcast_to(source._t.reshape(have[max(lead, 0) :]), shape)


def _assign_box(x: Tensor, box: Box, source: Tensor) -> None:
    native = _broadcast_value(source, box.shape)
    if 0 in box.sizes:
        return
    if native.storage_id == x._t.storage_id and not box.is_all:  # x[::-1] = x must not read what it wrote
        native = _core.copy(native)
    if box.is_all:
        _core.copy_into_(x._t, native.reshape(x._t.shape))
    else:
        _core.assign_slice_(x._t, box.starts, box.steps, box.sizes, native.reshape(box.sizes))


def _assign_rows(x: Tensor, rows: Rows, source: Tensor) -> None:
    native = _broadcast_value(source, rows.shape)
    if 0 in rows.shape:
        return
    outer, _, inner = rows.view
    native = native.reshape((outer, rows.count, inner))
    index, box = rows.index(), rows.box
    if index.storage_id == x._t.storage_id:  # x[x] = … must not read what it wrote
        index = _core.copy(index)
    if box.is_all and rows.order is None:
        _core.put_rows_("setitem", rows.axis, True, x._t.reshape(rows.view), index, native)
        return
    part = _core.slice(x._t, box.starts, box.steps, box.sizes).reshape(box.shape)
    if rows.order is not None:
        part = _core.transpose(part, rows.order)
    _core.put_rows_("setitem", rows.axis, True, part.reshape(rows.view), index, native)
    if rows.order is not None:
        part = _core.transpose(part, [rows.order.index(i) for i in range(len(rows.order))])
    _core.assign_slice_(x._t, box.starts, box.steps, box.sizes, part.reshape(box.sizes))


def _assign_masked(x: Tensor, mask: Tensor, source: Tensor) -> bool:
    """``x[mask] = value`` without looking at the mask, where every place gets the same value; else returns False."""
    rank = x.ndim - mask.ndim
    have = source._t.shape
    if rank < 0 or mask.shape != x.shape[: mask.ndim] or mask.is_traced:
        return False
    if len(have) > rank and any(n != 1 for n in have[: len(have) - rank]):
        return False
    native = _broadcast_value(source, x.shape[mask.ndim :])
    chosen = mask._t.reshape((*mask.shape, *[1] * rank))
    _core.copy_into_(x._t, _core.where(chosen, native, x._t))
    return True


# Masks.


def nonzero(x: TensorLike, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
    """Returns where ``x`` is not zero, in row-major order.

    The size of the result depends on data: values are read on the host, so `qn.jit` runs this eagerly.

    Args:
        x: Any tensor.
        as_tuple: Whether to return one tensor per dimension, as NumPy does, which is an index into ``x``.

    Returns:
        (count, dimensions), int64.

    Example:
        >>> qn.ops.nonzero(qn.tensor([[0, 7], [8, 0]]))
        tensor([[0, 1],
               [1, 0]], dtype=int64)
    """
    a = as_tensor(x)
    where_ = np.argwhere(mask_values("nonzero", a))
    if not as_tuple:
        return Tensor(_core.from_numpy(where_, True, a.device))
    columns = [np.ascontiguousarray(column) for column in where_.T]
    return tuple(Tensor(_core.from_numpy(column, True, a.device)) for column in columns)


def _mask_operand(name: str, x: Tensor, mask: TensorLike) -> Tensor:
    m = as_tensor(mask)
    if m.dtype != "bool":
        raise DTypeError(f"[{name}] mask must be bool, got {m.dtype}; write mask != 0")
    broadcast_shapes(name, x.shape, m.shape)
    return m


def masked_select(x: TensorLike, mask: TensorLike) -> Tensor:
    """Returns the elements where ``mask`` holds, in one dimension; the two broadcast.

    The size of the result depends on data: the mask is read on the host, so `qn.jit` runs this eagerly.

    Example:
        >>> qn.ops.masked_select(qn.tensor([[1, 2], [3, 4]]), [True, False])
        tensor([1, 3], dtype=int64)
    """
    a = as_tensor(x)
    m = _mask_operand("masked_select", a, mask)
    shape = broadcast_shapes("masked_select", a.shape, m.shape)
    return getitem(broadcast_to(a, shape), broadcast_to(m, shape))


def masked_fill(x: TensorLike, mask: TensorLike, value: TensorLike) -> Tensor:
    """Returns ``x`` with ``value`` where ``mask`` holds.

    Args:
        x: Any tensor.
        mask: Booleans that broadcast to x's shape.
        value: A number, or a tensor that broadcasts to x's shape and fits its dtype.

    Raises:
        ShapeError: The mask or the value does not broadcast to x's shape.
        DTypeError: The mask is not bool, or x's dtype cannot hold the value.

    Example:
        >>> qn.ops.masked_fill(qn.tensor([1.0, 2.0]), [False, True], -np.inf)
        tensor([  1., -inf], dtype=float32)
    """
    a = as_tensor(x)
    out = where(_mask_operand("masked_fill", a, mask), value, a)
    if out.shape != a.shape:
        raise ShapeError(
            f"[masked_fill] mask and value must broadcast to x's shape {a.shape}, together they have {out.shape}"
        )
    if out.dtype != a.dtype:
        raise DTypeError(f"[masked_fill] x is {a.dtype} and cannot hold {value!r}; cast it with .astype()")
    return out
