"""Eager and replayed training agree bit for bit; what a replay cannot follow runs eagerly; a step is all or nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim

Step = Callable[..., object]


def make_batches(
    seed: int = 0, sizes: tuple[int, ...] = (16, 16, 16, 7)
) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((n, 8, 8, 1), dtype=np.float32), rng.integers(0, 10, n, dtype=np.int64))
        for n in sizes
    ]


def conv_net() -> nn.Module:
    """Every layer with state: BatchNorm, Dropout, a residual branch."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding="same"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding="same"), nn.BatchNorm2d(8))),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.GELU(),
        nn.Dropout(0.25),
        nn.Linear(32, 10),
    )


def state_of(*modules: nn.Module) -> dict[str, bytes]:
    return {
        f"{i}.{name}": np.asarray(value).tobytes()
        for i, module in enumerate(modules)
        for name, value in module.state_dict().items()
    }


def both_ways(train: Callable[[Callable[[Step], Step]], object]) -> None:
    """Runs `train(wrap)` with wrap = identity and wrap = qn.jit and compares all that it returns."""
    qn.seed(7)
    eager = train(lambda fn: fn)
    qn.seed(7)
    jitted = train(qn.jit)
    assert eager == jitted


def simple_step(net: nn.Module, opt: optim.Optimizer) -> Step:
    def step(x: object, y: object) -> object:
        opt.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    return step


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
        lambda p: optim.Adam(p, lr=1e-3),
        lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.01),
    ],
    ids=["sgd", "adam", "adamw"],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_whole_run_with_a_short_last_batch(
    make_optimizer: Callable[..., optim.Optimizer], threads: int
) -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        before = qn.runtime.num_threads()
        qn.runtime.set_num_threads(threads)
        try:
            net = conv_net()
            step = wrap(simple_step(net, make_optimizer(net.parameters())))
            seen = [float(step(x, y)) for epoch in range(4) for x, y in make_batches(epoch)]
        finally:
            qn.runtime.set_num_threads(before)
        return seen, state_of(net)

    both_ways(train)


def test_replay_happens() -> None:
    net = conv_net()
    step = qn.jit(simple_step(net, optim.Adam(net.parameters())))
    x, y = make_batches()[0]
    for _ in range(4):
        step(x, y)
    assert len(step.plans()) == 1
    names = step.plans()[0].steps
    assert "conv2d" in names
    assert not any(
        "relu" == name for name in names[:3]
    )  # fused or behind BatchNorm, not a step of its own up front


def test_train_eval_flips() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        opt = optim.SGD(net.parameters(), lr=0.05)
        step = wrap(simple_step(net, opt))

        def evaluate(x: object) -> object:
            with qn.no_grad():
                return net(x)

        predict = wrap(evaluate)
        seen = []
        for epoch in range(3):
            for x, y in make_batches(epoch):
                net.train()
                seen.append(float(step(x, y)))
                net.eval()
                seen.append(np.asarray(predict(x)).tobytes())
        return seen, state_of(net)

    both_ways(train)


def test_gradient_accumulation() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        opt = optim.Adam(net.parameters(), lr=1e-3)

        def accumulate(x: object, y: object) -> object:
            loss = losses.cross_entropy(net(x), y)
            loss.backward()
            return loss

        micro = wrap(accumulate)
        update = wrap(lambda: opt.step())
        seen = []
        for epoch in range(4):
            opt.zero_grad()
            seen += [float(micro(x, y)) for x, y in make_batches(epoch)]
            update()
        return seen, state_of(net)

    both_ways(train)


def test_two_micro_batches_in_one_step() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

        def two(x0: object, y0: object, x1: object, y1: object) -> object:
            opt.zero_grad()
            losses.cross_entropy(net(x0), y0).backward()
            loss = losses.cross_entropy(net(x1), y1)
            loss.backward()
            opt.step()
            return loss

        step = wrap(two)
        seen = []
        for epoch in range(4):
            (x0, y0), (x1, y1), *_ = make_batches(epoch)
            seen.append(float(step(x0, y0, x1, y1)))
        return seen, state_of(net)

    both_ways(train)


def test_changed_learning_rate_reaches_the_replay() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        opt = optim.Adam(net.parameters(), lr=1e-2)
        step = wrap(simple_step(net, opt))
        seen = []
        for epoch in range(4):
            opt.lr = 1e-2 / (1 + epoch)
            seen += [float(step(x, y)) for x, y in make_batches(epoch)]
        return seen, state_of(net)

    both_ways(train)


