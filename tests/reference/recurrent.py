"""Recurrent layers, one row and one step at a time, and their gradients through time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.reference.common import Array, wide
from tests.reference.elementwise import sigmoid

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent_steps(length: int, reverse: bool) -> list[int]:
    """The time steps of a row in the order in which it walks through them."""
    return list(range(length))[:: -1 if reverse else 1]


def recurrent_cell(cell: str, a: Array, b: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """The next h and c of a row from the products of its input, a, and of its state, b."""
    if cell == "lstm":
        i, f, g, o = np.split(a + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if cell == "gru":
        (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
        z = sigmoid(az + bz)
        return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h, c
    return (np.tanh(a + b) if cell == "rnn_tanh" else np.maximum(a + b, 0)), c


def recurrent(
    cell: str,
    x: Array,
    weights: tuple[Array, Array],
    biases: tuple[Any, Any] = (None, None),
    states: tuple[Any, Any] = (None, None),
    lengths: Any = None,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """Outputs and the last h and c."""
    x, w, u = wide(x), *map(wide, weights)
    n, steps, hidden = x.shape[0], x.shape[1], u.shape[1]
    bias_ih, bias_hh = (np.zeros(len(u)) if b is None else wide(b) for b in biases)
    hs, cs = (np.zeros((n, hidden)) if s is None else wide(s).copy() for s in states)
    y = np.zeros((n, steps, hidden))
    for row in range(n):
        length = steps if lengths is None else int(lengths[row])
        for t in recurrent_steps(length, reverse):
            a, b = w @ x[row, t] + bias_ih, u @ hs[row] + bias_hh
            hs[row], cs[row] = recurrent_cell(cell, a, b, hs[row], cs[row])
            y[row, t] = hs[row]
    return y, hs, cs


def recurrent_cell_grad(
    cell: str, kept: dict[str, Array], dh: Array, dc: Array, sign: float = -1.0
) -> tuple[Array, Array, Array, Array]:
    """Gradients of a, b, the share of h that bypasses b, and c, from those of the next h and c.

    With absolute values in and `sign` 1, the sizes of all terms that the gradients are sums of.
    """
    one = lambda v: 1 + sign * v
    if cell == "lstm":
        i, f, g, o = np.split(kept["gates"], 4)
        y, before = np.tanh(kept["c"]), kept["c_before"]
        dc = dc + dh * o * one(y * y)
        d = np.concatenate(
            [dc * g * i * one(i), dc * before * f * one(f), dc * i * one(g * g), dh * y * o * one(o)]
        )
        return d, d, np.zeros_like(dh), dc * f
    if cell == "gru":
        r, z, n = np.split(kept["gates"], 3)
        dn = dh * one(z) * one(n * n)
        dz, dr = dh * (kept["h_before"] + sign * n) * z * one(z), dn * kept["product"] * r * one(r)
        return np.concatenate([dr, dz, dn]), np.concatenate([dr, dz, dn * r]), dh * z, dc
    y = kept["y"]
    d = dh * one(y * y) if cell == "rnn_tanh" else dh * (y > 0)
    return d, d, np.zeros_like(dh), dc
