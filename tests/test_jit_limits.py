"""What a replay cannot follow runs eagerly and says so; a step happens whole or not at all."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim
from quernel.jit import Jitted
from tests.runs import Step, both_ways, conv_net, make_batches, simple_step, state_of


@pytest.mark.parametrize("read", ["item", "bool", "numpy", "float"])
def test_host_read_runs_eagerly_and_is_logged_once(read: str, caplog: pytest.LogCaptureFixture) -> None:
    def look(loss: qn.Tensor) -> object:
        if read == "item":
            return loss.item() > 2.3
        if read == "bool":
            return bool(loss > 2.3)
        if read == "numpy":
            return loss.numpy() > 2.3
        return float(loss) > 2.3

    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        opt = optim.SGD(net.parameters(), lr=0.05)

        def careful(x: object, y: object) -> object:
            opt.zero_grad()
            loss = losses.cross_entropy(net(x), y)
            if look(loss):
                loss.backward()
                opt.step()
            return loss

        step = wrap(careful)
        return [float(step(x, y)) for epoch in range(3) for x, y in make_batches(epoch)], state_of(net)

    with caplog.at_level(logging.WARNING, logger="quernel.jit"):
        both_ways(train)
    messages = [r.getMessage() for r in caplog.records if r.name == "quernel.jit"]
    assert len(messages) == 1
    assert "test_jit_limits.py" in messages[0]


def test_captured_array_is_not_frozen_into_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    offset = np.ones(3, np.float32)
    add = qn.jit(lambda x: x + offset)
    x = np.zeros(3, np.float32)
    with caplog.at_level(logging.WARNING, logger="quernel.jit"):
        for i in range(5):
            offset[:] = i
            assert np.array_equal(add(x).numpy(), offset)
    assert "not an argument" in caplog.text or "array" in caplog.text


@pytest.mark.parametrize("calls_before", [0, 1, 2, 3])
def test_bad_label_leaves_no_trace(calls_before: int) -> None:
    """A refused step is as if it had never been tried, whether it would have run eagerly, recorded or replayed."""

    def train(with_refusal: bool) -> object:
        qn.seed(3)
        net = conv_net()
        opt = optim.Adam(net.parameters(), lr=1e-2)
        step = qn.jit(simple_step(net, opt))
        x, y = make_batches()[0]
        step(x, y)  # builds the optimizer's arenas
        for _ in range(calls_before):
            step(x, y)
        if with_refusal:
            bad = y.copy()
            bad[3] = 10
            before = state_of(net)
            with pytest.raises(ValueError, match=r"label 10 at row 3 is out of range for 10 classes"):
                step(x, bad)
            assert state_of(net) == before
        return [float(step(x, y)) for _ in range(4)], state_of(net)

    assert train(with_refusal=True) == train(with_refusal=False)


def test_bad_label_in_the_second_micro_batch() -> None:
    net = conv_net()
    opt = optim.Adam(net.parameters(), lr=1e-2)

    def two(x: object, y0: object, y1: object) -> object:
        opt.zero_grad()
        losses.cross_entropy(net(x), y0).backward()
        opt.step()
        loss = losses.cross_entropy(net(x), y1)
        loss.backward()
        opt.step()
        return loss

    step = qn.jit(two)
    x, y = make_batches()[0]
    for _ in range(3):
        step(x, y, y)
    assert len(step.plans()) == 1
    before = state_of(net)
    with pytest.raises(ValueError, match="label -1 at row 0"):
        step(x, y, np.full_like(y, -1))
    assert state_of(net) == before


def test_three_threads_share_one_function() -> None:
    w = qn.tensor(np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64))
    f = qn.jit(lambda x: (x @ w).tanh() @ w)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((16, 64), dtype=np.float32) for _ in range(3)]
    expected = [f(x).numpy().tobytes() for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(200) if f(inputs[i]).numpy().tobytes() != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_results_are_fresh() -> None:
    f = qn.jit(lambda x: (x * 2, x))
    a = np.ones(4, np.float32)
    first = [f(a * i) for i in range(1, 5)]
    for i, (doubled, same) in enumerate(first, start=1):
        assert np.array_equal(doubled.numpy(), a * (2 * i))
        assert np.array_equal(same.numpy(), a * i)


def test_isa_change_records_anew() -> None:
    levels = qn.runtime.supported_isas()
    f = qn.jit(lambda x: x.exp().sum())
    x = np.linspace(-3, 3, 1000, dtype=np.float32)
    for level in (*levels, *reversed(levels)):
        with qn.runtime.isa(level):
            want = qn.tensor(x).exp().sum().item()
            assert all(f(x).item() == want for _ in range(3))


class Holder:
    value: object = None


def test_tensor_kept_outside_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    kept = Holder()

    def f(x: qn.Tensor) -> qn.Tensor:
        y = x * 2
        kept.value = y
        return y + 1

    g = qn.jit(f)
    with caplog.at_level(logging.WARNING, logger="quernel.jit"):
        for i in range(5):
            g(np.full(3, i, np.float32))
            assert kept.value.numpy()[0] == 2 * i
    assert "kept outside" in caplog.text


def test_random_stream_advances_alike() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        drop = wrap(lambda x: qn.ops.dropout(qn.ops.dropout(x, 0.5, training=True), 0.5, training=True))
        return [np.asarray(drop(np.ones(1001, np.float32))).tobytes() for _ in range(6)]

    both_ways(train)


def test_arguments_and_captured_tensors_are_told_apart() -> None:
    a = qn.tensor(np.ones(2, np.float32))
    add = qn.jit(lambda x: x + a)
    for _ in range(3):
        assert np.array_equal(add(a).numpy(), [2, 2])
    assert np.array_equal(add(qn.tensor(np.full(2, 5, np.float32))).numpy(), [6, 6])


def test_an_argument_inside_a_parameter_arena() -> None:
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    opt = optim.SGD([*layer.parameters(), *other.parameters()], lr=1.0)

    def train(x: object, target: object) -> object:
        opt.zero_grad()
        loss = losses.mse(layer(x), target)
        loss.backward()
        opt.step()
        return loss

    step, x = qn.jit(train), np.eye(2, dtype=np.float32)
    inside = other.weight.detach()
    for _ in range(3):
        step(x, inside)
    elsewhere = qn.tensor(np.zeros((2, 2), np.float32))
    before = np.array(layer.weight)
    step(x, elsewhere)
    assert not elsewhere.numpy().any()
    assert not np.array_equal(before, np.array(layer.weight))


def test_arguments_that_share_memory_with_what_is_written() -> None:
    def f(a: qn.Tensor, b: qn.Tensor) -> qn.Tensor:
        a[...] = a + 1
        return b * 2

    g = qn.jit(f)
    for _ in range(3):
        a, b = (qn.tensor(np.full(3, v, np.float32)) for v in (1, 10))
        assert np.array_equal(g(a, b).numpy(), [20] * 3)
        assert np.array_equal(a.numpy(), [2] * 3)
    assert len(g.plans()) == 1
    assert np.array_equal(g(a, a).numpy(), [6] * 3)
    w = qn.tensor(np.ones(3, np.float32))

    def h(x: qn.Tensor) -> qn.Tensor:
        w[...] = w + 1
        return x * 1

    view, k = w.numpy(), qn.jit(h)
    assert [float(k(view).numpy()[0]) for _ in range(4)] == [2, 3, 4, 5]


def test_a_refusal_that_the_function_catches() -> None:
    def careful(x: qn.Tensor, y: qn.Tensor) -> qn.Tensor:
        try:
            return losses.cross_entropy(x, y)
        except ValueError:
            return (x * 0).sum() - 1

    good, bad = np.zeros(4, np.int64), np.full(4, 9)
    x = np.zeros((4, 2), np.float32)
    for first, second in ((good, bad), (bad, good)):
        f = qn.jit(careful)
        for _ in range(3):
            f(x, first)
        for y in (second, first, second):
            assert f(x, y).item() == careful(qn.tensor(x), qn.tensor(y)).item()


def test_variables_of_helpers_and_their_types() -> None:
    def scaled(x: qn.Tensor, by: int = 1) -> qn.Tensor:
        return x * factor * by

    f = qn.jit(lambda x: scaled(x) + 0)
    x = np.ones(2, np.float32)
    for factor in (2, 2, 2, 3, 3, 3):
        assert f(x).numpy()[0] == factor
    scaled.__defaults__ = (5,)
    assert f(x).numpy()[0] == 15
    shape: object = (1,)
    g = qn.jit(lambda: qn.tensor(1) * shape[0])  # type: ignore[index]
    for shape in ((1,), (1,), (1,), (1.0,)):
        assert g().dtype == ("float32" if isinstance(shape[0], float) else "int64")


def test_an_argument_with_a_history_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    w = qn.tensor(np.ones(2, np.float32), requires_grad=True)
    f = qn.jit(lambda x: x * 2)
    with caplog.at_level(logging.WARNING, logger="quernel.jit"):
        for i in range(4):
            assert f(w * i).numpy()[0] == 2 * i
    assert caplog.text.count("has a history") == 1
    assert not f.plans()


def test_another_optimizer_does_not_disturb_a_plan() -> None:
    net = nn.Linear(4, 3)
    step = qn.jit(simple_step(net, optim.SGD(net.parameters(), lr=0.1)))
    x, y = np.ones((2, 4), np.float32), np.zeros(2, np.int64)
    for _ in range(3):
        step(x, y)
    plans = step.plans()
    other = nn.Linear(4, 3)
    unrelated = simple_step(other, optim.Adam(other.parameters()))
    unrelated(qn.tensor(x), qn.tensor(y))
    qn.tensor(x).requires_grad_()
    step(x, y)
    assert step.plans() == plans


def test_attributes_of_plain_objects_are_watched() -> None:
    settings, table = Holder(), {"factor": 1.0}

    class Net(nn.Module):
        def __init__(self) -> None:
            self.settings = settings

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return x * self.settings.value

    settings.value = 1.0
    net = Net()
    f = qn.jit(lambda x: net(x) * table["factor"])
    x = np.ones(2, np.float32)
    for value, factor in ((1.0, 1.0),) * 4 + ((5.0, 1.0),) * 3 + ((5.0, 2.0),) * 3:
        settings.value, table["factor"] = value, factor
        assert f(x).numpy()[0] == value * factor
    assert f.plans()


def test_methods() -> None:
    class Trainer:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        @qn.jit
        def scale(self, x: qn.Tensor) -> qn.Tensor:
            return x * self.factor

    two, three = Trainer(2.0), Trainer(3.0)
    x = np.ones(2, np.float32)
    for _ in range(4):
        assert two.scale(x).numpy()[0] == 2
        assert three.scale(x).numpy()[0] == 3
    assert len(two.scale.plans()) == len(three.scale.plans()) == 1
    two.factor = 7.0
    assert two.scale(x).numpy()[0] == 7


@pytest.fixture
def _keyboard() -> Iterator[None]:
    """Python's own handler, which a process started in the background lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_keyboard")
