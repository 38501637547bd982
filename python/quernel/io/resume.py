"""What a training run needs besides its model: the optimizer's state and the random stream, in the model's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel import random
from quernel.errors import ArgumentError, CorruptFileError
from quernel.io.container import read
from quernel.optim import Optimizer

PREFIX = "optimizer/"
Array = npt.NDArray[Any]


def pack(optimizer: Optimizer) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays by name, and JSON values, that :func:`load_optimizer` takes."""
    state = optimizer.state_dict()
    arrays: dict[str, Array] = {}
    steps: dict[str, int] = {}
    for number, entry in state["state"].items():
        steps[str(number)] = int(entry["step"])
        arrays |= {f"{PREFIX}{number}/{k}": np.asarray(v) for k, v in entry.items() if k != "step"}
    stream = random.default_generator()
    record = {"type": type(optimizer).__name__, "steps": steps, "groups": state["param_groups"]}
    return arrays, record | {"random": [stream.seed, stream.base]}


def load_optimizer(path: str | os.PathLike[str], optimizer: Optimizer) -> None:
    """Gives `optimizer` the state that ``net.save(path, optimizer=…)`` wrote, and the random stream its position.

    With the model from the same file, training then goes on to the same bits as if it had never stopped.

    Args:
        path: The file.
        optimizer: One over the parameters of the loaded model, of the class that was saved.

    Raises:
        CorruptFileError: the file is damaged.
        ArgumentError: it holds no optimizer, or another one. Nothing has been changed.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.safetensors"
        >>> net = qn.nn.Sequential(qn.nn.Linear(4, 2))
        >>> net.save(path, optimizer=qn.optim.Adam(net.parameters(), lr=0.5))
        >>> net = qn.load(path)
        >>> optimizer = qn.optim.Adam(net.parameters())
        >>> qn.io.load_optimizer(path, optimizer)
        >>> optimizer.lr
        0.5
    """
    arrays, record = read(Path(path).read_bytes(), os.fspath(path))
    saved = record.get("optimizer")
    if saved is None:
        raise ArgumentError(
            f"[load_optimizer] {path} holds no optimizer; save with net.save(path, optimizer=…)"
        )
    try:
        kind, state = saved["type"], _state(arrays, saved)
        seed, base = (int(value) for value in saved["random"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFileError(f"[load] {path}: the optimizer's state is incomplete ({error})") from None
    if kind != type(optimizer).__name__:
        raise ArgumentError(
            f"[load_optimizer] {path} holds the state of {kind}, not of {type(optimizer).__name__}"
        )
    optimizer.load_state_dict(state)
    random.default_generator().set(seed, base)


def _state(arrays: Mapping[str, Array], saved: Mapping[str, Any]) -> dict[str, Any]:
    entries: dict[int, dict[str, Any]] = {int(n): {"step": int(step)} for n, step in saved["steps"].items()}
    for name, array in arrays.items():
        if name.startswith(PREFIX):
            number, key = name.removeprefix(PREFIX).split("/")
            entries[int(number)][key] = array
    groups = [{k: tuple(v) if isinstance(v, list) else v for k, v in g.items()} for g in saved["groups"]]
    return {"state": entries, "param_groups": groups}
