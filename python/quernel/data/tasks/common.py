"""What the tasks share: their splits, their random streams, and a cache of what takes long to make."""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_log = logging.getLogger("quernel.data.tasks")


@dataclass(frozen=True)
class Split:
    """Samples to train on and to test on, first axis N; no source has a part in both."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array


def stream(*key: str | int) -> np.random.RandomState:
    """The random stream of a part of a task. `RandomState` is frozen: NumPy will not change what it draws.

    Example:
        >>> from quernel.data.tasks.common import stream
        >>> bool(stream("demo", 0).rand() == stream("demo", 0).rand() != stream("demo", 1).rand())
        True
    """
    return np.random.RandomState([zlib.crc32(repr(part).encode()) for part in key])


def cache_folder() -> Path | None:
    """Where made data are kept: $QUERNEL_CACHE, else quernel in the user's cache folder; None if that is "off"."""
    given = os.environ.get("QUERNEL_CACHE")
    if given == "off":
        return None
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quernel"


def cached(key: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
    """The arrays that `make` returns, from the file `key`.npz of the cache if it is there and whole.

    The file appears whole or not at all. A cache that cannot be read or written costs time, never the data.
    """
    folder = cache_folder()
    if folder is None:
        return make()
    path = folder / f"{key}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        _log.warning("%s is not readable and is made anew: %s", path, error)
    made = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, made)
    except OSError as error:
        _log.warning("%s cannot be kept: %s", path, error)
    return made


def _write(path: Path, arrays: dict[str, Array]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        part = Path(file.name)
        try:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.close()
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