def test_ctrl_c_in_a_long_step_is_heard_and_leaves_no_trace() -> None:
    net = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(1024, 1024), nn.ReLU())])
    step = qn.jit(simple_step(net, optim.Adam(net.parameters())))
    x, y = np.ones((1024, 1024), np.float32), np.zeros(1024, np.int64)
    for _ in range(2):
        step(x, y)
    undone = False

    def interrupted(timer: threading.Timer) -> None:
        timer.start()
        step(x, y)
        timer.join()
        time.sleep(0.1)

    for _ in range(
        5
    ):  # the machine may be busy while we measure how long a step takes, or while we interrupt it
        start = time.perf_counter()
        step(x, y)
        half = (time.perf_counter() - start) / 2
        before = state_of(net)
        with pytest.raises(KeyboardInterrupt):
            interrupted(threading.Timer(half, signal.raise_signal, [signal.SIGINT]))
        undone = state_of(net) == before  # heard while it could still be undone, not at the end
        if undone:
            break
    assert undone
    step(x, y)
    assert state_of(net) != before


def test_gradients_of_a_long_step_are_written_once() -> None:
    """They wait for the end where that costs no memory: no copy is left of those whose layer saw few values."""
    steps: list[str] = []

    def train(wrap: Callable[[Step], Step]) -> object:
        net = nn.Sequential(
            nn.Conv2d(64, 70, 3, padding="same", bias=False), nn.Flatten(), nn.Linear(1120, 10)
        )
        optimizer = optim.Adam(net.parameters(), lr=0.01)

        def long(x: object, y: object) -> object:
            large = qn.full((1024, 1024), 1 / 1024)
            optimizer.zero_grad()
            loss = losses.cross_entropy(net(x), y)
            for _ in range(4):
                large = large @ large
            loss.backward()
            optimizer.step()
            return loss + large.mean()

        step = wrap(long)
        rng = np.random.default_rng(0)
        for _ in range(4):
            step(rng.standard_normal((1, 4, 4, 64), dtype=np.float32), np.array([3]))
        if isinstance(step, Jitted):
            (plan,) = step.plans()
            steps.extend(plan.steps)
        return state_of(net)

    both_ways(train)
    assert steps.count("conv2d_grad_weight") == 1
    assert "copy" not in steps


def test_the_plan_in_use_outlives_signatures_that_come_once() -> None:
    f = qn.jit(lambda x: x + 1)
    often = np.ones((2, 2), np.float32)
    for _ in range(3):
        f(often)
    for n in range(1, 100):
        f(np.ones(n, np.float32))
        assert f(often).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert len(f.plans()) == 1
