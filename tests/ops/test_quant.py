"""The int8 ops at every ISA level, AMX on emulated tiles included: equal to NumPy's integer arithmetic, never +-1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference as ref
from tests.checks import Array, N, T, check_equal
from tests.quant_operands import filled, native, output, output_params, scales, zero_points
from tests.strategies import (
    F32_SPECIALS,
    arrays,
    lay_out,
    near,
    seeds,
    shapes,
)


def qlinear(x: Array, weight: Array, **args: Any) -> Array:
    return N(_core.qlinear(T(x), T(weight), **native(args)))


# ---- qlinear ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data())
def test_qlinear_equals_numpy(data: st.DataObject) -> None:
    m, n, k = data.draw(near(97)), data.draw(near(193)), data.draw(near(193))
    x = data.draw(arrays((m, k), np.uint8, specials=None))
    weight = data.draw(arrays((n, k), np.int8, specials=None))
    args = data.draw(output_params(n, k))
    check_equal(qlinear(x, weight, **args), ref.qlinear(x, weight, **args))


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("k", [1, 3, 4, 5, 63, 64, 65, 127, 130, 256])
@pytest.mark.parametrize("m", [1, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65])
def test_qlinear_tails(m: int, k: int) -> None:
    """Row and k remainders of every register and tile shape, each operand ending at an unreadable page."""
    rng = np.random.default_rng(m * 1000 + k)
    for n in (1, 10, 16, 17, 33, 48, 64, 81):
        x, weight = (
            lay_out(filled(rng, s, t, "uniform"), "guard_end")
            for s, t in (((m, k), np.uint8), ((n, k), np.int8))
        )
        bias = lay_out(rng.integers(-9, 9, n).astype(np.int32), "guard_end")
        args = output(n, bias=bias, out_float=True)
        check_equal(qlinear(x, weight, **args), ref.qlinear(x, weight, **args))


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("k", [1000, 131_072, 140_000])
@pytest.mark.parametrize("weights", ["least", "greatest", "uniform"])
def test_sums_do_not_saturate_and_wrap_as_int32(k: int, weights: str) -> None:
    rng = np.random.default_rng(k)
    x = filled(rng, (9, k), np.uint8, "greatest")
    weight = filled(rng, (18, k), np.int8, weights)
    bias = np.full(18, -(2**31), np.int32) if weights == "least" else np.full(18, 2**31 - 1, np.int32)
    exact = x.astype(np.int64) @ weight.astype(np.int64).T + bias
    if weights != "uniform":
        assert (exact != exact.astype(np.int32)).all(), "the case is meant to overflow"
    args = output(18, bias=bias, out_float=True)
    check_equal(qlinear(x, weight, **args), exact.astype(np.int32).astype(np.float32))


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("k", [2, 3, 4, 6, 30, 64, 257])
@pytest.mark.parametrize("m", [1, 3, 4, 20])
def test_extreme_neighbours(m: int, k: int) -> None:
    """Neighbouring products of one sign and of both, at the ends of both types: their sums exceed int16."""
    rng = np.random.default_rng(k)
    x = rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (m, k))
    x[0] = 255
    weight = rng.choice(np.array([-128, -127, 127, 126, 0], np.int8), (40, k))
    weight[0], weight[1], weight[2], weight[3, ::2], weight[3, 1::2] = -128, 127, -127, 127, -128
    args = output(40, out_float=True)
    check_equal(qlinear(x, weight, **args), ref.qlinear(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("m", [1, 6, 33, 100])
def test_rows_do_not_depend_on_batch_or_threads(m: int) -> None:
    rng = np.random.default_rng(m)
    x, weight = filled(rng, (m, 300), np.uint8, "uniform"), filled(rng, (200, 300), np.int8, "uniform")
    args = output(200, scale=scales(200, 1e-3), zero_point=99)
    whole = qlinear(x, weight, **args)
    check_equal(whole, ref.qlinear(x, weight, **args))
    check_equal(np.concatenate([qlinear(x[i : i + 1], weight, **args) for i in range(m)]), whole)


@pytest.mark.usefixtures("quant_isa", "threads")
def test_threads_share_a_large_product() -> None:
    """Large enough to be split over threads whatever the level."""
    rng = np.random.default_rng(5)
    x, weight = filled(rng, (512, 260), np.uint8, "uniform"), filled(rng, (190, 260), np.int8, "uniform")
    bias = np.arange(190, dtype=np.int32)
    args = output(190, bias=bias, scale=scales(190, 2e-3), zero_point=128, lo=3, hi=250)
    check_equal(qlinear(x, weight, **args), ref.qlinear(x, weight, **args))


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize(
    ("x_shape", "outputs"), [((0, 5), 7), ((2, 0), 7), ((3, 5), 0), ((0, 0), 0), ((2, 0, 4), 3)]
)
def test_qlinear_of_nothing(x_shape: tuple[int, ...], outputs: int) -> None:
    x, weight = np.zeros(x_shape, np.uint8), np.zeros((outputs, x_shape[-1]), np.int8)
    args = output(outputs, bias=np.arange(outputs, dtype=np.int32), zero_point=3)
    check_equal(qlinear(x, weight, **args), ref.qlinear(x, weight, **args))


@pytest.mark.usefixtures("quant_isa")
def test_requantize_rounds_half_to_even_before_adding_the_zero_point() -> None:
    """Sums of odd halves: 0.5 -> 0, 1.5 -> 2, -0.5 -> 0, then an odd zero point; a rounding after it would differ."""
    sums = np.arange(-40, 41, dtype=np.int32)
    args = output(81, bias=sums, scale=scales(81, 0.5), zero_point=101)
    got = qlinear(np.zeros((1, 1), np.uint8), np.zeros((81, 1), np.int8), **args)
    assert got[0].tolist() == [round(float(s) / 2) + 101 for s in sums]


@pytest.mark.usefixtures("quant_isa")
def test_leading_dimensions_are_kept() -> None:
    rng = np.random.default_rng(0)
    x, weight = filled(rng, (2, 3, 4, 10), np.uint8, "uniform"), filled(rng, (6, 10), np.int8, "uniform")
    args = output(6, scale=scales(6, 0.01), zero_point=7, lo=7)
    check_equal(qlinear(x, weight, **args), ref.qlinear(x, weight, **args))


# ---- elementwise --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data())
def test_quantize_and_dequantize(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    x = data.draw(arrays(shape, specials=F32_SPECIALS, scale=100))
    scale = data.draw(st.sampled_from([1e-30, 0.003, 0.5, 1.0, 3e30]))
    zero_point = data.draw(zero_points)
    q = N(_core.quantize(T(x), scale, zero_point))
    check_equal(q, ref.quantize(x, scale, zero_point))
    check_equal(N(_core.dequantize(T(q), scale, zero_point)), ref.dequantize(q, scale, zero_point))


@pytest.mark.usefixtures("quant_isa")
def test_quantize_specials() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.5, 1.5, 2.5, -0.5, -1.5, 1e-45, 3e38], np.float32)
    assert N(_core.quantize(T(x), 1.0, 100)).tolist() == [100, 255, 0, 100, 102, 102, 100, 98, 100, 255]


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data())
def test_qadd(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    a, b = (data.draw(arrays(shape, np.uint8, specials=None)) for _ in range(2))
    factors = [data.draw(st.sampled_from([0.007, 0.25, 1.0, 1.7])) for _ in range(3)]
    zeros = [data.draw(zero_points) for _ in range(3)]
    lo = data.draw(st.sampled_from([0, zeros[2]]))
    tail = (factors[2], zeros[2], lo, 255)
    got = N(_core.qadd(T(a), factors[0], zeros[0], T(b), factors[1], zeros[1], *tail))
    check_equal(got, ref.qadd(a, factors[0], zeros[0], b, factors[1], zeros[1], *tail))


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data())
def test_qlookup(data: st.DataObject) -> None:
    x = data.draw(arrays(data.draw(shapes()), np.uint8, specials=None))
    table = lay_out(
        np.random.default_rng(data.draw(seeds)).integers(0, 256, 256).astype(np.uint8), "guard_end"
    )
    check_equal(N(_core.qlookup(T(x), T(table))), table[x])


@pytest.mark.usefixtures("quant_isa", "threads")
def test_blocks_of_many_elements() -> None:
    """Several blocks and a remainder, split over threads."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(300_001) * 40).astype(np.float32)
    q = N(_core.quantize(T(x), 0.4, 128))
    check_equal(q, ref.quantize(x, 0.4, 128))
    check_equal(N(_core.dequantize(T(q), 0.4, 128)), ref.dequantize(q, 0.4, 128))
    check_equal(
        N(_core.qadd(T(q), 0.4, 128, T(q), 0.1, 3, 0.5, 9, 0, 255)),
        ref.qadd(q, 0.4, 128, q, 0.1, 3, 0.5, 9, 0, 255),
    )
    check_equal(N(_core.qlookup(T(q), T(np.arange(255, -1, -1, np.uint8)))), 255 - q)


