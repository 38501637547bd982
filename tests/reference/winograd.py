"""How far rounding can go in Winograd's F(E x E, 3 x 3): the algorithm with absolute values throughout.

The matrices come from the Toom-Cook construction (Lavin and Gray, 2015, section 4; Blahut, "Fast Algorithms for Signal
Processing", 2010, chapter 5), not from the engine's formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.reference.common import Array, wide

# Finite points of the engine's two sizes of tile.
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.625, -0.625, 1.5, -1.5)}


def winograd_matrices(edge: int) -> tuple[Array, Array, Array]:
    """A' (edge, edge + 2), G (edge + 2, 3), B' (edge + 2, edge + 2): correlate(d, w) = A' ((G w) * (B' d))."""
    points = POINTS[edge]
    n = edge + 2
    at, g, bt = np.zeros((edge, n)), np.zeros((n, 3)), np.zeros((n, n))
    for j, p in enumerate(points):
        others = [q for q in points if q != p]
        at[:, j] = p ** np.arange(edge)
        g[j] = p ** np.arange(3) / np.prod([p - q for q in others])
        row = np.poly(others)[::-1]
        bt[j, : len(row)] = row
    at[-1, -1] = g[-1, -1] = 1
    bt[-1] = np.poly(points)[::-1]
    return at, g, bt


def _tiles(image: Array, edge: int, reach: int, size: Sequence[int]) -> Array:
    """(N, rows, cols, reach, reach, C): squares of `reach` pixels every `edge`, zeros behind the image."""
    down, across = (-(-s // edge) for s in size)
    need = [(m - 1) * edge + reach for m in (down, across)]
    behind = [(0, max(0, m - have)) for m, have in zip(need, image.shape[1:3], strict=True)]
    padded = np.pad(image, [(0, 0), *behind, (0, 0)])
    rows = np.arange(down)[:, None] * edge + np.arange(reach)
    cols = np.arange(across)[:, None] * edge + np.arange(reach)
    return padded[:, rows[:, None, :, None], cols[None, :, None, :]]


def _along(matrix: Array, squares: Array) -> Array:
    """matrix s matrix' over axes -3 and -2."""
    return np.einsum("ia,...abc,jb->...ijc", matrix, squares, matrix)


def winograd_magnitude(x: Array, weight: Array, padding: Sequence[int], edge: int) -> Array:
    """The size of what a forward pass sums: |A'| ((|G| |w| |G'|) . (|B'| |x| |B|)) |A|, (N, OH, OW, O)."""
    at, g, bt = (abs(m) for m in winograd_matrices(edge))
    ax = np.pad(abs(wide(x)), [(0, 0), *((p, p) for p in padding), (0, 0)])
    size = [m - 2 for m in ax.shape[1:3]]
    v = _along(bt, _tiles(ax, edge, edge + 2, size))
    u = _along(g, abs(wide(weight)))
    m = np.einsum("ntsabc,oabc->ntsabo", v, u)
    y = _along(at, m)
    n, down, across, o = *y.shape[:3], y.shape[-1]
    whole = y.transpose(0, 1, 3, 2, 4, 5).reshape(n, down * edge, across * edge, o)
    return whole[:, : size[0], : size[1]]


def winograd_grad_weight_magnitude(x: Array, g: Array, padding: Sequence[int], edge: int) -> Array:
    """The same of the gradient of the weights, (O, 3, 3, C)."""
    at, gm, bt = (abs(m) for m in winograd_matrices(edge))
    ax = np.pad(abs(wide(x)), [(0, 0), *((p, p) for p in padding), (0, 0)])
    size = g.shape[1:3]
    v = _along(bt, _tiles(ax, edge, edge + 2, size))
    w = _along(at.T, _tiles(abs(wide(g)), edge, edge, size))
    m: Any = np.einsum("ntsabc,ntsabo->oabc", v, w)
    return _along(gm.T, m)
