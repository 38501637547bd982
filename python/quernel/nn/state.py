"""Reading and writing a module's state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from quernel.autograd import no_grad
from quernel.errors import ArgumentError, ShapeError
from quernel.nn.module import Module
from quernel.nn.sized import SizedByInput
from quernel.ops import optim as native
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import DTYPES
from quernel.runtime import check_device
from quernel.tensor import Tensor


def entries(module: Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers under every name they have."""
    for path, owner in module.named_modules(prefix, remove_duplicate=False):
        for name, parameter in owner._parameters.items():
            yield f"{path}.{name}" if path else name, parameter
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._unsaved:
                yield f"{path}.{name}" if path else name, buffer


def state_dict(module: Module, prefix: str) -> dict[str, Tensor]:
    """See `Module.state_dict`."""
    return {name: value.detach() for name, value in entries(module, prefix.rstrip("."))}


def load_state_dict(module: Module, given: Mapping[str, Any], strict: bool) -> tuple[list[str], list[str]]:
    """See `Module.load_state_dict`."""
    arrays = {
        name: np.asarray(value.detach() if hasattr(value, "detach") else value)
        for name, value in given.items()
    }
    sized = _size_layers(module, arrays)
    try:
        targets = dict(entries(module))
        missing = [name for name in targets if name not in arrays]
        unexpected = [
            name for name in arrays if name not in targets and not name.endswith("num_batches_tracked")
        ]
        if strict and (missing or unexpected):
            raise ArgumentError(
                f"[load_state_dict] missing: {missing or 'none'}; unexpected: {unexpected or 'none'}"
            )
        other = [n for n, target in targets.items() if n in arrays and arrays[n].shape != target.shape]
        if other:
            shapes = "; ".join(
                f"{name} has shape {targets[name].shape}, the state {arrays[name].shape}" for name in other
            )
            raise ShapeError(
                f"[load_state_dict] {shapes}; to keep the model's own, take these out of the state and pass strict=False"
            )
    except BaseException:
        for layer in sized:
            layer._unsize()
        raise
    with no_grad():
        for name, target in targets.items():
            if name not in arrays:
                continue
            if (
                target._t.readonly
            ):  # the places of a sparse weight: plans rely on them, so others take their place
                path, _, key = name.rpartition(".")
                setattr(module.get_submodule(path), key, as_tensor(np.array(arrays[name], target.dtype)))
            else:
                target[...] = arrays[name]
    return missing, unexpected


def _size_layers(module: Module, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[SizedByInput]:
    """Sizes the layers whose sizes the state tells; returns them."""
    sized = []
    for path, layer in module.named_modules():
        if not isinstance(layer, SizedByInput) or layer.is_sized:
            continue
        prefix = f"{path}." if path else ""
        shapes = {name.removeprefix(prefix): a.shape for name, a in arrays.items() if name.startswith(prefix)}
        try:
            channels = layer._channels_of(shapes)
        except (KeyError, IndexError):
            continue
        layer._ensure(channels)
        sized.append(layer)
    return sized


def move(module: Module, args: tuple[str, ...], device: str | None, dtype: str | None) -> None:
    """See `Module.to`."""
    for arg in args:
        if arg in DTYPES:
            dtype = arg
        else:
            device = arg
    place = None if device is None else check_device(device)
    if dtype not in (None, "float32", "float64"):
        raise ArgumentError(f"[to] modules are float32 or float64, got {dtype!r}")
    if dtype is None and all(t.device == place for t in (*module.parameters(), *module.buffers())):
        return
    for owner in module.modules():
        owner._float = dtype or owner._float
        for parameter in owner._parameters.values():
            parameter.become(dtype or parameter.dtype, place or parameter.device)
        for name, buffer in owner._buffers.items():
            if buffer is None:
                continue
            kept = dtype if buffer.dtype in ("float32", "float64") else None
            source = buffer.detach() if kept in (None, buffer.dtype) else owner._exact(name)
            moved = source.astype(kept or buffer.dtype).to(place or buffer.device)
            setattr(owner, name, moved)
    native.moved()
