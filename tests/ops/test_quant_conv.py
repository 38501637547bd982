"""int8 convolutions at every ISA level, AMX on emulated tiles included: equal to NumPy's integer arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core
from quernel.jit import FrozenMemory, record_frozen
from tests import reference as ref
from tests.checks import N, T, check_equal
from tests.conftest import DEVICE
from tests.quant_operands import filled, native, output, output_params, scales, zero_points
from tests.strategies import arrays, conv_geometry, lay_out


@pytest.mark.usefixtures("quant_isa")
@given(data=st.data())
def test_qconv2d_equals_numpy(data: st.DataObject) -> None:
    geometry = data.draw(conv_geometry())
    x = data.draw(arrays(geometry.pop("x_shape"), np.uint8, specials=None))
    weight = data.draw(arrays(geometry.pop("weight_shape"), np.int8, specials=None))
    args = data.draw(output_params(weight.shape[0], int(np.prod(weight.shape[1:]))))
    args |= geometry | {"x_zero_point": data.draw(zero_points)}
    check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("channels", [1, 3, 16, 64])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 2)])
def test_padding_is_the_zero_point(channels: int, kernel: tuple[int, int]) -> None:
    """An image that holds its zero point everywhere is real 0, border included: only the bias remains."""
    rng = np.random.default_rng(channels)
    weight = filled(rng, (20, *kernel, channels), np.int8, "uniform")
    bias = ref.fold_zero_point(rng.integers(-100, 100, 20), weight, 77)
    args = output(20, bias=bias, x_zero_point=77, padding=(4, 4), out_float=True)
    x = np.full((2, 9, 11, channels), 77, np.uint8)
    got = N(_core.qconv2d(T(x), T(weight), **native(args)))
    check_equal(got, ref.qconv2d(x, weight, **args))
    assert (got == got[0, 0, 0]).all()


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("channels", [1, 3, 8, 11, 40])
@pytest.mark.parametrize("size", [(3, 3), (7, 5), (4, 45), (1, 70)])
def test_patches_at_the_borders(channels: int, size: tuple[int, int]) -> None:
    """Strips over several rows and rows over several strips; image and padding meet in all ways, the image ends at an
    unreadable page."""
    rng = np.random.default_rng(channels)
    x = lay_out(filled(rng, (2, *size, channels), np.uint8, "uniform"), "guard_end")
    for kernel, padding, stride, dilation in (
        ((1, 1), (0, 0), (2, 3), (1, 1)),
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((2, 5), (3, 4), (1, 2), (1, 1)),
        ((3, 2), (2, 9), (3, 1), (2, 4)),
    ):
        weight = filled(rng, (21, *kernel, channels), np.int8, "uniform")
        args = output(21, out_float=True) | {"x_zero_point": 201, "padding": padding}
        args |= {"stride": stride, "dilation": dilation}
        check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
def test_conv_images_do_not_depend_on_batch_or_threads() -> None:
    rng = np.random.default_rng(1)
    x, weight = (
        filled(rng, (5, 13, 11, 24), np.uint8, "uniform"),
        filled(rng, (72, 3, 3, 24), np.int8, "uniform"),
    )
    out = output(72, scale=scales(72, 1e-3), zero_point=9, lo=9)
    args = native(out | {"x_zero_point": 128, "padding": (1, 1), "stride": (2, 1)})
    whole = N(_core.qconv2d(T(x), T(weight), **args))
    single = [N(_core.qconv2d(T(np.ascontiguousarray(x[i : i + 1])), T(weight), **args)) for i in range(5)]
    check_equal(np.concatenate(single), whole)


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("channels", [16, 20, 44, 112, 116, 228])
@pytest.mark.parametrize("fill", ["uniform", "least", "greatest"])
def test_tiles_of_three_by_three_taps(channels: int, fill: str) -> None:
    """Sizes around the 4x4 outputs of a tile, sums at the ends of their range, more channels than are summed up at a
    time, few and many tiles; the image ends at an unreadable page."""
    rng = np.random.default_rng(channels)
    for n, size, outputs, padding in (
        (1, (3, 3), 16, (0, 0)),
        (1, (4, 9), 17, (1, 1)),
        (3, (7, 6), 70, (1, 0)),
        (2, (2, 5), 33, (2, 5)),
        (1, (38, 41), 16, (1, 1)),
    ):
        x = filled(rng, (n, *size, channels), np.uint8, "uniform" if fill == "uniform" else "greatest")
        weight = lay_out(filled(rng, (outputs, 3, 3, channels), np.int8, fill), "guard_end")
        args = output(outputs, bias=rng.integers(-99, 99, outputs).astype(np.int32), out_float=True)
        args |= {"x_zero_point": int(rng.integers(256)), "padding": padding}
        got = N(_core.qconv2d(T(lay_out(x, "guard_end")), T(weight), **native(args)))
        check_equal(got, ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
def test_tiles_do_not_depend_on_batch_or_threads() -> None:
    """Blocks of tiles for all columns at a time, and one image's, which threads share otherwise."""
    rng = np.random.default_rng(2)
    x = filled(rng, (9, 22, 19, 32), np.uint8, "uniform")
    weight = filled(rng, (72, 3, 3, 32), np.int8, "uniform")
    args = output(72, scale=scales(72, 1e-3), zero_point=9, lo=9) | {"x_zero_point": 128, "padding": (1, 1)}
    whole = N(_core.qconv2d(T(x), T(weight), **native(args)))
    check_equal(whole, ref.qconv2d(x, weight, **args))
    single = [N(_core.qconv2d(T(x[i : i + 1].copy()), T(weight), **native(args))) for i in range(9)]
    check_equal(np.concatenate(single), whole)


