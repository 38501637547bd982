"""Where a sparse weight is not worth its format: the one rule, and the rewrite that applies it to a frozen model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quernel.graph.ir import Graph, Node, Weight
from quernel.ops.create import as_tensor
from quernel.ops.sparse_array import BlockSparse, as_sparse

# The density from which on the dense kernel with packed weights is as fast, whatever the batch (`python -m bench
# sparse` on AVX-512).
BREAK_EVEN = {"csr": 0.35, "block": 0.75}


def is_sparse_enough(weight: Any) -> bool:
    """Whether a float weight is below the break-even density of its format."""
    matrix = as_sparse("sparse_linear", weight)
    return matrix.density < BREAK_EVEN["block" if isinstance(matrix, BlockSparse) else "csr"]


def keep_dense(graph: Graph) -> Graph:
    """Turns ``sparse_linear`` with a weight that is not sparse enough into ``linear``.

    The bits of the result stay, for finite inputs: where the sparse weight has no value, the dense one multiplies an
    infinite or NaN input by 0.
    """
    weights = dict(graph.weights)
    nodes: list[Node] = []
    for node in graph.nodes:
        matrix = _matrix(graph, node)
        if matrix is None or is_sparse_enough(matrix):
            nodes.append(node)
            continue
        name = f"{node.name}.weight_dense"
        weights[name] = as_sparse(node.op, matrix).to_dense()
        args = {**node.args, "weight": Weight(name)}
        order = ("x", "weight", "bias", "activation", "residual")
        nodes.append(replace(node, op="linear", args={key: args[key] for key in order}))
    return replace(graph, nodes=tuple(nodes), weights=weights)


def _matrix(graph: Graph, node: Node) -> tuple[Any, ...] | None:
    """The constant sparse weight of a node, in parts."""
    weight = node.args.get("weight")
    if node.op != "sparse_linear" or not isinstance(weight, tuple):
        return None
    *tensors, shape = weight
    if not all(isinstance(t, Weight) for t in tensors):
        return None
    named = (as_tensor(graph.weights[t.name]) for t in tensors if isinstance(t, Weight))
    return (*named, shape)
