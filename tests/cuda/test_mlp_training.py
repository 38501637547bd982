"""Training steps of MLPs that a plan runs as few kernels: to the bits of the same ops one by one, and only where it may."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, losses, models, nn, ops, optim
from tests.checks import N, check_contraction, check_equal, check_exact
from tests.conftest import DEVICE
from tests.cuda.schedules import other_schedules, run_under

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

ALL = ["cross_entropy", "mlp", "gradients"]  # the first looks at the labels
PART = 512  # rows that are added up at a time
Train = tuple[nn.Module, Callable[..., Any]]  # a net and a step of its training

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01),
}
widths = st.one_of(st.integers(1, 20), st.integers(1, 128), st.sampled_from([32, 64, 65, 128]))
rows = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 257, PART, PART + 1, 2 * PART + 70]))


def normal(seed: int, *shape: int) -> Any:
    return qn.tensor(np.random.default_rng(seed).standard_normal(shape, np.float32), device="cuda")


def labels(m: int, classes: int, ignored: int | None = None) -> Any:
    y = np.arange(m) * 7 % classes
    if ignored is not None:
        y[::3] = ignored
    return qn.tensor(y, device="cuda")


def trainer(
    net: nn.Module, updates: list[Any], loss_of: Callable[[Any, Any], Any] = losses.cross_entropy
) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        loss = loss_of(net(x), y)
        for update in updates:
            update.zero_grad()
        loss.backward()
        for update in updates:
            update.step()
        return loss

    return step


def compare(make: Callable[[], Train], batches: list[Any]) -> list[str]:
    """Compares steps of a plan with the same ones op by op: what they return, parameters and gradients; returns the
    plan's steps."""
    runs, plan = [], []
    for jitted in (False, True):
        qn.seed(3)
        net, step = make()
        call = qn.jit(step) if jitted else step
        results = [call(*batch) for batch in batches]
        seen = [v.numpy() for r in results for v in (r if isinstance(r, tuple) else (r,))]
        runs.append(seen + [v.numpy() for p in net.parameters() for v in (p, p.grad)])
        plan = call.plans()[0].steps if jitted else []
    for want, got in zip(*runs, strict=True):
        check_equal(got, want)
    return plan


def check(
    make: Callable[[], nn.Module],
    m: int,
    inputs: int,
    classes: int,
    loss_of: Callable[[Any, Any], Any] = losses.cross_entropy,
    updates: Callable[[Any], list[Any]] = lambda p: [OPTIMIZERS["adam"](p)],
    targets: Any = None,
) -> list[str]:
    """Two batches of m rows, the first again: eagerly, recorded, replayed, captured, as a graph."""

    def made() -> Train:
        net = make().to("cuda")
        return net, trainer(net, updates(list(net.parameters())), loss_of)

    targets = labels(m, classes) if targets is None else targets
    batches = [(normal(i, m, inputs), targets) for i in range(2)]
    return compare(made, batches + batches[:1] * 3)


@given(
    inputs=st.one_of(widths, st.sampled_from([129, 200])),
    hidden=st.lists(widths, min_size=1, max_size=4),
    classes=st.integers(2, 40),
    m=rows,
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    smoothing=st.sampled_from([0.0, 0.1]),
)
@example(inputs=64, hidden=[64, 64, 64], classes=10, m=2 * PART + 1, optimizer="adam", smoothing=0.0)
@example(inputs=128, hidden=[128, 128], classes=128, m=PART + 3, optimizer="momentum", smoothing=0.1)
@example(inputs=3, hidden=[1, 8, 9], classes=2, m=1, optimizer="adamw", smoothing=0.0)
@example(inputs=200, hidden=[16, 1], classes=3, m=PART, optimizer="rmsprop", smoothing=0.1)
def test_steps_keep_their_bits(
    inputs: int, hidden: list[int], classes: int, m: int, optimizer: str, smoothing: float
) -> None:
    def loss_of(logits: Any, y: Any) -> Any:
        return losses.cross_entropy(logits, y, label_smoothing=smoothing)

    steps = check(
        lambda: models.mlp(inputs, hidden, classes), m, inputs, classes, loss_of,
        lambda p: [OPTIMIZERS[optimizer](p)], labels(m, classes, ignored=-100),
    )  # fmt: skip
    if m == 1 or 1 in hidden:  # a vector's sums are other kernels
        return
    assert steps.count("gradients") == 1 and "matmul" not in steps
    if inputs <= 128:
        assert steps == (ALL if optimizer != "rmsprop" else [*ALL, "advance_step", "rmsprop"])


@pytest.mark.parametrize("m", [48, PART + 40])
@pytest.mark.parametrize("width", [64, 128])
def test_a_step_of_an_mlp_is_two_steps(width: int, m: int) -> None:
    """And the look at the labels."""
    assert check(lambda: models.mlp(width, [width] * 3, 10), m, width, 10) == ALL


constant = functools.cache(normal)  # made by the first call, before anything is recorded


def weighted(logits: Any, y: Any) -> Any:
    return losses.cross_entropy(logits, y, weight=constant(9, 5))


