"""float16: casts of every pattern as NumPy's, exchange with other libraries, and products with sums in float32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, nn, ops
from quernel.io.container import decode, encode
from tests import reference
from tests.checks import N, T, check_equal, check_exact
from tests.strategies import arrays, integer_fill, near

F16, BF16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
EVERY = np.arange(1 << 16, dtype=np.uint16).view(F16)
NUMBERS = EVERY[np.isfinite(EVERY)]
ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish")

sizes = st.tuples(near(70), near(140), near(140))  # M, N, K
flags = st.booleans()


def halves(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(F16)


def integers(seed: int, *shape: int, bound: int = 9) -> Any:
    return np.random.default_rng(seed).integers(-bound, bound + 1, shape).astype(F16)


# ---- casts ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "float16"])
def test_every_pattern_widens(dtype: str) -> None:
    """NaNs keep what they carry, signaling ones too."""
    check_equal(N(_core.cast(T(EVERY), dtype)), EVERY.astype(dtype))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_every_whole_number_becomes_an_integer(dtype: str) -> None:
    limits = np.iinfo(dtype)
    fits = NUMBERS[(NUMBERS.astype("f8") >= limits.min) & (NUMBERS.astype("f8") <= limits.max)]
    check_equal(N(_core.cast(T(fits), dtype)), fits.astype(dtype))


@pytest.mark.usefixtures("isa", "threads")
def test_floats_round_to_nearest_even() -> None:
    """Each upper half of a float, with what makes it exact, or lie just beside, around or at a halfway point."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lowers = {0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x3000, 0x8000, 0xFFFF}
    for lower in sorted(lowers | {1 << bit for bit in range(13, 16)}):
        x = (upper | np.uint32(lower)).view(np.float32)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            check_equal(N(_core.cast(T(x), "float16")), x.astype(F16))


@pytest.mark.usefixtures("isa", "threads")
def test_doubles_round_once() -> None:
    """Around the middle between neighbours, by less than float32 sees; beyond its range; and NaNs."""
    positive = EVERY[:0x7C00].astype("f8")
    middle = (positive[1:] + positive[:-1]) / 2
    beside = [positive, middle, *(np.nextafter(middle, to) for to in (-np.inf, np.inf))]
    edges = np.array([65519.999999999, 65520, 1e39, 1e308, 5e-324, 1e-46, 2.0**-25, 2.0**-25 * (1 + 2**-50)])
    bits = np.array([0x7FF0000000000001, 0x7FF8000000000000, 0xFFF4000000000000, 0x7FF0000000000000], "u8")
    x = np.concatenate([*beside, edges, bits.view("f8")])
    x = np.concatenate([x, -x])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        check_equal(N(_core.cast(T(x), "float16")), x.astype(F16))


@pytest.mark.usefixtures("isa")
@given(st.data(), near(200))
def test_casts_have_tails(data: st.DataObject, n: int) -> None:
    x = data.draw(arrays((n,), specials=None))
    with np.errstate(over="ignore", under="ignore"):
        y = N(_core.cast(T(x), "float16"))
        check_equal(y, x.astype(F16))
    check_equal(N(_core.cast(T(y), "float32")), y.astype("f4"))


@pytest.mark.usefixtures("isa")
def test_other_dtypes() -> None:
    for dtype in ("int64", "int32", "uint8", "int8", "bool"):
        x = np.array([0, 1, 77, -3, 127, 255, 2049, 2051, 65519, 65520, -70000, 16777217, 2**60])
        with np.errstate(over="ignore"):
            check_equal(N(_core.cast(T(x.astype(dtype)), "float16")), x.astype(dtype).astype(F16))
    numbers = NUMBERS.astype(BF16)
    check_equal(N(_core.cast(T(NUMBERS), "bfloat16")), numbers)
    with np.errstate(over="ignore"):
        every = np.arange(1 << 16, dtype=np.uint16).view(BF16)
        every = every[~np.isnan(every.astype("f4"))]
        check_equal(N(_core.cast(T(every), "float16")), every.astype("f4").astype(F16))