@pytest.mark.skipif(DEVICE != "cpu", reason="an algorithm of the CPU's")
@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("size", [(7, 7), (8, 5), (12, 11)])
def test_kept_weights_of_few_tiles(size: tuple[int, int]) -> None:
    """Frozen, where weights are transformed once, other kernels may pay than for a single call: the same bits."""
    rng = np.random.default_rng(size[1])
    x = filled(rng, (1, *size, 64), np.uint8, "uniform")
    weight = T(filled(rng, (72, 3, 3, 64), np.int8, "uniform"))
    args = output(72, scale=scales(72, 1e-3), zero_point=9, lo=9) | {"x_zero_point": 3, "padding": (1, 1)}
    tensors, memory = native(args), FrozenMemory()

    def layer(image: qn.Tensor) -> list[qn.Tensor]:
        return [qn.Tensor(_core.qconv2d(image._t, weight, **tensors))]

    plan = record_frozen(layer, [x], memory.constants, memory.arenas)
    (once,), (again,) = (plan.replay([image]) for image in (x, x[:, ::-1].copy()))
    check_equal(once, ref.qconv2d(x, N(weight), **args))
    check_equal(again, ref.qconv2d(x[:, ::-1].copy(), N(weight), **args))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("channels", [32, 68, 100, 224, 228])
@pytest.mark.parametrize("fill", ["uniform", "least", "greatest"])
def test_tiles_of_two_and_of_four_outputs(quant_isa: str, channels: int, fill: str) -> None:
    """Every rest of a division by four along both axes, groups of channels that are no whole vectors, one and several
    sums over the depth, one and two panels of columns at the end; x is 0 or 255 where weights are extreme."""
    rng = np.random.default_rng(channels)
    for n, size, outputs, padding in (
        (1, (17, 18), 97, (1, 1)),
        (2, (16, 11), 81, (1, 2)),
        (1, (15, 22), 112, (1, 0)),
    ):
        weight = lay_out(filled(rng, (outputs, 3, 3, channels), np.int8, fill), "guard_end")
        for x_fill in ("uniform",) if fill == "uniform" else ("least", "greatest"):
            x = lay_out(filled(rng, (n, *size, channels), np.uint8, x_fill), "guard_end")
            places = {"x_zero_point": int(rng.choice([0, 77, 255])), "padding": padding}
            args = output(outputs, scale=scales(outputs, 1e-3), zero_point=120, lo=4, out_float=n == 1)
            args |= places | {"bias": rng.integers(-99, 99, outputs).astype(np.int32)}
            check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))
    if quant_isa in ("avx2", "vnni"):
        tensors = native(args)
        steps = qn.profile(lambda: _core.qconv2d(T(x), T(weight), **tensors), repeats=1, warmup=0).steps
        assert steps[-1].kernel == "winograd_u8s8"


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize(
    ("channels", "outputs"),
    [
        (1, 1),
        (1, 2),
        (1, 6),
        (1, 7),
        (1, 8),
        (1, 12),
        (1, 17),
        (1, 32),
        (2, 4),
        (2, 9),
        (3, 3),
        (3, 10),
        (3, 16),
        (4, 11),
        (7, 5),
    ],
)
@pytest.mark.parametrize("fill", ["uniform", "least", "greatest"])
def test_few_channels(channels: int, outputs: int, fill: str) -> None:
    """Rows of less and of more than a block of pixels, kernels of odd and even width, padding wider than the kernel;
    strips that begin and end inside rows, strides; the image and the output end at unreadable pages."""
    rng = np.random.default_rng(channels * 100 + outputs)
    for n, size, kernel, padding, stride in (
        (2, (9, 13), (3, 3), (1, 1), (1, 1)),
        (40, (8, 11), (5, 5), (2, 2), (1, 1)),
        (1, (5, 150), (2, 4), (0, 6), (1, 1)),
        (3, (4, 40), (1, 3), (3, 0), (1, 1)),
        (1, (6, 66), (6, 3), (0, 1), (1, 1)),
        (2, (9, 70), (3, 5), (1, 2), (2, 2)),
        (3, (7, 43), (2, 2), (0, 0), (3, 4)),
    ):
        x = filled(rng, (n, *size, channels), np.uint8, "uniform" if fill == "uniform" else "greatest")
        weight = lay_out(filled(rng, (outputs, *kernel, channels), np.int8, fill), "guard_end")
        places = {"x_zero_point": int(rng.integers(256)), "padding": padding, "stride": stride}
        for as_float in (False, True):
            args = output(outputs, scale=scales(outputs, 3e-3), zero_point=120, lo=4, out_float=as_float)
            args |= places | {"bias": rng.integers(-99, 99, outputs).astype(np.int32)}
            got = N(_core.qconv2d(T(lay_out(x, "guard_end")), T(weight), **native(args)))
            check_equal(got, ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 63, 64, 130])
