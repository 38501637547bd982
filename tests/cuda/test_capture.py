"""Plans on CUDA are captured as graphs; they do what the same steps do without."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim
from quernel.errors import ArgumentError
from tests.checks import check_equal
from tests.conftest import DEVICE

pytestmark = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")

X = np.random.default_rng(0).standard_normal((6, 8, 5)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, (6, 8))


class Training:
    """A small net with dropout, and its step, jitted or not."""

    def __init__(self, jitted: bool) -> None:
        qn.seed(3)
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).to("cuda")
        self.optimizer = optim.Adam(self.net.parameters(), lr=0.01)
        self.step = qn.jit(self._step) if jitted else self._step

    def _step(self, x: qn.Tensor, y: qn.Tensor) -> qn.Tensor:
        loss = losses.cross_entropy(self.net(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def __call__(self, i: int) -> np.ndarray:
        return self.step(qn.tensor(X[i % 6]), qn.tensor(Y[i % 6])).numpy()

    def weights(self) -> list[np.ndarray]:
        return [p.numpy().copy() for p in self.net.parameters()]

    def graphs(self) -> int:
        return sum(plan.graphs for plan in self.step.plans())


def test_a_captured_training_step_equals_the_eager_one() -> None:
    def run(training: Training) -> list[np.ndarray]:
        values = []
        for i in range(12):
            if i == 8:
                training.optimizer.lr = 0.1
            values.append(training(i))
        return values + training.weights()

    captured = Training(True)
    values = run(captured)
    assert captured.graphs() >= 1
    for a, b in zip(values, run(Training(False)), strict=True):
        check_equal(a, b)


def test_other_addresses_take_other_graphs() -> None:
    captured = Training(True)
    kept: list[Any] = []
    values = []
    for i in range(40):
        kept.append(qn.zeros((1 + i // 3 % 2, 50)))  # moves what comes after it
        x, y = qn.tensor(X[i % 6]), qn.tensor(Y[i % 6])
        kept.append((x, y, captured.step(x, y)))
        values.append(kept[-1][2].numpy())
        if i % 3 == 2:
            kept.clear()
    assert captured.graphs() >= 2
    eager = Training(False)
    for i, value in enumerate(values):
        check_equal(value, eager(i))


def test_a_refused_label_leaves_no_trace() -> None:
    training = Training(True)
    for i in range(6):
        training(i)
    assert training.graphs() >= 1
    before = training.weights()
    with pytest.raises(ArgumentError, match="label 7 at row 2 is out of range for 3 classes"):
        training.step(qn.tensor(X[0]), qn.tensor(np.array([0, 1, 7, 0, 0, 0, 0, 0])))
    for a, b in zip(training.weights(), before, strict=True):
        check_equal(a, b)
    training(0)


def test_an_index_that_the_step_computes_is_checked_where_it_stands() -> None:
    table = qn.tensor(np.arange(8, dtype=np.float32).reshape(4, 2))

    @qn.jit
    def pick(x: qn.Tensor) -> qn.Tensor:
        return qn.ops.embedding(x * 2, table)

    for value in (0, 1, 0, 1, 0):
        check_equal(pick(qn.tensor([value])).numpy(), table.numpy()[[value * 2]])
    assert [plan.graphs for plan in pick.plans()] == [0]
    with pytest.raises(IndexError, match="index 6"):
        pick(qn.tensor([3]))


def test_tf32_is_seen_by_captured_steps() -> None:
    a, b = (qn.tensor(np.random.default_rng(i).standard_normal((140, 96)).astype(np.float32)) for i in (2, 3))
    product = qn.jit(lambda x: qn.ops.relu(qn.ops.matmul(x, b.T) * 2))
    exact = [product(a).numpy() for _ in range(5)]
    assert sum(plan.graphs for plan in product.plans()) == 1
    try:
        qn.runtime.allow_tf32(True)
        rounded = [product(a).numpy() for _ in range(5)]
    finally:
        qn.runtime.allow_tf32(False)
    again = [product(a).numpy() for _ in range(5)]
    for results in (exact, rounded, again):
        for y in results[1:]:
            check_equal(y, results[0])
    check_equal(again[0], exact[0])
    assert (rounded[0] != exact[0]).any()


def test_frozen_models_are_captured() -> None:
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).to("cuda")
    run = net.freeze(max_batch=8)
    want = net(X[0]).numpy()
    for _ in range(5):
        check_equal(run(X[0]), want)
    assert sum(plan.native.graphs for plan in run._plans.values()) >= 1


FORKED = """
import os, sys
import quernel as qn
x = qn.ones((3,), device="cuda")
if os.fork() == 0:
    try:
        x + 1
    except qn.errors.DeviceError as error:
        os._exit(7 if "'spawn'" in str(error) else 1)
    os._exit(2)
status = os.waitstatus_to_exitcode(os.wait()[1])
sys.exit(status if (x + 1).numpy().tolist() == [2, 2, 2] else 3)
"""


def test_a_forked_process_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
