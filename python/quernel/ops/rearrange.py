"""Cutting, repeating and turning tensors: compositions of slices, joins and reshapes, so that gradients, plans and graphs
come with them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quernel.errors import ArgumentError, ShapeError
from quernel.ops.compare import ge, le
from quernel.ops.create import arange, as_tensor
from quernel.ops.elementwise import add, mul, where
from quernel.ops.indexing import getitem
from quernel.ops.layout import broadcast_to, concat, flatten, reshape
from quernel.ops.op import numpy_names
from quernel.ops.shapes import normalize_axes, normalize_axis
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def flip(x: TensorLike, dims: int | Sequence[int]) -> Tensor:
    """Reverses the order of the elements along the given dimensions.

    Example:
        >>> qn.ops.flip(qn.tensor([[1, 2], [3, 4]]), 1).tolist()
        [[2, 1], [4, 3]]
    """
    a = as_tensor(x)
    turned = normalize_axes("flip", dims, a.ndim)
    return getitem(a, tuple(slice(None, None, -1 if d in turned else None) for d in range(a.ndim)))


@numpy_names
def split(x: TensorLike, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Cuts ``x`` along a dimension, as in PyTorch: into parts of one size (the last may be smaller), or of given sizes.

    Args:
        x: Any tensor.
        split_size_or_sections: One size, or a list of sizes that add up to that of the dimension.
        dim: The dimension.

    Raises:
        ShapeError: The sizes do not add up.

    Example:
        >>> [part.tolist() for part in qn.ops.split(qn.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
    """
    a = as_tensor(x)
    at = normalize_axis("split", dim, a.ndim)
    size = a.shape[at]
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step < 1 and not step == size == 0:
            raise ArgumentError(f"[split] the size of a part must be positive, got {step}")
        sections = [min(step, size - i) for i in range(0, size, step)] if size else [0]
    else:
        sections = [operator.index(n) for n in split_size_or_sections]
        if sum(sections) != size or any(n < 0 for n in sections):
            raise ShapeError(f"[split] sizes {sections} do not add up to {size}, dimension {at} of {a.shape}")
    ends = [sum(sections[: i + 1]) for i in range(len(sections))]
    whole = (slice(None),) * at
    return tuple(getitem(a, (*whole, slice(end - n, end))) for n, end in zip(sections, ends, strict=True))


