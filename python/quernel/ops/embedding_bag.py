"""Sums, means and maxima of rows of a table: what bags of words are made of.

One kernel reads the rows of a bag and writes their reduction: no tensor holds the rows themselves. Sums run in the order of
the lookups, so results repeat bit for bit at any thread count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, RowsOfTable, needs_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import INTEGER
from quernel.ops.embedding import index_operand, index_spec, padding_row
from quernel.ops.op import Spec, op
from quernel.ops.operands import native
from quernel.ops.shapes import check_floating, check_same_dtype, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

_NAME = "embedding_bag"
MODES = ("sum", "mean", "max")


def check_mode(mode: str, sparse: bool) -> None:
    """Raises ArgumentError for what is no mode, or none with gradients by rows."""
    if mode not in MODES:
        raise ArgumentError(f"[{_NAME}] mode is 'sum', 'mean' or 'max', got {mode!r}")
    if sparse and mode == "max":
        raise ArgumentError(f"[{_NAME}] mode 'max' has dense gradients only; use sparse=False, or mode 'sum'")


def _bags(index: tuple[int, ...], offsets: Any, closed: bool) -> int:
    """How many bags there are."""
    if offsets is None:
        if len(index) != 2:
            raise ShapeError(
                f"[{_NAME}] indices have shape (N, L), or one dimension with offsets; got {index} without offsets"
            )
        if closed:
            raise ArgumentError(f"[{_NAME}] include_last_offset is about offsets, and there are none")
        return index[0]
    shape, dtype = spec_of(offsets)
    if dtype not in INTEGER:
        raise DTypeError(f"[{_NAME}] offsets are whole numbers, got {dtype}; cast with .astype('int64')")
    if len(index) != 1 or len(shape) != 1:
        raise ShapeError(
            f"[{_NAME}] indices and offsets have one dimension each, got {index} and {shape}; indices of shape (N, L) "
            "take no offsets"
        )
    bags = shape[0] - closed
    if bags < 0 or (bags == 0 and index[0] > 0):
        raise ShapeError(f"[{_NAME}] {shape[0]} offsets make no bag for {index[0]} indices")
    return bags


def _embedding_bag_rule(
    indices: Any,
    weight: Any,
    offsets: Any = None,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Spec:
    index, table = index_spec(_NAME, indices), spec_of(weight)
    check_mode(mode, sparse)
    if len(table.shape) != 2:
        raise ShapeError(
            f"[{_NAME}] weight must have shape (num_embeddings, embedding_dim), got {table.shape}"
        )
    check_floating(_NAME, "weight", table.dtype)
    padding_row(_NAME, table.shape[0], padding_idx)
    if per_sample_weights is not None:
        if mode != "sum":
            raise ArgumentError(f"[{_NAME}] per_sample_weights are for mode 'sum', got mode {mode!r}")
        factors = spec_of(per_sample_weights)
        if factors.shape != index.shape:
            raise ShapeError(
                f"[{_NAME}] per_sample_weights must have the shape of indices, {index.shape}, got {factors.shape}"
            )
        check_same_dtype(_NAME, "weight", table.dtype, "per_sample_weights", factors.dtype)
    return Spec((_bags(index.shape, offsets, include_last_offset), table.shape[1]), table.dtype)


@op(shape=_embedding_bag_rule)
def embedding_bag(
    indices: TensorLike,
    weight: TensorLike,
    offsets: TensorLike | None = None,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: TensorLike | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Returns the sum, mean or maximum of the rows of ``weight`` that each bag of indices names.

    Args:
        indices: (N, L), a bag in each row; or (n,), with `offsets`. Whole numbers from 0 to num_embeddings - 1.
        weight: (num_embeddings, embedding_dim).
        offsets: (N,) where each bag begins; the first is 0. An empty bag gives 0.
        mode: "sum", "mean" or "max".
        sparse: The gradient of `weight`, if that is a leaf, is a `RowGradient`: a step then costs what the lookups cost, not what
            the table does. Not with "max".
        per_sample_weights: Factors of the rows of a sum, of the shape of `indices`.
        include_last_offset: The last of `offsets` is no bag but their end, n.
        padding_idx: A row that counts as absent, also in a mean's number of rows: ``-n`` counts from the end.

    Returns:
        (N, embedding_dim).

    Raises:
        OutOfRangeError: An index is negative or too large; the message says where.
        ArgumentError: Offsets that fall or are out of range; arguments that exclude each other.
        ShapeError: Shapes that do not fit.

    Example:
        >>> table = qn.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        >>> qn.ops.embedding_bag([[0, 2], [1, 1]], table, mode="sum")
        tensor([[6., 8.],
                [6., 8.]], dtype=float32)
        >>> qn.ops.embedding_bag([0, 2, 1], table, [0, 2, 2], mode="max")
        tensor([[5., 6.],
                [0., 0.],
                [3., 4.]], dtype=float32)
    """
    i, w = index_operand(_NAME, indices), as_tensor(weight)
    at = None if offsets is None else as_tensor(offsets)
    factors = None if per_sample_weights is None else as_tensor(per_sample_weights)
    rule = _embedding_bag_rule(i, w, at, mode, sparse, factors, include_last_offset, padding_idx)
    bags = rule.shape[0]
    if at is not None:
        at = index_operand(_NAME, at)
        _core.check_offsets(at._t, i.size, include_last_offset)
    rows, length = w._t.shape[0], i._t.shape[1] if at is None else 1
    skip = padding_row(_NAME, rows, padding_idx)
    natives = (i._t, None if at is None else at._t, None if factors is None else factors._t)
    y, inverse, chosen = _core.embedding_bag((*natives, length, skip), w._t, mode, bags)
    if not needs_grad(w, factors):
        return Tensor(y)
    want_table = bool(w._requires_grad)
    want_factors = factors is not None and bool(factors._requires_grad)

    def backward(g: Tensor, *saved: Tensor | None) -> Gradients:
        i, at, f, inverse, chosen, table = map(native, saved)
        assert i is not None
        if not want_table:
            g_table: Tensor | RowsOfTable | None = None
        elif chosen is not None:
            g_table = _max_grad(g._t, chosen, rows)
        else:
            share = g._t if inverse is None else _core.mul(g._t, inverse)
            by_rows = RowsOfTable((i, at, f, length, skip), share, rows)
            g_table = by_rows if sparse else by_rows.to_dense()
        if not want_factors:
            return g_table, None
        assert table is not None
        return g_table, Tensor(_core.bag_weights_grad((i, at, None, length, skip), g._t, table))

    kept = (*natives, inverse, chosen, w._t if want_factors else None)
    return put_on_tape(y, (w, factors), backward, kept)


def _max_grad(g: _core.Tensor, chosen: _core.Tensor, rows: int) -> Tensor:
    """Adds each element to that of the row it was of; those of empty bags are of none."""
    bags, features = g.shape
    if rows == 0:
        return Tensor(_core.full((0, features), 0.0, g.dtype, g.device))
    source = _core.where(_core.ge(chosen, 0), g, 0.0).reshape((1, bags, features))
    index = _core.maximum(chosen, 0).reshape((1, bags, features))
    total = _core.scatter_add("scatter_add", 0, False, None, index, source, rows)
    return Tensor(total.reshape((rows, features)))
