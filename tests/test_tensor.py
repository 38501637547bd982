"""Tensor: what it holds, how it converts, and that writing goes by the rules."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core
from quernel.errors import DTypeError
from tests.checks import check_equal
from tests.strategies import LAYOUTS, arrays, lay_out, shapes

DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool")


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(dtype: str) -> None:
    a = np.arange(6).reshape(2, 3).astype(dtype)
    t = qn.tensor(a)
    assert (t.shape, t.dtype, t.ndim, t.size, t.device, len(t)) == ((2, 3), dtype, 2, 6, "cpu", 2)
    check_equal(t.numpy(), a)
    check_equal(np.asarray(t), a)
    assert t.tolist() == a.tolist()


@given(st.data(), st.sampled_from(("float32", "float64", "int8", "bool")), shapes(max_rank=3))
def test_any_layout_arrives(data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    a = data.draw(arrays(shape, dtype, LAYOUTS, None))
    plain = np.array(a, a.dtype.newbyteorder("="), order="C")
    check_equal(qn.tensor(a).numpy(), plain)
    check_equal(qn.as_tensor(a).numpy(), plain)


def test_dtype_of_data() -> None:
    assert qn.tensor([1.5]).dtype == qn.tensor(2.0).dtype == "float32"
    assert qn.tensor([1, 2]).dtype == qn.tensor(3).dtype == "int64"
    assert qn.tensor([True]).dtype == "bool"
    assert qn.tensor(np.ones(2)).dtype == "float64"
    assert qn.tensor(np.ones(2), dtype=np.float32).dtype == "float32"
    assert qn.tensor([1, 2], "float64").dtype == "float64"
    assert qn.tensor(qn.tensor([1, 2]), "int8").dtype == "int8"
    assert qn.tensor(2**62 + 1).item() == qn.as_tensor(2**62 + 1).item() == 2**62 + 1


@pytest.mark.parametrize(
    "data",
    [np.ones(2, np.longdouble), np.ones(2, np.complex64), np.array(["a"]), np.ones(2, np.uint16)],
    ids=str,
)
def test_dtypes_that_tensors_do_not_have(data: Any) -> None:
    with pytest.raises(qn.errors.DTypeError, match=f"cannot hold {data.dtype}"):
        qn.tensor(data)


def test_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = np.array([1.0, 2.5], ml_dtypes.bfloat16)
    t = qn.tensor(a)
    assert t.dtype == "bfloat16"
    check_equal(t.numpy(), a)
    check_equal(qn.tensor([1, 2.5], "bfloat16").numpy(), a)


def test_tensor_copies_and_as_tensor_shares() -> None:
    a = np.zeros(3, np.float32)
    copied, shared = qn.tensor(a), qn.as_tensor(a)
    a[0] = 7
    assert copied.tolist() == [0, 0, 0]
    assert shared.tolist() == [7, 0, 0]
    assert np.shares_memory(shared.numpy(), a)
    assert qn.as_tensor(shared) is shared
    t = qn.tensor([1.0])
    assert not np.shares_memory(qn.tensor(t).numpy(), t.numpy())


def test_numpy_is_a_read_only_view() -> None:
    t = qn.tensor([1.0, 2.0])
    view = t.numpy()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 5
    t[0] = 9
    assert view[0] == 9
    del t
    assert view[1] == 2  # the view keeps the memory


def test_array_protocol() -> None:
    t = qn.tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(t), t.numpy())
    assert np.asarray(t, np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(t), t.numpy())
    check_equal(np.exp(t), np.exp(t.numpy()))
    with pytest.raises(ValueError, match="needs a copy"):
        np.asarray(t, np.float64, copy=False)


def test_dlpack() -> None:
    t = qn.tensor([[1.0, 2.0]])
    check_equal(np.from_dlpack(t), t.numpy())
    assert np.shares_memory(np.from_dlpack(t), t.numpy())


def test_torch_tensors_are_taken_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    source = torch.ones(2, 3)
    shared = qn.as_tensor(source)
    source[0, 0] = 5
    assert shared.numpy()[0, 0] == 5
    assert qn.tensor(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert qn.tensor(torch.ones(2, 3).t()).shape == (3, 2)
    check_equal(torch.from_dlpack(qn.tensor([1.0, 2.0])).numpy(), np.array([1, 2], np.float32))


def test_python_numbers() -> None:
    assert qn.tensor(2.5).item() == float(qn.tensor([[2.5]])) == 2.5
    assert int(qn.tensor(7)) == 7
    assert list(range(10))[qn.tensor(3)] == 3
    assert bool(qn.tensor(1)) and not qn.tensor(0.0)
    with pytest.raises(qn.errors.ShapeError, match=r"\[item\] only a tensor of one element"):
        qn.tensor([1, 2]).item()
    with pytest.raises(ValueError, match="ambiguous"):
        bool(qn.tensor([1, 2]))
    with pytest.raises(TypeError):
        range(qn.tensor(2.0))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no length"):
        len(qn.tensor(1))


def test_iteration_and_identity() -> None:
    t = qn.tensor([[1, 2], [3, 4]])
    assert [row.tolist() for row in t] == [[1, 2], [3, 4]]
    table = {t: "t", t[0]: "row"}
    assert table[t] == "t"
    assert (t == t.clone()).dtype == "bool"
    assert (t == None) is False
    assert t != None


def test_repr() -> None:
    assert repr(qn.tensor([1.0, 2.0])) == "tensor([1., 2.], dtype=float32)"
    assert repr(qn.tensor(3.0, requires_grad=True)) == "tensor(3., dtype=float32, requires_grad=True)"


def test_copy_and_pickle() -> None:
    t = qn.tensor([1.0, 2.0], requires_grad=True)
    for other in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        check_equal(other.numpy(), t.numpy())
        assert other.requires_grad
        other[0] = 5
        assert t.tolist() == [1, 2]
    pair = copy.deepcopy([t, t])
    assert pair[0] is pair[1]


@given(st.data())
def test_basic_indexing_is_numpys(data: st.DataObject) -> None:
    shape = data.draw(shapes(1, 3, most=9))
    a = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
    index = data.draw(_indices(shape))
    expected = a[index]
    check_equal(qn.tensor(a)[index].numpy(), np.asarray(expected))
    value = np.arange(expected.size, dtype=np.float32).reshape(expected.shape) - 100
    t = qn.tensor(a)
    t[index] = value
    a[index] = value
    check_equal(t.numpy(), a)


@st.composite
def _indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    items: list[Any] = []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        choices = [st.slices(size)]
        if size:
            choices.append(st.integers(-size, size - 1))  # type: ignore[arg-type]
        items.append(draw(st.one_of(choices)))
    for _ in range(draw(st.integers(0, 2))):
        items.insert(draw(st.integers(0, len(items))), None)
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), Ellipsis)
        used = sum(i is not None and i is not Ellipsis for i in items)
        at = items.index(Ellipsis)
        tail = [i for i in items[at + 1 :] if i is not None]
        # After an ellipsis, positions count from the end: indices must fit there too.
        for size, item in zip(shape[len(shape) - len(tail) :], tail, strict=True):
            if isinstance(item, int) and not -size <= item < size:
                return tuple(items[: items.index(Ellipsis)])
        assert used <= len(shape)
    return items[0] if len(items) == 1 and draw(st.booleans()) else tuple(items)


def test_index_errors() -> None:
    t = qn.zeros((2, 3))
    with pytest.raises(IndexError, match="index 2 is out of range for axis 0 of size 2"):
        t[2]
    with pytest.raises(qn.errors.ShapeError, match="does not fit"):
        t[0, 0, 0]
    with pytest.raises(IndexError):
        t[-3] = 1


def test_assignment_casts_and_broadcasts() -> None:
    t = qn.zeros((2, 3))
    t[...] = 1
    t[0] = [1, 2, 3]
    t[:, 2] = qn.tensor([[7], [8]])[:, 0]
    assert t.tolist() == [[1, 2, 7], [1, 1, 8]]
    t[:, 0:1] = np.float64(0.5)
    assert t.tolist() == [[0.5, 2, 7], [0.5, 1, 8]]
    version = t._t.version
    t[0, 0] = 3
    assert t._t.version > version


def test_assignment_from_itself() -> None:
    t = qn.tensor([1, 2, 3, 4, 5])
    t[::-1] = t
    assert t.tolist() == [5, 4, 3, 2, 1]
    t[1:] = t[:-1]
    assert t.tolist() == [5, 5, 4, 3, 2]
    t[...] = t
    assert t.tolist() == [5, 5, 4, 3, 2]


def test_assignment_is_refused() -> None:
    t = qn.zeros((2, 3))
    with pytest.raises(
        qn.errors.ShapeError, match=r"\[setitem\] a value of shape \(2,\) does not broadcast to \(3,\)"
    ):
        t[0] = [1, 2]
    with pytest.raises(qn.errors.DTypeError, match="float32 value does not fit a int64 tensor"):
        qn.zeros(2, "int64")[...] = qn.ones(2)
    with pytest.raises(qn.errors.StateError, match="borrows a read-only array"):
        qn.as_tensor(np.zeros(2, np.float32))[0] = 1
    assert t.numpy().sum() == 0


def test_reshape_shares_memory_and_version() -> None:
    t = qn.zeros((2, 3))
    flat = t.reshape(-1)
    flat[0] = 5
    assert t.numpy()[0, 0] == 5
    assert t._t.version == flat._t.version
    assert t.reshape(3, 2).shape == t.reshape((3, 2)).shape == (3, 2)
    assert t.flatten().shape == (6,)
    assert t.T.shape == t.transpose(1, 0).shape == (3, 2)


@pytest.mark.parametrize("update", [operator.iadd, operator.isub, operator.imul, operator.itruediv])
def test_in_place_operators(update: Callable[[Any, float], Any]) -> None:
    t, a = qn.tensor([2.0, 4.0]), np.array([2.0, 4.0], np.float32)
    assert update(t, 3.0) is t
    check_equal(t.numpy(), np.asarray(update(a, 3.0)))


def test_in_place_operators_keep_dtype_and_shape() -> None:
    t = qn.tensor([1, 2])
    with pytest.raises(qn.errors.DTypeError):
        t += 0.5
    u = qn.zeros(2)
    with pytest.raises(qn.errors.ShapeError):
        u += qn.ones((3, 2))
    assert t.tolist() == [1, 2]


def test_array_on_the_left() -> None:
    a, t = np.array([1.0, 2.0], np.float32), qn.tensor([3.0, 5.0])
    for result, expected in [
        (a + t, [4, 7]),
        (a - t, [-2, -3]),
        (a * t, [3, 10]),
        (2 / t, [2 / 3, 0.4]),
        (a < t, [1, 1]),
    ]:
        assert isinstance(result, qn.Tensor)
        np.testing.assert_array_equal(result.numpy(), np.asarray(expected, result.dtype))


def test_masks_have_operators_for_logic() -> None:
    a, b = np.array([True, True, False, False]), np.array([[True], [False]])
    s, t = qn.tensor(a), qn.tensor(b)
    for op in (operator.and_, operator.or_, operator.xor):
        expected = op(a, b)
        for result in (op(s, t), op(s, b), op(a, t), op(t, s)):
            assert isinstance(result, qn.Tensor)
            check_equal(result.numpy(), expected)
        check_equal(op(s, True).numpy(), op(a, True))
        check_equal(op(False, s).numpy(), op(False, a))
    check_equal((~s).numpy(), ~a)
    x = qn.arange(6.0)
    assert x[(x > 1) & (x < 4)].tolist() == [2, 3]


def test_operators_for_logic_are_refused_for_numbers() -> None:
    """On integers they work bit by bit elsewhere: nothing else may pass for that."""
    for wrong in (lambda i: ~i, lambda i: i & 1, lambda i: 1 | i, lambda i: (i > 1) ^ i):
        with pytest.raises(DTypeError, match=r"\[[~&|^]\] is for bool tensors, got int64; compare first"):
            wrong(qn.tensor([1, 2]))


def test_creation_explains_what_it_does_not_take() -> None:
    with pytest.raises(DTypeError, match=r"\[full\] dtype is 3; a shape is one argument, such as \(2, 3\)"):
        qn.zeros(2, 3)
    with pytest.raises(DTypeError, match=r"\[full\] fill_value is a number, got 'a'"):
        qn.full(2, "a")


def test_creation() -> None:
    check_equal(qn.full((2, 2), 3).numpy(), np.full((2, 2), 3, np.float32))
    check_equal(qn.zeros(3, "int8").numpy(), np.zeros(3, np.int8))
    check_equal(qn.ones_like(qn.zeros((1, 2), "float64")).numpy(), np.ones((1, 2)))
    check_equal(qn.zeros_like(qn.ones(2)).numpy(), np.zeros(2, np.float32))


def test_empty_tensors() -> None:
    t = qn.zeros((0, 3))
    assert (t + 1).shape == (0, 3)
    assert t.sum(axis=0).tolist() == [0, 0, 0]
    assert t.reshape(0, 1, 3).T.shape == (3, 1, 0)
    assert list(t) == []


def test_layout_strategy_reaches_the_borrowing_path() -> None:
    a = lay_out(np.arange(6, dtype=np.float32).reshape(2, 3), "guard_end")
    assert np.shares_memory(qn.as_tensor(a).numpy(), a)
    assert isinstance(qn.as_tensor(a)._t, _core.Tensor)


def test_a_gradient_is_a_tensor() -> None:
    t = qn.tensor([1.0], requires_grad=True)
    with pytest.raises(qn.errors.DTypeError, match=r"\[grad\] a gradient is a Tensor or None, got ndarray"):
        t.grad = np.ones(1, np.float32)  # type: ignore[assignment]
    assert t.grad is None
    t.grad = qn.tensor([2.0])
    assert t.grad.item() == 2.0


def test_one_element_takes_the_formats_of_its_number() -> None:
    loss = qn.tensor(1.23456)
    assert f"{loss:.2f} {loss.reshape(1, 1):6.1f} {qn.tensor(7):03d}" == "1.23    1.2 007"
    assert f"{loss}" == str(loss)
    with pytest.raises(TypeError, match="format"):
        f"{qn.tensor([1.0, 2.0]):.2f}"
