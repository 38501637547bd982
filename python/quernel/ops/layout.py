"""Ops that move elements: reshaping, transposing, joining, indexing.

Reshaping shares memory; everything else copies, because tensors are contiguous.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, is_grad_enabled, needs_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError, UnsupportedError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import promote_types
from quernel.ops.op import Spec, numpy_names, op
from quernel.ops.operands import cast, unbroadcast
from quernel.ops.shapes import normalize_axes, normalize_axis, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

BasicIndex = int | slice | EllipsisType | None
Index = BasicIndex | tuple[BasicIndex, ...]
Shape = tuple[int, ...]


def _full_shape(have: Shape, wanted: int | Sequence[int]) -> Shape:
    """The wanted sizes with -1 worked out."""
    sizes = [wanted] if isinstance(wanted, int) else [operator.index(n) for n in wanted]
    volume = math.prod(have)
    if sizes.count(-1) == 1:
        known = math.prod(n for n in sizes if n != -1)
        if known > 0 and volume % known == 0:
            sizes[sizes.index(-1)] = volume // known
    if any(n < 0 for n in sizes) or math.prod(sizes) != volume:
        raise ShapeError(f"[reshape] {volume} elements of shape {have} do not fit shape {wanted}")
    return tuple(sizes)


def _reshape_rule(x: Any, shape: int | Sequence[int]) -> Spec:
    spec = spec_of(x)
    return Spec(_full_shape(spec.shape, shape), spec.dtype)


@op(shape=_reshape_rule)
def reshape(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """Returns the elements under another shape, sharing memory; one size may be -1, to be worked out.

    Example:
        >>> qn.ops.reshape(qn.zeros((2, 3, 4)), (2, -1)).shape
        (2, 12)
    """
    return _reshaped(as_tensor(x), shape)


def _reshaped(a: Tensor, shape: int | Sequence[int]) -> Tensor:
    before = a._t.shape
    out = a._t.reshape(_full_shape(before, shape))
    return attach(out, (a,), lambda g: (Tensor(g._t.reshape(before)),))


def _flat_shape(shape: Shape, start_dim: int, end_dim: int) -> Shape:
    rank = max(len(shape), 1)
    shape = shape or (1,)
    first, last = normalize_axis("flatten", start_dim, rank), normalize_axis("flatten", end_dim, rank)
    if first > last:
        raise ShapeError(f"[flatten] start_dim {start_dim} lies behind end_dim {end_dim} of shape {shape}")
    return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def _flatten_rule(x: Any, start_dim: int = 0, end_dim: int = -1) -> Spec:
    spec = spec_of(x)
    return Spec(_flat_shape(spec.shape, start_dim, end_dim), spec.dtype)


@op(shape=_flatten_rule)
def flatten(x: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Merges the dimensions from ``start_dim`` to ``end_dim`` into one, sharing memory."""
    a = as_tensor(x)
    return _reshaped(a, _flat_shape(a._t.shape, start_dim, end_dim))


def unsqueeze(x: TensorLike, dim: int) -> Tensor:
    """Puts a dimension of size 1 before dimension ``dim``, sharing memory; -1 puts it last."""
    a = as_tensor(x)
    at = normalize_axis("unsqueeze", dim, a.ndim + 1)
    return reshape(a, (*a.shape[:at], 1, *a.shape[at:]))


@numpy_names
def squeeze(x: TensorLike, dim: int | Sequence[int] | None = None) -> Tensor:
    """Takes out the dimensions of size 1, sharing memory: all, or those of the given ones that have this size."""
    a = as_tensor(x)
    dims = normalize_axes("squeeze", dim, a.ndim)
    return reshape(a, tuple(n for i, n in enumerate(a.shape) if n != 1 or i not in dims))


def _permutation(rank: int, dims: Sequence[int]) -> Shape:
    if not isinstance(dims, Sequence):
        raise ArgumentError(f"[permute] dims must name each of the {rank} dimensions once, got {dims}")
    order = tuple(normalize_axis("permute", dim, rank) for dim in dims)
    if sorted(order) != list(range(rank)):
        raise ShapeError(f"[permute] dims {tuple(dims)} must name each of the {rank} dimensions once")
    return order


def _permute_rule(x: Any, dims: Sequence[int]) -> Spec:
    spec = spec_of(x)
    return Spec(tuple(spec.shape[i] for i in _permutation(len(spec.shape), dims)), spec.dtype)


@op(shape=_permute_rule)
def permute(x: TensorLike, dims: Sequence[int]) -> Tensor:
    """Returns a copy whose dimension ``i`` is dimension ``dims[i]`` of ``x``.

    Example:
        >>> qn.ops.permute(qn.zeros((8, 3, 28, 30)), (0, 2, 3, 1)).shape
        (8, 28, 30, 3)
    """
    a = as_tensor(x)
    order = _permutation(a.ndim, dims)
    back = tuple(order.index(i) for i in range(len(order)))
    return attach(_core.transpose(a._t, order), (a,), lambda g: (Tensor(_core.transpose(g._t, back)),))