@numpy_names
def chunk(x: TensorLike, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Cuts ``x`` along a dimension into at most ``chunks`` parts of one size; the last may be smaller.

    Example:
        >>> [part.tolist() for part in qn.ops.chunk(qn.arange(5), 3)]
        [[0, 1], [2, 3], [4]]
    """
    a = as_tensor(x)
    if chunks < 1:
        raise ArgumentError(f"[chunk] the number of parts must be positive, got {chunks}")
    size = a.shape[normalize_axis("chunk", dim, a.ndim)]
    if size == 0:
        return split(a, [0] * chunks, dim)
    return split(a, -(-size // chunks), dim)


def tile(x: TensorLike, dims: int | Sequence[int]) -> Tensor:
    """Repeats ``x`` as a whole so many times along each dimension, counted from the last, as NumPy's ``tile``.

    Example:
        >>> qn.ops.tile(qn.tensor([1, 2]), (2, 2)).tolist()
        [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    a = as_tensor(x)
    counts = [dims] if isinstance(dims, int) else [operator.index(n) for n in dims]
    if any(n < 0 for n in counts):
        raise ArgumentError(f"[tile] counts must not be negative, got {dims}")
    rank = max(len(counts), a.ndim)
    counts = [1] * (rank - len(counts)) + counts
    shape = [1] * (rank - a.ndim) + list(a.shape)
    if all(n == 1 for n in counts):
        return reshape(a, shape)
    out = a
    for at in range(rank - 1, -1, -1):  # one dimension after the other: ranks stay small
        if counts[at] == 1:
            continue
        before, behind = math.prod(shape[:at]), math.prod(shape[at:])
        once = reshape(out, (before, 1, behind))
        out = broadcast_to(once, (before, counts[at], behind))
        shape[at] *= counts[at]
    return reshape(out, shape)


def repeat(x: TensorLike, repeats: int | Sequence[int]) -> Tensor:
    """PyTorch's ``Tensor.repeat``: `tile`, with a count for at least every dimension. See `repeat_interleave` for NumPy's.

    Example:
        >>> qn.ops.repeat(qn.tensor([[1], [2]]), (1, 3)).tolist()
        [[1, 1, 1], [2, 2, 2]]
    """
    a = as_tensor(x)
    counts = (repeats,) if isinstance(repeats, int) else tuple(repeats)
    if len(counts) < a.ndim:
        raise ShapeError(
            f"[repeat] {len(counts)} counts for the {a.ndim} dimensions of {a.shape}; see tile()"
        )
    return tile(a, counts)


@numpy_names
def repeat_interleave(x: TensorLike, repeats: int, dim: int | None = None) -> Tensor:
    """Repeats every element along a dimension (of the flattened tensor by default), as NumPy's ``repeat``.

    Example:
        >>> qn.ops.repeat_interleave(qn.tensor([1, 2]), 3).tolist()
        [1, 1, 1, 2, 2, 2]
    """
    a = as_tensor(x)
    if not hasattr(repeats, "__index__") or repeats < 0:
        raise ArgumentError(f"[repeat_interleave] repeats is one whole number, got {repeats!r}")
    if dim is None:
        a, dim = flatten(a), 0
    at = normalize_axis("repeat_interleave", dim, a.ndim)
    shape = a.shape
    lead = reshape(a, (math.prod(shape[: at + 1]), 1, math.prod(shape[at + 1 :])))
    out = broadcast_to(lead, (lead.shape[0], repeats, lead.shape[2]))
    return reshape(out, (*shape[:at], shape[at] * repeats, *shape[at + 1 :]))


def roll(x: TensorLike, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """Moves the elements along dimensions; what leaves at one end comes in at the other.

    Without ``dims`` the flattened tensor is rolled.

    Example:
        >>> qn.ops.roll(qn.arange(5), 2).tolist()
        [3, 4, 0, 1, 2]
    """
    a = as_tensor(x)
    if dims is None:
        if not isinstance(shifts, int):
            raise ArgumentError(f"[roll] several shifts need dims, got {shifts}")
        return reshape(roll(flatten(a), shifts, 0), a.shape)
    moves = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    if len(moves) != len(axes):
        raise ArgumentError(f"[roll] needs a shift for each dimension, got {shifts} and {dims}")
    for move, dim in zip(moves, axes, strict=True):
        at = normalize_axis("roll", dim, a.ndim)
        size = a.shape[at]
        cut = size - move % size if size else 0
        if cut not in (0, size):
            whole = (slice(None),) * at
            a = concat([getitem(a, (*whole, slice(cut, None))), getitem(a, (*whole, slice(0, cut)))], at)
    return a


def tril(x: TensorLike, diagonal: int = 0) -> Tensor:
    """Returns the lower triangles of the last two dimensions: elements (i, j) with ``j <= i + diagonal``, else 0.

    Example:
        >>> qn.ops.tril(qn.ones((2, 3))).tolist()
        [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    return _triangle("tril", x, diagonal)


def triu(x: TensorLike, diagonal: int = 0) -> Tensor:
    """Returns the upper triangles of the last two dimensions: elements (i, j) with ``j >= i + diagonal``, else 0.

    Example:
        >>> qn.ops.triu(qn.ones((2, 3))).tolist()
        [[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    return _triangle("triu", x, diagonal)


def _triangle(name: str, x: TensorLike, diagonal: int) -> Tensor:
    a = as_tensor(x)
    if a.ndim < 2:
        raise ShapeError(f"[{name}] expects at least two dimensions, got shape {a.shape}")
    rows = reshape(add(arange(a.shape[-2], device=a.device), operator.index(diagonal)), (a.shape[-2], 1))
    kept = (le if name == "tril" else ge)(arange(a.shape[-1], device=a.device), rows)
    return where(kept, a, False if a.dtype == "bool" else 0)


def outer(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the products of every element of one vector with every element of another, (n,) and (m,) to (n, m).

    Example:
        >>> qn.ops.outer(qn.tensor([1, 2]), qn.tensor([3, 4])).tolist()
        [[3, 4], [6, 8]]
    """
    a, b = as_tensor(x), as_tensor(other)
    if a.ndim != 1 or b.ndim != 1:
        raise ShapeError(f"[outer] expects two vectors, got shapes {a.shape} and {b.shape}")
    return mul(reshape(a, (a.size, 1)), b)
