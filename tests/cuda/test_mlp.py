"""Layers that a plan runs as one kernel: to the bits of the same ops one by one, and only where they may."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import losses, nn, ops, optim
from tests.checks import check_equal
from tests.conftest import DEVICE
from tests.cuda.schedules import other_schedules, run_under

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

ACTIVATIONS = ["none", "relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish"]
MOST = 9  # layers of one kernel
widths = st.one_of(st.integers(1, 20), st.integers(1, 128), st.sampled_from([16, 32, 64, 65, 128]))
rows = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 128, 129, 256, 257, 300]))

Layer = tuple[Any, Any, str]  # weight (out, in), bias or None, activation


def normal(seed: int, *shape: int) -> Any:
    return qn.tensor(np.random.default_rng(seed).standard_normal(shape, np.float32), device="cuda")


constant = functools.cache(normal)  # made by the first call, before anything is recorded


def make(
    sizes: Sequence[int], activations: Sequence[str], every_bias: bool = True, draw: Any = constant
) -> list[Layer]:
    return [
        (draw(i, after, before), draw(99 + i, after) if every_bias or i % 2 else None, activation)
        for i, (before, after, activation) in enumerate(zip(sizes, sizes[1:], activations, strict=False))
    ]


def forward(x: Any, layers: Sequence[Layer]) -> Any:
    for weight, bias, activation in layers:
        x = ops.linear(x, weight, bias, activation=activation)
    return x


def check(compute: Callable[[Any], Any], x: Any) -> list[str]:
    """Compares a plan with its ops run one by one; returns the plan's steps."""
    jitted = qn.jit(compute)
    with qn.no_grad():
        want = compute(x)
        for _ in range(3):  # eagerly, recorded, replayed
            got = jitted(x)
    for a, b in zip(*(y if isinstance(y, tuple) else (y,) for y in (got, want)), strict=True):
        check_equal(a.numpy(), b.numpy())
    (plan,) = jitted.plans()
    steps: list[str] = plan.steps
    return steps


@given(
    st.lists(widths, min_size=3, max_size=7),
    st.lists(st.sampled_from(ACTIVATIONS), min_size=6, max_size=6),
    rows,
    st.booleans(),
)
def test_layers_become_one_kernel_and_keep_their_bits(
    sizes: list[int], activations: list[str], m: int, every_bias: bool
) -> None:
    layers = make(sizes, activations, every_bias, normal)
    assert check(lambda x: forward(x, layers), normal(7, m, sizes[0])) == ["mlp"]


@given(st.integers(2, 6), widths, st.sampled_from([1, 5, 130, 260]))
def test_frozen_nets_read_packed_weights(depth: int, width: int, m: int) -> None:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    net = nn.Sequential(*layers).to("cuda")
    frozen = net.freeze(max_batch=300)
    x = np.random.default_rng(m).standard_normal((m, width), np.float32)
    with qn.no_grad():
        check_equal(frozen(x), net(qn.tensor(x, device="cuda")).numpy())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(wrong: float) -> None:
    """ReLU makes all of an infinite row zeros; what slices are filled up with must not be NaN then."""
    layers = make([24, 40, 24, 8], ["relu", "tanh", "none"], draw=normal)
    layers[0][0][:] = -np.abs(layers[0][0].numpy())
    x = np.random.default_rng(1).standard_normal((300, 24), np.float32)
    x[5] = wrong
    x[70, 3] = -wrong
    operand = qn.tensor(x, device="cuda")
    assert check(lambda x: forward(x, layers), operand) == ["mlp"]
    clean = np.isfinite(forward(operand, layers).numpy()).all(1)
    assert clean.sum() >= 298 and clean[4] and clean[71]
    for weight, bias, _ in layers:
        weight[:2, :5] = wrong
        if bias is not None:
            bias[-1] = -wrong
    assert check(lambda x: forward(x, layers), operand) == ["mlp"]


def test_sums_that_underflow_end_as_they_do_alone() -> None:
    """With one sign of zero, where no slice is filled up with zeros too."""
    x, *weights = (
        qn.tensor(np.full(shape, value, np.float32), device="cuda")
        for shape, value in (((20, 32), -1e-30), ((16, 32), 1e-30), ((16, 16), 1.0))
    )
    layers = [(w, None, "tanh") for w in weights]
    assert check(lambda x: (hidden := forward(x, layers[:1]), forward(hidden, layers[1:])), x) == ["mlp"]


def wide(x: Any) -> Any:
    return forward(x, make([16, 16, 16, 129, 16, 16, 16], ["relu"] * 6))


def many(x: Any) -> Any:
    return forward(x, make([16] * (MOST + 4), ["relu"] * (MOST + 3)))


def through_matmul(x: Any) -> Any:
    hidden = (x @ constant(1, 16, 20) + constant(2, 20)).relu()
    return (hidden @ constant(3, 20, 7)).tanh()


