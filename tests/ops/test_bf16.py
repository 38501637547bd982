"""Products in bfloat16: exactness, error bounds, bits that depend on neither M nor threads, and the casts."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, ops
from tests import reference
from tests.checks import N, T, check_contraction, check_equal, check_exact
from tests.conftest import DEVICE
from tests.strategies import arrays, integer_fill, near, seeds

BF16 = np.dtype(ml_dtypes.bfloat16)
FLUSHING = [name for name in ("bf16", "amx") if name in _core.supported_isas()] + [
    name for name in _core.compiled_isas() if name == "amx_emulated" and "avx2" in _core.supported_isas()
]
ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish")

sizes = st.tuples(near(70), near(140), near(140))  # M, N, K
flags = st.booleans()


def rounded(a: Any) -> Any:
    return a.astype(BF16).astype(np.float32)


def stored(a: Any, transposed: bool) -> Any:
    return T(np.ascontiguousarray(a.T)) if transposed else T(a)


def small_integers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


# ---- casts ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa", "threads")
def test_every_bfloat16_widens_as_in_ml_dtypes() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(BF16)
    with np.errstate(invalid="ignore"):
        for dtype in ("float32", "float64"):
            check_equal(N(_core.cast(T(every), dtype)), every.astype(dtype))
        check_equal(N(_core.cast(T(every), "bool")), every.astype(np.float32) != 0)
    whole = np.arange(-256, 257).astype(BF16)
    for dtype in ("int8", "uint8", "int32", "int64"):
        fits = whole[(whole >= np.iinfo(dtype).min) & (whole <= np.iinfo(dtype).max)]
        check_equal(N(_core.cast(T(fits), dtype)), fits.astype(dtype))
    check_equal(N(_core.cast(T(every), "bfloat16")), every)


@pytest.mark.usefixtures("isa", "threads")
def test_floats_round_to_the_nearest_even_bfloat16() -> None:
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):  # exact, just above, around and at the halfway point
        x = (upper | np.uint32(lower)).view(np.float32)
        with np.errstate(invalid="ignore"):
            check_equal(N(_core.cast(T(x), "bfloat16")), x.astype(BF16))


@pytest.mark.usefixtures("isa")
@given(st.data(), near(200))
def test_casts_have_tails(data: st.DataObject, n: int) -> None:
    x = data.draw(arrays((n,), specials=None))
    y = N(_core.cast(T(x), "bfloat16"))
    check_equal(y, x.astype(BF16))
    check_equal(N(_core.cast(T(y), "float32")), y.astype(np.float32))


def test_other_dtypes_round_through_float32() -> None:
    for dtype in ("float64", "int64", "int32", "uint8", "int8", "bool"):
        x = np.array([0, 1, 77, 100, 127, 255, 257, 16777217, 1e300])
        with np.errstate(over="ignore", invalid="ignore"):
            x = x.astype(dtype)
            check_equal(N(_core.cast(T(x), "bfloat16")), x.astype(np.float32).astype(BF16))


def test_the_gradient_of_a_cast_is_a_cast() -> None:
    x = qn.tensor(np.ones(3, "f4"), requires_grad=True)
    y = ops.cast(ops.cast(x, "bfloat16"), "float32")
    (y * qn.tensor([1.0, 2.0, 1 / 3])).sum().backward()
    assert x.grad is not None
    check_equal(x.grad.numpy(), rounded(np.float32([1, 2, 1 / 3])))


# ---- products -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quant_isa", "threads")
@given(st.data(), sizes, flags, flags)
@example(None, (33, 65, 600), False, False)
@example(None, (16, 48, 33), True, True)
@example(None, (1, 100, 1), True, False)
def test_integers_multiply_exactly(
    data: st.DataObject | None, size: tuple[int, int, int], ta: bool, tb: bool
) -> None:
    m, n, k = size
    if data is None:
        a, b = small_integers(0, m, k), small_integers(1, k, n)
    else:
        a = np.clip(data.draw(integer_fill((m, k), k)), -256, 256)
        b = np.clip(data.draw(integer_fill((k, n), k)), -256, 256)
    expected = reference.matmul(a, b)
    check_exact(N(_core.matmul_bf16(stored(a, ta), stored(b, tb), ta, tb)), expected, np.float32)
    narrow = stored(a.astype(BF16), ta), stored(b.astype(BF16), tb)
    check_exact(N(_core.matmul_bf16(*narrow, ta, tb)), expected, np.float32)
    check_exact(N(_core.linear_bf16(T(a), stored(b, True))[0]), expected, np.float32)


@pytest.mark.usefixtures("quant_isa")
@given(st.data(), sizes)
@example(None, (6, 64, 4096))
def test_rounding_stays_within_the_bound(data: st.DataObject | None, size: tuple[int, int, int]) -> None:
    """Operands rounded to bfloat16, then nothing but the rounding of float32 sums: products are exact."""
    m, n, k = size
    if data is None:
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    else:
        a, b = data.draw(arrays((m, k))), data.draw(arrays((k, n)))
    ra, rb = rounded(a), rounded(b)
    size_of = reference.matmul(abs(ra), abs(rb))
    check_contraction(N(_core.matmul_bf16(T(a), T(b))), reference.matmul(ra, rb), size_of, 2 * k)


@pytest.mark.usefixtures("quant_isa", "threads")
@given(st.data(), sizes)
@example(None, (101, 300, 1300))
@example(None, (16, 16, 64))
def test_bits_depend_on_neither_rows_nor_threads(
    data: st.DataObject | None, size: tuple[int, int, int]
) -> None:
    m, n, k = size
    rng = np.random.default_rng(m)
    a, b = rng.standard_normal((m, k)).astype("f4"), rng.standard_normal((k, n)).astype("f4")
    cut = m // 3 if data is None else data.draw(st.integers(0, m))
    whole = N(_core.matmul_bf16(T(a), T(b)))
    parts = [N(_core.matmul_bf16(T(part), T(b))) for part in (a[:cut], a[cut:])]
    check_equal(np.concatenate(parts), whole)
    check_equal(N(_core.matmul_bf16(stored(a, True), stored(b, True), True, True)), whole)
    check_equal(N(_core.linear_bf16(T(a), stored(b, True))[0]), whole)
    check_equal(N(_core.matmul_bf16(T(a.astype(BF16)), T(b.astype(BF16)))), whole)
    before = _core.num_threads()
    try:
        _core.set_num_threads(1)
        check_equal(N(_core.matmul_bf16(T(a), T(b))), whole)
    finally:
        _core.set_num_threads(before)


@pytest.mark.usefixtures("quant_isa")
def test_nan_and_infinity_arrive_where_they_belong() -> None:
    a = np.ones((20, 70), "f4")
    a[3, 69], a[18, 0] = math.nan, math.inf
    y = N(_core.linear_bf16(T(a), T(np.ones((33, 70), "f4")), activation="relu")[0])
    row = np.arange(20)[:, None]
    check_equal(np.isnan(y), np.repeat(row == 3, 33, 1))
    check_equal(np.isinf(y), np.repeat(row == 18, 33, 1))


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(st.data(), st.tuples(near(40), near(140, 1), near(40)), flags, flags, flags)
def test_a_fused_epilogue_equals_separate_ops(
    activation: str, data: st.DataObject, size: tuple[int, int, int], bias: bool, residual: bool, pre: bool
) -> None:
    """In float32 bit for bit; in bfloat16 each step rounds as a separate op would."""
    m, n, k = size
    x, w = data.draw(arrays((m, k))), data.draw(arrays((n, k)))
    b = data.draw(arrays((n,))) if bias else None
    r = data.draw(arrays((m, n))) if residual else None
    for dtype in (np.dtype(np.float32), BF16):

        def as_operand(a: Any, dtype: Any = dtype) -> Any:
            return None if a is None else T(a.astype(dtype))

        y, y_pre = _core.linear_bf16(*map(as_operand, (x, w, b, r)), activation, pre)

        def as_rounded(a: Any, dtype: Any = dtype) -> Any:
            return T(N(a).astype(dtype).astype("f4"))

        v = _core.linear_bf16(T(x), T(w))[0]
        v = as_rounded(v if b is None else _core.add(v, as_rounded(T(b))))
        v = v if r is None else as_rounded(_core.add(v, as_rounded(T(r))))
        assert (y_pre is not None) == pre
        if y_pre is not None:
            check_equal(N(y_pre), N(v).astype(dtype))
        check_equal(N(y), N(v if activation == "none" else getattr(_core, activation)(v)).astype(dtype))


@pytest.mark.usefixtures("quant_isa")
def test_every_bfloat16_has_the_gelu_of_its_float() -> None:
    """Fused, it takes fewer steps for arguments so short, and gives the same bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(BF16)
    wide = every.astype(np.float32)
    exact = (abs(wide) >= np.finfo(np.float32).smallest_normal) | (wide == 0)  # neither flushed nor NaN
    every = every[exact].reshape(-1, 1)
    y = N(_core.linear_bf16(T(every), T(np.ones((1, 1), BF16)), activation="gelu")[0])
    passed = N(_core.linear_bf16(T(every), T(np.ones((1, 1), BF16)))[0])
    check_equal(y, N(_core.cast(_core.gelu(T(passed.astype(np.float32))), "bfloat16")))


