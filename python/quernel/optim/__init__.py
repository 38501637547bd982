"""Optimizers."""

from __future__ import annotations

from quernel.optim.adam import Adam, AdamW
from quernel.optim.optimizer import Optimizer
from quernel.optim.sgd import SGD

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer"]
