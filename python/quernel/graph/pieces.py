"""How many rows of a batch a thread of a frozen model takes through all layers at a time.

A call either runs layer by layer, each shared out over the threads, or in pieces of rows, each of them through the whole
net on one thread (`csrc/runtime/batch.h`). Pieces keep what passes between layers in the thread's cache and let the threads
meet once; small ones read weights more often and leave products few rows to work on. The rule below weighs the two in
multiply-adds (MACs) of one thread. Its constants were fitted on the nets of `bench/nets.py`, fp32 and int8, batch 2 to 64,
on one and two threads; it knows nothing of any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from quernel.graph.ir import Graph, Node, Ref, Value
from quernel.graph.summary import macs

FORK = 100_000  # a call's threads meeting once
SHARED = 0.9  # what a thread does of its best when every layer is shared out by itself
# A product of m rows takes more by the first / m, its weights' way to the core, and the second / m^2, half-filled registers.
WEIGHTS_WAY, HALF_FILLED = 0.5, 1.5
# For a byte of activations and each doubling of a piece's widest beyond the core's own cache, of which so many count.
SPILL, MOST_DOUBLINGS = 0.4, 5
# For a byte of weights that comes from the shared cache, and from memory.
NEAR_STREAM, FAR_STREAM = 0.5, 5
_RECURRENT = ("lstm", "gru", "rnn")  # each step is a product of its own


class Caches(NamedTuple):
    """Bytes of a core's own cache, and of the one that all share."""

    own: int
    shared: int


class RowCosts(NamedTuple):
    """What a row costs.

    Attributes:
        products: For each op its MACs, and the rows that it brings into the product.
        widest: Bytes of the largest activations of one op, read and written.
        activations: Bytes of those of all ops.
        weights: Bytes of all of them, which are the same for all rows.
    """

    products: tuple[tuple[int, int], ...]
    widest: int
    activations: int
    weights: int

    def of(self, rows: int, caches: Caches, threads: int) -> float:
        """MACs of `rows` rows that run together on one thread, while others of `threads` do the same with their own."""
        work = sum(
            n * (1 + WEIGHTS_WAY / (m * rows) + HALF_FILLED / (m * rows) ** 2) for n, m in self.products
        )
        doublings = min(max(0.0, math.log2(rows * self.widest / caches.own)), MOST_DOUBLINGS)
        return rows * (work + SPILL * self.activations * doublings) + self._streaming(caches, threads, 1)

    def shared(self, rows: int, caches: Caches, threads: int) -> float:
        """MACs of a thread when `rows` rows run together and every layer is shared out by itself."""
        alone = self.of(rows, caches, 1)
        if threads == 1:
            return alone
        weights = self._streaming(caches, 1, threads) - self._streaming(caches, 1, 1)
        return (alone + weights) / (threads * SHARED)

    def _streaming(self, caches: Caches, readers: int, parts: int) -> float:
        """Of the weights' way to the core, all `readers` at the same time, or each of `parts` its own part."""
        if 2 * self.weights > caches.shared:
            return FAR_STREAM * self.weights * readers
        return NEAR_STREAM * self.weights if self.weights > parts * caches.own else 0


def row_costs(graph: Graph) -> RowCosts:
    """Of a graph whose rows do not depend on each other."""
    products, nbytes = [], [1]
    read = {ref for node in graph.nodes for ref in node.refs} | set(graph.results)
    for node in graph.nodes:
        made = node.outputs[0].at(1)
        products.append((macs(graph, node) + math.prod(made), _product_rows(node, made)))
        values = [graph.value(ref) for ref in dict.fromkeys(node.refs)]
        values += [value for i, value in enumerate(node.outputs) if Ref(node.name, i) in read]
        nbytes.append(sum(map(_nbytes, values)))
    weights = sum(w.size * np.dtype(w.dtype).itemsize for w in graph.weights.values())
    return RowCosts(tuple(products), max(nbytes), sum(nbytes), weights)


def piece_rows(costs: RowCosts, batch: int, sizes: Sequence[int], threads: int, caches: Caches) -> int:
    """The size of piece with which a batch is done first.

    Args:
        costs: Of the net.
        batch: Rows, at least 1.
        sizes: Of pieces, rising; the first that holds all rows stands for the batch as a whole.
        threads: Of the pool.
        caches: Of the machine.
    """

    def time(size: int) -> float:
        if size >= batch:
            return costs.shared(size, caches, threads)
        count, left = divmod(batch, size)
        total = math.ceil(count / threads) * costs.of(size, caches, threads)
        if left and count % threads == 0:  # a turn of the rest alone
            total += costs.of(next(s for s in sizes if s >= left), caches, threads)
        return total + (FORK if threads > 1 else 0)

    whole = next((i for i, s in enumerate(sizes) if s >= batch), len(sizes) - 1)
    return min(reversed(sizes[: whole + 1]), key=time)  # the largest of equals


def _product_rows(node: Node, made: tuple[int, ...]) -> int:
    """Rows of the product that one row of the batch becomes: pixels, steps."""
    return 1 if node.op in _RECURRENT else max(1, math.prod(made[1:-1]))


def _nbytes(value: Value) -> int:
    return math.prod(value.at(1)) * np.dtype(value.dtype).itemsize