def total(logits: Any, y: Any) -> Any:
    return losses.cross_entropy(logits, y, reduction="sum")


def scaled(logits: Any, y: Any) -> Any:
    return losses.cross_entropy(logits, y) * 0.25


def twice(logits: Any, y: Any) -> Any:
    return losses.cross_entropy(logits, y) + losses.cross_entropy(logits, y, ignore_index=2)


def with_penalty(logits: Any, y: Any) -> Any:
    return losses.cross_entropy(logits, y) + (logits * logits).mean()


def squared(logits: Any, y: Any) -> Any:
    return losses.mse(logits, ops.one_hot(y, 5).to("float32"))


@pytest.mark.parametrize("loss_of", [weighted, total, scaled, twice, with_penalty, squared])
@pytest.mark.parametrize("m", [20, PART + 20])
def test_other_losses_keep_their_bits(loss_of: Callable[[Any, Any], Any], m: int) -> None:
    steps = check(lambda: models.mlp(12, [24, 16], 5), m, 12, 5, loss_of)
    assert steps.count("gradients") == 1 and steps.count("adam") == 0
    assert ("cross_entropy" in steps[1:]) == (loss_of is not squared)


class Tied(nn.Module):
    """One weight twice: its gradient is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.layer(self.layer(x).relu()).relu())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = self.first(x).relu()
        return self.head(self.second(x).relu() + x)


@pytest.mark.parametrize("make", [Tied, Residual, lambda: models.mlp(16, [16, 24], 5, activation="gelu")])
@pytest.mark.parametrize("m", [30, PART + 30])
def test_other_nets_keep_their_bits(make: Callable[[], nn.Module], m: int) -> None:
    assert "gradients" in check(make, m, 16, 5)


def without_biases() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 24, bias=False), nn.ReLU(), nn.Linear(24, 5, bias=False))


def test_without_biases() -> None:
    for m in (30, PART + 30):
        assert check(without_biases, m, 16, 5) == ALL


def test_clipped_and_accumulated_gradients_are_not_applied_early() -> None:
    """The update waits for what comes between, and gradients that are added to others for those."""

    def make(clips: bool) -> Train:
        net = models.mlp(16, [24, 24], 5).to("cuda")
        update = optim.Adam(net.parameters(), lr=0.01)

        def step(x: Any, y: Any) -> Any:
            update.zero_grad()
            loss = losses.cross_entropy(net(x), y)
            loss.backward()
            if clips:
                optim.clip_grad_norm_(net.parameters(), 0.1)
            else:
                losses.cross_entropy(net(x * 2), y).backward()
            update.step()
            return loss

        return net, step

    for clips in (True, False):
        batches = [(normal(i, 40, 16), labels(40, 5)) for i in range(4)]
        steps = compare(functools.partial(make, clips), batches)
        assert "adam" in steps and "gradients" in steps


@pytest.mark.parametrize(("outputs", "classes"), [(10, 5), (5, 10)])
def test_logits_in_another_shape_keep_their_bits(outputs: int, classes: int) -> None:
    """A row of the loss is more or less than one of the net."""

    def loss_of(logits: Any, y: Any) -> Any:
        return losses.cross_entropy(logits.reshape((-1, classes)), y)

    targets = labels(20 * outputs // classes, classes)
    steps = check(lambda: models.mlp(16, [24], outputs), 20, 16, classes, loss_of, targets=targets)
    assert "mlp" in steps and "cross_entropy" in steps[1:] and "gradients" in steps


class ReshapedHead(nn.Module):
    """Its head's rows are half as long as those before; the first gradient is the head's alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = models.mlp(16, [24, 20], 24), nn.Linear(12, 5, bias=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x).reshape((-1, 12)))


@pytest.mark.parametrize("m", [24, PART + 24])
def test_a_lone_gradient_does_not_keep_others_apart(m: int) -> None:
    steps = check(ReshapedHead, m, 16, 5, targets=labels(2 * m, 5))
    assert steps.count("gradients") == 1 and "matmul" in steps


def test_gradients_beyond_one_step() -> None:
    steps = check(lambda: models.mlp(16, [8] * 19, 5), 24, 16, 5)
    assert steps.count("gradients") == 3


def test_the_loss_of_a_long_batch_stays_apart() -> None:
    """Blocks count for themselves, which would cost the square of a longer batch."""
    m = 2**14 + 1

    def make() -> Train:
        net = nn.Linear(4, 3).to("cuda")
        return net, trainer(net, [optim.SGD(net.parameters(), lr=0.1)])

    steps = compare(make, [(normal(0, m, 4), labels(m, 3))] * 3)
    assert "mlp" not in steps and steps.count("cross_entropy") > 1


def two_optimizers(p: Any) -> list[Any]:
    return [optim.Adam(p[:2], lr=0.01), optim.SGD(p[2:], lr=0.1)]


def one_after_the_other(p: Any) -> list[Any]:
    return [optim.Adam(p, lr=0.01), optim.SGD(p, lr=0.1)]