def test_the_gradient_of_a_cast_is_a_cast() -> None:
    x = qn.tensor(np.ones(3, "f4"), requires_grad=True)
    y = ops.cast(ops.cast(x, "float16"), "float32")
    (y * qn.tensor([1.0, 2.0, 1 / 3])).sum().backward()
    assert x.grad is not None
    check_equal(x.grad.numpy(), np.float32([1, 2, 1 / 3]).astype(F16).astype("f4"))


# ---- exchange -------------------------------------------------------------------------------------------------------


def test_arrays_go_in_and_out() -> None:
    a = halves(0, 2, 3)
    t = qn.tensor(a)
    assert (t.dtype, t.numpy().dtype, t._t.nbytes) == ("float16", F16, 12)
    check_equal(t.numpy(), a)
    check_equal(qn.tensor(a.astype(">f2")).numpy(), a)
    check_equal(qn.tensor([1, 2.5], np.float16).numpy(), np.array([1, 2.5], F16))
    check_equal(qn.arange(4, dtype="float16").numpy(), np.arange(4, dtype=F16))
    assert t.tolist() == a.tolist() and t[1, 2].item() == float(a[1, 2])
    assert repr(qn.tensor([1, 2.5], "float16")) == "tensor([1. , 2.5], dtype=float16)"
    check_equal(t.reshape(3, 2)[1:].T.numpy(), a.reshape(3, 2)[1:].T)
    check_equal(ops.concat([t, t], 1).numpy(), np.concatenate([a, a], 1))
    if t.device == "cpu":
        assert np.shares_memory(qn.as_tensor(a).numpy(), a)
        assert np.shares_memory(np.from_dlpack(t), t.numpy())
        check_equal(np.from_dlpack(t), a)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_constants_are_made(dtype: np.dtype[Any]) -> None:
    name = dtype.name
    numbers = [0, 1, True, -0.0, 0.1, 2049, 1e5, -1e39, math.inf, math.nan, 1 + 2.0**-11 + 2.0**-30, 2.0**-25]
    with np.errstate(over="ignore"):
        for number in numbers:
            check_equal(qn.full((2, 3), number, name).numpy(), np.full((2, 3), number, dtype))
            check_equal(qn.as_tensor(number, name).numpy(), np.full((), number, dtype))
    x = qn.ones((2, 3), name)
    check_equal(x.numpy(), np.ones((2, 3), dtype))
    check_equal(qn.zeros(4, dtype).numpy(), np.zeros(4, dtype))
    check_equal(qn.zeros_like(x).numpy(), np.zeros((2, 3), dtype))
    check_equal(qn.ones_like(x).numpy(), np.ones((2, 3), dtype))
    check_equal(qn.full((0, 3), 1, name).numpy(), np.ones((0, 3), dtype))
    check_equal(
        ops.pad(x, ((1, 0), (0, 2)), value=0.5).numpy(),
        np.pad(x.numpy(), ((1, 0), (0, 2)), constant_values=0.5),
    )
    step = qn.jit(lambda x: ops.concat([x, qn.ones((1, 3), name)]))
    for _ in range(4):
        check_equal(step(x).numpy(), np.ones((3, 3), dtype))


def test_torch_gives_and_takes_it() -> None:
    torch = pytest.importorskip("torch")
    a = halves(1, 4)
    check_equal(qn.tensor(torch.from_numpy(a)).numpy(), a)
    back = torch.from_dlpack(qn.tensor(a, device="cpu"))
    assert back.dtype == torch.float16
    check_equal(back.numpy(), a)


def test_files_hold_it() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    blob = encode({"x": EVERY.reshape(256, -1)}, {"format": "quernel"})
    check_equal(decode(blob, "here")[0]["x"], EVERY.reshape(256, -1))
    check_equal(safetensors.load(blob)["x"], EVERY.reshape(256, -1))


def test_promotion_is_as_in_torch() -> None:
    order = ["bool", "uint8", "int64", "float16", "float32", "float64"]
    for low in order:
        higher = low if low in ("float32", "float64") else "float16"
        assert ops.promote_types(low, "float16") == ops.promote_types("float16", low) == higher
    assert ops.promote_types("float16", "bfloat16") == ops.promote_types("bfloat16", "float16") == "float32"


