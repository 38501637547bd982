"""Passes of a native convolution, forward and both gradients, and what holds of all its algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np

from quernel import _core
from tests.checks import N, T, check_equal
from tests.strategies import lay_out


def draw(
    x: tuple[int, ...], weight: tuple[int, ...], y: tuple[int, ...], seed: int, integer: int = 0
) -> tuple[Any, Any, Any]:
    """x, weights and the gradient of y, each against a guard page: normal, or integers of at most so much."""
    rng = np.random.default_rng(seed)
    fill = (lambda s: rng.integers(-integer, integer + 1, s)) if integer else rng.standard_normal
    return tuple(lay_out(fill(s).astype("f4"), "guard_end") for s in (x, weight, y))  # type: ignore[return-value]


def passes(x: Any, w: Any, gy: Any, **options: Any) -> tuple[Any, Any, Any]:
    """y, dx and dw."""
    y = N(_core.conv2d(T(x), T(w), **options)[0])
    dx = N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **options))
    return y, dx, N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **options))


def check_splits(x: Any, w: Any, gy: Any, images: int, **options: Any) -> None:
    """The first images one by one, and one thread or more: the same bits."""
    y, dx, dw = passes(x, w, gy, **options)
    for i in range(min(images, len(x))):
        check_equal(N(_core.conv2d(T(x[i : i + 1]), T(w), **options)[0]), y[i : i + 1])
        one = _core.conv2d_grad_input(T(gy[i : i + 1]), T(w), [1, *x.shape[1:]], **options)
        check_equal(N(one), dx[i : i + 1])
    before = _core.num_threads()
    _core.set_num_threads(1)
    check_equal(N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **options)), dw)
    _core.set_num_threads(before)
