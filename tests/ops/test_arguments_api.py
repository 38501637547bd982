"""Arguments of ops under PyTorch's and NumPy's names, Python numbers beside integer tensors, and what ops refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from quernel.graph.trace import Input, trace
from tests.checks import check_equal

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("f4")
INTEGERS = ("uint8", "int8", "int32", "int64")


@pytest.mark.parametrize("name", ["sum", "mean", "max", "min"])
def test_reductions_take_dim_and_axis(name: str) -> None:
    reduce, t = getattr(ops, name), qn.tensor(X)
    want = reduce(X, 1, True).numpy()
    assert want.shape == (2, 1, 4)
    for result in (
        reduce(X, dim=1, keepdim=True),
        reduce(X, axis=1, keepdims=True),
        getattr(t, name)(dim=1, keepdim=True),
        getattr(t, name)(axis=1, keepdims=True),
    ):
        check_equal(result.numpy(), want)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_takes_dim_and_axis(name: str) -> None:
    fn, t = getattr(ops, name), qn.tensor(X)
    want = fn(X, 1).numpy()
    np.testing.assert_allclose(want, getattr(torch, name)(torch.tensor(X), dim=1), rtol=1e-5)
    for result in (fn(X, dim=1), fn(X, axis=1), getattr(t, name)(dim=1), getattr(t, name)(axis=1)):
        check_equal(result.numpy(), want)


def test_joining_takes_dim_and_axis() -> None:
    for result in (ops.concat([X, X], dim=1), ops.concat([X, X], axis=1)):  # type: ignore[call-arg]
        check_equal(result.numpy(), np.concatenate([X, X], 1))
    for dim in range(-4, 4):
        check_equal(ops.stack([X, 2 * X], dim=dim).numpy(), np.stack([X, 2 * X], dim))
        check_equal(ops.stack([X, 2 * X], axis=dim).numpy(), np.stack([X, 2 * X], dim))  # type: ignore[call-arg]
    with pytest.raises(qn.errors.ArgumentError, match=r"\[concat\] there is nothing"):
        ops.stack([])


def test_dims_and_widths_may_come_from_numpy() -> None:
    check_equal(ops.sum(X, np.int64(1)).numpy(), ops.sum(X, 1).numpy())
    check_equal(ops.transpose(X, np.int64(0), 2).numpy(), X.swapaxes(0, 2))
    widths = np.array([[1, 0], [0, 2], [0, 0]])
    check_equal(ops.pad(X, widths).numpy(), np.pad(X, widths))  # type: ignore[arg-type]


def test_a_graph_knows_one_name() -> None:
    """Whatever the caller wrote, a node's argument is called dim."""

    class Net(qn.nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return ops.softmax(x.sum(axis=1, keepdims=True), axis=-1)  # type: ignore[call-arg]

    graph = trace(Net(), [Input((3, 4))])
    assert [node.args["dim"] for node in graph.nodes] == [1, -1]
    assert graph.nodes[0].args["keepdim"] is True


@pytest.mark.parametrize("dims", [(0, 1), (-2, -1), (2, 0), (1, 1)])
def test_transpose_swaps_two_dimensions_as_torch_does(dims: tuple[int, int]) -> None:
    want = torch.tensor(X).transpose(*dims).numpy()
    check_equal(qn.tensor(X).transpose(*dims).numpy(), want)
    check_equal(ops.transpose(X, *dims).numpy(), want)
    check_equal(qn.tensor(X[0]).transpose(-2, -1).numpy(), X[0].T)
    assert qn.tensor(1.0).transpose(0, -1).shape == ()


def test_permute_reorders_all_dimensions() -> None:
    t = qn.tensor(X)
    for result in (t.permute(2, 0, 1), t.permute((2, 0, 1)), t.permute(-1, 0, -2), ops.permute(X, (2, 0, 1))):
        check_equal(result.numpy(), X.transpose(2, 0, 1))
    check_equal(t.T.numpy(), X.transpose())
    with pytest.raises(qn.errors.ShapeError, match=r"\[permute\] dims \(0, 1\) must name each of the 3"):
        t.permute(0, 1)


SQUEEZES: list[Callable[[Any], Any]] = [
    lambda t: t.squeeze(),
    lambda t: t.squeeze(0),
    lambda t: t.squeeze(-1),
    lambda t: t.squeeze(1),
    lambda t: t.squeeze((0, 3)),
    lambda t: t.unsqueeze(0),
    lambda t: t.unsqueeze(-1),
    lambda t: t.unsqueeze(2),
    lambda t: t.view(3, -1),
    lambda t: t.view((6,)),
    lambda t: t.flatten(1, 2),
]


@pytest.mark.parametrize("change", SQUEEZES)
def test_new_views_agree_with_torch(change: Callable[[Any], Any]) -> None:
    a = np.arange(6, dtype="f4").reshape(1, 3, 2, 1)
    ours = qn.tensor(a, requires_grad=True)
    result = change(ours)
    check_equal(result.detach().numpy(), change(torch.tensor(a)).numpy())
    (result * result).sum().backward()
    assert ours.grad is not None
    check_equal(ours.grad.numpy(), 2 * a)


def test_methods_that_torch_has() -> None:
    ours, theirs = qn.tensor(X), torch.tensor(X)
    calls: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
        (lambda t: t.gelu(), torch.nn.functional.gelu),
        (lambda t: t.silu(), torch.nn.functional.silu),
        (lambda t: t.pow(2), lambda t: t.pow(2)),
        (lambda t: t.matmul(t.transpose(1, 2)), lambda t: t.matmul(t.transpose(1, 2))),
    ]
    for mine, peer in calls:
        np.testing.assert_allclose(mine(ours).numpy(), peer(theirs).numpy(), rtol=1e-5, atol=1e-6)
    assert ours.numel() == theirs.numel() == 24
    assert qn.tensor([1, 2]).float().dtype == "float32"


