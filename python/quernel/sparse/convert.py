"""From dense and SciPy's matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor, tensor
from quernel.ops.sparse_array import BLOCK_ROWS, CSR, BlockSparse, SparseArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from quernel.tensor import Tensor

Matrix = Any  # TensorLike, a SparseArray or one of SciPy's matrices, which have no common type


def csr(a: Matrix, dtype: DTypeLike | None = None, requires_grad: bool = False) -> CSR:
    """A matrix as compressed sparse rows.

    Args:
        a: A dense matrix (array, nested lists or Tensor), whose zeros are left out; a matrix of ``scipy.sparse`` in any
            format, whose stored zeros stay, and whose entries for one place are added up; or a sparse array of ours.
            SciPy's CSR matrices with sorted entries and int32 indices are shared, not copied.
        dtype: Of the values; by default theirs.
        requires_grad: Whether the values are to be trained; they are then copied.

    Raises:
        ShapeError: `a` is no matrix.

    Example:
        >>> from quernel import sparse
        >>> sparse.csr([[0.0, 1.5], [2.5, 0.0]])
        CSR((2, 2), 2 values, density 0.5, dtype=float32)
    """
    if isinstance(a, CSR):
        return CSR(_values(a.values, dtype, requires_grad), a.indices, a.indptr, a.shape)
    if _is_scipy(a):
        a = _canonical(a)
        return CSR(_values(a.data, dtype, requires_grad), a.indices, a.indptr, a.shape)
    dense = _matrix(a)
    rows, columns = np.nonzero(dense)
    indptr = _pointers(rows, dense.shape[0])
    return CSR(_values(dense[rows, columns], dtype, requires_grad), columns, indptr, dense.shape)


def block(
    a: Matrix,
    block: Sequence[int] = (BLOCK_ROWS, 1),
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
) -> BlockSparse:
    """A matrix as blocks; one that holds any value other than zero is stored whole.

    Args:
        a: As for `csr`. SciPy's BSR matrices with blocks of this size, sorted, with int32 indices, are shared.
        block: (16, 1), or (16, 4) as int8 kernels need it: rows (outputs) and columns (inputs) of a block.
        dtype: Of the values; by default theirs.
        requires_grad: Whether the values are to be trained; they are then copied.

    Raises:
        ArgumentError: another size of blocks.
        ShapeError: `a` is no matrix.

    Example:
        >>> from quernel import sparse
        >>> sparse.block(np.eye(32, dtype=np.float32))
        BlockSparse((32, 32), blocks of (16, 1), 512 values, density 0.5, dtype=float32)
    """
    size = tuple(block)
    if size not in ((BLOCK_ROWS, 1), (BLOCK_ROWS, 4)):
        raise ArgumentError(f"[sparse.block] blocks are (16, 1) or (16, 4), got {block!r}")
    if isinstance(a, BlockSparse) and a.block == size:
        return BlockSparse(_values(a.values, dtype, requires_grad), a.indices, a.indptr, a.shape)
    if _is_scipy(a):
        if getattr(a, "blocksize", None) == size and a.has_canonical_format:
            return BlockSparse(_values(a.data, dtype, requires_grad), a.indices, a.indptr, a.shape)
        a = _canonical(a)
        rows = np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))
        columns, values, shape = a.indices.astype(np.int64), a.data, a.shape
    else:
        dense = _matrix(a)
        rows, columns = np.nonzero(dense)
        values, shape = dense[rows, columns], dense.shape
    return _gather_blocks(rows, columns, values, shape, size[1], dtype, requires_grad)


def _gather_blocks(
    rows: NDArray[Any],
    columns: NDArray[Any],
    values: NDArray[Any],
    shape: Sequence[int],
    depth: int,
    dtype: DTypeLike | None,
    requires_grad: bool,
) -> BlockSparse:
    groups = -(-shape[1] // depth)
    places, which = np.unique(rows // BLOCK_ROWS * groups + columns // depth, return_inverse=True)
    data = np.zeros((places.size, BLOCK_ROWS, depth), values.dtype)
    data[which, rows % BLOCK_ROWS, columns % depth] = values
    indptr = _pointers(places // max(1, groups), -(-shape[0] // BLOCK_ROWS))
    return BlockSparse(_values(data, dtype, requires_grad), places % max(1, groups), indptr, shape)


def _is_scipy(a: Any) -> bool:
    return hasattr(a, "tocsr") and hasattr(a, "nnz")


def _canonical(a: Any) -> Any:
    """SciPy's CSR of it: entries sorted, each place once. The matrix given stays as it is."""
    if len(a.shape) != 2:
        raise ShapeError(f"[sparse] a matrix has 2 dimensions, got {a.shape}")
    b = a.tocsr()
    if not b.has_canonical_format:
        b = b.copy() if b is a else b
        b.sum_duplicates()
    return b


def _matrix(a: Any) -> NDArray[Any]:
    dense = a.to_dense() if isinstance(a, SparseArray) else as_tensor(a).detach()
    if dense.ndim != 2:
        raise ShapeError(f"[sparse] a matrix has 2 dimensions, got {dense.shape}")
    array: NDArray[Any] = dense.numpy()
    return array


def _pointers(rows: NDArray[Any], count: int) -> NDArray[Any]:
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])


def _values(values: Any, dtype: DTypeLike | None, requires_grad: bool) -> Tensor:
    return tensor(values, dtype, requires_grad=True) if requires_grad else as_tensor(values, dtype)
