"""The short ways of a call: ops as objects, a jitted function's latest plan again, a frozen model's array in and out.

Each is left for the long way as soon as anything differs; what comes out is the same.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import _core, losses, models, nn, ops, optim
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError
from quernel.ops.op import NotTensorLike
from quernel.recording import State

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)


# ---- ops ------------------------------------------------------------------------------------------------------------

UNARY = [
    *(
        "neg",
        "abs",
        "square",
        "sign",
        "floor",
        "ceil",
        "round",
        "reciprocal",
        "rsqrt",
        "sqrt",
        "exp",
        "expm1",
    ),
    *("log1p", "log", "sin", "cos", "erf", "tanh", "sigmoid", "relu", "gelu", "silu"),
]
BINARY = ["add", "sub", "mul", "floor_divide", "remainder", "pow", "maximum", "minimum", "matmul"]
BINARY += ["eq", "ne", "lt", "le", "gt", "ge"]


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
@pytest.mark.parametrize("dtypes", ["float32 float32", "int64 int64", "uint8 float32", "bool bool"])
def test_direct_calls_are_those_of_the_function(name: str, dtypes: str) -> None:
    op = getattr(ops, name)
    values = np.array([[3.0, 1.0], [0.0, 2.0]])
    operands = [qn.tensor(values.astype(dtype)) for dtype in dtypes.split()][: 1 if name in UNARY else 2]

    def outcome(call: Callable[..., Any]) -> Any:
        try:
            y = call(*operands)
        except (TypeError, ValueError, NotImplementedError) as error:
            return type(error), str(error)
        assert not y.requires_grad and y.is_leaf
        return y.dtype, y.tolist()

    assert str(outcome(op)) == str(outcome(op.__wrapped__))


def test_direct_calls_do_not_enter_the_function() -> None:
    def function(*_operands: Any) -> str:
        return "function"

    add = _core.op_call(function, lambda *_: None, lambda *_: None, NotTensorLike, "add")
    x = qn.tensor(ROWS)
    assert add(x, x).tolist() == (2 * ROWS).tolist()
    assert add(x, 1) == add(x, ROWS) == add(x) == add(x, qn.tensor(ROWS, requires_grad=True)) == "function"
    big = qn.tensor(np.ones(1 << 17, np.float32))  # computed without the GIL
    assert add(big, big).numpy().sum() == 1 << 18
    with pytest.raises(KeyError, match="no_such_op"):
        _core.op_call(function, function, function, NotTensorLike, "no_such_op")


def test_direct_calls_are_left_for_gradients_arrays_and_tensors_without_memory() -> None:
    x, w = qn.tensor(ROWS), qn.tensor(ROWS, requires_grad=True)
    assert ops.add(x, w).requires_grad
    with qn.no_grad():
        assert not ops.add(x, w).requires_grad
    assert ops.add(ops.mul(w, w), x).requires_grad  # of a tensor in between
    assert ops.add(x, ROWS).tolist() == ops.add(ROWS, x).tolist() == (2 * ROWS).tolist()
    assert ops.add(x, 1).tolist() == (ROWS + 1).tolist()
    with pytest.raises((StateError, TypeError)):
        ops.relu(nn.Parameter(None, requires_grad=False))
    y = ops.linear(x, qn.tensor(ROWS), qn.tensor(np.ones(2, np.float32)))
    np.testing.assert_array_equal(y, ROWS @ ROWS.T + 1)


def test_ops_look_like_functions() -> None:
    assert inspect.isroutine(ops.matmul)
    assert ops.matmul.__name__ == "matmul"
    assert list(inspect.signature(ops.matmul).parameters) == ["x", "other"]
    assert (ops.relu.__doc__ or "").startswith("Returns ``max(x, 0)``")
    assert pickle.loads(pickle.dumps(ops.matmul)) is ops.matmul
    assert copy.deepcopy({"f": ops.matmul})["f"] is ops.matmul

    class Holder:
        twice = ops.square

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            return np.full(2, 3.0, np.float32)

    assert Holder().twice().tolist() == [9.0, 9.0]  # a method, as any function in a class


def test_ops_take_keywords_and_refuse_what_is_no_tensor() -> None:
    assert ops.matmul(other=ROWS.T, x=ROWS).shape == (2, 2)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        ops.matmul(ROWS)  # type: ignore[call-arg]
    with pytest.raises(DTypeError, match=r"^\[matmul\] tensors cannot hold object objects") as raised:
        ops.matmul(ROWS, object())  # type: ignore[arg-type]
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("a", "b", "error", "text"),
    [
        ((2, 3), (2, 3), ShapeError, "x has 3 columns, other 2 rows"),
        ((), (2, 3), ShapeError, "both operands need dimensions"),
        ((4, 2, 3), (5, 3, 2), ShapeError, "do not broadcast"),
    ],
)
def test_refused_products_say_it_in_pythons_names(
    a: tuple[int, ...], b: tuple[int, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=rf"\[matmul\].*{text}"):
        ops.matmul(np.zeros(a, np.float32), np.zeros(b, np.float32))


def test_refused_linear_layers_say_it_in_pythons_names() -> None:
    x, w = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    for arguments, error, text in [
        ((x, w.T), ShapeError, "weight expects 4 input features, x has 3"),
        ((x, w.astype(np.float64)), DTypeError, "weight is float64"),
        ((x, w, np.zeros(3, np.float32)), ShapeError, r"bias must have shape \(4,\)"),
        ((x, w, None, "swish"), ArgumentError, "unknown activation 'swish'"),
        ((x, w, None, ["relu"]), ArgumentError, "unknown activation"),
        ((x, w, None, None, x), ShapeError, r"residual must have the output's shape \(2, 4\)"),
    ]:
        with pytest.raises(error, match=rf"\[linear\] {text}"):
            ops.linear(*arguments)  # type: ignore[arg-type]


def test_arrays_share_memory_unless_their_layout_or_dtype_forbids() -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.shares_memory(ops.as_tensor(a).numpy(), a)
    for other in (a.T, a[:, ::2], a.astype(">f4"), np.float32(3.0), a.view(np.matrix)):
        np.testing.assert_array_equal(ops.as_tensor(other).numpy(), np.asarray(other))
    for wrong in (a.astype(np.uint16), a.astype(np.complex64), np.array(["a"]), np.array([None])):
        with pytest.raises(DTypeError, match="tensors cannot hold"):
            ops.as_tensor(wrong)


# ---- jit ------------------------------------------------------------------------------------------------------------


def warm(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    jitted = qn.jit(function)
    for _ in range(4):
        jitted(*args)
    assert len(jitted.plans()) == 1
    return jitted


def test_arguments_of_all_kinds_after_a_replay() -> None:
    def combine(x: Any, y: Any, scale: float, negate: bool) -> Any:
        total = (x + y) * scale
        return -total if negate else total

    x, y = ROWS, ROWS[::-1].copy()
    jitted = warm(combine, x, y, 2.0, False)
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)
    for args in [
        (x, y, 3.0, False),
        (qn.tensor(x), y, -0.0, False),
        (wide[:, ::2], y, 3.0, False),
        (x, x, 3.0, False),
        (x.astype(np.float64), y.astype(np.float64), 3.0, False),
        (x, y, 3.0, True),
        (x, y, 3, False),
        (x[:1], y[:1], 3.0, False),
        (x, y, np.float64(3.0), False),
        (qn.tensor(x, requires_grad=True), y, 3.0, False),
        (x, y, 3.0, False),
    ]:
        got, want = jitted(*args).numpy(), combine(*map(ops.as_tensor, args[:2]), *args[2:]).detach().numpy()
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(jitted(x, y, scale=2.0, negate=False).numpy(), (x + y) * 2)
    with pytest.raises(TypeError):
        jitted(x, y, 2.0)


def test_nested_arguments_after_a_replay() -> None:
    def combine(x: Any, state: Any, flag: Any) -> Any:
        (h, rest), k = state
        return x * 2.0 + h - rest[0] * k, (h + 1.0, flag)

    x, h = ROWS, ROWS[::-1].copy()
    jitted = warm(combine, x, ((h, [x]), 2.0), None)
    short = jitted._latest
    assert short is not None
    for args, same in [
        ((h, ((x, [h]), 5.0), None), True),
        ((h, ((qn.tensor(x), [qn.tensor(h)]), 5.0), None), True),
        ((x, ((h, (x,)), 2.0), None), False),
        ((x, [(h, [x]), 2.0], None), False),
        ((x, ((h, [x, x]), 2.0), None), False),
        ((x, ((h, [x]), 2), None), False),
        ((x, ((h, [x]), 2.0), "text"), False),
        ((x, ((h[:1], [x]), 2.0), None), False),
    ]:
        assert (short.native.run(args) is not None) is same
        got, want = jitted(*args), combine(*args)
        np.testing.assert_array_equal(got[0].numpy(), np.asarray(want[0], np.float32))
        np.testing.assert_array_equal(got[1][0].numpy(), want[1][0])
        assert got[1][1] == want[1][1]


class Counter(State):
    """A state of one tensor."""

    def __init__(self, at: float) -> None:
        self.parts = (qn.tensor(np.full(3, at, np.float32)),)

    def count(self, by: Any) -> Any:
        self.parts[0][...] = self.parts[0] + by
        return self.parts[0] * 2.0


def test_states_are_changed_in_place_by_one_plan() -> None:
    states = [Counter(at) for at in (0.0, 10.0, 20.0)]
    step = qn.jit(lambda state, by: state.count(by))
    for turn in range(1, 6):
        for at, state in enumerate(states):
            version = state.parts[0]._t.version
            doubled = step(state, 1.0)
            assert state.parts[0].tolist() == [10.0 * at + turn] * 3
            assert doubled.tolist() == [20.0 * at + 2 * turn] * 3
            assert state.parts[0]._t.version > version
    assert len(step.plans()) == 1
    states[0].parts = (qn.tensor(np.zeros(4, np.float32)),)  # of another size: another plan
    for turn in range(1, 4):
        assert step(states[0], 1.0).tolist() == [2.0 * turn] * 4
    assert len(step.plans()) == 2
    fixed = np.zeros(3, np.float32)
    fixed.flags.writeable = False
    states[1].parts = (qn.as_tensor(fixed),)
    with pytest.raises(StateError, match="read-only"):
        step(states[1], 1.0)
    assert not fixed.any()


def test_a_state_that_is_two_arguments() -> None:
    first, second = Counter(1.0), Counter(2.0)

    def move(a: Counter, b: Counter) -> Any:
        a.count(1.0)
        return b.count(10.0)

    step = qn.jit(move)
    for _ in range(4):
        step(first, second)
    assert first.parts[0].tolist() == [5.0] * 3 and second.parts[0].tolist() == [42.0] * 3
    for _ in range(4):
        step(first, first)
    assert first.parts[0].tolist() == [49.0] * 3


def test_results_of_a_repeated_replay_are_fresh() -> None:
    jitted = warm(lambda x: (x + 1.0, x * 2.0), ROWS)
    first, second = jitted(ROWS), jitted(ROWS)
    second[0][...] = 0.0
    np.testing.assert_array_equal(first[0].numpy(), ROWS + 1)
    np.testing.assert_array_equal(first[1].numpy(), ROWS * 2)


def test_variables_that_change_in_place_are_seen() -> None:
    factors = [2.0, 3.0]

    class Setting:
        offset = 0.0

    setting = Setting()
    setting.offset = 1.0
    jitted = warm(lambda x: x * factors[0] + setting.offset, ROWS)
    for factor, offset in ((2.0, 1.0), (5.0, 1.0), (5.0, -1.0), (2.0, 1.0)):
        factors[0], setting.offset = factor, offset
        np.testing.assert_array_equal(jitted(ROWS).numpy(), ROWS * np.float32(factor) + np.float32(offset))


def test_modes_and_leaves_that_change_are_seen() -> None:
    weight = qn.tensor(ROWS, requires_grad=True)
    jitted = warm(lambda x: (x * weight).requires_grad, ROWS)
    assert jitted(ROWS) is True
    with qn.no_grad():
        assert jitted(ROWS) is False
    weight.requires_grad = False
    assert jitted(ROWS) is False
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    twice = warm(net.forward, ROWS)
    net.eval()
    np.testing.assert_array_equal(twice(ROWS).numpy(), net(ROWS).numpy())


def test_a_label_out_of_range_leaves_the_step_undone() -> None:
    qn.seed(0)
    net = nn.Linear(3, 4)
    optimizer = optim.SGD(net.parameters(), lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    jitted = warm(step, ROWS, np.array([0, 1]))
    before = net.weight.numpy().copy()
    with pytest.raises(ArgumentError, match="label 9"):
        jitted(ROWS, np.array([0, 9]))
    np.testing.assert_array_equal(net.weight.numpy(), before)
    jitted(ROWS, np.array([0, 1]))
    assert (net.weight.numpy() != before).any()


def test_an_argument_that_is_written_or_shares_memory_with_what_is() -> None:
    total = qn.tensor(np.zeros(3, np.float32))

    def add_up(x: Any) -> Any:
        ops.assign_(total, ..., total + x)
        return total

    jitted = warm(add_up, np.ones(3, np.float32))
    assert jitted(np.ones(3, np.float32)).tolist() == [5.0] * 3
    assert jitted(total).tolist() == [10.0] * 3
    assert jitted(total.numpy()).tolist() == [20.0] * 3


def test_threads_repeat_one_plan() -> None:
    jitted = warm(lambda x, y: x @ y, ROWS, ROWS.T.copy())
    wrong: list[int] = []

    def work(seed: int) -> None:
        a = np.random.default_rng(seed).integers(-4, 4, (2, 3)).astype(np.float32)
        results = [jitted(a, ROWS.T.copy()).numpy() for _ in range(200)]
        wrong.extend(seed for y in results if not np.array_equal(y, a @ ROWS.T))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- frozen models --------------------------------------------------------------------------------------------------


def test_a_frozen_model_takes_what_the_short_way_does_not() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    frozen = net.freeze(max_batch=4, input_shape=(3,))
    want = frozen(ROWS)
    np.testing.assert_array_equal(frozen(ROWS), want)
    wide = np.repeat(ROWS, 2, axis=1)
    unaligned = np.frombuffer(b"\0" + ROWS.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3)
    for x in (
        wide[:, ::2], np.asfortranarray(ROWS), ROWS.astype(np.float64), ROWS.tolist(), unaligned,
        ROWS.astype(">f4"), ROWS.view(np.matrix), qn.tensor(ROWS),
    ):  # fmt: skip
        y = frozen(x)
        assert type(y) is np.ndarray and y.flags.writeable
        np.testing.assert_array_equal(y, want)
    with pytest.raises(ShapeError):
        frozen(ROWS[:, :2].copy())
    with pytest.raises(ShapeError):
        frozen()


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_memory_is_the_weights_and_the_two_largest_results(batch: int) -> None:
    net = nn.Sequential(
        nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)
    )  # fmt: skip
    frozen = net.freeze(max_batch=16, input_shape=(8,))
    memory = frozen.memory(batch)
    assert memory.arena == 4 * batch * (128 + 64)
    assert memory.weights == sum(p.numpy().nbytes for p in net.parameters())
    assert memory.packed == frozen.packed_nbytes


def test_memory_of_a_convolutional_net_holds_no_places_of_maxima() -> None:
    memory = models.lenet5().freeze(max_batch=2, input_shape=(28, 28, 1)).memory(2)
    assert memory.arena == 4 * 2 * (28 * 28 * 6 + 14 * 14 * 6)
