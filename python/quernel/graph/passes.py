"""Rewrites: each takes a graph and returns another; the one given stays as it was.

All but :func:`fold_batch_norm` keep every bit of the result: a fused op computes ``activation(acc + bias + residual)``
in the very order in which the separate ops would. Folding rounds the scaled weights once, see there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np

from quernel.graph.ir import TRAINING, Arg, Graph, Node, Ref, Weight, transform
from quernel.ops.create import tensor
from quernel.tensor import Tensor

Pass = Callable[[Graph], Graph]

CONTRACTIONS = ("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
WITH_EPILOGUE = (*CONTRACTIONS, "sparse_linear")  # take a residual and an activation
ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish")


def optimize(graph: Graph) -> Graph:
    """The graph as inference runs it: everything below, in the order that finds most."""
    passes: tuple[Pass, ...] = (
        for_inference,
        fold_batch_norm,
        fuse_residual,
        fuse_activation,
        drop_dead,
    )
    return reduce(lambda g, rewrite: rewrite(g), passes, graph)


def rewire(
    graph: Graph,
    nodes: tuple[Node, ...],
    moved: Mapping[Ref, Ref],
    weights: Mapping[str, Tensor] | None = None,
) -> Graph:
    """`graph` with other nodes, in which each value of `moved` is read from elsewhere."""

    def follow(arg: Arg) -> Arg:
        while isinstance(arg, Ref) and arg in moved:
            arg = moved[arg]
        return arg

    def redirect(node: Node) -> Node:
        return replace(node, args={k: transform(v, follow) for k, v in node.args.items()})

    return replace(
        graph,
        nodes=tuple(redirect(n) for n in nodes),
        outputs=transform(graph.outputs, follow),
        weights=graph.weights if weights is None else weights,
    )


def drop_dead(graph: Graph) -> Graph:
    """Without nodes whose results reach no output, and weights that no node names."""
    alive = {ref.node for ref in graph.results}
    kept = []
    for node in reversed(graph.nodes):
        if node.name in alive:
            alive.update(ref.node for ref in node.refs)
            kept.append(node)
    named = {name for node in kept for name in node.weights}
    weights = {k: v for k, v in graph.weights.items() if k in named}
    return replace(graph, nodes=tuple(reversed(kept)), weights=weights, buffers=graph.buffers & named)


def for_inference(graph: Graph) -> Graph:
    """The graph of ``net.eval()``: every choice that depended on training is made, dropout is gone."""
    moved: dict[Ref, Ref] = {}
    nodes = []
    for node in graph.nodes:
        args = {k: transform(v, lambda a: False if a is TRAINING else a) for k, v in node.args.items()}
        if node.op == "dropout" and args["training"] is False and isinstance(args["x"], Ref):
            moved[Ref(node.name)] = args["x"]
        else:
            nodes.append(replace(node, args=args))
    return rewire(graph, tuple(nodes), moved)


def fold_batch_norm(graph: Graph) -> Graph:
    """Folds inference BatchNorm into the linear layer or convolution before it.

    With s = weight / sqrt(running_var + eps), per channel: ``W' = W · s`` and ``b' = (b - running_mean) · s + bias``,
    computed in float64 and rounded once. Each output then differs from the unfolded one by at most the usual bound of
    the contraction, gamma_(K+2) · (|x| · |W'| + |b'|), plus the rounding of BatchNorm's own arithmetic.
    """
    moved: dict[Ref, Ref] = {}
    nodes = {node.name: node for node in graph.nodes}
    weights = dict(graph.weights)
    users = graph.users()
    for norm in graph.nodes:
        before = _only_source(graph, nodes, users, norm, "x") if norm.op == "batch_norm" else None
        if before is None or not _is_bare(before):
            continue
        if norm.args["training"] is not False or norm.args["running_mean"] is None:
            continue
        folded = _fold(before, norm, weights)
        if folded is not None:
            nodes[before.name] = folded
            moved[Ref(norm.name)] = Ref(before.name)
            del nodes[norm.name]
    return rewire(graph, tuple(nodes.values()), moved, weights)


def fuse_residual(graph: Graph) -> Graph:
    """Turns ``add(linear or convolution, other)`` into that op with ``residual=other``, where shapes are equal."""
    moved: dict[Ref, Ref] = {}
    nodes = {node.name: node for node in graph.nodes}
    users = graph.users()
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    for add in graph.nodes:
        if add.op != "add" or not all(isinstance(add.args[k], Ref) for k in ("x", "other")):
            continue
        if graph.value(_ref(add, "x")) != graph.value(_ref(add, "other")):
            continue
        found = [
            (s, k) for k in ("x", "other") if (s := _only_source(graph, nodes, users, add, k)) and _is_bare(s)
        ]
        if not found:
            continue
        # Of two candidates the later one fuses, so that the other's result is there by then.
        source, key = max(found, key=lambda item: order[item[0].name])
        other = add.args["other" if key == "x" else "x"]
        del nodes[source.name]  # it moves to where the addition was, and keeps its name
        nodes[add.name] = source.with_args(residual=other)
        moved[Ref(add.name)] = Ref(source.name)
    return rewire(graph, tuple(nodes.values()), moved)


def fuse_activation(graph: Graph, allowed: tuple[str, ...] = ACTIVATIONS) -> Graph:
    """Puts an activation into the linear layer or convolution whose result only it reads."""
    moved: dict[Ref, Ref] = {}
    nodes = {node.name: node for node in graph.nodes}
    users = graph.users()
    for node in graph.nodes:
        source = _only_source(graph, nodes, users, node, "x") if node.op in allowed else None
        if source is not None and source.op in WITH_EPILOGUE and source.args["activation"] is None:
            nodes[source.name] = source.with_args(activation=node.op)
            moved[Ref(node.name)] = Ref(source.name)
            del nodes[node.name]
    return rewire(graph, tuple(nodes.values()), moved)


def separate(graph: Graph, kept: tuple[str, ...] = ()) -> Graph:
    """Undoes fusion: each residual and each activation not in `kept` becomes a node of its own."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op not in WITH_EPILOGUE:
            nodes.append(node)
            continue
        activation, residual = node.args["activation"], node.args["residual"]
        if residual is None and activation in (None, *kept):
            nodes.append(node)
            continue
        chain = [
            node.with_args(activation=None, residual=None)
        ]  # the last link keeps the name, for its readers
        if residual is not None:
            chain.append(replace(node, op="add", args={"x": None, "other": residual}))
        if activation is not None:
            chain.append(replace(node, op=str(activation), args={"x": None}))
        for i in range(len(chain) - 1):
            chain[i] = replace(chain[i], name=f"{node.name}:{chain[i].op}")
            chain[i + 1] = chain[i + 1].with_args(x=Ref(chain[i].name))
        nodes += chain
    return replace(graph, nodes=tuple(nodes))


