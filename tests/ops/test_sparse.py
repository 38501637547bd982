"""Native products with sparse matrices: exactness, SciPy as oracle, guard pages, chains that are the dense kernel's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core
from quernel.jit import FrozenMemory, record_frozen
from tests import reference
from tests.checks import Array, N, T, check_contraction, check_equal, check_exact
from tests.strategies import lay_out, near, seeds

scipy_sparse = pytest.importorskip("scipy.sparse")

DTYPES = ("float32", "float64")
ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "silu")
FORMATS = (None, 1, 4)  # CSR, or the depth of blocks
DENSITIES = (0.0, 0.05, 0.3, 0.7, 1.0)


@dataclass
class Matrix:
    """A sparse matrix beside its dense twin."""

    values: Array
    indices: Array
    indptr: Array
    dense: Array
    stored: Array  # bool, of dense's shape

    @property
    def native(self) -> tuple[Any, Any, Any, tuple[int, int]]:
        rows, cols = self.dense.shape
        return (*(T(a) for a in (self.values, self.indices, self.indptr)), (rows, cols))

    def with_values(self, values: Array) -> Matrix:
        return Matrix(lay_out(values, "guard_end"), self.indices, self.indptr, self.dense, self.stored)

    def at_places(self, dense: Array) -> Array:
        """The values that a matrix of these places has where `dense` has its own; zeros past its edges."""
        if self.values.ndim == 1:
            return dense[self.stored]
        blocks = blocked(dense, self.values.shape[2])
        panel = np.repeat(np.arange(self.indptr.size - 1), np.diff(self.indptr))
        return blocks[panel, self.indices]


def blocked(dense: Array, depth: int) -> Array:
    """(panels, groups, 16, depth)."""
    panels, groups = -(-dense.shape[0] // 16), -(-dense.shape[1] // depth)
    padded = np.zeros((panels * 16, groups * depth), dense.dtype)
    padded[: dense.shape[0], : dense.shape[1]] = dense
    return padded.reshape(panels, 16, groups, depth).transpose(0, 2, 1, 3)


def make(
    rng: np.random.Generator, shape: tuple[int, int], density: float, depth: int | None, dense: Array
) -> Matrix:
    """A matrix of random places, some rows empty, with the values of `dense`."""
    height, width = (1, 1) if depth is None else (16, depth)
    grid = (-(-shape[0] // height), -(-shape[1] // width))
    kept = rng.random(grid) < density
    if 0 < density < 1:
        kept[rng.random(grid[0]) < 0.2] = False
    stored = np.repeat(np.repeat(kept, height, 0), width, 1)[: shape[0], : shape[1]]
    indices = np.nonzero(kept)[1].astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)
    values = dense[stored] if depth is None else blocked(dense, depth)[kept]
    parts = (lay_out(a, "guard_end") for a in (np.ascontiguousarray(values), indices, indptr))
    return Matrix(*parts, np.where(stored, dense, 0).astype(dense.dtype), stored)


@st.composite
def problems(
    draw: st.DrawFn, depth: int | None, dtype: str, integers: bool
) -> tuple[Matrix, Array, np.random.Generator]:
    """A matrix (rows, cols) and x (n, cols), both ending at unreadable pages."""
    rng = np.random.default_rng(draw(seeds))
    rows, cols, n = (
        draw(near(150)),
        draw(near(140)),
        draw(st.sampled_from([1, 1, 2, 3, 8, 15, 16, 17, 33, 64, 65, 130])),
    )
    fill = (lambda s: rng.integers(-9, 10, s)) if integers else rng.standard_normal
    dense, x = fill((rows, cols)).astype(dtype), fill((n, cols)).astype(dtype)
    matrix = make(rng, (rows, cols), draw(st.sampled_from(DENSITIES)), depth, dense)
    return matrix, lay_out(x, draw(st.sampled_from(["guard_end", "guard_start"]))), rng


def linear(x: Array, a: Matrix, *rest: Any, source: Any = None) -> Array:
    return N(_core.sparse_linear(T(x), *a.native, source, *rest)[0])


def spmm(a: Matrix, b: Array) -> Array:
    return N(_core.spmm(*a.native, T(b)))


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("depth", FORMATS)
@settings(max_examples=15)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_integers_multiply_exactly(depth: int | None, dtype: str, data: st.DataObject) -> None:
    a, x, _ = data.draw(problems(depth, dtype, True))
    check_exact(linear(x, a), reference.sparse_linear(x, a.dense, a.stored), dtype)
    b = lay_out(np.ascontiguousarray(x.T), "guard_end")
    check_exact(spmm(a, b), reference.spmm(a.dense, a.stored, b), dtype)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("depth", FORMATS)
@settings(max_examples=15)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_gradients_are_exact_on_integers(depth: int | None, dtype: str, data: st.DataObject) -> None:
    a, x, rng = data.draw(problems(depth, dtype, True))
    g = lay_out(rng.integers(-9, 10, (x.shape[0], a.dense.shape[0])).astype(dtype), "guard_end")
    dw, dx = reference.spmm_grads(a.dense, a.stored, x.T, g.T)
    values, indices, indptr, shape = a.native
    back = _core.transpose_sparse(values, indices, indptr, shape)
    at, ptr, source = back
    check_exact(
        N(_core.sparse_linear(T(g), values, at, ptr, shape[::-1], source)[0]),
        np.ascontiguousarray(dx.T),
        dtype,
    )
    gt, xt = (lay_out(np.ascontiguousarray(m.T), "guard_end") for m in (g, x))
    check_exact(N(_core.spmm(values, at, ptr, shape[::-1], T(gt), source)), dx, dtype)
    expected = a.at_places(np.where(a.stored, dw, 0))
    check_exact(N(_core.sparse_grad(*a.native, T(g), T(x), True)), expected, dtype)
    check_exact(N(_core.sparse_grad(*a.native, T(gt), T(xt), False)), expected, dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("depth", FORMATS)
@settings(max_examples=15)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_rounding_stays_within_the_bound_of_scipys(
    depth: int | None, dtype: str, data: st.DataObject
) -> None:
    a, x, _ = data.draw(problems(depth, dtype, False))
    oracle = scipy_sparse.csr_array(a.dense.astype(np.float64))
    wide, terms = x.astype(np.float64).T, 2 * a.dense.shape[1]
    expected, size = oracle @ wide, abs(oracle) @ abs(wide)
    check_contraction(linear(x, a), expected.T, size.T, terms, dtype)
    check_contraction(spmm(a, np.ascontiguousarray(x.T)), expected, size, terms, dtype)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("depth", FORMATS)
@settings(max_examples=15)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_bits_depend_on_the_row_alone(depth: int | None, dtype: str, data: st.DataObject) -> None:
    """Batches split anywhere, linear or spmm, one format or another: the same bits."""
    a, x, rng = data.draw(problems(depth, dtype, False))
    whole = linear(x, a)
    cut = data.draw(st.integers(0, x.shape[0]))
    check_equal(np.concatenate([linear(np.ascontiguousarray(part), a) for part in (x[:cut], x[cut:])]), whole)
    check_equal(spmm(a, np.ascontiguousarray(x.T)), np.ascontiguousarray(whole.T))
    entries = make(rng, a.dense.shape, 1.0, None, a.dense)  # every place of it is stored in CSR
    kept = a.stored.reshape(-1)
    entries.values, entries.stored = entries.values[kept], a.stored
    entries.indices = entries.indices[kept]
    entries.indptr = np.concatenate([[0], np.cumsum(a.stored.sum(1))]).astype(np.int32)
    check_equal(linear(x, entries), whole)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", FORMATS)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_full_matrix_is_the_dense_kernel_to_the_bit(depth: int | None, dtype: str, n: int) -> None:
    rng = np.random.default_rng(n)
    x, w = rng.standard_normal((n, 301)).astype(dtype), rng.standard_normal((83, 301)).astype(dtype)
    a = make(rng, w.shape, 1.0, depth, w)
    check_equal(linear(x, a), N(_core.linear(T(x), T(w))[0]))
    # With gaps, the dense kernel adds zeros: nothing changes.
    a = make(rng, w.shape, 0.2, depth, w)
    check_equal(linear(x, a), N(_core.linear(T(x), T(a.dense))[0]))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("depth", FORMATS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=10)
@given(data=st.data(), bias=st.booleans(), residual=st.booleans(), pre=st.booleans())
def test_a_fused_epilogue_equals_separate_ops(
    depth: int | None, activation: str, data: st.DataObject, bias: bool, residual: bool, pre: bool
) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    a, x, rng = data.draw(problems(depth, dtype, False))
    shape = (x.shape[0], a.dense.shape[0])
    b = T(lay_out(rng.standard_normal(shape[1]).astype(dtype), "guard_end")) if bias else None
    r = T(lay_out(rng.standard_normal(shape).astype(dtype), "guard_end")) if residual else None
    y, y_pre = _core.sparse_linear(T(x), *a.native, None, b, r, activation, pre)
    expected, _ = _core.sparse_linear(T(x), *a.native)
    expected = expected if b is None else _core.add(expected, b)
    expected = expected if r is None else _core.add(expected, r)
    assert (y_pre is not None) == pre
    if y_pre is not None:
        check_equal(N(y_pre), N(expected))
    check_equal(N(y), N(expected if activation == "none" else getattr(_core, activation)(expected)))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("depth", FORMATS)
@pytest.mark.parametrize("n", [1, 3, 20, 70])
def test_nan_and_infinity_arrive_where_a_value_meets_them(depth: int | None, n: int) -> None:
    rng = np.random.default_rng(n)
    x, w = rng.standard_normal((n, 61)).astype("f4"), rng.standard_normal((50, 61)).astype("f4")
    x[n // 2, 60], x[0, 7] = math.nan, math.inf
    a = make(rng, w.shape, 0.3, depth, w)
    with np.errstate(invalid="ignore"):
        expected = reference.sparse_linear(x, a.dense, a.stored)
    for y in (linear(x, a), spmm(a, np.ascontiguousarray(x.T)).T):
        check_equal(np.isnan(y), np.isnan(expected))
        check_equal(np.isinf(y), np.isinf(expected))
    assert np.isfinite(expected).any() and not np.isfinite(expected).all()


# ---- one row of x, the matrix kept: the layout in lanes -----------------------------------------------------------


def frozen(a: Matrix, bias: Array | None, activation: str | None) -> Callable[[Array], Array]:
    """relu(`linear`) as a plan whose matrix is a constant, the relu an op of its own."""
    values, indices, indptr = (qn.tensor(part) for part in (a.values, a.indices, a.indptr))
    weight, b, memory = (
        (values, indices, indptr, a.dense.shape),
        None if bias is None else qn.tensor(bias),
        FrozenMemory(),
    )

    def layer(x: qn.Tensor) -> list[qn.Tensor]:
        return [qn.ops.relu(qn.ops.sparse_linear(x, weight, b, activation=activation))]

    example = np.zeros((1, a.dense.shape[1]), a.dense.dtype)
    plan = record_frozen(layer, [example], memory.constants, memory.arenas)
    return lambda x: np.asarray(plan.replay([x])[0])


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=30)
@given(data=st.data(), dtype=st.sampled_from(DTYPES), activation=st.sampled_from([None, "gelu"]))
def test_a_kept_matrix_has_the_same_bits_at_one_row(
    dtype: str, activation: str | None, data: st.DataObject
) -> None:
    """Rows around whole windows of 128 and panels of 16, of any lengths; x ends at an unreadable page."""
    rng = np.random.default_rng(data.draw(seeds))
    rows, cols = data.draw(near(193, 1)), data.draw(near(140, 1))
    dense = rng.standard_normal((rows, cols)).astype(dtype)
    a = make(rng, (rows, cols), data.draw(st.sampled_from(DENSITIES)), None, dense)
    bias = data.draw(st.sampled_from([None, rng.standard_normal(rows).astype(dtype)]))
    x = lay_out(rng.standard_normal((1, cols)).astype(dtype), "guard_end")
    b = None if bias is None else T(bias)
    expected, _ = _core.sparse_linear(T(x), *a.native, None, b, None, activation or "none")
    check_equal(frozen(a, bias, activation)(x), N(_core.relu(expected)))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_that_has_ended_meets_no_infinity(dtype: str) -> None:
    rng = np.random.default_rng(0)
    dense = np.tril(rng.standard_normal((150, 150))).astype(dtype)
    a = make(rng, dense.shape, 1.0, None, dense)
    stored = np.tril(np.ones(dense.shape, bool))
    kept = stored.reshape(-1)
    a.values, a.indices, a.stored = a.values[kept], a.indices[kept], stored
    a.indptr = np.concatenate([[0], np.cumsum(stored.sum(1))]).astype(np.int32)
    for at, value in ((0, math.inf), (140, math.nan), (75, -math.inf)):
        x = np.ones((1, 150), dtype)
        x[0, at] = value
        y = frozen(a, None, None)(x)
        check_equal(y, N(_core.relu(T(linear(x, a)))))
        assert np.isfinite(y[0, ~stored[:, at]]).all()


def test_matrices_that_share_values_keep_their_places() -> None:
    memory, x = FrozenMemory(), np.arange(1, 5, dtype="f4")[None]
    values, indptr = qn.tensor(np.array([1, 1], "f4")), qn.tensor(np.array([0, 1, 2], "i4"))
    other_ptr = qn.tensor(np.array([0, 2, 2], "i4"))
    for places, ptr, expected in (
        ([0, 1], indptr, [1, 2]),
        ([2, 3], indptr, [3, 4]),
        ([2, 3], other_ptr, [7, 0]),
    ):
        weight = (values, qn.tensor(np.array(places, "i4")), ptr, (2, 4))
        plan = record_frozen(
            lambda t, w=weight: [qn.ops.sparse_linear(t, w)], [x], memory.constants, memory.arenas
        )
        check_equal(np.asarray(plan.replay([x])[0]), np.array([expected], "f4"))


@pytest.mark.parametrize("depth", FORMATS)
@pytest.mark.parametrize(("rows", "cols", "n"), [(0, 5, 3), (5, 0, 3), (5, 4, 0), (0, 0, 0), (17, 0, 1)])
def test_nothing_times_something(depth: int | None, rows: int, cols: int, n: int) -> None:
    a = make(np.random.default_rng(0), (rows, cols), 1.0, depth, np.ones((rows, cols), "f4"))
    check_equal(linear(np.ones((n, cols), "f4"), a), np.full((n, rows), cols, "f4"))
    check_equal(spmm(a, np.ones((cols, n), "f4")), np.full((rows, n), cols, "f4"))
    _core.check_sparse("sparse", *a.native)
    g, x = np.ones((n, rows), "f4"), np.ones((n, cols), "f4")
    grad = N(_core.sparse_grad(*a.native, T(g), T(x), True))
    check_equal(grad, a.at_places(np.full((rows, cols), n, "f4")))


# ---- int8 ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quant_isa", "threads")
@given(data=st.data(), extreme=st.booleans())
@example(data=None, extreme=True)
def test_int8_equals_integer_arithmetic(data: st.DataObject | None, extreme: bool) -> None:
    """Requantized and as floats; 255 · ±128 everywhere must not saturate on the way."""
    rng = np.random.default_rng(5 if data is None else data.draw(seeds))
    m, n, k = (
        (33, 80, 143)
        if data is None
        else (data.draw(near(70, 1)), data.draw(near(100, 1)), data.draw(near(140, 1)))
    )
    x = np.full((m, k), 255, np.uint8) if extreme else rng.integers(0, 256, (m, k), np.uint8)
    w = np.where(rng.random((n, k)) < 0.5, -128, 127).astype(np.int8)
    a = make(rng, (n, k), 0.4 if data is None else data.draw(st.sampled_from(DENSITIES)), 4, w)
    bias, scale = rng.integers(-5000, 5000, n).astype(np.int32), rng.uniform(1e-4, 1e-2, n).astype(np.float32)
    x, bias, scale = (lay_out(o, "guard_end") for o in (x, bias, scale))
    for as_float in (False, True):
        y = _core.qsparse_linear(T(x), *a.native, T(bias), T(scale), 7, 3, 250, as_float)
        expected = reference.qlinear(x, a.dense, bias, scale, 7, 3, 250, as_float)
        check_equal(N(y), expected)


def test_int8_runs_at_the_level_asked_for(quant_isa: str) -> None:
    expected = {"bf16": "vnni", "amx": "vnni", "amx_emulated": "avx2"}.get(quant_isa, quant_isa)
    assert dict(_core.kernel_coverage())["sparse_u8s8"] == expected


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize(
    ("indices", "indptr", "message"),
    [
        ([0, 3], [0, 1, 2], r"index 3 in row 1 is out of range for 3 columns"),
        ([-1, 2], [0, 1, 2], r"index -1 in row 0 is out of range"),
        ([0, 1], [0, 2, 1], r"indptr must rise from 0 to the number of entries, 2; row 1 ends at 1"),
        ([0, 1], [0, 1, 1], r"indptr must rise .* row 1 ends at 1"),
        ([0, 1], [1, 1, 2], r"indptr must rise .* row 0 ends at 1"),
        ([0, 1], [0, 9, 2], r"indptr must rise .* row 0 ends at 9"),
        ([0, 1], [0, -5, 2], r"indptr must rise .* row 0 ends at -5"),
        ([2, 1], [0, 2, 2], r"indices of a row must rise, each column once; row 0 has 1"),
        ([1, 1], [0, 2, 2], r"indices of a row must rise, each column once; row 0 has 1"),
    ],
)
def test_places_that_are_none_are_refused(indices: list[int], indptr: list[int], message: str) -> None:
    parts = T(np.ones(2, "f4")), T(np.array(indices, "i4")), T(np.array(indptr, "i4"))
    with pytest.raises(ValueError, match=r"\[mine\] " + message):
        _core.check_sparse("mine", *parts, (2, 3))


@pytest.mark.parametrize("threads_used", [1, 2])
def test_the_first_bad_row_of_many_is_named(threads_used: int) -> None:
    rows = 40_000
    indices = np.zeros(rows, "i4")
    indices[[20_001, 39_000]] = 9
    before = _core.num_threads()
    _core.set_num_threads(threads_used)
    try:
        parts = T(np.ones(rows, "f4")), T(indices), T(np.arange(rows + 1, dtype="i4"))
        with pytest.raises(ValueError, match="index 9 in row 20001 "):
            _core.check_sparse("mine", *parts, (rows, 5))
    finally:
        _core.set_num_threads(before)


def test_parts_that_do_not_fit_are_named() -> None:
    one, two, i4 = np.ones(1, "f4"), np.ones(2, "f4"), np.array([0, 1], "i4")
    x = T(np.ones((4, 3), "f4"))
    with pytest.raises(TypeError, match="indices and indptr must be int32, are int64 and int32"):
        _core.sparse_linear(x, T(two), T(i4.astype("i8")), T(i4), (1, 3))
    with pytest.raises(ValueError, match=r"values must be \(entries,\) or \(blocks, 16, 1 or 4\)"):
        _core.sparse_linear(x, T(one), T(i4), T(i4), (1, 3))
    with pytest.raises(ValueError, match="indptr must have 3 entries for 2 rows, got"):
        _core.sparse_linear(x, T(two), T(i4), T(i4), (2, 3))
    with pytest.raises(ValueError, match=r"\[sparse_linear\] weight expects 5 input features, x has 3"):
        _core.sparse_linear(x, T(one), T(i4[:1]), T(i4), (1, 5))
    with pytest.raises(TypeError, match="x is float32, the sparse matrix is float64"):
        _core.sparse_linear(x, T(one.astype("f8")), T(i4[:1]), T(i4), (1, 3))
    with pytest.raises(ValueError, match=r"weight must have blocks of \(16, 4\)"):
        _core.qsparse_linear(
            T(np.ones((2, 3), "u1")),
            T(one.astype("i1")),
            T(i4[:1]),
            T(i4),
            (1, 3),
            T(i4[:1]),
            T(one),
            0,
            0,
            255,
        )
