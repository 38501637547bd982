"""A training step of a bag of embeddings under a linear layer, gradients whole and by rows, beside torch eager.

Gradients by rows (``sparse=True``) and an optimizer that updates these alone: `optim.Adam` here, torch's SparseAdam for the
table and its fused Adam for the layer. torch takes its faster way, as does quernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from bench import peers
from bench.goals import Goal
from bench.harness import Case
from bench.train import RATE, quernel_steps
from quernel import nn

GOALS = {"": Goal({1: 1.5, 2: 1.5}, floor=1.0)}
WIDTH, LENGTH, CLASSES = 64, 20, 10
BATCHES = 8  # that follow each other, so that not always the same rows are touched

Batch = tuple[np.ndarray, np.ndarray]


def cases(threads: int, quick: bool) -> Iterator[Case]:  # noqa: ARG001
    """Tables from what fits L2 to what fits no cache."""
    torch = peers.find("torch")
    for rows in (1000,) if quick else (1000, 10_000, 100_000):
        for batch in (32,) if quick else (32, 256):
            rng = np.random.default_rng(rows)
            data = [
                (rng.integers(0, rows, (batch, LENGTH)), rng.integers(0, CLASSES, batch))
                for _ in range(BATCHES)
            ]
            contenders: dict[str, Callable[[], object]] = {}
            for sparse, how in ((True, ""), (False, " whole")):
                contenders[f"quernel{how}"] = _ours(rows, data, sparse)
                if torch:
                    contenders[f"torch{how}"] = _torch_step(torch, rows, data, sparse)
            yield Case(f"{rows:,} rows of {WIDTH}, batch {batch} x {LENGTH}", contenders)


def _ours(rows: int, data: list[Batch], sparse: bool) -> Callable[[], object]:
    net = nn.Sequential(nn.EmbeddingBag(rows, WIDTH, sparse=sparse), nn.Linear(WIDTH, CLASSES))
    step, batches = quernel_steps(net), cycle(data)
    return lambda: step(*next(batches))


def _torch_step(torch: Any, rows: int, data: list[Batch], sparse: bool) -> Callable[[], object]:
    bag, head = torch.nn.EmbeddingBag(rows, WIDTH, sparse=sparse), torch.nn.Linear(WIDTH, CLASSES)
    dense = [*head.parameters()] if sparse else [*bag.parameters(), *head.parameters()]
    optimizers = [torch.optim.Adam(dense, lr=RATE, fused=True)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(bag.parameters(), lr=RATE))
    batches = cycle([tuple(map(torch.from_numpy, pair)) for pair in data])

    def step() -> object:
        x, y = next(batches)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(head(bag(x)), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss

    return step