def _ref(node: Node, key: str) -> Ref:
    arg = node.args[key]
    assert isinstance(arg, Ref)
    return arg


def _only_source(
    graph: Graph, nodes: Mapping[str, Node], users: Mapping[Ref, list[Node]], node: Node, key: str
) -> Node | None:
    """The node that makes argument `key` of `node`, if nothing but `node` reads it, and reads it once."""
    arg = node.args[key]
    if not isinstance(arg, Ref) or arg.node not in nodes or arg in graph.results:
        return None
    once = len(users[arg]) == 1 and sum(ref == arg for ref in node.refs) == 1
    return nodes[arg.node] if once else None


def _is_bare(node: Node) -> bool:
    """Whether nothing comes after the contraction and its bias yet."""
    return node.op in WITH_EPILOGUE and node.args["activation"] is None and node.args["residual"] is None


def _fold(node: Node, norm: Node, weights: dict[str, Tensor]) -> Node | None:
    read = [node.args["weight"], node.args["bias"], *(norm.args[k] for k in _NORM)]
    if not isinstance(read[0], Weight) or not all(a is None or isinstance(a, Weight) for a in read):
        return None
    w, b, mean, var, gamma, beta = (_float64(a, weights) for a in read)
    eps: Any = norm.args["eps"]
    scale = (1.0 if norm.args["weight"] is None else gamma) / np.sqrt(var + eps)
    shift = (b - mean) * scale + beta
    dtype = weights[read[0].name].dtype
    names = {key: _fresh(f"{node.name}.{key}_folded", weights) for key in ("weight", "bias")}
    weights[names["weight"]] = tensor(_scaled(node, w, scale).astype(dtype))
    weights[names["bias"]] = tensor(shift.astype(dtype))
    return node.with_args(weight=Weight(names["weight"]), bias=Weight(names["bias"]))


def _scaled(node: Node, w: Any, scale: Any) -> Any:
    """The weight times a factor per output channel."""
    if not node.op.startswith("conv_transpose"):
        return w * np.reshape(scale, (-1, *[1] * (w.ndim - 1)))
    groups = int(node.args["groups"])  # type: ignore[arg-type]
    factors = np.broadcast_to(scale, groups * w.shape[-1]).reshape(groups, 1, w.shape[-1])
    return (w.reshape(groups, -1, w.shape[-1]) * factors).reshape(w.shape)


_NORM = ("running_mean", "running_var", "weight", "bias")


def _float64(arg: Any, weights: Mapping[str, Tensor]) -> Any:
    return 0.0 if arg is None else weights[arg.name].numpy().astype(np.float64)


def _fresh(name: str, taken: Mapping[str, Any]) -> str:
    count = 1
    candidate = name
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
