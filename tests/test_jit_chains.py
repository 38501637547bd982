"""Elementwise steps of a plan run block by block, and give the bits that they give one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from tests.checks import check_equal
from tests.conftest import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="chains are of plans on the CPU")

BLOCK = 4096
UNARY = (ops.exp, ops.tanh, ops.neg, ops.square, ops.sigmoid, lambda x: ops.clip(x, -0.5, 0.5))
BINARY = (ops.add, ops.mul, ops.sub, ops.maximum)
rng = np.random.default_rng(0)


def compare(f: Callable[..., Sequence[qn.Tensor]], *arrays: np.ndarray) -> list[str]:
    """Checks replays against the eager run; returns the chains."""
    inputs = [qn.tensor(a) for a in arrays]
    jitted = qn.jit(f)
    want = [t.numpy() for t in f(*inputs)]
    for _ in range(4):
        for found, wanted in zip(jitted(*inputs), want, strict=True):
            check_equal(found.numpy(), wanted)
    (plan,) = jitted.plans()
    return plan.chains


@given(st.data())
def test_any_chain_equals_its_steps(data: st.DataObject) -> None:
    rows = data.draw(st.sampled_from([1, 3, 64, 65, 200]))
    columns = data.draw(st.sampled_from([1, 7, 64]))
    x, row, column = (
        rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, columns), (columns,), (rows, 1))
    )
    steps = data.draw(st.lists(st.tuples(st.booleans(), *[st.integers(0, 100)] * 3), min_size=2, max_size=20))
    kept = data.draw(st.sets(st.integers(0, len(steps) - 1)))

    def f(*inputs: qn.Tensor) -> list[qn.Tensor]:
        values = [*inputs, inputs[0] + inputs[1]]
        for is_unary, kind, a, b in steps:
            left, right = values[a % len(values)], values[b % len(values)]
            values.append(
                UNARY[kind % len(UNARY)](left) if is_unary else BINARY[kind % len(BINARY)](left, right)
            )
        made = values[4:]
        return [made[-1], *(made[i] for i in sorted(kept) if i != len(made) - 1)]

    compare(f, x, row, column)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, 3 * BLOCK + 17, 100 * BLOCK + 5])
def test_what_only_the_chain_uses_takes_no_memory(size: int, dtype: str, threads: int) -> None:  # noqa: ARG001
    x = qn.tensor(rng.standard_normal(size).astype(dtype))

    @qn.jit
    def mish(x: qn.Tensor) -> qn.Tensor:
        return x * ops.tanh(ops.log1p(ops.exp(x)))

    for _ in range(3):
        y = mish(x)
    (plan,) = mish.plans()
    assert plan.chains == ["exp+log1p+tanh+mul"]
    assert plan.arena_nbytes == 0
    check_equal(y.numpy(), (x * ops.tanh(ops.log1p(ops.exp(x)))).numpy())


def test_long_runs_become_several_chains() -> None:
    def f(x: qn.Tensor) -> list[qn.Tensor]:
        for i in range(19):
            x = x * 1.5 if i % 2 else x + 0.25
        return [x]

    chains = compare(f, rng.standard_normal(2 * BLOCK + 1, dtype=np.float32))
    assert [name.count("+") + 1 for name in chains] == [8, 8, 3]


def test_a_broadcast_value_of_the_chain_ends_it() -> None:
    """Rows of y are read for every row of x: y must be there as a whole."""

    def f(x: qn.Tensor) -> list[qn.Tensor]:
        y = ops.exp(x) * 2.0
        return [ops.mul(ops.reshape(y, (1, 64, 64)), ops.reshape(y, (64, 1, 64)))]

    assert compare(f, rng.standard_normal((64, 64), dtype=np.float32)) == ["exp+mul"]


def test_other_sizes_and_unrelated_steps_stay_apart() -> None:
    def f(x: qn.Tensor, y: qn.Tensor, z: qn.Tensor) -> list[qn.Tensor]:
        return [ops.exp(x), ops.exp(y), ops.exp(z)]

    arrays = [rng.standard_normal(n, dtype=np.float32) for n in (100, 100, 101)]
    assert compare(f, *arrays) == []


def test_in_place_updates_and_casts_join() -> None:
    x = rng.standard_normal(2 * BLOCK + 3, dtype=np.float32)
    total = [qn.tensor(np.zeros_like(x)) for _ in range(2)]

    def step(total: qn.Tensor, x: qn.Tensor) -> qn.Tensor:
        with qn.no_grad():
            y = ops.cast(ops.cast(x, "float64") * 3.0, "float32")
            total += ops.where(y > 0, y, x * 0.5)
        return y

    jitted = qn.jit(step)
    for _ in range(5):
        check_equal(jitted(total[0], qn.tensor(x)).numpy(), step(total[1], qn.tensor(x)).numpy())
    check_equal(total[0].numpy(), total[1].numpy())
    (plan,) = jitted.plans()
    assert any(name.startswith("cast+mul+cast") for name in plan.chains)


def test_dropout_joins_and_goes_on_in_its_stream() -> None:
    x = qn.tensor(rng.standard_normal(2 * BLOCK + 3, dtype=np.float32))

    def f(x: qn.Tensor) -> qn.Tensor:
        return ops.dropout(x * 2.0, 0.5) + 1.0

    results = []
    for wrap in (lambda f: f, qn.jit):
        qn.seed(5)
        g = wrap(f)
        results.append([g(x).numpy() for _ in range(4)])
    for eager, replayed in zip(*results, strict=True):
        check_equal(replayed, eager)
    assert not np.array_equal(results[0][2], results[0][3])
    assert g.plans()[0].chains == ["mul+dropout+add"]


def test_a_profile_names_the_chain() -> None:
    f = qn.jit(lambda x: ops.exp(x) * x)
    x = qn.tensor(rng.standard_normal(BLOCK * 40, dtype=np.float32))
    (step,) = qn.profile(f, x, repeats=2).steps
    assert (step.op, step.calls) == ("exp+mul", 1)