# ---- products -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa", "threads")
@given(st.data(), sizes)
@example(None, (33, 65, 600))
@example(None, (16, 48, 33))
def test_integers_multiply_exactly(data: st.DataObject | None, size: tuple[int, int, int]) -> None:
    m, n, k = size
    if data is None:
        x, w = integers(0, m, k, bound=1), integers(1, n, k, bound=3)
    else:
        x, w = (np.clip(data.draw(integer_fill((rows, k), k)), -3, 3).astype(F16) for rows in (m, n))
    y = ops.linear(x, w)
    assert y.dtype == "float16"
    check_exact(y.numpy(), reference.matmul(x.astype("f8"), w.astype("f8").T), F16)


@pytest.mark.usefixtures("isa", "threads")
@given(sizes, st.integers(0, 99))
@example((6, 64, 4096), 0)
def test_results_stay_within_the_bound(size: tuple[int, int, int], seed: int) -> None:
    """Products are exact in float32; sums round there, and once to float16."""
    m, n, k = size
    x, w = halves(seed, m, k), halves(seed + 100, n, k)
    y = ops.linear(x, w).numpy().astype("f8")
    exact = reference.matmul(x.astype("f8"), w.astype("f8").T)
    size_of = reference.matmul(abs(x).astype("f8"), abs(w).astype("f8").T)
    error = abs(y - exact)
    assert (error <= 2.0**-11 * abs(exact) + 2.0**-25 + (k + 1) * 2.0**-23 * size_of).all()


@pytest.mark.usefixtures("isa", "threads")
@given(sizes, st.integers(0, 70))
def test_bits_depend_on_neither_rows_nor_threads(size: tuple[int, int, int], cut: int) -> None:
    m, n, k = size
    x, w, bias = halves(2, m, k), halves(3, n, k), halves(4, n)
    whole = ops.linear(x, w, bias).numpy()
    parts = [ops.linear(part, w, bias).numpy() for part in (x[:cut], x[cut:])]
    check_equal(np.concatenate(parts), whole)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(st.tuples(near(40), near(140, 1), near(40)), flags, flags, flags, st.integers(0, 99))
def test_a_fused_epilogue_equals_separate_ops(
    activation: str, size: tuple[int, int, int], bias: bool, residual: bool, pre: bool, seed: int
) -> None:
    """Of sums that are exact in float32, and seldom in float16."""
    m, n, k = size
    x, w = integers(seed, m, k, bound=99) / F16.type(64), integers(seed + 1, n, k, bound=99) / F16.type(64)
    b, r = halves(seed + 2, n) if bias else None, halves(seed + 3, m, n) if residual else None
    operands = (None if a is None else T(a) for a in (x, w, b, r))
    y, y_pre = _core.linear_f16(*operands, activation, pre)
    v = x.astype("f4") @ w.astype("f4").T
    v = v if b is None else v + b.astype("f4")
    v = v.astype(F16)
    v = v if r is None else (v.astype("f4") + r.astype("f4")).astype(F16)
    assert (y_pre is not None) == pre
    if y_pre is not None:
        check_equal(N(y_pre), v)
    check_equal(
        N(y), v if activation == "none" else N(getattr(_core, activation)(T(v.astype("f4")))).astype(F16)
    )


@pytest.mark.usefixtures("isa")
def test_what_overflows_becomes_infinite_at_the_end_alone() -> None:
    """Sums go beyond float16's range and come back."""
    x, w = np.array([[60000, 60000, -60000]], F16), np.ones((2, 3), F16)
    w[1, 2] = 0
    check_equal(ops.linear(x, w).numpy(), np.array([[60000, np.inf]], F16))
    small = np.array([[2.0**-24, 2.0**-14]], F16)
    check_equal(ops.linear(small, np.array([[1, 0.5]], F16)).numpy(), np.array([[2.0**-24 + 2.0**-15]], F16))


