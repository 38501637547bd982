"""Models as graphs of ops: tracing, rewriting, summaries, freezing."""

from __future__ import annotations

from quernel.graph.freeze import Frozen
from quernel.graph.interpret import run
from quernel.graph.ir import TRAINING, Dim, Graph, Node, Ref, Value, Weight
from quernel.graph.module import GraphModule
from quernel.graph.passes import (
    drop_dead,
    fold_batch_norm,
    for_inference,
    fuse_activation,
    fuse_residual,
    optimize,
)
from quernel.graph.summary import Summary, summarize
from quernel.graph.trace import Input, inputs_of, trace

__all__ = [
    "TRAINING",
    "Dim",
    "Frozen",
    "Graph",
    "GraphModule",
    "Input",
    "Node",
    "Ref",
    "Summary",
    "Value",
    "Weight",
    "drop_dead",
    "fold_batch_norm",
    "for_inference",
    "fuse_activation",
    "fuse_residual",
    "inputs_of",
    "optimize",
    "run",
    "summarize",
    "trace",
]
