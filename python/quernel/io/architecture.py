"""Modules as JSON: the library's own layers and models by their constructor arguments, everything else as its graph.

A module with modules inside says of them too what they are, since one may have been replaced, such as a model's head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from quernel import models, nn
from quernel.errors import ArgumentError
from quernel.nn.module import Module

_CONV = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
    *("padding_mode", "precision"),
)
_CONV_TRANSPOSE = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "bias"),
    *("dilation", "precision"),
)
_RECURRENT = (
    *("input_size", "hidden_size", "num_layers", "bias", "dropout", "bidirectional", "returns"),
    "precision",
)
_SPECTROGRAM = ("n_fft", "win_length", "hop_length", "power", "center", "pad_mode")
_MEL = ("sample_rate", *_SPECTROGRAM, "f_min", "f_max", "n_mels", "norm", "mel_scale")
# Constructor arguments of each layer, all of them attributes of the same name but for those below. A model of
# `quernel.models` needs no entry: it keeps every argument of its constructor as an attribute.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features", "bias", "precision"),
    "Conv1d": _CONV,
    "Conv2d": _CONV,
    "ConvTranspose1d": _CONV_TRANSPOSE,
    "ConvTranspose2d": _CONV_TRANSPOSE,
    "RNN": (*_RECURRENT, "nonlinearity"),
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "SparseLinear": ("in_features", "out_features", "bias", "density", "block"),
    **{
        f"{kind}Norm{d}d": ("num_features", "eps", "momentum", "affine", "track_running_stats")
        for kind in ("Batch", "Instance")
        for d in (1, 2)
    },
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "Dropout": ("p",),
    "MultiheadAttention": ("embed_dim", "num_heads", "dropout", "bias", "kdim", "vdim", "precision"),
    "TransformerEncoderLayer": ("activation", "norm_first"),
    "TransformerDecoderLayer": ("activation", "norm_first"),
    "PositionalEncoding": ("d_model", "dropout", "max_len"),
    "LearnedPositionalEncoding": ("d_model", "max_len"),
    "Embedding": ("num_embeddings", "embedding_dim", "padding_idx", "sparse"),
    "EmbeddingBag": (
        *("num_embeddings", "embedding_dim", "mode"),
        *("sparse", "include_last_offset", "padding_idx"),
    ),
    **{f"MaxPool{d}d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode") for d in (1, 2)},
    **{
        f"AvgPool{d}d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad") for d in (1, 2)
    },
    **{f"Adaptive{kind}Pool{d}d": ("output_size",) for kind in ("Avg", "Max") for d in (1, 2)},
    "GlobalAvgPool2d": (),
    "GlobalMaxPool2d": (),
    "Upsample": ("size", "scale_factor", "mode", "align_corners"),
    **{
        f"{kind}Pad{d}d": ("padding", "value") if kind == "Constant" else ("padding",)
        for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular")
        for d in (1, 2)
    },
    "AmplitudeToDB": ("stype", "top_db"),
    "Spectrogram": _SPECTROGRAM,
    "MelSpectrogram": _MEL,
    "LogMelSpectrogram": (*_MEL, "eps", "normalize"),
    "MFCC": (*_MEL, "n_mfcc", "log_mels", "top_db", "normalize"),
    "Flatten": ("start_dim",),
    "Identity": (),
    "ReLU": (),
    "GELU": (),
    "SiLU": (),
    "Tanh": (),
    "Sigmoid": (),
    "ReLU6": (),
    "Hardswish": (),
    "Hardsigmoid": (),
    "Hardtanh": ("min_val", "max_val"),
    "LeakyReLU": ("negative_slope",),
    "ELU": ("alpha",),
    "SELU": (),
    "CELU": ("alpha",),
    "Softplus": ("beta", "threshold"),
    "Mish": (),
    "LogSigmoid": (),
    "LogSoftmax": ("dim",),
    "Softsign": (),
    "PReLU": ("num_parameters", "init"),
    "Softmax": ("dim",),
}


def _stack_of(kind: Callable[..., Module]) -> Callable[..., Module]:
    return lambda children: kind(nn.Identity(), len(children["layers"]), children.get("norm"))


def _layer_of(kind: Callable[..., Module]) -> Callable[..., Module]:
    return lambda children, **arguments: kind(
        children["self_attn"].embed_dim, children["self_attn"].num_heads, 1, **arguments
    )


# Modules that are made of those inside, and of arguments if they have any.
_CONTAINERS: dict[str, Callable[..., Module]] = {
    "Sequential": nn.Sequential,
    "Residual": lambda children: nn.Residual(**children),
    "ModuleList": lambda children: nn.ModuleList(children.values()),
    "ModuleDict": nn.ModuleDict,
    "TransformerEncoder": _stack_of(nn.TransformerEncoder),
    "TransformerEncoderLayer": _layer_of(nn.TransformerEncoderLayer),
    "TransformerDecoder": _stack_of(nn.TransformerDecoder),
    "TransformerDecoderLayer": _layer_of(nn.TransformerDecoderLayer),
}
_SIZES = (
    "in_features",
    "in_channels",
    "input_size",
    "num_features",
    "num_embeddings",
)  # inferred again when the parameters are loaded
_PRESENCE = {
    "bias": "bias",
    "affine": "weight",
    "elementwise_affine": "weight",
}  # arguments that say whether a parameter exists
# Arguments that older files lack, and what layers did before there were any.
_LATER = {"precision": None, "sparse": False, "dropout": 0.0}
_NOT_INFERRED = ("SparseLinear",)  # whose parameters do not tell


def describe(net: Module) -> dict[str, Any] | None:
    """`net` as JSON values, or None if it contains a module that is not the library's own."""
    try:
        return _describe(net, "", {})
    except _Foreign:
        return None


