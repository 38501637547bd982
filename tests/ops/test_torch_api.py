"""What tests/test_torch.py does not compare: dtypes, conventions at ties and edges, uneven "same" padding."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from tests.strategies import seeds

torch = pytest.importorskip("torch")
F = torch.nn.functional

# Both sides round differently; each limit is relative to the largest value, some hundred roundings of float32.
RTOL = 3e-5


def rand(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nchw(t: Any) -> Any:
    return t.permute(0, 3, 1, 2)


def nhwc(t: Any) -> Any:
    return t.permute(0, 2, 3, 1)


def close(actual: Any, expected: Any) -> None:
    a, e = np.asarray(actual), expected.detach().numpy()
    assert a.shape == e.shape and a.dtype == e.dtype
    limit = RTOL * max(1.0, float(np.abs(e).max(initial=0)))
    assert np.abs(a.astype(np.float64) - e).max(initial=0) <= limit


def compare(ours: Any, theirs: Any, *inputs: np.ndarray) -> None:
    """Outputs and all gradients of two functions."""
    a = [qn.tensor(x, requires_grad=True) for x in inputs]
    b = [torch.tensor(x, requires_grad=True) for x in inputs]
    y, z = ours(*a), theirs(*b)
    close(y, z)
    g = rand(99, *z.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    for p, q in zip(a, b, strict=True):
        close(p.grad, q.grad)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), seeds)
def test_conv2d_same(kh: int, kw: int, dilation: int, seed: int) -> None:
    inputs = rand(seed, 2, 9, 8, 3), rand(seed + 1, 4, kh, kw, 3)

    def theirs(x: Any, w: Any) -> Any:
        return nhwc(F.conv2d(nchw(x), nchw(w), padding="same", dilation=dilation))

    compare(lambda x, w: ops.conv2d(x, w, padding="same", dilation=dilation), theirs, *inputs)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis: int) -> None:
    compare(lambda x: ops.softmax(x, axis), lambda x: F.softmax(x, axis), rand(0, 3, 4, 5))
    compare(lambda x: ops.log_softmax(x, axis), lambda x: F.log_softmax(x, axis), rand(0, 3, 4, 5))


def test_reductions_and_ties() -> None:
    x = np.array([[1, 3, 3], [2, 2, 2]], np.float32)
    compare(lambda x: x.max(1), lambda x: x.amax(1), x)
    compare(lambda x: x.min((0, 1)), lambda x: x.amin((0, 1)), x)
    compare(lambda x: x.mean(0, keepdims=True), lambda x: x.mean(0, keepdim=True), x)
    compare(lambda x: ops.maximum(x, 2.0), lambda x: torch.maximum(x, torch.tensor(2.0)), x)
    compare(lambda x: ops.clip(x, 2, 2.5), lambda x: torch.clip(x, 2, 2.5), x)


@pytest.mark.parametrize(
    "name", ["abs", "square", "sqrt", "exp", "log", "tanh", "sigmoid", "relu", "gelu", "silu"]
)
def test_unary(name: str) -> None:
    theirs = getattr(torch, name, None) or getattr(F, name)
    x = rand(0, 3, 41) * 3
    compare(getattr(ops, name), theirs, np.abs(x) + 0.1 if name in ("sqrt", "log") else x)
    edge = np.array([0.0, -0.0], np.float32)
    if name not in ("sqrt", "log"):
        compare(getattr(ops, name), theirs, edge)


DTYPES = ["bool", "uint8", "int8", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize(("a", "b"), list(itertools.product(DTYPES, DTYPES)))
def test_promotion(a: str, b: str) -> None:
    if {a, b} == {"uint8", "int8"}:
        assert ops.promote_types(a, b) == "int32"  # torch: int16, which there is not
        return
    for left, right in itertools.product([(2,), ()], [(2,), ()]):
        x, y = np.ones(left, a), np.ones(right, b)
        expected = str((torch.tensor(x) + torch.tensor(y)).dtype).removeprefix("torch.")
        assert (qn.tensor(x) + qn.tensor(y)).dtype == expected, (left, right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", [True, 2, 0.5])
def test_promotion_with_numbers(dtype: str, number: float) -> None:
    x = np.ones(2, dtype)
    ours, theirs = qn.tensor(x), torch.tensor(x)
    for mine, other in [
        (ours + number, theirs + number),
        (number * ours, number * theirs),
        (ours / 2, theirs / 2),
    ]:
        assert mine.dtype == str(other.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_numbers_do_not_become_wider() -> None:
    x = qn.ones(3)
    assert (x * math.pi).dtype == (x * np.float64(math.pi)).dtype == (x + 1).dtype == "float32"
    assert (x + np.ones(3)).dtype == "float64"
