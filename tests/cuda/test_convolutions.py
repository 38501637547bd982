"""Convolutions that Hopper multiplies by warpgroups: exact for integers, with the bits of products, whatever the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quernel import _core
from tests.checks import N, T, check_equal
from tests.conftest import DEVICE
from tests.ops.test_conv import geometry, options
from tests.ops.test_conv_bf16 import check_all, forward, grad_input, name, normal, patches, shapes

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

# Pixels as they lie: whole slices of channels or not, rows of results that are pairs or not.
PRODUCTS = [
    geometry((2, 11, 13, 256), (260, 1, 1, 256)),
    geometry((3, 5, 7, 288), (257, 1, 1, 288)),
    geometry((1, 1, 1, 320), (256, 1, 1, 320)),
]


@pytest.mark.parametrize("g", PRODUCTS, ids=name)
def test_integers_convolve_exactly(g: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    check_all(g, *(rng.integers(-5, 6, shape).astype("f4") for shape in shapes(g)))


@pytest.mark.parametrize("g", PRODUCTS, ids=name)
def test_bits_are_those_of_a_product_and_of_single_images(g: dict[str, Any]) -> None:
    x, w, gy = normal(g)
    o = options(g)
    y, dx = forward(x, w, **o), grad_input(gy, w, x.shape, **o)
    check_equal(y.reshape(-1, len(w)), N(_core.matmul_bf16(T(patches(x, g)), T(w.reshape(len(w), -1).T))))
    for i in range(len(x)):
        check_equal(forward(x[i : i + 1], w, **o), y[i : i + 1])
        check_equal(grad_input(gy[i : i + 1], w, (1, *x.shape[1:]), **o), dx[i : i + 1])
