"""Eager and replayed training agree bit for bit, whatever changes between the calls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim
from quernel.jit import Jitted
from tests.conftest import DEVICE
from tests.runs import Step, both_ways, conv_net, make_batches, simple_step, state_of


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


def test_a_step_is_one_plan_of_fused_kernels() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Residual(nn.Linear(8, 8)), nn.Linear(8, 10))
    step = qn.jit(simple_step(net, optim.Adam(net.parameters())))
    x, y = make_batches()[0]
    for _ in range(4):
        step(x[:, 0, :, 0], y)
    (plan,) = step.plans()
    assert "copy" not in plan.steps  # gradients are written where the optimizer reads them
    if DEVICE == "cuda":
        # The last two products are one kernel with the loss (the input of a residual layer has two readers in the net); the
        # gradients of the parameters are another, which updates them.
        steps = [name for name in plan.steps if name != "pack"]
        assert steps[:3] == ["cross_entropy", "linear", "mlp"] and steps[-1] == "gradients"
        return
    forward = plan.steps[: plan.steps.index("cross_entropy")]
    # Activation and residual went into the products; only the packing of weights stands between them.
    assert [name for name in forward if name != "pack"] == ["linear"] * 3
    assert plan.steps.count("adam") == 1


def plus_its_tanh(x: qn.Tensor) -> qn.Tensor:
    return x.tanh() + x


@pytest.mark.parametrize(
    ("compute", "kernels"),
    [
        (lambda x, w, b, _: x @ w + b, ["matmul"]),
        (lambda x, w, _, r: r + x @ w, ["matmul"]),
        (lambda x, w, *_: (x @ w).tanh(), ["matmul"]),
        (lambda x, w, b, r: ((x @ w + b) + r).relu(), ["matmul"]),
        (lambda x, w, b, r: (x @ w + r) + b, ["matmul", "add"]),  # the epilogue adds the bias first
        (lambda x, w, *_: ((x @ w).tanh(), x @ w), ["matmul", "matmul"]),
        (lambda x, w, *_: x @ w + (x * 2) @ w, ["matmul", "mul", "matmul"]),
        (lambda x, w, *_: plus_its_tanh(x @ w), ["matmul", "add"]),  # the sum is kept beside its tanh
        (lambda x, w, *_: (x @ w).exp(), ["matmul", "exp"]),
    ],
    ids=[
        "bias",
        "residual",
        "activation",
        "all",
        "order",
        "separate",
        "later residual",
        "kept",
        "no epilogue",
    ],
)
def test_fusion_keeps_the_bits(compute: Callable[..., object], kernels: list[str]) -> None:
    rng = np.random.default_rng(1)
    arguments = [rng.standard_normal(s, dtype=np.float32) for s in ((5, 70), (70, 33), (33,), (5, 33))]
    f = qn.jit(compute)
    results = [f(*arguments) for _ in range(3)]
    as_bytes = [[t.numpy().tobytes() for t in (r if isinstance(r, tuple) else (r,))] for r in results]
    assert as_bytes[0] == as_bytes[1] == as_bytes[2]
    (plan,) = f.plans()
    assert [step for step in plan.steps if step != "pack"] == kernels


def gated_net() -> nn.Module:
    """A ReLU in front of everything whose gradient takes a gate, and behind a normalization."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding="same"),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Residual(
            nn.Sequential(nn.Conv2d(6, 6, 3, padding="same"), nn.BatchNorm2d(6)), activation=nn.ReLU()
        ),
        nn.Conv2d(6, 6, 3, padding="same", groups=6),
        nn.BatchNorm2d(6, affine=False),
        nn.ReLU(),
        nn.Conv2d(6, 18, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(162, 20),
        nn.ReLU(),
        nn.Linear(20, 10),
    )


@pytest.mark.parametrize("isa", qn.runtime.supported_isas())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_and_its_gradient_are_no_passes_of_their_own(isa: str, dtype: str) -> None:
    steps: list[list[str]] = []

    def train(wrap: Callable[[Step], Step]) -> object:
        net = gated_net().to(dtype)
        step = wrap(simple_step(net, optim.SGD(net.parameters(), lr=0.1)))
        seen = [float(step(x.astype(dtype), y)) for x, y in make_batches(sizes=(3, 3, 3))]
        if isinstance(step, Jitted):
            steps.extend(plan.steps for plan in step.plans())
        return seen, state_of(net)

    with qn.runtime.isa(isa):
        both_ways(train)
    (names,) = steps
    assert {"batch_norm", "max_pool2d_grad", "conv2d_grad_input"} <= set(names)
    assert not {"relu", "add", "relu_grad"} & set(names)


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
        update = wrap(opt.step)
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
    for scale in (1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 1.0):
        assert np.array_equal(times(x).numpy(), x * np.float32(scale))
