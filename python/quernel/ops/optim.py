"""Optimizer updates over flat segments, in place, and the memory they work on.

Nothing here takes part in automatic differentiation or in graphs; operands are native tensors. ``hyper`` is a float64
tensor that a replayed plan reads again at each call, so a changed learning rate needs no new plan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quernel import _core

Native = _core.Tensor


def zeros(size: int, dtype: str) -> Native:
    """A flat segment of zeros."""
    return _core.full([size], 0, dtype)


def from_values(values: NDArray[np.generic] | Sequence[float], dtype: str) -> Native:
    """A flat segment with these values."""
    return _core.from_numpy(np.asarray(values, dtype).reshape(-1), True)


def copy_into(target: Native, values: NDArray[np.generic] | Sequence[float]) -> None:
    """Replaces the values of a segment."""
    _core.copy_into_(target, from_values(values, target.dtype))


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


def sgd(param: Native, grad: Native, momentum: Native | None, hyper: Native, step: Native) -> None:
    """One update of stochastic gradient descent.

    g = grad + weight_decay·param; buf = g at step 1, else momentum·buf + (1 - dampening)·g;
    param -= lr·(g + momentum·buf if nesterov else buf). Without `momentum`, param -= lr·g.

    Args:
        param, grad, momentum: flat segments of one dtype and size; `momentum` holds buf.
        hyper: lr, momentum, weight_decay, dampening, nesterov (0 or 1).
        step: number of this update, from 1 on.
    """
    _core.sgd_(param, grad, momentum, hyper, step)


def adam(param: Native, grad: Native, m: Native, v: Native, hyper: Native, step: Native) -> None:
    """One update of Adam (Kingma and Ba 2015), or of AdamW (Loshchilov and Hutter 2019) if ``decoupled``.

    m = beta1·m + (1 - beta1)·g; v = beta2·v + (1 - beta2)·g²;
    param -= lr / (1 - beta1^step) · m / (sqrt(v / (1 - beta2^step)) + eps).
    Weight decay is added to g, or, decoupled, param is first scaled by 1 - lr·weight_decay.

    Args:
        param, grad, m, v: flat segments of one dtype and size.
        hyper: lr, beta1, beta2, eps, weight_decay, decoupled (0 or 1).
        step: number of this update, from 1 on.
    """
    _core.adam_(param, grad, m, v, hyper, step)