def product_at(level: str, a: Any, b: Any) -> Any:
    before = _core.active_isa()
    try:
        _core.set_isa(level)
        return N(_core.matmul_bf16(T(a), T(b)))
    finally:
        _core.set_isa(before)


def test_levels_without_bfloat16_instructions_agree_bit_for_bit() -> None:
    """A product of two bfloat16 is exact, so that fused and unfused multiply-adds round alike."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((37, 300), np.float32), rng.standard_normal((300, 70), np.float32)
    expected = product_at("scalar", a, b)
    for name in set(_core.supported_isas()) - {"bf16", "amx"}:
        check_equal(product_at(name, a, b), expected)


@pytest.mark.skipif(DEVICE != "cpu", reason="levels of the CPU")
@pytest.mark.skipif("bf16" not in _core.supported_isas(), reason="needs AVX512_BF16")
@given(st.data(), sizes)
def test_dot_products_of_two_add_the_odd_product_first(
    data: st.DataObject, size: tuple[int, int, int]
) -> None:
    """Each product added with a rounding of its own: with the k of all pairs swapped, other levels do the same."""
    m, n, k = size[0], size[1], (size[2] + 1) // 2 * 2
    rng = np.random.default_rng(data.draw(seeds))
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    swapped = np.arange(k) ^ 1
    expected = product_at("scalar", np.ascontiguousarray(a[:, swapped]), np.ascontiguousarray(b[swapped]))
    check_equal(product_at("bf16", a, b), expected)


@pytest.mark.skipif(DEVICE != "cpu", reason="levels of the CPU")
@pytest.mark.parametrize("level", FLUSHING)
def test_bfloat16_instructions_flush_denormals(level: str) -> None:
    """Of operands and of results."""
    least = float(np.finfo(np.float32).smallest_normal)
    a = np.float32([[least / 2, 1], [least, 0], [-least, 0], [3, 1]])
    b = np.float32([[1, 0.5, 2**20], [1, 1, 2**20]])
    check_exact(
        product_at(level, a, b),
        np.float32([[1, 1, 2**20], [least, 0, least * 2**20], [-least, 0, -least * 2**20], [4, 2.5, 2**22]]),
    )


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 0, 7), (3, 5, 0)])
def test_empty_products(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    x, w, bias = np.zeros((m, k), "f4"), np.zeros((n, k), "f4"), np.arange(n).astype("f4")
    check_equal(N(_core.linear_bf16(T(x), T(w), T(bias))[0]), np.tile(bias, (m, 1)))


# ---- the op ---------------------------------------------------------------------------------------------------------


def test_gradients_are_products_in_bfloat16() -> None:
    x, w, g = small_integers(0, 5, 33), small_integers(1, 18, 33), small_integers(2, 5, 18)
    tx, tw = qn.tensor(x, requires_grad=True), qn.tensor(w, requires_grad=True)
    tb = qn.tensor(np.zeros(18, "f4"), requires_grad=True)
    y = ops.linear(tx, tw, tb, precision="bf16")
    assert y.dtype == "float32"
    (y * qn.tensor(g)).sum().backward()
    for leaf, expected in ((tx, g @ w), (tw, g.T @ x), (tb, g.sum(0))):
        assert leaf.grad is not None and leaf.grad.dtype == "float32"
        check_exact(leaf.grad.numpy(), expected, np.float32)
    # Gradients are rounded on their way into the products, and only there.
    third = np.full((5, 18), 1 / 3, "f4")
    tx.grad = tw.grad = tb.grad = None
    (ops.linear(tx, tw, tb, precision="bf16") * qn.tensor(third)).sum().backward()
    assert tx.grad is not None and tb.grad is not None
    check_exact(tx.grad.numpy(), rounded(third) @ w, np.float32)
    check_equal(tb.grad.numpy(), N(_core.sum(T(third), [0])))


def test_bfloat16_operands_give_bfloat16() -> None:
    x, w = small_integers(0, 2, 3, 40).astype(BF16), small_integers(1, 7, 40).astype(BF16)
    y = ops.linear(x, w, activation="relu")
    assert y.dtype == "bfloat16" and y.shape == (2, 3, 7)
    exact = np.maximum(x.astype("f4") @ w.astype("f4").T, 0)
    check_equal(y.numpy(), exact.astype(BF16))


def test_errors_say_what_to_do() -> None:
    x, w = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(TypeError, match=r"precision 'bf16' takes float32 or bfloat16, x is float64; cast it"):
        ops.linear(x, w, precision="bf16")
    with pytest.raises(ValueError, match=r"precision is 'bf16' or None, got 'fp8'"):
        ops.linear(x, w, precision="fp8")
    narrow = qn.tensor(np.ones((4, 3), BF16), requires_grad=True)
    with pytest.raises(qn.errors.UnsupportedError, match=r"train float32 ones with precision='bf16'"):
        ops.linear(np.ones((2, 3), BF16), narrow)
    with pytest.raises(ValueError, match=r"\[matmul\] a has 3 columns, b has 4 rows"):
        _core.matmul_bf16(T(np.ones((2, 3), "f4")), T(np.ones((4, 3), "f4")))
