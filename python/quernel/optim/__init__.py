"""Optimizers, learning-rate schedules, clipping of gradients, averages of weights."""

from __future__ import annotations

from quernel.optim import lr_scheduler
from quernel.optim.algorithms import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Lion, NAdam, RMSprop, SparseAdam
from quernel.optim.clip import clip_grad_norm_, clip_grad_value_
from quernel.optim.ema import EMA
from quernel.optim.optimizer import Optimizer

__all__ = [
    "EMA",
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "NAdam",
    "Optimizer",
    "RMSprop",
    "SparseAdam",
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]
