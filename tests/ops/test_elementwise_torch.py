"""Elementwise functions, reductions and orders beside PyTorch's: values, gradients, conventions at edges and ties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from tests.ops.test_torch_api import compare as compare_float32
from tests.strategies import broadcastable, seeds, shapes
from tests.test_torch import compare, normal, torch

F = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:.*degrees of freedom:UserWarning")

FUNCTIONS: dict[str, tuple[Any, Any]] = {
    **{
        name: (getattr(ops, name), getattr(torch, name))
        for name in ("reciprocal", "expm1", "sin", "cos", "erf", "floor", "ceil", "round", "sign")
    },
    **{
        name: (getattr(ops, name), getattr(F, name))
        for name in (
            *(
                "relu6",
                "hardswish",
                "hardsigmoid",
                "hardtanh",
                "leaky_relu",
                "elu",
                "selu",
                "celu",
                "softplus",
            ),
            *("mish", "logsigmoid", "softsign"),
        )
    },
    "leaky_relu(0.3)": (lambda x: ops.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3)),
    "elu(0.7)": (lambda x: ops.elu(x, 0.7), lambda x: F.elu(x, 0.7)),
    "celu(0.5)": (lambda x: ops.celu(x, 0.5), lambda x: F.celu(x, 0.5)),
    "softplus(2, 3)": (lambda x: ops.softplus(x, 2, 3), lambda x: F.softplus(x, 2, 3)),
    "hardtanh(-2, 0.5)": (lambda x: ops.hardtanh(x, -2, 0.5), lambda x: F.hardtanh(x, -2, 0.5)),
    "log1p": (lambda x: ops.log1p(ops.abs(x)), lambda x: torch.log1p(x.abs())),
    "rsqrt": (lambda x: ops.rsqrt(ops.abs(x)), lambda x: torch.rsqrt(x.abs())),
}
EDGES = np.array([0.0, -0.0, 3.0, -3.0, 1.0, -1.0, 6.0, 0.5, -0.5, -2.0, 20.0, 50.0, -50.0, 1e-9, -1e-9])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    x = np.concatenate([np.linspace(-9, 9, 301) + 1e-3, EDGES])
    if name in ("reciprocal", "rsqrt"):
        x = x[np.abs(x) > 0.1]
    if name == "hardsigmoid":  # PyTorch has 1 / 6 in float32 only (and 1 / alpha of celu)
        compare_float32(ours, theirs, x.astype(np.float32))
    else:
        compare(ours, theirs, x)


@pytest.mark.parametrize("shape", [(1,), (5,)])
def test_prelu(shape: tuple[int, ...]) -> None:
    compare(
        ops.prelu, lambda x, w: F.prelu(x.reshape(-1, 5), w).reshape(x.shape), *normal(0, (3, 4, 5), shape)
    )


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite"])
def test_tests(name: str) -> None:
    for dtype in ("f4", "f8", "i4", "?"):
        x = np.array([0, 1, -1, np.nan, np.inf, -np.inf]).astype(dtype)
        y = getattr(ops, name)(x)
        np.testing.assert_array_equal(y.numpy(), getattr(torch, name)(torch.tensor(x)).numpy())
        assert y.dtype == "bool"


DTYPES = ("float32", "float64", "int8", "uint8", "int32", "int64")


@given(st.data(), st.sampled_from(DTYPES), st.sampled_from(DTYPES), seeds)
def test_comparisons_of_all_dtypes(data: st.DataObject, one: str, two: str, seed: int) -> None:
    if {one, two} == {"int8", "uint8"}:
        two = one
    shape = data.draw(shapes(0, 3, most=9))
    rng = np.random.default_rng(seed)

    def draw(dtype: str) -> Any:
        x = rng.integers(0, 3, data.draw(broadcastable(shape))).astype(dtype)
        return np.where(rng.random(x.shape) < 0.2, np.nan, x).astype(dtype) if dtype[0] == "f" else x

    a, b = draw(one), draw(two)
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor"):
        theirs = getattr(torch, name)
        for x, y in ((a, b), (a, 1)):
            other = torch.tensor(y, dtype=None if isinstance(y, np.ndarray) else torch.tensor(x).dtype)
            expected = theirs(torch.tensor(x), other).numpy()
            np.testing.assert_array_equal(getattr(ops, name)(x, y).numpy(), expected)


@given(
    st.data(),
    st.sampled_from(["floor_divide", "remainder"]),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
)
def test_division_that_rounds_down(data: st.DataObject, name: str, one: str, two: str) -> None:
    if {one, two} == {"int8", "uint8"}:
        two = one
    shape = data.draw(shapes(0, 3, most=9))
    rng = np.random.default_rng(data.draw(seeds))

    def draw(dtype: str) -> Any:
        x = np.abs(rng.integers(-9, 9, shape)) if dtype == "uint8" else rng.integers(-9, 9, shape)
        x = x + rng.random(shape) if dtype[0] == "f" else x
        return np.where(np.abs(x) < 0.5, 1, x).astype(dtype)

    a, b = draw(one), draw(two)
    for x, y in ((a, b), (a, 3), (7, b)):
        mine = getattr(ops, name)(x, y)
        theirs = getattr(torch, name)(*(torch.tensor(v) if isinstance(v, np.ndarray) else v for v in (x, y)))
        assert mine.dtype == str(theirs.dtype).removeprefix("torch.")
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-5)
    t = qn.tensor(a)
    assert (t // 3).tolist() == ops.floor_divide(t, 3).tolist()
    assert (7 % qn.tensor(b)).tolist() == ops.remainder(7, b).tolist()


def test_gradient_of_the_remainder() -> None:
    a, b = normal(0, (4, 5), (5,))
    compare(ops.remainder, torch.remainder, a * 5, b)


@settings(max_examples=15)
@given(st.data(), shapes(1, 4, most=17, least=1), seeds, st.booleans())
def test_reductions(data: st.DataObject, shape: tuple[int, ...], seed: int, keepdim: bool) -> None:
    (x,) = normal(seed, shape)
    dims = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1).map(lambda s: tuple(sorted(s))))
    dim = dims[0]
    many = math.prod(shape[d] for d in dims) > 1
    zeroed = np.where(np.random.default_rng(seed).random(shape) < 0.2, 0, x)
    compare(lambda x: x.prod(dim, keepdim), lambda x: x.prod(dim, keepdim), zeroed)
    compare(lambda x: x.logsumexp(dims, keepdim), lambda x: x.logsumexp(dims, keepdim), x * 9)
    for correction in (0, 1) if many else (0,):
        for name in ("var", "std") if many else ("var",):
            compare(
                lambda x, n=name, c=correction: getattr(x, n)(dims, c, keepdim),
                lambda x, n=name, c=correction: getattr(x, n)(dims, correction=c, keepdim=keepdim),
                x,
            )
    for p in (1, 2, math.inf):
        compare(
            lambda x, p=p: x.norm(p, dims, keepdim),
            lambda x, p=p: torch.linalg.vector_norm(x, p, dims, keepdim),
            zeroed,
        )
    compare(lambda x: x.cumsum(dim), lambda x: x.cumsum(dim), x)
    for name in ("any", "all"):
        ours = getattr(ops, name)(zeroed, dims, keepdim).numpy()
        np.testing.assert_array_equal(ours, getattr(torch, name)(torch.tensor(zeroed), dims, keepdim).numpy())


def test_over_everything_and_where_nothing_is_left() -> None:
    (x,) = normal(0, (3, 4))
    for name in ("prod", "var", "std", "norm"):
        compare(getattr(ops, name), getattr(torch, name), x)
    compare(ops.norm, torch.norm, np.zeros((2, 3)))
    compare(ops.std, torch.std, np.full(5, 2.5))
    compare(lambda x: ops.prod(x, 0), lambda x: x.prod(0), np.array([[0.0, 0.0, 2.0], [3.0, 0.0, -1.0]]))
    one, none = np.ones(1), np.zeros((2, 0))
    for a in (one, np.zeros(0)):
        for name in ("var", "std"):
            assert math.isnan(getattr(ops, name)(a).item())
    assert ops.logsumexp(none, 1).tolist() == [-math.inf] * 2
    assert (
        ops.prod(none).item() == 1
        and ops.any(none).item() is False
        and ops.all(none, 1).tolist() == [True] * 2
    )
    assert ops.logsumexp(qn.tensor([math.inf, 1.0])).item() == math.inf
    assert ops.logsumexp(qn.tensor([-math.inf, -math.inf])).item() == -math.inf
    assert ops.norm(none, 2, 1).tolist() == [0, 0]
    for dtype in ("i4", "?", "u1"):
        y, z = (
            ops.prod(np.ones(3, dtype)),
            torch.prod(torch.ones(3, dtype=torch.tensor(np.ones(1, dtype)).dtype)),
        )
        assert (y.dtype, y.item()) == ("int64", z.item()) and z.dtype == torch.int64


@given(st.data(), shapes(1, 3, most=17, least=1), seeds, st.booleans())
def test_orders(data: st.DataObject, shape: tuple[int, ...], seed: int, largest: bool) -> None:
    rng = np.random.default_rng(seed)
    x = (
        rng.permutation(math.prod(shape)).reshape(shape) / 7.0
    )  # no ties: which of them wins is not fixed in PyTorch
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(1, shape[dim]))
    compare(lambda x: x.topk(k, dim, largest)[0], lambda x: x.topk(k, dim, largest)[0], x)
    compare(lambda x: x.sort(dim, largest)[0], lambda x: x.sort(dim, largest)[0], x)
    t = torch.tensor(x)
    np.testing.assert_array_equal(ops.topk(x, k, dim, largest)[1].numpy(), t.topk(k, dim, largest)[1].numpy())
    np.testing.assert_array_equal(ops.argsort(x, dim, largest).numpy(), t.argsort(dim, largest).numpy())
    # Ties and NaN, where PyTorch says which.
    x = rng.choice(np.array([0, 1, 1, np.nan]), shape)
    t = torch.tensor(x)
    for name in ("argmax", "argmin"):
        for keepdim in (False, True):
            expected = getattr(t, name)(dim, keepdim).numpy()
            np.testing.assert_array_equal(getattr(ops, name)(x, dim, keepdim).numpy(), expected)
        assert getattr(ops, name)(x).item() == getattr(t, name)().item()
    expected = torch.sort(t, dim=dim, descending=largest, stable=True)
    np.testing.assert_array_equal(ops.sort(x, dim, largest)[1].numpy(), expected[1].numpy())
