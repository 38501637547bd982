"""Sparse matrices: trainable values at fixed places. `quernel.sparse` makes them from dense and SciPy's matrices."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from quernel import _core, recording
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.create import as_tensor
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from quernel.ops.create import TensorLike

BLOCK_ROWS = 16
_LARGEST = 2**31 - 1
Parts = tuple[Tensor, Tensor, Tensor, tuple[int, int]]
Transposed = tuple[_core.Tensor, _core.Tensor, _core.Tensor]


class Places:
    """Where a sparse matrix has its values; shared by matrices that differ in the values alone."""

    __slots__ = ("_transposed", "indices", "indptr", "shape")

    def __init__(self, indices: Tensor, indptr: Tensor, shape: tuple[int, int]) -> None:
        self.indices, self.indptr, self.shape = indices, indptr, shape
        self._transposed: Transposed | None = None

    def transposed(self, values: Tensor) -> Transposed:
        """Indices, pointers and, for each entry, the place of its value, of the transposed matrix as CSR."""
        if self._transposed is None:
            self._transposed = _core.transpose_sparse(values._t, self.indices._t, self.indptr._t, self.shape)
        return self._transposed


class SparseArray:
    """A matrix of which only some values are stored; base of `CSR` and `BlockSparse`.

    The places are fixed and nobody can write to them; ``values`` is a tensor like any other, and may require a
    gradient, which is then computed at these places only.
    """

    __slots__ = ("__weakref__", "_places", "_values")

    def __init__(
        self,
        values: TensorLike,
        indices: ArrayLike | Tensor,
        indptr: ArrayLike | Tensor,
        shape: Sequence[int],
    ) -> None:
        places = Places(constant_int32("indices", indices), constant_int32("indptr", indptr), _extents(shape))
        self._set(as_tensor(values), places)
        self._check("sparse")

    def _set(self, values: Tensor, places: Places) -> None:
        self._values, self._places = values, places

    def _check(self, op: str) -> None:
        """Refuses parts that do not fit together, and places that are none."""
        self._check_values()
        _core.check_sparse(op, self._values._t, self.indices._t, self.indptr._t, self.shape)

    def _check_values(self) -> None:
        raise NotImplementedError

    @property
    def values(self) -> Tensor:
        """The stored values."""
        return self._values

    @property
    def indices(self) -> Tensor:
        """int32: where in its row each value (or block) is; a block's place counts in blocks."""
        return self._places.indices

    @property
    def indptr(self) -> Tensor:
        """int32: where each row (or row of blocks) begins in `indices`, and the end of the last."""
        return self._places.indptr

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._places.shape

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def dtype(self) -> str:
        """Element type of the values."""
        return self._values.dtype

    @property
    def nnz(self) -> int:
        """How many values are stored, zeros among them included."""
        return self._values.size

    @property
    def density(self) -> float:
        """The share of the matrix that is stored; of no elements, 0."""
        return self.indices.size / max(1, self._capacity())

    def _capacity(self) -> int:
        raise NotImplementedError

    @property
    def parts(self) -> Parts:
        """``(values, indices, indptr, shape)``: what a graph holds of it, and what ops take in its place."""
        return self._values, self.indices, self.indptr, self.shape

    def with_values(self, values: TensorLike) -> Self:
        """A matrix with other values at the same places.

        Raises:
            ShapeError: `values` has another shape than the values here.
        """
        other = object.__new__(type(self))
        other._set(as_tensor(values), self._places)
        if other._values.shape != self._values.shape:
            raise ShapeError(f"[sparse] values have shape {self._values.shape}, got {other._values.shape}")
        return other

    def transposed(self) -> Transposed:
        """See `Places.transposed`; native tensors."""
        return self._places.transposed(self._values)

    def to_dense(self) -> Tensor:
        """A dense tensor of these values, without a gradient."""
        return Tensor(_core.from_numpy(self._dense(), True))

    def _dense(self) -> NDArray[Any]:
        raise NotImplementedError

    def to_scipy(self) -> Any:
        """SciPy's array of the same format. It shares memory and is read-only."""
        raise NotImplementedError

    def __repr__(self) -> str:
        rows, columns = self.shape
        grad = ", requires_grad=True" if self._values._requires_grad else ""
        text = f"{self.nnz} values, density {self.density:.3g}, dtype={self.dtype}{grad}"
        return f"{type(self).__name__}(({rows}, {columns}), {self._format()}{text})"

    def _format(self) -> str:
        return ""


class CSR(SparseArray):
    """Compressed sparse rows: any places.

    Args:
        values: (entries,), row by row.
        indices: (entries,), the column of each, rising within a row.
        indptr: (rows + 1,), where each row begins; the last is the number of entries.
        shape: (rows, columns).

    Raises:
        ArgumentError: `indices` and `indptr` describe no such matrix, or name a place twice.
        ShapeError: The parts do not fit together.

    Example:
        >>> from quernel import sparse
        >>> sparse.CSR([1.0, 2.0], [2, 0], [0, 1, 2], (2, 3)).to_dense()
        tensor([[0., 0., 1.],
                [2., 0., 0.]], dtype=float32)
    """

    __slots__ = ()

    def _check_values(self) -> None:
        if self._values.ndim != 1:
            raise ShapeError(f"[sparse] values of CSR are (entries,), got {self._values.shape}")

    def _capacity(self) -> int:
        return self.shape[0] * self.shape[1]

    def _rows(self) -> NDArray[Any]:
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr.numpy()))

    def _dense(self) -> NDArray[Any]:
        values = self._values.detach().numpy()
        dense = np.zeros(self.shape, values.dtype)
        dense[self._rows(), self.indices.numpy()] = values
        return dense

    def to_scipy(self) -> Any:
        """SciPy's ``csr_array``. It shares memory and is read-only."""
        from scipy import sparse

        arrays = (self._values.detach().numpy(), self.indices.numpy(), self.indptr.numpy())
        return sparse.csr_array(arrays, self.shape, copy=False)