@pytest.mark.parametrize("args", [(5,), (2, 7), (7, 1, -2), (0.0, 1.0, 0.25), (3, 3), (4, 1)])
def test_arange(args: tuple[float, ...]) -> None:
    ours, want = qn.arange(*args), np.arange(*args)
    assert ours.dtype == ("int64" if want.dtype.kind == "i" else "float32")
    check_equal(ours.numpy(), want.astype(ours.dtype))
    assert qn.arange(3, dtype="float64").dtype == "float64"
    with pytest.raises(qn.errors.ArgumentError, match=r"\[arange\] the step"):
        qn.arange(0, 3, 0)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_min_of_the_least_integer(dtype: str) -> None:
    least, largest = np.iinfo(dtype).min, np.iinfo(dtype).max
    a = np.array([[least, 5, largest], [largest, largest, 7]], dtype)
    check_equal(ops.min(a).numpy(), a.min())
    check_equal(ops.min(a, 1).numpy(), a.min(1))
    check_equal(ops.min(a, 0, keepdim=True).numpy(), a.min(0, keepdims=True))
    check_equal(ops.max(a, 0).numpy(), a.max(0))


def test_min_of_booleans() -> None:
    a = np.array([[True, False], [True, True]])
    check_equal(ops.min(a, 1).numpy(), a.min(1))


EDGES = (
    0,
    1,
    -1,
    127,
    128,
    -128,
    -129,
    255,
    256,
    300,
    2**31,
    2**53,
    2**53 + 1,
    2**60,
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**70),
)
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@given(
    st.sampled_from(INTEGERS),
    st.sampled_from(COMPARISONS),
    st.sampled_from(EDGES) | st.integers(-(2**65), 2**65),
)
def test_integers_compare_with_any_whole_number(dtype: str, name: str, number: int) -> None:
    """As Python compares them: nothing is rounded, nothing out of range is refused."""
    limits = np.iinfo(dtype)
    values = sorted(
        {0, 5, int(limits.min), int(limits.max), min(max(number, int(limits.min)), int(limits.max))}
    )
    t = qn.tensor(np.array(values, dtype))
    compare = getattr(__import__("operator"), name)
    assert compare(t, number).tolist() == [compare(v, number) for v in values]
    assert compare(number, t).tolist() == [compare(number, v) for v in values]


def test_whole_numbers_beyond_2_to_the_53_count_exactly() -> None:
    big = 2**53 + 1
    assert bool(qn.tensor([big]) == big)
    assert (qn.tensor([0]) + big).tolist() == (big + qn.tensor([0])).tolist() == [big]
    assert (qn.tensor([1]) + 2**60).tolist() == [2**60 + 1]
    assert (2**62 + 3 - qn.tensor([1])).tolist() == [2**62 + 2]
    assert (qn.tensor([3]) * -(2**60 + 1)).tolist() == [-3 * (2**60 + 1)]
    assert ops.maximum(qn.tensor([0]), -(2**63)).tolist() == [0]
    assert ops.where([True, False], qn.tensor([1, 1]), big).tolist() == [1, big]
    assert qn.as_tensor(-(2**63)).item() == -(2**63)
    with pytest.raises(qn.errors.DTypeError, match=r"\[add\] tensors cannot hold 18446744073709551616"):
        qn.tensor([1]) + 2**64


def test_a_plan_may_hold_a_long_number() -> None:
    big = 2**53 + 1
    step = qn.jit(lambda x: x + big)
    for value in (1, 2, 3):
        assert step(qn.tensor([value])).tolist() == [value + big]


def test_numbers_of_numpy_count_as_numbers() -> None:
    assert (qn.tensor([1]) + np.int64(2)).dtype == "int64"
    assert (qn.tensor([1], "int8") + np.int64(2)).dtype == "int8"
    assert (qn.tensor([1.0]) + np.float64(2)).dtype == "float32"
    assert (qn.tensor([1]) + np.bool_(True)).tolist() == [2]


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_without_dimensions(name: str) -> None:
    x = qn.tensor(3.0, requires_grad=True)
    y = getattr(ops, name)(x)
    assert y.shape == () and y.item() == getattr(torch, name)(torch.tensor(3.0), 0).item()
    assert getattr(ops, name)(3.0, 0).item() == y.item()
    y.backward()
    assert x.grad is not None and x.grad.item() == 0.0


def test_cross_entropy_of_one_sample() -> None:
    logits, label = X[0, 0], 2
    theirs = torch.tensor(logits, requires_grad=True)
    want = torch.nn.functional.cross_entropy(theirs, torch.tensor(label))
    want.backward()
    ours = qn.tensor(logits, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = ops.cross_entropy(ours, label, reduction)
        assert loss.shape == ()
        np.testing.assert_allclose(loss.item(), want.item(), rtol=1e-6)
    loss.backward()
    assert ours.grad is not None and theirs.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad, rtol=1e-5, atol=1e-7)


def test_int8_ops_take_arrays() -> None:
    q = ops.quantize(X, 0.1, 100)
    check_equal(q.numpy(), ops.quantize(qn.tensor(X), 0.1, 100).numpy())
    check_equal(ops.dequantize(q.numpy(), 0.1, 100).numpy(), ops.dequantize(q, 0.1, 100).numpy())