def two_groups(p: Any) -> list[Any]:
    return [optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:]}], lr=0.01)]


@pytest.mark.parametrize("updates", [two_optimizers, one_after_the_other, two_groups])
@pytest.mark.parametrize("m", [20, PART + 20])
def test_several_updates_keep_their_bits(updates: Callable[[Any], list[Any]], m: int) -> None:
    assert "gradients" in check(lambda: models.mlp(16, [24, 20], 5), m, 16, 5, updates=updates)


@pytest.mark.parametrize("m", [20, PART + 20])
def test_steps_one_after_the_other_in_one_plan(m: int) -> None:
    def make() -> Train:
        net = models.mlp(16, [24], 5).to("cuda")
        train = trainer(net, [optim.Adam(net.parameters(), lr=0.01)])
        return net, lambda x, y: (net(x), train(x, y), net(x), train(x, y), net(x))

    steps = compare(make, [(normal(i % 2, m, 16), labels(m, 5)) for i in range(5)])
    assert steps.count("gradients") >= 2


def one_loss() -> Train:
    net = models.mlp(16, [24], 5).to("cuda")
    step = trainer(net, [optim.Adam(net.parameters(), lr=0.01)])
    return net, lambda x, _, z: step(x, z)


def two_losses() -> Train:
    """The labels of the second are looked at before the first one's net is updated."""
    first, second = models.mlp(16, [24], 5).to("cuda"), models.mlp(5, [24], 5).to("cuda")
    train_first = trainer(first, [optim.Adam(first.parameters(), lr=0.01)])
    train_second = trainer(second, [optim.SGD(second.parameters(), lr=0.1)])
    both = nn.Sequential(first, second)
    return both, lambda x, y, z: (train_first(x, y), train_second(first(x).detach(), z))


def trained(make: Callable[[], Train] = one_loss) -> tuple[nn.Module, Any, Any, Any]:
    """A net, its jitted step, which is recorded, and a batch."""
    qn.seed(1)
    net, step = make()
    call = qn.jit(step)
    x, y = normal(1, 20, 16), labels(20, 5)
    for _ in range(4):
        call(x, y, y)
    steps = call.plans()[0].steps
    assert steps == ALL if make is one_loss else steps.count("gradients") >= 2
    return net, call, x, y


@pytest.mark.parametrize("make", [one_loss, two_losses])
def test_a_refused_label_changes_nothing(make: Callable[[], Train]) -> None:
    net, step, x, y = trained(make)
    before = [v.numpy() for p in net.parameters() for v in (p, p.grad)]
    with pytest.raises(ValueError, match="label 9 at row 3"):
        step(x, y, qn.tensor(np.where(np.arange(20) == 3, 9, 1), device="cuda"))
    for v, want in zip([v for p in net.parameters() for v in (p, p.grad)], before, strict=True):
        check_equal(v.numpy(), want)
    step(x, y, y)
    other, again, *_ = trained(make)
    again(x, y, y)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        check_equal(p.numpy(), q.numpy())


def test_a_profiled_step_is_the_same() -> None:
    """There the steps of a plan run one by one, not as a graph."""
    net, step, x, y = trained()
    qn.profile(step, x, y, y, repeats=2, warmup=3)
    other, again, *_ = trained()
    for _ in range(5):
        again(x, y, y)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        check_equal(p.numpy(), q.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("size", "depth"),
    [*itertools.product([(5, 7), (70, 130)], [PART, PART + 1, 3 * PART + 100]), ((5, 7), 64 * PART + 1)],
)
def test_long_sums_have_parts(size: tuple[int, int], depth: int, dtype: str) -> None:
    """Exactly, where integers show it; and whoever computes some of the columns gets the same bits. Instead of more than
    64 there are longer ones."""
    m, n = size
    random = np.random.default_rng(depth)
    a, b = (random.integers(-3, 4, (depth, k)).astype(dtype) for k in (m, n))

    def product(left: Any) -> Any:
        operands = (qn.tensor(np.ascontiguousarray(v), device="cuda")._t for v in (left, b))
        return N(_core.linear_grad_weight(*operands))

    check_exact(product(a), a.T @ b)
    a = random.standard_normal((depth, m)).astype(dtype)
    whole = product(a)
    left, right = a.T.astype(np.float64), b.astype(np.float64)
    check_contraction(whole, left @ right, np.abs(left) @ np.abs(right), 2 * depth, dtype)
    check_equal(product(a[:, :2]), whole[:2])


def train_two_nets() -> None:
    """What is run under several schedules: both sizes of tiles and of blocks, batches of one and of several parts."""
    for m in (37, 2 * PART + 37):
        assert check(lambda: models.mlp(20, [64, 33], 7), m, 20, 7) == ALL
        assert check(lambda: models.mlp(65, [128, 100], 9), m, 65, 9) == ALL


@other_schedules
def test_whoever_goes_first(schedule: str, copies: str) -> None:
    run_under(schedule, copies, "test_mlp_training", "train_two_nets")
