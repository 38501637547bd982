"""Products on the device: tiles of both sizes, bits that do not depend on the number of rows, tf32 where it is allowed.

Small integers multiply exactly in every type, so that references are equalled; tf32 keeps 10 bits of a mantissa.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core
from tests import reference
from tests.checks import N, T, check_contraction, check_equal
from tests.conftest import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
TF32_ROUNDOFF = 2.0**-11
SHAPES = [(300, 260, 70), (513, 65, 33), (257, 129, 16), (130, 400, 100), (3, 200, 260)]  # M, N, K
# Hopper multiplies these otherwise: many rows of the first by tiles of 256 columns, of the last by tiles of 128, and few
# rows and the others by tiles of 64.
LARGE = [(385, 500, 250), (140, 259, 330), (1, 256, 256), (600, 127, 260)]
LARGE_OF_BYTES = [(385, 500, 512), (70, 257, 1040), (600, 128, 528)]


def integers(seed: int, *shape: int, bound: int = 9) -> Any:
    return np.random.default_rng(seed).integers(-bound, bound + 1, shape).astype(np.float32)


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture
def tf32() -> Iterator[None]:
    qn.runtime.allow_tf32(True)
    yield
    qn.runtime.allow_tf32(False)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, dtype) for shape in SHAPES for dtype in ("float32", "float64", "bfloat16", "float16")]
    + [(shape, dtype) for shape in LARGE for dtype in ("bfloat16", "float16")],
)
def test_tiles_of_both_sizes_give_the_same_bits(shape: tuple[int, int, int], dtype: str) -> None:
    """Many rows take large tiles, the last of them alone small ones."""
    m, n, k = shape
    a, b, bias = (x.astype(dtype) for x in (integers(1, m, k), integers(2, n, k), integers(3, n)))
    whole = qn.ops.linear(a, b, bias, activation="relu").numpy()
    want = np.maximum(a.astype(np.float64) @ b.astype(np.float64).T + bias.astype(np.float64), 0)
    check_equal(whole, want.astype(dtype))
    a = normal(4, m, k).astype(dtype)
    check_equal(qn.ops.linear(a, b, bias).numpy()[-3:], qn.ops.linear(a[-3:], b, bias).numpy())


def test_sums_that_underflow_have_one_zero() -> None:
    """Slices of tiles are filled up with zeros to different depths; zeros added to -0 make 0."""
    a, b = np.full((400, 8), -1e-30, np.float32), np.full((128, 8), 1e-30, np.float32)
    whole = qn.ops.linear(a, b).numpy()
    check_equal(whole[-3:], qn.ops.linear(a[-3:], b).numpy())
    check_equal(whole, np.zeros((400, 128), np.float32))


@pytest.mark.parametrize("half", [BF16, F16], ids=str)
@pytest.mark.parametrize("offset", [0, 8, 1])
@pytest.mark.parametrize(("n", "activation"), [(258, "gelu"), (257, "silu")])
def test_large_products_of_halves_end_as_separate_ops(
    n: int, activation: str, offset: int, half: Any
) -> None:
    """Bits do not depend on where rows of A begin; bias, residual and activation round as they do alone."""
    m, k = 70, 320
    x, w, bias, residual = (
        normal(seed, *shape).astype(half)
        for seed, shape in ((20, (m, k)), (21, (n, k)), (22, (n,)), (23, (m, n)))
    )
    stored = _core.flat_view(T(np.concatenate([np.zeros(offset, half), x.ravel()])), offset, m * k)
    linear = _core.linear_bf16 if half is BF16 else _core.linear_f16
    y, pre = linear(stored.reshape([m, k]), T(w), T(bias), T(residual), activation, True)
    plain = qn.ops.linear(x, w, bias).numpy()
    added = (plain.astype(np.float32) + residual.astype(np.float32)).astype(half)
    check_equal(N(pre), added)
    check_equal(N(y), getattr(qn.ops, activation)(added.astype(np.float32)).numpy().astype(half))
    x, w = integers(24, m, k), integers(25, n, k)
    sums = qn.ops.linear(x.astype(half), w.astype(half), bias).numpy()
    check_equal(sums, (x @ w.T + bias.astype(np.float32)).astype(half))


@pytest.mark.parametrize(
    ("shape", "offset"),
    [(shape, 0) for shape in SHAPES]
    + [(shape, offset) for shape in [(140, 300, 64), *LARGE_OF_BYTES] for offset in (0, 4, 1)],
)
def test_bytes(shape: tuple[int, int, int], offset: int) -> None:
    """Rows that are vectors of 16 bytes, and those whose words are put together."""
    m, n, k = shape
    rng = np.random.default_rng(5)
    x, w = rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-127, 128, (n, k)).astype(np.int8)
    stored = _core.flat_view(T(np.concatenate([np.zeros(offset, np.uint8), x.ravel()])), offset, m * k)
    bias, scale = rng.integers(-999, 999, n).astype(np.int32), np.full(n, 1 / 4, np.float32)
    operands = (stored.reshape([m, k]), T(w), T(bias), T(scale))
    sums = x.astype(np.int64) @ w.T.astype(np.int64) + bias
    check_equal(N(_core.qlinear(*operands, 0, 0, 255, True)), (sums / 4).astype(np.float32))
    check_equal(
        N(_core.qlinear(*operands, 7, 2, 250, False)), np.clip(np.rint(sums / 4) + 7, 2, 250).astype(np.uint8)
    )


@given(
    st.integers(1, 300), st.integers(40, 520), st.integers(64, 200), st.sampled_from([BF16, F16, np.int8]), st.integers(0, 99)
)  # fmt: skip
def test_large_products_are_exact_for_integers(m: int, n: int, words: int, dtype: Any, seed: int) -> None:
    """Around where another family of kernels begins; slices come back to their places in shared memory several times."""
    k = words * (4 if dtype is np.int8 else 2)
    rng = np.random.default_rng(seed)
    x, w = rng.integers(0, 9, (m, k)), rng.integers(-8, 9, (n, k))
    if dtype is BF16:
        y = qn.ops.linear(x.astype(np.float32), w.astype(np.float32), precision="bf16").numpy()
    elif dtype is F16:
        y = qn.ops.linear(x.astype(F16), w.astype(F16)).numpy().astype(np.float32)
    else:
        zeros, ones = T(np.zeros(n, np.int32)), T(np.ones(n, np.float32))
        y = N(_core.qlinear(T(x.astype(np.uint8)), T(w.astype(np.int8)), zeros, ones, 0, 0, 255, True))
    sums = (x @ w.T).astype(np.float32)
    check_equal(y, sums.astype(F16).astype(np.float32) if dtype is F16 else sums)


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize("shape", [(300, 260, 70), (140, 132, 96), (5, 64, 33), (257, 128, 16)])
def test_tf32_is_exact_for_small_integers_only(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    a, b = integers(6, m, k, bound=1000), integers(7, k, n)
    check_equal(qn.ops.matmul(a, b).numpy(), (a.astype(np.float64) @ b).astype(np.float32))
    stack = integers(8, 3, 1, m // 3, k)
    check_equal(qn.ops.matmul(stack, integers(9, 2, k, n)).numpy(), stack @ integers(9, 2, k, n))
    rounded = qn.ops.matmul(a + np.float32(1 / 3), b).numpy()
    qn.runtime.allow_tf32(False)
    assert (rounded != qn.ops.matmul(a + np.float32(1 / 3), b).numpy()).mean() > 0.5


@pytest.mark.usefixtures("tf32")
def test_tf32_rounds_operands_and_says_so() -> None:
    a, b = normal(10, 140, 96), normal(11, 96, 132)
    assert qn.runtime.allow_tf32()
    rounded = qn.ops.matmul(a, b).numpy()
    size = np.abs(a).astype(np.float64) @ np.abs(b)
    error = np.abs(rounded - a.astype(np.float64) @ b) / size
    assert error.max() <= 2 * TF32_ROUNDOFF + 100 * 2.0**-24
    check_equal(qn.ops.matmul(a[:5], b).numpy(), rounded[:5])
    qn.runtime.allow_tf32(False)
    exact = qn.ops.matmul(a, b).numpy()
    check_contraction(exact, a.astype(np.float64) @ b, size, 96, "float32")
    assert (exact != rounded).mean() > 0.9


@pytest.mark.usefixtures("tf32")
@pytest.mark.parametrize(
    ("c", "o", "groups", "stride"), [(3, 20, 1, 2), (8, 70, 1, 1), (24, 12, 2, 1), (16, 8, 1, 2)]
)
def test_tf32_convolutions(c: int, o: int, groups: int, stride: int) -> None:
    x, w = integers(12, 2, 11, 9, c), integers(13, o, 3, 3, c // groups)
    t = qn.tensor(x, requires_grad=True)
    y = qn.ops.conv2d(t, w, stride=stride, padding=1, groups=groups)
    want = reference.conv2d(x, w, stride=(stride, stride), padding=(1, 1), groups=groups)
    check_equal(y.numpy(), want.astype(np.float32))
    g = integers(14, *y.shape)
    y.backward(qn.tensor(g))
    assert t.grad is not None
    want = reference.conv2d_grad_input(g, w, x.shape, (stride, stride), (1, 1), groups=groups)
    check_equal(t.grad.numpy(), want.astype(np.float32))
