"""``x[index]`` and ``x[index] = value`` against NumPy: shapes, values, errors; gradients as exact adjoints; plans; graphs."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import nn, ops
from quernel.errors import DTypeError, OutOfRangeError, ShapeError, StateError
from tests.checks import check_adjoint, check_equal
from tests.strategies import seeds

Array = np.ndarray[Any, Any]


@st.composite
def indexed(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape and an index into it: whole numbers, slices, None, an ellipsis, arrays that broadcast, masks."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    rng = np.random.default_rng(draw(seeds))
    common = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    kinds = ["int", "slice", "array", "array", "array", "mask", "stop"]
    items: list[Any] = []
    axis, masked = 0, False
    while axis < len(shape):
        kind = draw(st.sampled_from(kinds))
        n = shape[axis]
        if kind == "stop":
            break
        if kind == "mask" and not masked and not common:
            covered = shape[axis : axis + draw(st.integers(1, 2))]
            items.append(rng.random(covered) < 0.5)
            axis += len(covered) - 1
            masked = True
        elif kind in ("array", "mask"):
            own = tuple(m if rng.random() < 0.7 else 1 for m in common)[
                int(rng.integers(0, len(common) + 1)) :
            ]
            items.append(rng.integers(-n, n, own if not masked else (1,)))
        elif kind == "int":
            items.append(int(rng.integers(-n, n)))
        else:
            ends = (None if rng.random() < 0.4 else int(rng.integers(-n - 1, n + 2)) for _ in range(2))
            items.append(slice(*ends, draw(st.sampled_from([None, 1, 2, -1, -2]))))
        axis += 1
    for _ in range(draw(st.integers(0, 1))):
        items.insert(draw(st.integers(0, len(items))), None)
    if draw(st.booleans()):  # the items behind it now count from the end: keep those that fit there
        at = draw(st.integers(0, len(items)))
        items = [*items[:at], Ellipsis, *(i for i in items[at:] if i is None or isinstance(i, slice))]
    return shape, tuple(items)


def as_given(index: tuple[Any, ...], how: str) -> Any:
    """The arrays of an index as arrays, lists or tensors; a lone item without its tuple."""
    convert = {"array": lambda a: a, "list": lambda a: a.tolist(), "tensor": qn.tensor}[how]
    items = tuple(convert(i) if isinstance(i, np.ndarray) else i for i in index)
    return items[0] if len(items) == 1 else items


@pytest.mark.parametrize("how", ["array", "list", "tensor"])
@given(indexed(), st.sampled_from(["float32", "float64", "int8", "int64", "bool"]))
@settings(max_examples=120)
def test_reading(how: str, case: tuple[tuple[int, ...], tuple[Any, ...]], dtype: str) -> None:
    shape, index = case
    x = (np.arange(np.prod(shape)).reshape(shape) % 120).astype(dtype)
    if how == "list" and any(isinstance(i, np.ndarray) and i.size == 0 and i.ndim > 1 for i in index):
        return  # NumPy takes [[], []] for floats
    check_equal(
        np.asarray(qn.tensor(x)[as_given(index, how)].numpy()),
        np.ascontiguousarray(x[index]).reshape(x[index].shape),
    )


@given(indexed(), st.booleans(), seeds)
@settings(max_examples=120)
def test_writing(case: tuple[tuple[int, ...], tuple[Any, ...]], whole: bool, seed: int) -> None:
    shape, index = case
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    room = x[index].shape
    rng = np.random.default_rng(seed)
    value = np.asarray(
        rng.standard_normal(room if whole else tuple(n if rng.random() < 0.5 else 1 for n in room))
    )
    t, base = qn.tensor(x), qn.tensor(x)
    t[as_given(index, "tensor")] = value
    expected = x.copy()
    expected[index] = value
    check_equal(np.asarray(t.numpy()), expected)
    check_equal(np.asarray(base.numpy()), x)


@given(indexed(), seeds)
@settings(max_examples=60)
def test_the_gradient_is_the_adjoint(case: tuple[tuple[int, ...], tuple[Any, ...]], seed: int) -> None:
    shape, index = case
    rng = np.random.default_rng(seed)
    x = rng.integers(-8, 9, shape).astype("f8")
    g = np.asarray(rng.integers(-8, 9, x[index].shape), "f8")

    def adjoint(v: Array) -> Array:
        a = qn.tensor(x, requires_grad=True)
        a[as_given(index, "array")].backward(v)
        assert a.grad is not None
        return np.asarray(a.grad.numpy())

    check_adjoint(lambda v: np.asarray(qn.tensor(v)[index].numpy()), adjoint, x, g)


def test_zero_sizes_and_scalar_booleans() -> None:
    x = np.arange(6.0).reshape(2, 3)
    t = qn.tensor(x)
    for index in ([], ([], []), (slice(None), []), np.zeros((0, 3), int), True, False, (True, slice(None), 1),
                  np.zeros((2, 3), bool), np.array(1), (np.array(1), slice(None)), (0, [1, 2]), np.bool_(True),
                  (slice(0, 0), [0, 1]), (None, [1], None)):  # fmt: skip
        check_equal(np.asarray(t[index].numpy()), np.array(x[index]))
    y = np.arange(30.0).reshape(5, 2, 3)
    for index in ((slice(None), [0, 1], ..., [0, 1]), (slice(None), 0, ..., [0, 1]), (slice(None), True, [0, 1]),
                  (True, slice(None), [0, 1]), (..., [0, 1], True), ([1, 2], None, [0, 1]), (0, ..., [1])):  # fmt: skip
        check_equal(np.asarray(qn.tensor(y)[index].numpy()), np.array(y[index]))
    empty = np.zeros((3, 0, 2))
    for index in ([0, 2], (slice(None), []), (slice(None), slice(None), [0, 1, 1]), np.zeros((3, 0), bool)):
        check_equal(np.asarray(qn.tensor(empty)[index].numpy()), empty[index])
    assert t[qn.tensor(1)].tolist() == [3, 4, 5]
    t[[]] = 7.0
    check_equal(np.asarray(t.numpy()), x)


def test_the_last_of_equal_positions_stays() -> None:
    t = qn.zeros((4,))
    t[[1, 1, 3, 1]] = [1, 2, 3, 4]
    assert t.tolist() == [0, 4, 0, 3]
    t[t > 2] = t[[3, 1]]
    assert t.tolist() == [0, 3, 0, 4]
    t[::-1] = t
    t[[0, 1, 2, 3]] = t[::-1]
    assert t.tolist() == [0, 3, 0, 4]


def test_an_index_may_be_what_is_written_to() -> None:
    x = np.array([3, 0, 1, 2, 4])
    t = qn.tensor(x)
    x[x] = [7, 8, 9, -5, 1]
    t[t] = [7, 8, 9, -5, 1]
    assert t.tolist() == x.tolist()


def test_writing_casts_and_counts_versions() -> None:
    t = qn.zeros((2, 3))
    before = t._t.version
    t[[0], [1]] = 2
    assert t._t.version > before and t.tolist() == [[0, 2, 0], [0, 0, 0]]
    t[np.array([[True, False, False]] * 2)] = [5, 6]
    t[np.array([False, True])] = np.array([1, 2, 3], np.int64)
    assert t.tolist() == [[5, 2, 0], [1, 2, 3]]
    t[t == 2] = -1.0
    assert t.tolist() == [[5, -1, 0], [1, -1, 3]]


NUMPY_REFUSES: list[tuple[Any, type[Exception], str]] = [
    ([0, 2], OutOfRangeError, r"index 2 at position \(1,\) is out of range for axis 0 of size 2"),
    ((slice(None), [[0], [-4]]), OutOfRangeError, r"index -4 at position \(1, 0\) .* axis 1 of size 3"),
    (([0, 1], [0, 1, 2]), ShapeError, r"shapes \(2,\) and \(3,\) do not broadcast"),
    (
        ([0], [0], [0]),
        ShapeError,
        r"index \[array \(1,\), array \(1,\), array \(1,\)\] does not fit a tensor of shape",
    ),
    ((..., [0], ...), ShapeError, "does not fit"),
    (np.zeros(3, bool), ShapeError, r"mask of shape \(3,\) does not fit the dimensions \(2,\) from axis 0"),
    ((slice(None), np.zeros(2, bool)), ShapeError, r"mask of shape \(2,\) .* \(3,\) from axis 1"),
    (np.zeros((2, 3, 1), bool), ShapeError, "does not fit"),
    ((2, [0]), OutOfRangeError, "index 2 is out of range for axis 0"),
    (1.5, DTypeError, "indices are whole numbers, slices, None, ... and arrays"),
    ("a", DTypeError, "indices are whole numbers"),
    ([0.0], DTypeError, "arrays of indices hold whole numbers or booleans, got float"),
]


@pytest.mark.parametrize(("index", "error", "message"), NUMPY_REFUSES, ids=range(len(NUMPY_REFUSES)))
def test_what_numpy_refuses(index: Any, error: type[Exception], message: str) -> None:
    x = np.zeros((2, 3))
    with pytest.raises((IndexError, ValueError)):
        x[index]
    with pytest.raises(error, match=r"\[getitem\] .*" + message):
        qn.tensor(x)[index]
    t = qn.tensor(x)
    with pytest.raises(error, match=r"\[setitem\] .*" + message):
        t[index] = 1.0
    assert not t.numpy().any()


def test_values_that_do_not_fit() -> None:
    t = qn.zeros((4, 3))
    with pytest.raises(
        ShapeError, match=r"\[setitem\] a value of shape \(2, 2\) does not broadcast to \(2, 3\)"
    ):
        t[[0, 1]] = np.ones((2, 2))
    with pytest.raises(ShapeError, match=r"\[setitem\] a value of shape \(2,\) does not broadcast to \(3,\)"):
        t[np.eye(4, 3, dtype=bool)] = np.ones(2)
    with pytest.raises(DTypeError, match=r"\[setitem\] a float32 value does not fit a int64 tensor"):
        qn.arange(3)[[0]] = qn.ones((1,))
    w = qn.ones((3,), requires_grad=True)
    with pytest.raises(StateError, match="on the tape"):
        (w * 2)[[0]] = 1.0
    with pytest.raises(StateError, match="needs a gradient"):
        t[[0]] = w
    w[w > 0] = 5.0  # a leaf may be overwritten
    assert w.tolist() == [5, 5, 5]


def test_a_changed_index_is_noticed_by_the_tape() -> None:
    w, i = qn.ones((4,), requires_grad=True), qn.tensor([1, 2])
    y = w[i].sum()
    i[0] = 3
    with pytest.raises(StateError, match="changed in place"):
        y.backward()


# Masks and positions.


@given(st.lists(st.integers(0, 4), max_size=3), seeds)
def test_nonzero_and_masked_select(shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.asarray(rng.integers(-1, 2, shape))
    positions = ops.nonzero(x)
    assert isinstance(positions, qn.Tensor)
    check_equal(np.asarray(positions.numpy()), np.argwhere(x))
    if x.ndim:
        each = ops.nonzero(x, as_tuple=True)
        assert isinstance(each, tuple) and [t.tolist() for t in each] == [a.tolist() for a in np.nonzero(x)]
        check_equal(np.asarray(qn.tensor(x)[each].numpy()), x[np.nonzero(x)])
    mask = x > 0
    check_equal(np.asarray(ops.masked_select(x, mask).numpy()), x[mask].reshape(-1))
    filled = np.where(mask, 7, x)
    check_equal(np.asarray(ops.masked_fill(x, mask, 7).numpy()), filled)


def test_masked_fill_and_select_gradients_and_errors() -> None:
    x = qn.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    v = qn.tensor(9.0, requires_grad=True)
    ops.masked_fill(x, [True, False], v).backward([[1.0, 2.0], [3.0, 4.0]])
    assert x.grad is not None and v.grad is not None
    assert x.grad.tolist() == [[0, 2], [0, 4]] and v.grad.item() == 4
    x.grad = None
    ops.masked_select(x, [[True], [False]]).backward([1.0, 2.0])
    assert x.grad is not None and x.grad.tolist() == [[1, 2], [0, 0]]
    with pytest.raises(DTypeError, match=r"\[masked_fill\] mask must be bool, got int64"):
        ops.masked_fill(x, [1, 0], 0.0)
    with pytest.raises(
        ShapeError, match=r"\[masked_fill\] .* x's shape \(2, 2\), together they have \(3, 2, 2\)"
    ):
        ops.masked_fill(x, np.ones((3, 1, 1), bool), 0.0)
    with pytest.raises(DTypeError, match=r"\[masked_fill\] x is int64 and cannot hold 0.5"):
        ops.masked_fill(qn.arange(2), [True, False], 0.5)


# Plans and graphs.


def test_arrays_in_plans(caplog: pytest.LogCaptureFixture) -> None:
    state = qn.zeros((5, 3))

    @qn.jit
    def step(x: Any, i: Any, j: Any, mask: Any) -> tuple[qn.Tensor, qn.Tensor, qn.Tensor]:
        state[i, j] = x[0, 0]
        state[mask] = -1.0
        return x[i, j], x[:, None, i], state

    rng = np.random.default_rng(0)
    expected = np.zeros((5, 3), "f4")
    for _ in range(4):
        x, i, j = (
            rng.standard_normal((5, 3)).astype("f4"),
            rng.integers(-3, 3, (2, 1)),
            rng.integers(-3, 3, 2),
        )
        mask = rng.random((5, 3)) < 0.3
        expected[i, j] = x[0, 0]
        expected[mask] = -1
        a, b, c = step(x, i, j, mask)
        for actual, wanted in ((a, x[i, j]), (b, x[:, None, i]), (c, expected)):
            check_equal(np.asarray(actual.numpy()), wanted)
    assert len(step.plans()) == 1 and not caplog.records
    with pytest.raises(
        OutOfRangeError, match=r"\[setitem\] index 7 at position \(1, 0\) .* axis 0 of size 5"
    ):
        step(x, np.array([[0], [7]]), j, mask)
    check_equal(np.asarray(state.numpy()), expected)


def test_masks_in_plans_fall_back_with_a_line(caplog: pytest.LogCaptureFixture) -> None:
    @qn.jit
    def step(x: Any) -> qn.Tensor:
        return x[x > 0]

    with caplog.at_level(logging.WARNING, logger="quernel.jit"):
        for values in ([1.0, -1.0], [2.0, 3.0], [-1.0, -1.0]):
            x = np.array(values, "f4")
            check_equal(np.asarray(step(x).numpy()), x[x > 0])
    assert len(caplog.records) == 1 and not step.plans()
    assert (
        "getitem with a mask reads values on the host" in caplog.text and "test_indexing.py:" in caplog.text
    )


class Picks(nn.Module):
    """Arrays in brackets inside a model: constant ones, and one that depends on the input."""

    def __init__(self) -> None:
        self.linear = nn.Linear(6, 4)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y = self.linear(x[:, [5, 0, 1, 2, 2, -1]])
        return ops.tril(y[:, [[0, 1], [2, 3]]])[:, np.array([True, False])] * y[:, None, :2]


def test_arrays_in_graphs() -> None:
    net = Picks().eval()
    x = np.random.default_rng(0).standard_normal((7, 6)).astype("f4")
    expected = net(x).numpy()
    frozen = net.freeze(max_batch=4)
    check_equal(frozen(x), np.asarray(expected))
    assert "getitem" in str(frozen.graph)

    class Masked(nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return x[x > 0]

    with pytest.raises(StateError, match=r"\[getitem\] how much a mask selects depends on data.*where\(\)"):
        Masked().freeze(input_shape=(3,)).graph  # noqa: B018