@pytest.mark.parametrize("fill", ["uniform", "least", "greatest"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (1, 5)])
def test_depthwise(channels: int, fill: str, kernel: tuple[int, int]) -> None:
    """One channel per group, and twice as many outputs; odd and even numbers of taps; 255 · -128 is the largest
    product."""
    rng = np.random.default_rng(channels)
    x = lay_out(
        filled(rng, (2, 9, 7, channels), np.uint8, "greatest" if fill != "uniform" else fill), "guard_end"
    )
    places = {
        "x_zero_point": 255,
        "stride": (1, 2),
        "padding": (2, 1),
        "dilation": (2, 1),
        "groups": channels,
    }
    for multiplier in (1, 2):
        weight = lay_out(filled(rng, (channels * multiplier, *kernel, 1), np.int8, fill), "guard_end")
        for as_float in (False, True):
            args = output(channels * multiplier, scale=scales(channels * multiplier, 4e-3), zero_point=120)
            args |= places | {"out_float": as_float}
            check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("channels", [1, 3, 16, 21, 32, 33, 48, 65])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2), (4, 7)])
def test_depthwise_neighbours(channels: int, padding: tuple[int, int]) -> None:
    """Neighbouring pixels of few channels share a vector; rows of less than one and of many; images of one row, and
    padding wider than the image; input and weights end at unreadable pages."""
    rng = np.random.default_rng(channels)
    for n, size, kernel in (
        (3, (6, 45), (3, 3)),
        (2, (1, 5), (1, 3)),
        (2, (5, 5), (5, 5)),
        (1, (9, 3), (4, 1)),
    ):
        x = lay_out(filled(rng, (n, *size, channels), np.uint8, "uniform"), "guard_end")
        weight = lay_out(filled(rng, (channels, *kernel, 1), np.int8, "uniform"), "guard_end")
        for as_float in (False, True):
            args = output(channels, scale=scales(channels, 4e-3), zero_point=120, out_float=as_float)
            args |= {"x_zero_point": 9, "padding": padding, "groups": channels}
            check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("outputs", [1, 5, 9, 20, 40])
def test_groups_of_few_channels(channels: int, outputs: int) -> None:
    """Runs that are no multiple of four bytes, of taps apart; ragged columns; the image ends at an unreadable page."""
    rng = np.random.default_rng(channels)
    x = lay_out(filled(rng, (2, 6, 8, 3 * channels), np.uint8, "uniform"), "guard_end")
    weight = lay_out(filled(rng, (3 * outputs, 3, 2, channels), np.int8, "uniform"), "guard_end")
    for dilation in ((1, 1), (2, 3)):
        for as_float in (False, True):
            args = output(3 * outputs, scale=scales(3 * outputs, 4e-3), zero_point=120, out_float=as_float)
            args |= {"x_zero_point": 9, "padding": (1, 1), "groups": 3, "dilation": dilation}
            check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize(
    ("width", "channels", "kernel"), [(1, 1, (2, 1)), (2, 1, (2, 1)), (1, 2, (3, 1)), (3, 1, (1, 3))]
)
def test_rows_of_fewer_bytes_than_a_group(width: int, channels: int, kernel: tuple[int, int]) -> None:
    """What a run's last group of four reads beyond it is there: the image ends at an unreadable page."""
    rng = np.random.default_rng(width)
    x = lay_out(filled(rng, (5, 3, width, channels), np.uint8, "uniform"), "guard_end")
    weight = lay_out(filled(rng, (7, *kernel, channels), np.int8, "uniform"), "guard_end")
    args = output(7, scale=scales(7, 4e-3), zero_point=120) | {"x_zero_point": 9}
    check_equal(N(_core.qconv2d(T(x), T(weight), **native(args))), ref.qconv2d(x, weight, **args))