def test_a_float_argument_is_read_at_each_replay() -> None:
    w = qn.tensor(np.ones(5, np.float32))
    scale = qn.jit(lambda x, s: x * s + w)
    x = np.arange(5, dtype=np.float32)
    for s in (0.1, 0.2, 0.3, 0.7):
        assert np.array_equal(scale(x, s).numpy(), x * np.float32(s) + 1)
    assert len(scale.plans()) == 1


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.b = nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.head = nn.Linear(8, 10)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return self.head(self.b(self.a(x).tanh()).tanh())

    def train(wrap: Callable[[Step], Step]) -> object:
        net = Tied()
        step = wrap(simple_step(net, optim.Adam(net.parameters(), lr=1e-2)))
        seen = [float(step(x[:, 0, :, 0], y)) for epoch in range(4) for x, y in make_batches(epoch)]
        assert net.b.weight is net.a.weight
        return seen, state_of(net)

    both_ways(train)


def test_two_optimizers_take_turns() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        body, head = nn.Linear(8, 16), nn.Linear(16, 10)
        opt_body, opt_head = optim.Adam(body.parameters(), lr=1e-2), optim.SGD(head.parameters(), lr=0.1)

        def both(x: object, y: object) -> object:
            opt_body.zero_grad()
            opt_head.zero_grad()
            loss = losses.cross_entropy(head(body(x).relu()), y)
            loss.backward()
            opt_head.step()
            opt_body.step()
            opt_head.zero_grad()
            second = losses.cross_entropy(head(body(x).relu()), y)  # with the weights just written
            second.backward()
            opt_head.step()
            return loss, second

        step = wrap(both)
        seen = []
        for epoch in range(4):
            for x, y in make_batches(epoch):
                seen += [float(v) for v in step(x[:, 0, :, 0], y)]
        return seen, state_of(body, head)

    both_ways(train)


def test_frozen_layers_thaw() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        net[0].requires_grad_(False)
        step = wrap(simple_step(net, optim.Adam(net.parameters(), lr=1e-2)))
        before = np.array(net[0].weight)
        seen = [float(step(x, y)) for epoch in range(3) for x, y in make_batches(epoch)]
        assert np.array_equal(before, np.array(net[0].weight))
        net[0].requires_grad_(True)
        seen += [float(step(x, y)) for epoch in range(3) for x, y in make_batches(epoch)]
        assert not np.array_equal(before, np.array(net[0].weight))
        return seen, state_of(net)

    both_ways(train)


def test_weight_edited_in_place_between_calls() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = conv_net()
        step = wrap(simple_step(net, optim.SGD(net.parameters(), lr=0.05)))
        seen = []
        for epoch in range(4):
            for x, y in make_batches(epoch):
                seen.append(float(step(x, y)))
                net[0].weight[...] = np.asarray(net[0].weight) * np.float32(0.5)
        return seen, state_of(net)

    both_ways(train)


def test_structure_changed_between_calls() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10))
        step = wrap(simple_step(net, optim.SGD(net.parameters(), lr=0.05)))
        batches = [(x[:, 0, :, 0], y) for x, y in make_batches()[:3]]
        seen = [float(step(x, y)) for x, y in batches]
        net[1] = nn.ReLU()
        seen += [float(step(x, y)) for x, y in batches]
        return seen, state_of(net)

    both_ways(train)


def test_closure_variable_changed_between_calls() -> None:
    scale = 1.0
    times = qn.jit(lambda x: x * scale)
    x = np.ones(3, np.float32)
    for scale in (1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 1.0):  # noqa: B007
        assert np.array_equal(times(x).numpy(), x * np.float32(scale))


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
    assert "test_jit.py" in messages[0]


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
        for _ in range(200):
            if f(inputs[i]).numpy().tobytes() != expected[i]:
                wrong.append(i)

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


def test_tensor_kept_outside_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[qn.Tensor] = []

    def f(x: qn.Tensor) -> qn.Tensor:
        y = x * 2
        kept.append(y)
        return y + 1

    g = qn.jit(f)
    with caplog.at_level(logging.WARNING, logger="quernel.jit"):
        for i in range(5):
            g(np.full(3, i, np.float32))
    assert [k.numpy()[0] for k in kept] == [0, 2, 4, 6, 8]
    assert "kept outside" in caplog.text


def test_random_stream_advances_alike() -> None:
    def train(wrap: Callable[[Step], Step]) -> object:
        drop = wrap(lambda x: qn.ops.dropout(qn.ops.dropout(x, 0.5, training=True), 0.5, training=True))
        return [np.asarray(drop(np.ones(1001, np.float32))).tobytes() for _ in range(6)]

    both_ways(train)
