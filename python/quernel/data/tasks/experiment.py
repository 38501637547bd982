"""Trains one net on one split, by quernel or by torch: from the same weights, on the same schedule, for as many steps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import quernel as qn
from quernel import optim
from quernel.callbacks import Logs, LRScheduler
from quernel.data.batching import batches
from quernel.data.tasks.common import Split
from quernel.nn.module import Module
from quernel.progress import progress


@dataclass(frozen=True)
class Recipe:
    """How a net is trained: a one-cycle schedule (Smith 2018), `lr` being its peak.

    Attributes:
        optimizer: SGD with Nesterov's momentum 0.9, or AdamW.
        warmup: share of the steps in which the rate rises, linearly; then it falls along a cosine.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    batch_size: int = 128
    warmup: float = 0.25

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of all steps is done."""
        if done < self.warmup:
            share = done / self.warmup
        else:
            share = 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))
        return self.lr * max(share, 0.01)


def fit(
    make: Callable[[], Module], data: Split, recipe: Recipe, epochs: int, seed: int, verbose: str | int
) -> tuple[Module, Logs]:
    """Trains `make()`; returns it, and its loss and accuracy on the test part."""
    qn.seed(seed)
    net = make()
    optimizer: optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = optim.SGD(
            net.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True
        )
    else:
        optimizer = optim.AdamW(net.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    net.compile(optimizer=optimizer, loss="cross_entropy", metrics=["accuracy"])
    steps = epochs * math.ceil(len(data.x) / recipe.batch_size)
    net.fit(
        *(data.x, data.y),
        batch_size=recipe.batch_size,
        epochs=epochs,
        validation_data=(data.x_test, data.y_test) if verbose else None,
        callbacks=[LRScheduler(lambda step: recipe.rate(step / steps), per="batch")],
        verbose=verbose,
    )
    return net, net.evaluate(data.x_test, data.y_test)


def fit_torch(
    make: Callable[[], Module], data: Split, recipe: Recipe, epochs: int, seed: int, verbose: str | int
) -> Logs:
    """The same by PyTorch, from the same weights."""
    from quernel.data.tasks.torch_twin import torch_twin

    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(qn.runtime.num_threads())
    torch.manual_seed(seed)
    qn.seed(seed)
    net = make()
    with qn.no_grad():
        net(data.x[:1])  # sizes left None
    twin = torch_twin(net)
    optimizer: Any
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            twin.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True
        )
    else:
        optimizer = torch.optim.AdamW(twin.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    order = np.random.default_rng(seed)
    display = progress(verbose, epochs)
    steps = epochs * math.ceil(len(data.x) / recipe.batch_size)
    step = 0
    try:
        for epoch in range(epochs):
            display.begin_epoch(epoch, len(data.x))
            twin.train()
            total = 0.0
            for x, y in batches([data.x, data.y], recipe.batch_size, order.permutation(len(data.x))):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(step / steps)
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x)), torch.from_numpy(y))
                loss.backward()
                optimizer.step()
                step += 1
                total += loss.item() * len(y)
                display.advance(len(y), loss.item())
            logs = {"loss": total / len(data.x)}
            if verbose:
                logs |= {f"val_{name}": value for name, value in _evaluate_torch(torch, twin, data).items()}
            display.end_epoch(epoch, logs)
    finally:
        display.close()
    return _evaluate_torch(torch, twin, data)


def _evaluate_torch(torch: Any, twin: Any, data: Split) -> Logs:
    twin.eval()
    loss = right = 0.0
    with torch.no_grad():
        for x, y in batches([data.x_test, data.y_test], 256):
            scores, labels = twin(torch.from_numpy(x)), torch.from_numpy(y)
            loss += float(torch.nn.functional.cross_entropy(scores, labels, reduction="sum"))
            right += float((scores.argmax(-1) == labels).sum())
    return {"loss": loss / len(data.y_test), "accuracy": right / len(data.y_test)}
