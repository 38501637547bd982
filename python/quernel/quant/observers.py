"""What calibration learns: the range of each value, and the uint8 scale that covers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel.autograd import no_grad
from quernel.errors import ArgumentError
from quernel.graph.interpret import run
from quernel.graph.ir import Graph, Ref
from quernel.ops.create import tensor
from quernel.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Scale:
    """uint8 q stands for ``scale · (q - zero_point)``; `scale` is a float32 value."""

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, lo: float, hi: float) -> Scale:
        """The scale of range [lo, hi], widened to hold 0 exactly: ``(hi - lo) / 255``."""
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        step = np.float32((hi - lo) / 255)
        if step < np.finfo(np.float32).tiny:  # all zeros: any scale will do
            return cls(1.0, 0)
        return cls(float(step), int(np.clip(np.rint(-lo / float(step)), 0, 255)))

    def quantize(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
        """The uint8 values nearest to `x`, ties to even."""
        q = np.rint(x.astype(np.float32) / np.float32(self.scale)) + self.zero_point
        stored: npt.NDArray[np.uint8] = np.clip(q, 0, 255).astype(np.uint8)
        return stored

    def nearest(self, x: float) -> int:
        """The uint8 value nearest to one number, which may be infinite."""
        return int(np.clip(np.rint(np.float64(x) / self.scale) + self.zero_point, 0, 255))

    def dequantize(self, q: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The float32 values for which `q` stands."""
        return (q.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


class MinMax:
    """The least and the largest of all it has seen."""

    def __init__(self) -> None:
        self.lo, self.hi = np.inf, -np.inf

    def update(self, x: npt.NDArray[Any]) -> None:
        """Takes in more values.

        Raises:
            ArgumentError: one of them is not finite.
        """
        if x.size:
            lo, hi = float(x.min()), float(x.max())
            if not (np.isfinite(lo) and np.isfinite(hi)):
                raise ArgumentError(f"not finite: values lie between {lo} and {hi}")
            self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)


def calibrate(graph: Graph, data: Sequence[npt.NDArray[Any]], batch_size: int = 64) -> dict[Ref, MinMax]:
    """Runs `graph` over `data` (one array of samples per input) and observes every floating-point value.

    Raises:
        ArgumentError: a value is not finite; the message names the layer.
    """
    ranges: dict[Ref, MinMax] = {}

    def observe(ref: Ref, value: Tensor) -> None:
        if value.dtype == "float32":
            try:
                ranges.setdefault(ref, MinMax()).update(value.numpy())
            except ArgumentError as error:
                raise ArgumentError(
                    f"[quantize] calibration: '{ref.node}' is {error}; check the data"
                ) from None

    with no_grad():
        for start in range(0, len(data[0]), batch_size):
            batch = [tensor(np.ascontiguousarray(d[start : start + batch_size])) for d in data]
            run(graph, batch, observe=observe)
    return ranges
