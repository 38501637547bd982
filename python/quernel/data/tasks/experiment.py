"""Trains one net on one split, by quernel or by torch: from the same weights, on the same schedule, for as many steps."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import quernel as qn
from quernel import optim
from quernel.callbacks import Logs, LRScheduler
from quernel.data.batching import batches
from quernel.data.tasks.common import Split
from quernel.data.tasks.task import BF16, QUERNEL
from quernel.nn.module import Module
from quernel.progress import progress

Array = NDArray[Any]


@dataclass(frozen=True)
class Recipe:
    """How a net is trained: a one-cycle schedule (Smith 2018), `lr` being its peak.

    Attributes:
        optimizer: SGD with Nesterov's momentum 0.9, or AdamW.
        warmup: share of the steps in which the rate rises, linearly; then it falls along a cosine.
        clip_norm: to which gradients are scaled down, see ``compile``.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    batch_size: int = 128
    warmup: float = 0.25
    clip_norm: float | None = None

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of all steps is done."""
        if done < self.warmup:
            share = done / self.warmup
        else:
            share = 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))
        return self.lr * max(share, 0.01)

    def steps(self, samples: int, epochs: int) -> int:
        """How many steps there are."""
        return epochs * math.ceil(samples / self.batch_size)

    def arguments(
        self, net: Module, samples: int, epochs: int, groups: list[Any] | None = None
    ) -> tuple[optim.Optimizer, dict[str, Any]]:
        """The optimizer that `net` is compiled with, and what ``fit`` is told.

        Args:
            net: what is trained.
            samples: of the training part.
            epochs: passes over it.
            groups: of parameters, rates of their own following the schedule in proportion; None: all parameters alike.
        """
        parameters = groups or list(net.parameters())
        optimizer: optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = optim.SGD(
                parameters, self.lr, momentum=0.9, weight_decay=self.weight_decay, nesterov=True
            )
        else:
            optimizer = optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)
        steps = self.steps(samples, epochs)
        schedule = LRScheduler(lambda step: self.rate(step / steps), per="batch")
        return optimizer, {"epochs": epochs, "batch_size": self.batch_size, "callbacks": [schedule]}


def precision_of(engine: str) -> str:
    """What a net of this engine is compiled with."""
    return "bf16" if engine == BF16 else "fp32"


def fit(
    make: Callable[[], Module],
    data: Split,
    recipe: Recipe,
    epochs: int,
    seed: int,
    verbose: str | int,
    engine: str = QUERNEL,
) -> tuple[Module, Logs]:
    """Trains `make()`; returns it, and its loss and accuracy on the test part."""
    qn.seed(seed)
    net = make()
    optimizer, arguments = recipe.arguments(net, len(data.x), epochs)
    net.compile(
        optimizer=optimizer,
        loss="cross_entropy",
        metrics=["accuracy"],
        precision=precision_of(engine),
        clip_norm=recipe.clip_norm,
    )
    validation = (data.x_test, data.y_test) if verbose else None
    net.fit(data.x, data.y, validation_data=validation, verbose=verbose, **arguments)
    return net, net.evaluate(data.x_test, data.y_test)


def fit_torch(
    make: Callable[[], Module], data: Split, recipe: Recipe, epochs: int, seed: int, verbose: str | int
) -> tuple[Any, Logs]:
    """The same by PyTorch, from the same weights."""
    from quernel.data.tasks.torch_twin import torch_twin

    torch: Any = importlib.import_module("torch")
    qn.seed(seed)
    net = make()
    with qn.no_grad():
        net(data.x[:1])  # sizes left None
    twin = torch_twin(net)

    def loss(x: Any, y: Any) -> Any:
        scores = twin(x)
        return torch.nn.functional.cross_entropy(scores.flatten(0, -2), y.flatten())

    def evaluate() -> Logs:
        return _evaluate_torch(torch, twin, data)

    train_twin(twin, [data.x, data.y], loss, recipe, epochs, seed, verbose, evaluate)
    return twin, evaluate()


def train_twin(
    twin: Any,
    columns: Sequence[Array],
    loss_of: Callable[..., Any],
    recipe: Recipe,
    epochs: int,
    seed: int,
    verbose: str | int,
    evaluate: Callable[[], Logs] = dict,
) -> None:
    """Trains a torch module; `loss_of` gets a batch of each column as tensors, `evaluate` is asked after an epoch."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(qn.runtime.num_threads())
    torch.manual_seed(seed)
    optimizer: Any
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            twin.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay, nesterov=True
        )
    else:
        optimizer = torch.optim.AdamW(twin.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    order, display = np.random.default_rng(seed), progress(verbose, epochs)
    samples, step = len(columns[0]), 0
    steps = recipe.steps(samples, epochs)
    try:
        for epoch in range(epochs):
            display.begin_epoch(epoch, samples)
            twin.train()
            total = 0.0
            for batch in batches(columns, recipe.batch_size, order.permutation(samples)):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(step / steps)
                optimizer.zero_grad()
                loss = loss_of(*map(torch.from_numpy, batch))
                loss.backward()
                if recipe.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(twin.parameters(), recipe.clip_norm)
                optimizer.step()
                step += 1
                total += loss.item() * len(batch[0])
                display.advance(len(batch[0]), loss.item())
            logs = {"loss": total / samples}
            if verbose:
                logs |= {f"val_{name}": value for name, value in evaluate().items()}
            display.end_epoch(epoch, logs)
    finally:
        display.close()


def _evaluate_torch(torch: Any, twin: Any, data: Split) -> Logs:
    twin.eval()
    loss = right = 0.0
    with torch.no_grad():
        for x, y in batches([data.x_test, data.y_test], 256):
            scores, labels = twin(torch.from_numpy(x)).flatten(0, -2), torch.from_numpy(y).flatten()
            loss += float(torch.nn.functional.cross_entropy(scores, labels, reduction="sum"))
            right += float((scores.argmax(-1) == labels).sum())
    return {"loss": loss / data.y_test.size, "accuracy": right / data.y_test.size}