@pytest.mark.usefixtures("isa")
def test_nan_and_infinity_arrive_where_they_belong() -> None:
    a = np.ones((20, 70), F16)
    a[3, 69], a[18, 0] = math.nan, math.inf
    y = ops.linear(a, np.ones((33, 70), F16), activation="relu").numpy()
    row = np.arange(20)[:, None]
    check_equal(np.isnan(y), np.repeat(row == 3, 33, 1))
    check_equal(np.isinf(y), np.repeat(row == 18, 33, 1))


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 0, 7), (3, 5, 0)])
def test_empty_products(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    bias = np.arange(n).astype(F16)
    check_equal(ops.linear(np.zeros((m, k), F16), np.zeros((n, k), F16), bias).numpy(), np.tile(bias, (m, 1)))


def test_a_recording_gives_the_same_bits() -> None:
    x, w, b, r = halves(5, 2, 9, 40), halves(6, 7, 40), halves(7, 7), halves(8, 2, 9, 7)
    step = qn.jit(lambda x: ops.linear(x, w, b, "gelu", r))
    want = ops.linear(x, w, b, "gelu", r).numpy()
    for _ in range(4):
        check_equal(step(x).numpy(), want)


class Scorer(nn.Module):
    """A module whose weight is float16."""

    def __init__(self, outputs: int = 4, inputs: int = 8) -> None:
        self.weight = qn.tensor(halves(11, outputs, inputs))

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y = ops.linear(ops.cast(x, "float16"), self.weight, activation="silu")
        return ops.cast(y, "float32")


def test_a_module_freezes_and_is_saved(tmp_path: Path) -> None:
    """Its weight stays float16 in the file."""
    scorer, x = Scorer(), halves(12, 3, 8).astype("f4")
    want = scorer(x).numpy()
    check_equal(scorer.freeze(max_batch=4)(x), want)
    scorer.save(tmp_path / "scorer.safetensors")
    assert b'"F16"' in (tmp_path / "scorer.safetensors").read_bytes()
    again = qn.load(tmp_path / "scorer.safetensors")
    check_equal(again.predict(x), want)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("outputs", [4, 64, 256])
def test_a_frozen_weight_is_widened_once(outputs: int) -> None:
    """Outside of plans, where 4 bytes an element are kept beside its own 2, however many plans there are."""
    scorer, x = Scorer(outputs, 128), halves(12, 6, 128).astype("f4")
    frozen = scorer.freeze(max_batch=6, input_shape=(128,))
    if frozen.device != "cpu":
        pytest.skip("float16 is multiplied as it is there")
    size = outputs * 128
    for batch in (1, 2, 6):
        check_equal(frozen(x[:batch]), scorer(x[:batch]).numpy())
        memory = frozen.memory(batch)
        assert memory.weights == 2 * size
        assert 4 * size <= memory.packed <= 4 * size + 1  # a byte tells whether the weight is finite
        # x to float16 and back; sums to float16; these to float32, in which silu is, and back; the result
        assert [s for s in frozen._plan(batch).native.steps if s == "cast"] == 6 * ["cast"]


def test_errors_say_what_to_do() -> None:
    x, w = qn.tensor(halves(9, 2, 3)), qn.tensor(halves(10, 4, 3))
    with pytest.raises(TypeError, match=r"\[linear\] weight is float32, x is float16; cast one"):
        ops.linear(x, w.astype("float32"))
    with pytest.raises(TypeError, match=r"bias is float32, x is float16"):
        ops.linear(x, w, qn.ones((4,)))
    with pytest.raises(TypeError, match=r"precision 'bf16' takes float32 or bfloat16, x is float16; cast it"):
        ops.linear(x, w, precision="bf16")
    with pytest.raises(TypeError, match="must be float16, is float32"):
        _core.linear_f16(T(np.ones((2, 3), "f4")), T(np.ones((4, 3), "f4")))
    weight = qn.tensor(halves(10, 4, 3), requires_grad=True)
    with pytest.raises(qn.errors.UnsupportedError, match=r"float16 tensors have no gradients; train float32"):
        ops.linear(x, weight)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_ops_without_a_kernel_name_the_dtype(dtype: str) -> None:
    x = ops.cast(np.ones((2, 3), "f4"), dtype)
    text = f"has no {dtype} kernel; cast to float32 first"
    for call in (
        lambda: x + x, lambda: ops.exp(x), x.sum, lambda: ops.clip(x, 0, 1), lambda: ops.topk(x, 1),
        lambda: x > 0,
    ):  # fmt: skip
        with pytest.raises(qn.errors.UnsupportedError, match=text):
            call()
    with pytest.raises(TypeError, match=f"must be float32 or float64, is {dtype}"):
        _core.matmul(x._t, x._t)
    with pytest.raises(TypeError, match=f"cannot add {dtype} elements"):
        ops.index_add(x, 0, np.array([0]), x[:1])