def build(data: Any) -> Module:
    """The module that :func:`describe` described, its parameters still without memory.

    Raises:
        ArgumentError: the description is of no module.
    """
    try:
        return _build(data, "", {})
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArgumentError(
            f"[load] the architecture is incomplete ({type(error).__name__}: {error})"
        ) from None


def tied(net: Module) -> dict[str, str]:
    """For each second name of a parameter shared between different modules, its first name."""
    first: dict[int, str] = {}
    table = {}
    for path, module in net.named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            name = f"{path}.{key}" if path else key
            if first.setdefault(id(parameter), name) != name:
                table[name] = first[id(parameter)]
    return table


class _Foreign(Exception):
    pass


def _describe(module: Module, path: str, seen: dict[int, str]) -> dict[str, Any]:
    if id(module) in seen:
        return {"same": seen[id(module)]}
    seen[id(module)] = path
    name = type(module).__name__
    data: dict[str, Any] = {"type": name}
    arguments = _arguments(name)
    if type(module) is not _class(name) or (arguments is None and name not in _CONTAINERS):
        raise _Foreign
    if arguments is not None:
        data["args"] = {key: _argument(module, key) for key in arguments}
    children = {k: _describe(c, f"{path}.{k}".lstrip("."), seen) for k, c in module.named_children()}
    if children or name in _CONTAINERS:
        data["children"] = children
    return data


def _class(name: str) -> Any:
    """The layer or model of a name; None if there is none."""
    return getattr(models if name in models.__all__ else nn, name, None)


def _arguments(name: str) -> tuple[str, ...] | None:
    """What its constructor takes; None if it cannot be described."""
    if name in models.__all__ and isinstance(_class(name), type):
        return tuple(inspect.signature(_class(name)).parameters)
    return _ARGUMENTS.get(name)


def _argument(module: Module, key: str) -> Any:
    value = getattr(module, _PRESENCE.get(key, key))
    if isinstance(value, Module):
        return None  # it stands among the children
    if isinstance(value, np.generic):
        return value.item()
    return value if key not in _PRESENCE or isinstance(value, bool) else value is not None


def _build(data: Any, path: str, made: dict[str, Module]) -> Module:
    if "same" in data:
        return made[data["same"]]
    name = data["type"]
    children = {
        str(key): _build(child, f"{path}.{key}".lstrip("."), made)
        for key, child in data.get("children", {}).items()
    }
    arguments = _arguments(name)
    if arguments is None and name not in _CONTAINERS:
        raise ArgumentError(f"[load] unknown layer '{name}'; the file may come from a newer version")
    given = _LATER | data.get("args", {})
    args = {key: _read(given[key]) for key in arguments or ()}
    if name in _CONTAINERS:
        module = _CONTAINERS[name](children, **args)
    else:
        if name in _ARGUMENTS and name not in _NOT_INFERRED:
            args.update({key: None for key in _SIZES if key in args})
        module = _class(name)(**args)
    for key, child in children.items():
        module._modules.pop(key, None)  # they stand in the order of the description
        setattr(module, key, child)
    made[path] = module
    return module


def _read(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
