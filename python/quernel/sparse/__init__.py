"""Sparse matrices for `ops.spmm`, `ops.sparse_linear` and `nn.SparseLinear`, to and from `scipy.sparse`.

`BlockSparse`, blocks of 16 rows by 1 column (by 4 for int8), runs nearly as fast per value as a dense matrix; `CSR`
holds any places. Both have trainable values at fixed places.
"""

from __future__ import annotations

from quernel.ops.sparse_array import CSR, BlockSparse, SparseArray
from quernel.sparse.convert import block, csr

__all__ = ["CSR", "BlockSparse", "SparseArray", "block", "csr"]