class BlockSparse(SparseArray):
    """Blocks of 16 rows and 1 or 4 columns: what kernels like, nearly as fast per value as a dense matrix.

    Rows are a layer's outputs. Blocks of (16, 4) are for int8, and for training what will become int8. Where blocks
    reach past the matrix their values have no effect.

    Args:
        values: (blocks, 16, 1) or (blocks, 16, 4), by rows of blocks, as in SciPy's BSR format.
        indices: (blocks,), the column of each in blocks, rising within a row of blocks.
        indptr: (rows of blocks + 1,), where each row of blocks begins.
        shape: (rows, columns), any sizes.

    Raises:
        ArgumentError: `indices` and `indptr` describe no such matrix, or name a place twice.
        ShapeError: The parts do not fit together.

    Example:
        >>> from quernel import sparse
        >>> sparse.BlockSparse(np.ones((1, 16, 1), np.float32), [2], [0, 1], (10, 3))
        BlockSparse((10, 3), blocks of (16, 1), 16 values, density 0.333, dtype=float32)
    """

    __slots__ = ()

    def _check_values(self) -> None:
        shape = self._values.shape
        if len(shape) != 3 or shape[1:] not in ((BLOCK_ROWS, 1), (BLOCK_ROWS, 4)):
            raise ShapeError(f"[sparse] values are (blocks, 16, 1) or (blocks, 16, 4), got {shape}")

    @property
    def block(self) -> tuple[int, int]:
        """(16, 1) or (16, 4)."""
        return BLOCK_ROWS, self._values.shape[2]

    def _capacity(self) -> int:
        return -(-self.shape[0] // BLOCK_ROWS) * -(-self.shape[1] // self.block[1])

    def _dense(self) -> NDArray[Any]:
        values = self._values.detach().numpy()
        panels, depth = self.indptr.size - 1, self.block[1]
        groups = -(-self.shape[1] // depth)
        dense = np.zeros((panels, groups, BLOCK_ROWS, depth), values.dtype)
        panel = np.repeat(np.arange(panels), np.diff(self.indptr.numpy()))
        dense[panel, self.indices.numpy()] = values
        whole = dense.transpose(0, 2, 1, 3).reshape(panels * BLOCK_ROWS, groups * depth)
        return np.ascontiguousarray(whole[: self.shape[0], : self.shape[1]])

    def to_scipy(self) -> Any:
        """SciPy's ``bsr_array``, sharing memory; ``csr_array``, a copy, if the blocks reach past the matrix."""
        from scipy import sparse

        rows, columns = self.shape
        if rows % BLOCK_ROWS or columns % self.block[1]:
            return sparse.csr_array(self._dense())
        arrays = (self._values.detach().numpy(), self.indices.numpy(), self.indptr.numpy())
        return sparse.bsr_array(arrays, self.shape, copy=False)

    def _format(self) -> str:
        return f"blocks of {self.block}, "


def _extents(shape: Sequence[int]) -> tuple[int, int]:
    sizes = tuple(shape)
    if len(sizes) != 2 or not all(hasattr(s, "__index__") and 0 <= int(s) <= _LARGEST for s in sizes):
        raise ShapeError(f"[sparse] shape is (rows, columns), each from 0 to 2^31 - 1, got {shape!r}")
    return int(sizes[0]), int(sizes[1])


def constant_int32(name: str, data: ArrayLike | Tensor) -> Tensor:
    """`data` as an int32 tensor that nothing can write to: shared if it is one already, or an int32 array."""
    if isinstance(data, Tensor) and data.dtype == "int32" and data._t.readonly:
        return data
    array = data.detach().numpy().copy() if isinstance(data, Tensor) else np.asarray(data)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise DTypeError(f"[sparse] {name} must be whole numbers, (n,), got {array.dtype} of {array.shape}")
    if array.size and (array.min() < -_LARGEST or array.max() > _LARGEST):
        raise ArgumentError(f"[sparse] {name} must fit int32, got {array.min()} to {array.max()}")
    recording.host_read("array constant")
    return Tensor(_core.from_numpy(np.ascontiguousarray(array, np.int32), False))


_seen: OrderedDict[Any, Places] = OrderedDict()  # places of parts, checked
_MOST_SEEN = 64


def as_sparse(op: str, a: Any) -> SparseArray:
    """A sparse operand, which may come as its parts (that is how graphs hold it)."""
    if isinstance(a, SparseArray):
        return a
    if not isinstance(a, tuple) or len(a) != 4:
        raise DTypeError(
            f"[{op}] expects a sparse matrix, got {type(a).__name__}; make one with quernel.sparse.csr(a) "
            "or quernel.sparse.block(a)"
        )
    values, indices, indptr = (as_tensor(part) for part in a[:3])
    shape = _extents(a[3])
    ti, tp = indices._t, indptr._t
    key = (ti.identity, ti.version, tp.identity, tp.version, shape, values.shape)
    places = _seen.get(key)
    is_known = places is not None
    matrix: SparseArray = object.__new__(CSR if values.ndim == 1 else BlockSparse)
    matrix._set(values, places or Places(indices, indptr, shape))
    if not is_known or recording.current() is not None:  # the check becomes a part of the plan
        matrix._check(op)
    if not is_known:
        _seen[key] = matrix._places  # which keeps the tensors, and so their identities
        if len(_seen) > _MOST_SEEN:
            _seen.popitem(last=False)
    return matrix
