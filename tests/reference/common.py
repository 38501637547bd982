"""What the definitions share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pair = tuple[int, int]


def wide(x: npt.ArrayLike) -> Array:
    """float64, or int64 for integers."""
    a = np.asarray(x)
    return a.astype(np.float64 if a.dtype.kind == "f" else np.int64)
