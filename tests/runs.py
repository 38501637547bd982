"""Whole training runs, done eagerly and through qn.jit; used by the tests of plans."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

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
