"""Models in files: ``net.save(path)`` and ``qn.load(path)``.

A model made of the library's layers is saved as those layers; one with classes of the user's own as its traced graph,
which loads as a model that runs and trains without the class. Quantized models are graphs too. A model's vocabulary goes
along, and those of modules inside. Nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from quernel import random
from quernel.errors import ArgumentError, CorruptFileError
from quernel.graph.ir import Graph
from quernel.graph.module import GraphModule
from quernel.graph.serialize import from_json, to_json
from quernel.graph.trace import Input, inputs_of, trace
from quernel.io import architecture, resume
from quernel.io.container import read, write, write_atomic
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.ops.create import tensor
from quernel.optim import Optimizer
from quernel.quant.model import QuantizedModel
from quernel.tensor import Tensor
from quernel.text.vocabulary import KINDS, Vocabulary

Array = npt.NDArray[Any]
_GRAPHS: dict[str, type[GraphModule]] = {"GraphModule": GraphModule, "QuantizedModel": QuantizedModel}
# What building a model trips over if its description contradicts itself or its tensors.
_MISFITS = (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def save(
    net: Module, path: str | os.PathLike[str], input_shape: Any = None, optimizer: Optimizer | None = None
) -> None:
    """Writes `net` to `path`, whole or not at all.

    Args:
        net: Any model.
        path: Usually ``something.safetensors``; an existing file is replaced.
        input_shape: The shape of one sample, or a list of them for several inputs. Only a model with classes of your
            own that has never been called needs it, for its graph.
        optimizer: Saved too, with the position of the random stream, for :func:`~quernel.io.load_optimizer`.

    Raises:
        ArgumentError: a vocabulary is of a class of your own, or of a module inside a model with such classes.
        UnsupportedError: the model's forward cannot be traced.
    """
    write_atomic(path, model_bytes(net, input_shape, optimizer))


def load(path: str | os.PathLike[str]) -> Module:
    """The model in the file `path`, as it was saved: weights, training mode and which parameters train.

    Raises:
        CorruptFileError: the file is damaged, cut short or no model; nothing has been built from it.
        UnsupportedError: a newer version wrote it.
        FileNotFoundError: there is none.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "net.safetensors"
        >>> qn.nn.Sequential(qn.nn.Linear(4, 8), qn.nn.ReLU()).save(path)
        >>> qn.load(path)[0]
        Linear(4, 8)
    """
    return model_from_bytes(Path(path).read_bytes(), os.fspath(path))


def model_bytes(net: Module, input_shape: Any = None, optimizer: Optimizer | None = None) -> bytes:
    """The bytes of the file that :func:`save` writes."""
    layers = architecture.describe(net)
    record: dict[str, Any] = {"inputs": [[list(i.shape), i.dtype] for i in inputs_of(net, input_shape) or ()]}
    weights: Mapping[str, Tensor]
    if layers is not None:
        record |= {"kind": "layers", "root": layers, "dtype": net.dtype, "tied": architecture.tied(net)}
        unsized = {name for name, p in net.named_parameters(remove_duplicate=False) if p.is_unsized}
        weights = {name: value for name, value in net.state_dict().items() if name not in unsized}
    else:
        graph = (
            net.graph
            if isinstance(net, GraphModule)
            else trace(net, _needed(net, input_shape), training=True)
        )
        kind = "QuantizedModel" if isinstance(net, QuantizedModel) else "GraphModule"
        record |= {"kind": kind, "graph": to_json(graph)}
        weights = graph.weights
    record["frozen"] = [name for name, p in net.named_parameters() if not p.requires_grad and name in weights]
    record["eval"] = [
        name for name, m in net.named_modules() if not m.training and (layers is not None or not name)
    ]
    record["vocabularies"] = _vocabularies(net, layers is None)
    arrays = {k: v.numpy() for k, v in weights.items() if k not in record.get("tied", {})}
    if optimizer is not None:
        state, record["optimizer"] = resume.pack(optimizer)
        arrays |= state
    return write(arrays, record)


def _vocabularies(net: Module, is_graph: bool) -> dict[str, Any]:
    """The vocabularies of the model and of the modules inside by their names, as JSON values."""
    found = {name: m.vocabulary for name, m in net.named_modules() if m.vocabulary is not None}
    for name, vocabulary in found.items():
        owner = f"{name}.vocabulary" if name else "vocabulary"
        if type(vocabulary) not in KINDS.values():
            raise ArgumentError(
                f"[save] {owner} is a {type(vocabulary).__name__}, which no file holds; it is one of "
                f"{', '.join(KINDS)}, or None"
            )
        if is_graph and vocabulary != net.vocabulary:
            raise ArgumentError(
                f"[save] the model is saved as its graph, which has no module to hold {owner}: set "
                f"net.vocabulary = net.{owner}, or net.{owner} = None"
            )
    return {name: v.to_dict() for name, v in found.items() if not (is_graph and name)}


def model_from_bytes(blob: bytes, source: str) -> Module:
    """The model in `blob`, which was read from `source`."""
    arrays, record = read(blob, source)
    try:
        return _rebuild({k: v for k, v in arrays.items() if not k.startswith(resume.PREFIX)}, record)
    except _MISFITS as error:
        raise CorruptFileError(f"[load] {source}: its parts do not fit together ({error})") from None


def graph_bytes(graph: Graph) -> bytes:
    """A graph with its weights as the bytes of a file."""
    return write({k: v.numpy() for k, v in graph.weights.items()}, {"kind": "Graph", "graph": to_json(graph)})


def from_bytes(blob: bytes, source: str) -> Graph | Module:
    """What :func:`graph_bytes` or :func:`model_bytes` wrote."""
    arrays, record = read(blob, source)
    if record.get("kind") == "Graph":
        return from_json(record["graph"], {k: tensor(v) for k, v in arrays.items()})
    return _rebuild(arrays, record)


def _rebuild(arrays: Mapping[str, Array], record: Mapping[str, Any]) -> Module:
    net: Module
    if record["kind"] == "layers":
        net = _rebuild_layers(arrays, record)
    else:
        graph = from_json(record["graph"], {name: tensor(a) for name, a in arrays.items()})
        net = _GRAPHS[record["kind"]](graph)
    parameters: dict[str, Parameter] = dict(net.named_parameters())
    for name in record["frozen"]:
        parameters[name].requires_grad_(False)
    modules = dict(net.named_modules())
    for name in record["eval"]:
        modules[name].training = False
    for name, vocabulary in record.get("vocabularies", {}).items():
        modules[name].vocabulary = Vocabulary.from_dict(vocabulary)
    if record["inputs"]:
        net.__dict__["_first_inputs"] = [
            ((0, *map(int, shape)), str(dtype)) for shape, dtype in record["inputs"]
        ]
    return net


def _rebuild_layers(arrays: Mapping[str, Array], record: Mapping[str, Any]) -> Module:
    stream = random.default_generator()
    seed, base = stream.seed, stream.base
    try:
        net = architecture.build(record["root"])
        missing, unexpected = _fill(net, arrays, record)
    finally:
        stream.set(seed, base)  # layers drew initial values, which were overwritten at once
    parameters = dict(net.named_parameters(remove_duplicate=False))
    missing = [name for name in missing if name not in parameters or not parameters[name].is_unsized]
    if missing or unexpected:
        raise ArgumentError(f"tensors missing: {missing or 'none'}, unexpected: {unexpected or 'none'}")
    return net


def _fill(net: Module, arrays: Mapping[str, Array], record: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Writes the state of a module that was just built; returns what is missing and what does not belong to it."""
    for name, first in record["tied"].items():
        owner, _, key = name.rpartition(".")
        setattr(net.get_submodule(owner), key, net.get_parameter(first))
    if record["dtype"] not in (None, "float32"):
        net.to(dtype=record["dtype"])
    state = {**arrays, **{name: arrays[first] for name, first in record["tied"].items() if first in arrays}}
    return net.load_state_dict(state, strict=False)


def _needed(net: Module, input_shape: Any) -> Sequence[Input]:
    inputs = inputs_of(net, input_shape)
    if inputs is None:
        raise ArgumentError(
            "[save] a model with classes of your own is saved as its graph: call it once before, or pass input_shape= "
            "(one sample, without the batch)"
        )
    return inputs