# ---- pooling ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data())
def test_pooling(data: st.DataObject) -> None:
    kernel = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    stride = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    padding = (data.draw(st.integers(0, kernel[0] // 2)), data.draw(st.integers(0, kernel[1] // 2)))
    size = (data.draw(st.integers(kernel[0], 9)), data.draw(st.integers(kernel[1], 9)))
    x = data.draw(
        arrays((data.draw(st.integers(0, 2)), *size, data.draw(near(131))), np.uint8, specials=None)
    )
    check_equal(
        N(_core.qmax_pool2d(T(x), kernel, stride, padding)), ref.qmax_pool2d(x, kernel, stride, padding)
    )
    zero_point, count = data.draw(zero_points), data.draw(st.booleans())
    got = N(_core.qavg_pool2d(T(x), kernel, stride, padding, zero_point, count))
    check_equal(got, ref.qavg_pool2d(x, kernel, stride, padding, zero_point, count))
    check_equal(N(_core.qmean_hw(T(x))), ref.qmean_hw(x))


@pytest.mark.usefixtures("quant_isa")
def test_means_are_exact_and_round_half_to_even() -> None:
    """Every total of windows of 1 x count pixels, against integer arithmetic."""
    for count in (2, 3, 4, 6, 49, 1000):
        totals = np.unique(np.linspace(0, 255 * count, 3000).astype(np.int64))
        x = np.full((totals.size, 1, count, 1), 0, np.uint8)
        base, extra = np.divmod(totals, count)
        x[...] = base[:, None, None, None]
        x[:, 0, :, 0] += (np.arange(count)[None, :] < extra[:, None]).astype(np.uint8)
        assert (x.reshape(totals.size, -1).sum(1, dtype=np.int64) == totals).all()
        check_equal(N(_core.qmean_hw(T(x))), ref.qmean_hw(x))
    assert N(_core.qmean_hw(T(np.array([[[[1], [2]]], [[[2], [3]]]], np.uint8)))).tolist() == [[2], [2]]


@pytest.mark.usefixtures("quant_isa", "threads")
def test_large_global_mean() -> None:
    """A total beyond 2^24, where float32 would lose units."""
    x = np.random.default_rng(0).integers(200, 256, (3, 300, 300, 5), np.uint8)
    check_equal(N(_core.qmean_hw(T(x))), ref.qmean_hw(x))


# ---- dispatch ------------------------------------------------------------------------------------------


def test_the_level_asked_for_runs(quant_isa: str) -> None:
    served = dict(_core.kernel_coverage())
    expected = {"bf16": "vnni"}.get(quant_isa, quant_isa)
    assert served["gemm_u8s8"] == served["conv2d_u8s8"] == expected


def test_emulated_tiles_run_only_if_asked_for() -> None:
    assert "amx_emulated" in _core.compiled_isas()
    assert "amx_emulated" not in _core.supported_isas()
    assert _core.active_isa() != "amx_emulated"


@pytest.mark.usefixtures("quant_isa")
def test_operands_stay_as_they_were() -> None:
    rng = np.random.default_rng(2)
    x, weight = filled(rng, (1, 6, 6, 5), np.uint8, "uniform"), filled(rng, (4, 3, 3, 5), np.int8, "uniform")
    args = output(4) | {"x_zero_point": 3, "padding": (1, 1)}
    operands = (x, weight, args["bias"], args["scale"])
    before = [a.copy() for a in operands]
    _core.qconv2d(T(x), T(weight), **native(args))
    for now, then in zip(operands, before, strict=True):
        check_equal(now, then)
