"""Optimizer updates over flat segments, in place, and the memory they work on.

Nothing here takes part in automatic differentiation or in graphs; operands are native tensors. ``hyper`` is a float64
tensor that a replayed plan reads again at each call, so a changed learning rate needs no new plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from quernel import _core

Native = _core.Tensor


def zeros(size: int, dtype: str, device: str) -> Native:
    """A flat segment of zeros."""
    return _core.full([size], 0, dtype, device)


def from_values(values: NDArray[np.generic] | Sequence[float], dtype: str, device: str) -> Native:
    """A flat segment with these values."""
    return _core.from_numpy(np.asarray(values, dtype).reshape(-1), True, device)


def copy_into(target: Native, values: NDArray[np.generic] | Sequence[float]) -> None:
    """Replaces the values of a segment."""
    _core.copy_into_(target, from_values(values, target.dtype, target.device))


def copy(tensor: Native) -> Native:
    """A copy of its own memory."""
    return _core.copy(tensor)


def view(segment: Native, begin: int, size: int) -> Native:
    """Elements [begin, begin + size) of a segment, sharing its memory."""
    return _core.flat_view(segment, begin, size)


def zero_grads(params: Sequence[Native]) -> None:
    """Forgets the gradients; the next backward stores instead of adding."""
    _core.zero_grads_(list(params))


def config_epoch() -> int:
    """Changes whenever a tensor has moved to other memory."""
    return _core.config_epoch()


def moved() -> None:
    """Says that tensors have other memory now."""
    _core.bump_config_epoch()


def advance_step(step: Native) -> None:
    """Counts an update: step (int64, one element) += 1."""
    _core.advance_step_(step)


# The updates, by the optimizer's name: (param, grad, states, hyper, step). ``param``, ``grad`` and the states, None where
# one is not kept, are flat segments of one dtype and size; ``hyper`` holds lr, weight_decay, l1 and what else the kernel
# names (csrc/kernels/optim.cpp); ``step`` is the number of this update, from 1 on. Formulas: `quernel.optim.algorithms`.
Update = Callable[[Native, Native, Sequence[Native | None], Native, Native], None]
UPDATES: dict[str, Update] = {
    "sgd": _core.sgd_,
    "adagrad": _core.adagrad_,
    "rmsprop": _core.rmsprop_,
    "adam": _core.adam_,
    "adamw": _core.adam_,
    "nadam": _core.nadam_,
    "lion": _core.lion_,
}

# The same for tables of which row i of ``grad`` updates row rows[i], or none where that is -1: (param, grad, states, hyper,
# step, rows).
RowUpdate = Callable[[Native, Native, Sequence[Native], Native, Native, Native], None]
ROW_UPDATES: dict[str, RowUpdate] = {
    "sgd": _core.sgd_rows_,
    "adam": _core.adam_rows_,
    "adamw": _core.adam_rows_,
    "sparse_adam": _core.adam_rows_,
}


def moving_average(average: Native, param: Native, hyper: Native, step: Native) -> None:
    """average += (1 - decay)·(param - average).

    Args:
        average, param: of one dtype and shape.
        hyper: decay, and 1 for the warm-up decay_t = min(decay, (1 + step) / (10 + step)), else 0.
        step: number of this update, from 1 on.
    """
    _core.moving_average_(average, param, hyper, step)
