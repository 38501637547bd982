"""quernel.sparse: to and from SciPy and dense matrices, what is shared, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import sparse
from tests.checks import Array, check_equal
from tests.strategies import near, seeds

scipy_sparse = pytest.importorskip("scipy.sparse")

BLOCKS = ((16, 1), (16, 4))


def random(rows: int, cols: int, density: float, seed: int = 0, dtype: str = "f4") -> Array:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((rows, cols)) < density, rng.standard_normal((rows, cols)), 0).astype(dtype)


@given(near(90), near(90), st.sampled_from([0.0, 0.1, 0.6, 1.0]), st.sampled_from(["f4", "f8", "i1"]), seeds)
def test_every_way_there_and_back(rows: int, cols: int, density: float, dtype: str, seed: int) -> None:
    dense = random(rows, cols, density, seed, "f4")
    dense = (dense * 100).astype(dtype) if dtype == "i1" else dense.astype(dtype)
    theirs = scipy_sparse.csr_array(dense)
    for source in (
        dense,
        qn.tensor(dense),
        theirs,
        theirs.tocsc(),
        theirs.tocoo(),
        scipy_sparse.csr_matrix(theirs),
    ):
        ours = sparse.csr(source)
        assert (ours.shape, ours.nnz, ours.dtype) == (dense.shape, theirs.nnz, dense.dtype.name)
        check_equal(ours.to_dense().numpy(), dense)
        back = ours.to_scipy()
        assert back.has_canonical_format
        check_equal(back.toarray(), dense)
        for block in BLOCKS:
            blocks = sparse.block(source, block)
            check_equal(blocks.to_dense().numpy(), dense)
            check_equal(blocks.to_scipy().toarray(), dense)
            check_equal(sparse.csr(blocks).values.numpy(), ours.values.numpy())
            check_equal(sparse.block(ours, block).values.numpy(), blocks.values.numpy())


def test_memory_is_shared_where_the_layout_allows() -> None:
    theirs = scipy_sparse.csr_array(random(20, 30, 0.3))
    ours = sparse.csr(theirs)
    again = ours.to_scipy()
    for mine, his, back in (
        (ours.values, theirs.data, again.data),
        (ours.indices, theirs.indices, again.indices),
        (ours.indptr, theirs.indptr, again.indptr),
    ):
        assert np.shares_memory(mine.numpy(), his)
        assert np.shares_memory(back, his)
    blocks = scipy_sparse.bsr_array(random(32, 40, 0.2), blocksize=(16, 4))
    blocks.sort_indices()
    ours_too = sparse.block(blocks, (16, 4))
    assert np.shares_memory(ours_too.values.numpy(), blocks.data)
    assert np.shares_memory(ours_too.indices.numpy(), blocks.indices)
    assert np.shares_memory(ours_too.to_scipy().data, blocks.data)
    assert ours_too.to_scipy().blocksize == (16, 4)
    trained = sparse.csr(theirs, requires_grad=True)
    assert trained.values.requires_grad
    assert not np.shares_memory(trained.values.numpy(), theirs.data)


def test_wide_indices_and_other_dtypes_are_converted() -> None:
    theirs = scipy_sparse.csr_array(random(20, 30, 0.3))
    theirs.indices, theirs.indptr = theirs.indices.astype(np.int64), theirs.indptr.astype(np.int64)
    check_equal(sparse.csr(theirs).indices.numpy(), theirs.indices.astype(np.int32))
    assert sparse.csr(theirs, dtype="float64").dtype == "float64"
    assert sparse.csr(sparse.csr(theirs), dtype="float64").dtype == "float64"


def test_duplicates_are_added_up_and_the_matrix_given_stays_as_it_is() -> None:
    data, indices, indptr = (
        np.array([1, 2, 4, 8], "f4"),
        np.array([2, 0, 2, 1], "i4"),
        np.array([0, 3, 4], "i4"),
    )
    theirs = scipy_sparse.csr_array((data, indices, indptr), (2, 3))
    ours = sparse.csr(theirs)
    check_equal(ours.to_dense().numpy(), np.array([[2, 0, 5], [0, 8, 0]], "f4"))
    check_equal(sparse.block(theirs).to_dense().numpy(), ours.to_dense().numpy())
    assert theirs.nnz == 4 and theirs.indices.tolist() == [2, 0, 2, 1]
    with pytest.raises(ValueError, match="indices of a row must rise"):
        sparse.CSR(data, indices, indptr, (2, 3))


def test_stored_zeros_stay_and_dense_ones_do_not() -> None:
    theirs = scipy_sparse.csr_array((np.zeros(2, "f4"), [0, 2], [0, 1, 2]), (2, 3))
    assert sparse.csr(theirs).nnz == 2
    assert sparse.csr(np.zeros((2, 3), "f4")).nnz == 0


def test_what_it_says_of_itself() -> None:
    a = sparse.csr(np.eye(4, dtype="f4"))
    assert repr(a) == "CSR((4, 4), 4 values, density 0.25, dtype=float32)"
    assert (a.ndim, a.density, a.nnz) == (2, 0.25, 4)
    b = sparse.block(np.eye(4, dtype="f4"), (16, 4), requires_grad=True)
    assert repr(b) == (
        "BlockSparse((4, 4), blocks of (16, 4), 64 values, density 1, dtype=float32, requires_grad=True)"
    )
    assert sparse.csr(np.zeros((0, 3), "f4")).density == 0
    twice = a.with_values(a.values * 2)
    check_equal(twice.to_dense().numpy(), 2 * np.eye(4, dtype="f4"))


def test_nobody_writes_to_the_places() -> None:
    indices = qn.tensor([0, 2], dtype="int32")
    a = sparse.CSR(qn.tensor([1.0, 2.0]), indices, [0, 1, 2], (2, 3))
    indices[...] = 99  # a copy was taken
    with pytest.raises(RuntimeError, match="this tensor borrows a read-only array"):
        a.indices[...] = 99
    check_equal(a.indices.numpy(), np.array([0, 2], "i4"))


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (([1.0], [0.5], [0, 1], (1, 1)), TypeError, "indices must be whole numbers"),
        (([1.0], [[0]], [0, 1], (1, 1)), TypeError, r"indices must be whole numbers, \(n,\)"),
        (([1.0], [2**40], [0, 1], (1, 1)), ValueError, "indices must fit int32, got 1099511627776"),
        (([1.0], [0], [0, 1], (1, -1)), ValueError, r"shape is \(rows, columns\)"),
        (([1.0], [0], [0, 1], (1,)), ValueError, r"shape is \(rows, columns\)"),
        (([[1.0]], [0], [0, 1], (1, 1)), ValueError, r"values of CSR are \(entries,\), got \(1, 1\)"),
        (([1.0], [0], [0, 1], (2, 1)), ValueError, "indptr must have 3 entries for 2 rows"),
        (
            ([1.0], [5], [0, 1], (1, 1)),
            ValueError,
            r"\[sparse\] index 5 in row 0 is out of range for 1 columns",
        ),
    ],
)
def test_parts_that_make_no_matrix(parts: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sparse.CSR(*parts)


def test_blocks_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"blocks are \(16, 1\) or \(16, 4\), got \(8, 8\)"):
        sparse.block(np.eye(8), (8, 8))
    with pytest.raises(
        ValueError, match=r"values are \(blocks, 16, 1\) or \(blocks, 16, 4\), got \(1, 8, 1\)"
    ):
        sparse.BlockSparse(np.ones((1, 8, 1), "f4"), [0], [0, 1], (8, 1))
    with pytest.raises(ValueError, match="a matrix has 2 dimensions"):
        sparse.csr(np.zeros(3))
