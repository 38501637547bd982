"""A model that is its graph: what a user's own class becomes in a file, and what quantizing makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from quernel.graph.interpret import run
from quernel.graph.ir import Graph
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.ops.dtypes import FLOATING
from quernel.tensor import Tensor


class GraphModule(Module):
    """Runs a graph; parameters and buffers keep the dotted names that they had in the model.

    It trains like any module if the graph was traced with training marks (see `quernel.graph.trace`).

    Args:
        graph: The graph. Its weights become this module's state; parameters are shared, not copied.
    """

    def __init__(self, graph: Graph) -> None:
        self.__dict__["_structure"] = replace(graph, weights={})
        self.__dict__["_places"] = {
            name: self._place(name, value, graph) for name, value in graph.weights.items()
        }

    def _place(self, path: str, value: Tensor, graph: Graph) -> tuple[Module, str]:
        """Registers a weight under its dotted name and says where it is."""
        owner: Module = self
        *folders, name = path.split(".")
        for folder in folders:
            if folder not in owner._modules:
                owner.add_module(folder, Module())
            owner = owner._modules[folder]
        if path in graph.buffers:
            owner.register_buffer(name, value)
        else:
            if not isinstance(value, Parameter):
                value = Parameter(value)
            owner.register_parameter(name, value)
        return owner, name

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Every tensor of the graph by name, as it is now."""
        return {path: owner.__dict__[name] for path, (owner, name) in self.__dict__["_places"].items()}

    @property
    def graph(self) -> Graph:
        """The graph with the weights as they are now."""
        structure: Graph = self.__dict__["_structure"]
        return replace(structure, weights=self.weights)

    def _input_dtype(self) -> str | None:
        structure: Graph = self.__dict__["_structure"]
        dtypes = {value.dtype for value in structure.inputs.values()}
        return next(iter(dtypes & set(FLOATING)), None)

    def _has_integers(self) -> bool:
        structure: Graph = self.__dict__["_structure"]
        return any(value.dtype not in FLOATING for value in structure.inputs.values())

    def forward(self, *inputs: Tensor) -> Any:
        """Runs the graph."""
        return run(self.__dict__["_structure"], inputs, weights=self.weights, training=self.training)

    def __repr__(self) -> str:
        structure: Graph = self.__dict__["_structure"]
        inputs = ", ".join(f"{name}: {value}" for name, value in structure.inputs.items())
        return f"{type(self).__name__}({inputs}, {len(structure.nodes)} ops)"