def transpose(x: TensorLike, dim0: int, dim1: int) -> Tensor:
    """Returns a copy with two dimensions swapped, as in PyTorch; `permute` reorders them all.

    Example:
        >>> qn.ops.transpose(qn.zeros((2, 3, 4)), 0, -1).shape
        (4, 3, 2)
    """
    a = as_tensor(x)
    rank = max(a.ndim, 1)
    if isinstance(dim0, Sequence) or isinstance(dim1, Sequence):
        raise ArgumentError(
            f"[transpose] swaps two dimensions, got {dim0!r} and {dim1!r}; use permute() for more"
        )
    order = list(range(rank))
    i, j = normalize_axis("transpose", dim0, rank), normalize_axis("transpose", dim1, rank)
    order[i], order[j] = order[j], order[i]
    return permute(a, tuple(order[: a.ndim]))


def _concat_rule(tensors: Sequence[Any], dim: int = 0) -> Spec:
    if not tensors:
        raise ArgumentError("[concat] there is nothing to join")
    specs = [spec_of(t) for t in tensors]
    first = specs[0].shape
    at = normalize_axis("concat", dim, len(first))
    dtype = specs[0].dtype
    for i, spec in enumerate(specs):
        if len(spec.shape) != len(first) or any(
            m != n for k, (m, n) in enumerate(zip(spec.shape, first, strict=True)) if k != at
        ):
            raise ShapeError(
                f"[concat] tensor {i} has shape {spec.shape}, the first {first}; only dim {at} may differ"
            )
        dtype = promote_types(dtype, spec.dtype)
    if not first:
        raise ShapeError("[concat] tensors without dimensions cannot be joined; reshape them to (1,)")
    return Spec((*first[:at], sum(s.shape[at] for s in specs), *first[at + 1 :]), dtype)


