"""Convolutions that Hopper multiplies by warpgroups: exact for integers, with the bits of products, whatever the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quernel import _core
from tests import reference
from tests.checks import N, T, check_equal
from tests.conftest import DEVICE
from tests.cuda.schedules import other_schedules, run_under
from tests.ops.test_conv import geometry, options
from tests.ops.test_conv_bf16 import check_all, forward, grad_input, name, normal, patches, shapes

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

# Pixels as they lie: whole slices of channels or not, rows of results that are pairs or not.
PRODUCTS = [
    geometry((2, 11, 13, 256), (260, 1, 1, 256)),
    geometry((3, 5, 7, 288), (257, 1, 1, 288)),
    geometry((1, 1, 1, 320), (256, 1, 1, 320)),
]
# Patches, copied tap by tap. Of the first the adjoint is, too; of some each phase.
PATCHES = [
    geometry((2, 9, 10, 256), (256, 3, 3, 256), padding=(1, 1)),
    geometry((3, 8, 7, 256), (256, 1, 1, 256), stride=(2, 3)),
    geometry((2, 7, 8, 256), (320, 2, 3, 256), stride=(2, 1), padding=(1, 2)),
    geometry((5, 13, 12, 64), (257, 3, 2, 64), stride=(3, 2), padding=(2, 1)),
    geometry((2, 10, 17, 64), (258, 3, 3, 64), dilation=(2, 4), padding=(3, 4), stride=(1, 2)),
    geometry((150, 1, 1, 128), (256, 3, 3, 128), padding=(1, 1)),  # rows of one pixel
    geometry((1, 3, 2, 64), (256, 3, 3, 64), padding=(9, 7), stride=(5, 8)),  # many pixels see no image
    geometry((1, 40, 5, 64), (256, 3, 2, 64), stride=(8, 1)),  # pixels after the last that is read
    geometry((3, 10, 9, 64), (256, 3, 3, 64), padding=(1, 1)),  # tiles of 256 columns
    geometry((3, 11, 10, 128), (128, 3, 3, 128), padding=(1, 1)),  # of 128
    geometry((2, 9, 7, 64), (64, 3, 3, 64), padding=(1, 1), stride=(2, 2)),  # of 64
]
# Copies know no such step, padding or reach, or no such number of channels.
OTHERS = [
    geometry((1, 20, 9, 64), (256, 2, 2, 64), stride=(9, 1)),
    geometry((1, 2, 3, 64), (256, 2, 2, 64), padding=(0, 129), stride=(1, 8)),
    geometry((1, 2, 259, 64), (256, 1, 2, 64), dilation=(1, 256), padding=(0, 1)),
    geometry((1, 260, 2, 64), (256, 2, 1, 64), dilation=(130, 1)),
    geometry((2, 6, 5, 96), (256, 3, 3, 96), padding=(1, 1)),
]
GEOMETRIES = [*PRODUCTS, *PATCHES, *OTHERS]


@pytest.mark.parametrize("g", GEOMETRIES, ids=name)
def test_integers_convolve_exactly(g: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    check_all(g, *(rng.integers(-5, 6, shape).astype("f4") for shape in shapes(g)))


@pytest.mark.parametrize("g", GEOMETRIES, ids=name)
def test_bits_are_those_of_a_product_and_of_single_images(g: dict[str, Any]) -> None:
    x, w, gy = normal(g)
    o = options(g)
    y, dx = forward(x, w, **o), grad_input(gy, w, x.shape, **o)
    check_equal(y.reshape(-1, len(w)), N(_core.matmul_bf16(T(patches(x, g)), T(w.reshape(len(w), -1).T))))
    for i in {0, len(x) - 1}:
        check_equal(forward(x[i : i + 1], w, **o), y[i : i + 1])
        check_equal(grad_input(gy[i : i + 1], w, (1, *x.shape[1:]), **o), dx[i : i + 1])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("g", [PATCHES[1], PATCHES[3]], ids=name)
def test_epilogues_equal_separate_ops(g: dict[str, Any], activation: str) -> None:
    """Of pairs and of single columns; those of an adjoint's phases belong to pixels far apart."""
    o = options(g) | {"bf16": True}
    x, w, gy = normal(g)
    rng = np.random.default_rng(1)
    for run, shape in (
        (lambda *rest: _core.conv2d(T(x), T(w), *rest, **o), gy.shape),
        (lambda *rest: _core.conv_transpose2d(T(gy), T(w), list(x.shape), *rest, **o), x.shape),
    ):
        bias, residual = (rng.standard_normal(s).astype("f4") for s in (shape[-1:], shape))
        y, pre = run(T(bias), T(residual), activation, True)
        plain = N(run(None, None, "none", False)[0])
        check_equal(N(pre), plain + bias + residual)
        check_equal(N(y), N(getattr(_core, activation)(pre)))


@pytest.mark.parametrize("g", [*PATCHES[:5], *PATCHES[-3:], *OTHERS], ids=name)
@pytest.mark.parametrize("zero_point", [0, 3])
def test_bytes(g: dict[str, Any], zero_point: int) -> None:
    """What lies in the padding is the zero point, which copies know if it is 0 or is not read."""
    channels = 2 * g["x_shape"][-1]
    g = g | {key: (*g[key][:-1], channels) for key in ("x_shape", "weight_shape")}
    rng = np.random.default_rng(2)
    x = rng.integers(0, 256, g["x_shape"]).astype(np.uint8)
    w = rng.integers(-127, 128, g["weight_shape"]).astype(np.int8)
    bias, scale = rng.integers(-999, 999, len(w)).astype(np.int32), np.full(len(w), 1 / 4, np.float32)
    o = options(g)
    sums = reference.conv2d(x, w, pad_value=zero_point, **o) + bias
    operands = (T(x), T(w), T(bias), T(scale))
    check_equal(
        N(_core.qconv2d(*operands, 0, 0, 255, zero_point, out_float=True, **o)), (sums / 4).astype(np.float32)
    )
    check_equal(
        N(_core.qconv2d(*operands, 7, 2, 250, zero_point, **o)),
        np.clip(np.rint(sums / 4) + 7, 2, 250).astype(np.uint8),
    )


def check_schedule() -> None:
    """Tiles of 256, 128 and 64 columns, more slices than places, and phases of adjoints."""
    for g in (PATCHES[1], *PATCHES[-3:]):
        rng = np.random.default_rng(3)
        x, w, gy = (rng.integers(-5, 6, shape).astype("f4") for shape in shapes(g))
        o = options(g)
        check_equal(forward(x, w, **o), reference.conv2d(x, w, **o).astype("f4"))
        want = reference.conv2d_grad_input(gy, w, x.shape, **o)
        check_equal(grad_input(gy, w, x.shape, **o), want.astype("f4"))


@other_schedules
def test_other_schedules(schedule: str, copies: str) -> None:
    run_under(schedule, copies, "test_convolutions", "check_schedule")