def beside(x: Any) -> Any:
    hidden = forward(x, make([16, 30], ["silu"]))
    return forward(hidden, make([30, 4], ["none"])), hidden


def own_residual(x: Any) -> Any:
    hidden = forward(x, make([16, 30], ["relu"]))
    return ops.linear(hidden, constant(3, 30, 30), residual=hidden, activation="relu")


def other_residual(x: Any) -> Any:
    hidden = forward(x, make([16, 30], ["relu"]))
    return ops.linear(hidden, constant(3, 16, 30), residual=x, activation="tanh")


def two_heads(x: Any) -> Any:
    hidden = forward(x, make([16, 30], ["relu"]))
    return forward(hidden, make([30, 4], ["none"])), forward(hidden, make([30, 9], ["tanh"]))


def between(x: Any) -> Any:
    """A reader of the hidden values that comes first: the second layer is computed before it."""
    hidden = forward(x, make([16, 30], ["relu"]))
    total = hidden.sum()
    return forward(hidden, make([30, 4], ["none"])), total


def neither(x: Any) -> Any:
    """The residual needs the sum, which needs the hidden values: nothing can move."""
    hidden = forward(x, make([16, 30], ["relu"]))
    total = hidden.sum(1, keepdim=True) + constant(2, 4)
    return ops.linear(hidden, constant(3, 4, 30), residual=total)


@pytest.mark.parametrize(
    ("compute", "found"),
    [
        (wide, ["mlp", "linear", "linear", "mlp"]),
        (many, ["mlp", "mlp"]),
        (through_matmul, ["mlp"]),
        (beside, ["mlp"]),
        (own_residual, ["linear", "linear"]),
        (other_residual, ["mlp"]),
        (two_heads, ["mlp", "linear"]),
        (between, ["mlp", "sum"]),
        (neither, ["linear", "sum", "add", "linear"]),
        (lambda x: forward(x, make([16, 30], ["relu"])), ["linear"]),
    ],
)
def test_what_is_joined(compute: Callable[[Any], Any], found: list[str]) -> None:
    for m in (16, 140):
        assert check(compute, normal(4, m, 16)) == found


def test_other_types_are_not_joined() -> None:
    layers = [(w.to("float64"), b.to("float64"), a) for w, b, a in make([16, 30, 4], ["relu"] * 2)]
    assert check(lambda x: forward(x, layers), normal(4, 16, 16).to("float64")) == ["linear"] * 2


def test_where_tf32_is_allowed_products_stay_on_tensor_cores() -> None:
    layers = make([16, 30, 4], ["relu"] * 2)
    qn.runtime.allow_tf32(True)
    try:
        assert check(lambda x: forward(x, layers), normal(4, 140, 16)) == ["linear"] * 2
    finally:
        qn.runtime.allow_tf32(False)


def train(activation: type[nn.Module], m: int, jitted: bool) -> tuple[list[Any], list[str]]:
    qn.seed(1)
    sizes = (20, 64, 33, 64, 5)
    layers = [layer for k, n in itertools.pairwise(sizes) for layer in (nn.Linear(k, n), activation())]
    net = nn.Sequential(*layers[:-1]).to("cuda")
    optimizer = optim.Adam(net.parameters(), lr=0.01)

    def step(x: Any, y: Any) -> Any:
        loss = losses.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    run = qn.jit(step) if jitted else step
    y = qn.tensor(np.arange(m) % 5, device="cuda")
    seen = [run(normal(i, m, 20), y).numpy() for i in range(4)] + [p.numpy() for p in net.parameters()]
    return seen, run.plans()[0].steps if jitted else []


@pytest.mark.parametrize(("activation", "launches"), [(nn.ReLU, 1), (nn.GELU, 1)])
@pytest.mark.parametrize("m", [16, 270])
def test_training_steps(activation: type[nn.Module], launches: int, m: int) -> None:
    """Forward is one kernel, which keeps what backward needs; so are loss and a ReLU net's gradients towards the input."""
    got, steps = train(activation, m, True)
    assert steps.count("mlp") == launches and "linear" not in steps and "pack" not in steps
    want, _ = train(activation, m, False)
    for a, b in zip(got, want, strict=True):
        check_equal(a, b)


def compare_two_nets() -> None:
    """What is run under several schedules: both sizes of blocks at both widths."""
    for sizes in ((33, 50, 64, 7), (40, 128, 100, 17)):
        layers = make(sizes, ["relu", "silu", "none"])
        for m in (21, 260):
            assert check(lambda x, layers=layers: forward(x, layers), normal(m, m, sizes[0])) == ["mlp"]


@other_schedules
def test_whoever_goes_first(schedule: str, copies: str) -> None:
    run_under(schedule, copies, "test_mlp", "compare_two_nets")
