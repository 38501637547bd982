"""Connectionist temporal classification by its definition: all alignments, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tests.reference.common import Array, wide


def spelled(alignment: Sequence[int], blank: int = 0) -> tuple[int, ...]:
    """What an alignment spells: repeats merged, blanks removed."""
    return tuple(c for c, _ in itertools.groupby(alignment) if c != blank)


def ctc_loss(log_probs: Array, labels: Sequence[int], blank: int = 0) -> tuple[float, Array]:
    """-log of the probability of one row's labels, and its gradient for log_probs (T, classes): 0 where there is no alignment."""
    scores = wide(log_probs)
    steps, classes = scores.shape
    total, visits = 0.0, np.zeros_like(scores)
    for alignment in itertools.product(range(classes), repeat=steps):
        if spelled(alignment, blank) == tuple(labels):
            p = np.exp(scores[np.arange(steps), alignment].sum())
            total += p
            visits[np.arange(steps), alignment] += p
    if total == 0:
        return np.inf, visits
    return -np.log(total), -visits / total
