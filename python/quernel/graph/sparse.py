"""Where a sparse weight is not worth its format: the one rule, and the rewrite that applies it to a frozen model."""

from __future__ import annotations

from dataclasses import replace

from quernel.graph.ir import Graph, Node, Weight
from quernel.ops.create import as_tensor
from quernel.ops.sparse_array import BlockSparse, SparseArray, as_sparse

# Densities from which on the dense kernel is as fast as the sparse one, as `python -m bench sparsity` shows them (AVX2, Zen 3).
# Blocks: whatever the batch. CSR: one row has a kernel of its own; several share an entry's loads, from 16 on all of them,
# and fewer break even at as many 40ths.
BLOCK_BREAK_EVEN = 0.85
CSR_BREAK_EVEN = 0.35
CSR_ROWS = 40
CSR_ONE_ROW = 0.15


def break_even(matrix: SparseArray, max_batch: int) -> float:
    """The density from which on a float weight is better kept dense, in a model that serves up to `max_batch` rows."""
    if isinstance(matrix, BlockSparse):
        return BLOCK_BREAK_EVEN
    return CSR_ONE_ROW if max_batch == 1 else min(CSR_BREAK_EVEN, max_batch / CSR_ROWS)


def keep_dense(graph: Graph, max_batch: int) -> Graph:
    """Turns ``sparse_linear`` with a weight that is not sparse enough into ``linear``.

    The choice is one for all batches. The bits of the result stay, for finite inputs: where the sparse weight has no
    value, the dense one multiplies an infinite or NaN input by 0.
    """
    weights = dict(graph.weights)
    nodes: list[Node] = []
    for node in graph.nodes:
        matrix = _matrix(graph, node)
        if matrix is None or matrix.density < break_even(matrix, max_batch):
            nodes.append(node)
            continue
        name = f"{node.name}.weight_dense"
        weights[name] = matrix.to_dense()
        args = {**node.args, "weight": Weight(name)}
        order = ("x", "weight", "bias", "activation", "residual")
        nodes.append(replace(node, op="linear", args={key: args[key] for key in order}))
    return replace(graph, nodes=tuple(nodes), weights=weights)


def _matrix(graph: Graph, node: Node) -> SparseArray | None:
    """The constant sparse weight of a node."""
    weight = node.args.get("weight")
    if node.op != "sparse_linear" or not isinstance(weight, tuple):
        return None
    *tensors, shape = weight
    if not all(isinstance(t, Weight) for t in tensors):
        return None
    named = (as_tensor(graph.weights[t.name]) for t in tensors if isinstance(t, Weight))
    return as_sparse(node.op, (*named, shape))