@op(shape=_concat_rule)
def concat(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Joins tensors along an existing dimension; their other sizes must agree."""
    inputs = [as_tensor(t) for t in tensors]
    spec = _concat_rule(inputs, dim)
    inputs = [cast(t, spec.dtype) for t in inputs]
    at = normalize_axis("concat", dim, len(spec.shape))
    out = _core.concat([t._t for t in inputs], at)
    if not needs_grad(*inputs):
        return Tensor(out)
    shapes = [t._t.shape for t in inputs]
    wanted = [bool(t._requires_grad) for t in inputs]

    def backward(g: Tensor) -> Gradients:
        gradients: list[Tensor | None] = []
        begin = 0
        for shape, want in zip(shapes, wanted, strict=True):
            starts = [begin if k == at else 0 for k in range(len(shape))]
            part = Tensor(_core.slice(g._t, starts, [1] * len(shape), shape)) if want else None
            gradients.append(part)
            begin += shape[at]
        return gradients

    return put_on_tape(out, inputs, backward)


@numpy_names
def stack(tensors: Sequence[TensorLike], dim: int = 0) -> Tensor:
    """Joins tensors of one shape along a new dimension ``dim``.

    Example:
        >>> qn.ops.stack([qn.tensor([1, 2]), qn.tensor([3, 4])], dim=1).tolist()
        [[1, 3], [2, 4]]
    """
    inputs = [as_tensor(t) for t in tensors]
    for i, t in enumerate(inputs):
        if t.shape != inputs[0].shape:
            raise ShapeError(f"[stack] tensor {i} has shape {t.shape}, the first {inputs[0].shape}")
    return concat(
        [unsqueeze(t, dim) for t in inputs], inputs[0].ndim + 1 + dim if inputs and dim < 0 else dim
    )


def _broadcast_rule(x: Any, shape: Sequence[int]) -> Spec:
    spec = spec_of(x)
    wanted = tuple(operator.index(n) for n in shape)
    lead = len(wanted) - len(spec.shape)
    if lead < 0 or any(m not in (1, n) for m, n in zip(spec.shape, wanted[lead:], strict=True)):
        raise ShapeError(f"[broadcast_to] shape {spec.shape} does not broadcast to {wanted}")
    return Spec(wanted, spec.dtype)


@op(shape=_broadcast_rule)
def broadcast_to(x: TensorLike, shape: Sequence[int]) -> Tensor:
    """Repeats ``x`` along dimensions of size 1 and new leading ones until it has this shape."""
    a = as_tensor(x)
    wanted = _broadcast_rule(a, shape).shape
    before = a._t.shape
    return attach(_core.broadcast_to(a._t, wanted), (a,), lambda g: (unbroadcast(g, before),))


class _Selection:
    """A basic index worked out for a shape: a strided box, and the shape under which it is returned."""

    def __init__(self, name: str, shape: Shape, index: Any) -> None:
        self.starts: list[int] = []
        self.steps: list[int] = []
        self.sizes: list[int] = []
        result: list[int] = []
        items = index if isinstance(index, tuple) else (index,)
        used = sum(item is not None and item is not Ellipsis for item in items)
        dots = sum(item is Ellipsis for item in items)
        if used > len(shape) or dots > 1:
            raise ShapeError(f"[{name}] index {index!r} does not fit a tensor of shape {shape}")
        whole: list[Any] = [slice(None)] * (len(shape) - used)
        at = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
        for item in (*items[:at], *whole, *items[at + 1 :]):
            if item is None:
                result.append(1)
            else:
                self._take(name, shape, item, result)
        self.shape = tuple(result)
        self.is_all = tuple(self.sizes) == shape and all(s == 1 for s in self.steps)

    def _take(self, name: str, shape: Shape, item: Any, result: list[int]) -> None:
        axis = len(self.starts)
        size = shape[axis]
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            count = len(range(start, stop, step))
            result.append(count)
        else:
            start, step, count = _position(name, item, size, axis), 1, 1
        self.starts.append(start if count else 0)
        self.steps.append(step)
        self.sizes.append(count)


def _position(name: str, item: Any, size: int, axis: int) -> int:
    if isinstance(item, bool) or not hasattr(item, "__index__") or getattr(item, "ndim", 0) > 0:
        raise UnsupportedError(
            f"[{name}] indices are whole numbers, slices, None and ...; for masks and lists of positions index x.numpy()"
        )
    position = operator.index(item)
    if not -size <= position < size:
        raise IndexError(f"[{name}] index {position} is out of range for axis {axis} of size {size}")
    return position + size if position < 0 else position


def _getitem_rule(x: Any, index: Index) -> Spec:
    spec = spec_of(x)
    return Spec(_Selection("getitem", spec.shape, index).shape, spec.dtype)


@op(shape=_getitem_rule)
def getitem(x: TensorLike, index: Index) -> Tensor:
    """Returns ``x[index]`` for whole numbers, slices (of any step), None and ``...``; a copy, unlike in NumPy.

    Example:
        >>> qn.tensor([[1, 2, 3], [4, 5, 6]])[:, ::-2]
        tensor([[3, 1],
               [6, 4]], dtype=int64)
    """
    a = as_tensor(x)
    before, dtype = a._t.shape, a._t.dtype
    box = _Selection("getitem", before, index)
    taken = a._t if box.is_all else _core.slice(a._t, box.starts, box.steps, box.sizes)

    def backward(g: Tensor) -> Gradients:
        if box.is_all:
            return (Tensor(g._t.reshape(before)),)
        spread = _core.full(before, 0.0, dtype)
        _core.assign_slice_(spread, box.starts, box.steps, box.sizes, g._t.reshape(box.sizes))
        return (Tensor(spread),)

    return attach(taken.reshape(box.shape), (a,), backward)


def assign_(x: Tensor, index: Index, value: TensorLike) -> None:
    """Does ``x[index] = value``: writes in place, for everybody who shares the memory.

    The value is cast to x's dtype and broadcast. The write does not go on the tape: it may overwrite a leaf, but neither
    may the value need a gradient, nor may ``x`` be the result of an op that is on the tape.

    Raises:
        StateError: The write would make a gradient wrong, or ``x`` borrows a read-only array.
    """
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
    if (
        x.dtype != source.dtype
        and promote_types(x.dtype, source.dtype) != x.dtype
        and isinstance(value, Tensor)
    ):
        raise DTypeError(
            f"[setitem] a {source.dtype} value does not fit a {x.dtype} tensor; cast it with .astype()"
        )
    box = _Selection("setitem", x._t.shape, index)
    have = source.shape
    lead = len(have) - len(box.shape)
    fits = all(m in (1, n) for m, n in zip(have[max(lead, 0) :], box.shape[max(-lead, 0) :], strict=True))
    if not fits or any(n != 1 for n in have[: max(lead, 0)]):
        raise ShapeError(f"[setitem] a value of shape {have} does not broadcast to {box.shape}")
    if 0 in box.sizes:
        return
    native = cast(source.detach(), x.dtype)._t
    if have != box.shape:
        native = _core.broadcast_to(native.reshape(have[max(lead, 0) :]), box.shape)
    elif native.storage_id == x._t.storage_id and not box.is_all:  # x[::-1] = x must not read what it wrote
        native = _core.copy(native)
    if box.is_all:
        _core.copy_into_(x._t, native.reshape(x._t.shape))
    else:
        _core.assign_slice_(x._t, box.starts, box.steps, box.sizes, native.reshape(box.sizes))
