"""A frozen linear layer leaves out the zeros of a single row: the bits of a row among others, where sums are dense."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, nn
from quernel.jit import FrozenMemory, record_frozen
from tests.checks import N, T, check_equal
from tests.strategies import Array, lay_out, near, seeds

DTYPES = ("float32", "float64")
SPECIALS = (-0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1e-30, -1e-30)


def frozen(x: Array, w: Array, bias: Array | None = None, activation: str = "none") -> Array:
    """`linear` of one row as a plan whose weight is a constant."""
    memory, weight, b = FrozenMemory(), qn.tensor(w), None if bias is None else T(bias)

    def layer(t: qn.Tensor) -> list[qn.Tensor]:
        return [qn.Tensor(_core.linear(t._t, weight._t, b, None, activation)[0])]

    plan = record_frozen(layer, [np.ones_like(x)], memory.constants, memory.arenas)
    return np.asarray(plan.replay([lay_out(x, "guard_end")])[0])


def dense(x: Array, w: Array, bias: Array | None = None, activation: str = "none") -> Array:
    """The same row as the first of two."""
    two = np.concatenate([x, np.ones_like(x)])
    return N(_core.linear(T(two), T(w), None if bias is None else T(bias), None, activation)[0])[:1]


def sparse_row(rng: np.random.Generator, k: int, zeros: float, dtype: str) -> Array:
    return np.where(rng.random((1, k)) < zeros, 0, rng.standard_normal((1, k))).astype(dtype)


@pytest.mark.usefixtures("isa", "threads")
@settings(max_examples=40)
@given(st.data(), near(193, 60), near(193, 60), st.sampled_from(DTYPES), st.floats(0, 1))
@example(None, 200, 2500, "float32", 0.9)  # several blocks of K in the dense kernel
@example(None, 130, 2500, "float64", 0.8)
@example(None, 1000, 300, "float32", 0.7)
@example(None, 64, 16385, "float32", 0.9)  # too long to be looked at
@example(None, 70, 200, "float32", 1.0)
def test_zeros_left_out_change_no_bit(
    data: st.DataObject | None, n: int, k: int, dtype: str, zeros: float
) -> None:
    rng = np.random.default_rng(0 if data is None else data.draw(seeds))
    x, w = sparse_row(rng, k, zeros, dtype), rng.standard_normal((n, k)).astype(dtype)
    bias = None if data is None or data.draw(st.booleans()) else rng.standard_normal(n).astype(dtype)
    activation = "none" if data is None else data.draw(st.sampled_from(("none", "relu", "gelu")))
    if data is not None:
        for value in data.draw(st.lists(st.sampled_from(SPECIALS), max_size=3)):
            x[0, data.draw(st.integers(0, k - 1))] = value
    check_equal(frozen(x, w, bias, activation), dense(x, w, bias, activation))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_zero_meets_a_weight_that_is_not_finite(dtype: str, value: float) -> None:
    """The sum is NaN, as it is for a row among others."""
    rng = np.random.default_rng(0)
    x, w = sparse_row(rng, 128, 0.9, dtype), rng.standard_normal((80, 128)).astype(dtype)
    x[0, 77], w[70, 77] = 0, value
    y = frozen(x, w)
    assert np.flatnonzero(np.isnan(y)).tolist() == [70]
    check_equal(y, dense(x, w))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_sum_that_underflows_to_minus_zero(dtype: str, signs: tuple[int, int]) -> None:
    """-0 + 0 w is -0 or +0, by the signs of 0 and w: a sum that would stay -0 is not left as it is."""
    tiny = {"float32": 1e-30, "float64": 1e-200}[dtype]
    x, w = np.zeros((1, 100), dtype), np.full((90, 100), signs[1] * tiny, dtype)
    x[0, 3], w[::2, 3] = tiny, -tiny
    x[0, 50:] = math.copysign(0, signs[0])
    w[5] = 1
    y = frozen(x, w)
    check_equal(y, dense(x, w))
    assert y[0, 5] == x[0, 3]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_but_zeros_sum_to_zero(dtype: str) -> None:
    w = -np.ones((100, 70), dtype)
    check_equal(frozen(np.zeros((1, 70), dtype), w), np.zeros((1, 100), dtype))
    check_equal(
        frozen(-np.zeros((1, 70), dtype), w, np.arange(100).astype(dtype)), np.arange(100, dtype=dtype)[None]
    )


@pytest.mark.usefixtures("isa", "threads")
def test_a_frozen_net_gives_a_row_the_bits_it_has_in_a_batch() -> None:
    """A bias far below zero leaves most activations at 0."""
    qn.seed(0)
    net = nn.Sequential(
        nn.Linear(90, 300), nn.ReLU(), nn.Linear(300, 170), nn.ReLU(), nn.Linear(170, 70)
    ).eval()
    with qn.no_grad():
        for layer in (net[0], net[2]):
            layer.bias -= 0.5
    x = np.random.default_rng(0).standard_normal((8, 90), dtype=np.float32)
    hidden = np.asarray(net[:2](qn.tensor(x)))
    assert (hidden == 0).mean() > 0.6
    run: Any = net.freeze(max_batch=8)
    whole = run(x)
    check_equal(whole, np.asarray(net(qn.tensor(x))))
    for i in range(8):
        check_equal(run(x[i : i + 1]), whole[i : i + 1])
