"""Exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from quernel.autograd import no_grad
from quernel.errors import ArgumentError
from quernel.nn.parameter import Parameter
from quernel.ops import optim as native
from quernel.optim.group import refuse_module
from quernel.tensor import Tensor


class EMA:
    """Averages that follow parameters: average = decay·average + (1 - decay)·parameter at each `update`.

    The average of a noisy run is often better than its end (Polyak and Juditsky 1992). Parameters whose size is not
    known yet join at the first update after they have one. `update` may be part of a recorded step.

    Args:
        parameters: floating tensors, such as ``net.parameters()``.
        decay: in [0, 1); 0.999 averages over about the last thousand updates.
        warmup: begin with the smaller decay (1 + t) / (10 + t), t the number of updates.

    Example:
        >>> w = qn.tensor([0.0])
        >>> ema = optim.EMA([w], decay=0.75)
        >>> w[...] = 4.0
        >>> ema.update()
        >>> with ema.applied():
        ...     w.item()
        1.0
        >>> w.item()
        4.0
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float = 0.999, warmup: bool = False) -> None:
        refuse_module("EMA", parameters)
        given: list[Any] = list(parameters)
        for p in given:
            if not isinstance(p, Tensor) or p.dtype not in ("float32", "float64"):
                raise ArgumentError(f"[EMA] averages float32 and float64 tensors, got {p!r}")
        self.parameters: list[Tensor] = given
        self._averages: dict[int, native.Native] = {}
        device = given[0].device if given else "cpu"
        self._hyper = native.from_values([0.0, float(warmup)], "float64", device)
        self.decay = decay
        self._step = native.from_values([0], "int64", device)
        self._join()

    @property
    def decay(self) -> float:
        """How much of the average an update keeps; changing it keeps recorded plans."""
        return self._decay

    @decay.setter
    def decay(self, value: float) -> None:
        if not 0 <= value < 1:
            raise ArgumentError(f"[EMA] decay lies in [0, 1), got {value!r}")
        self._decay = value
        native.copy_into(native.view(self._hyper, 0, 1), [value])

    def _join(self) -> None:
        """Starts an average for each parameter that has none and knows its size: its present value."""
        for i, p in enumerate(self.parameters):
            if i not in self._averages and not (isinstance(p, Parameter) and p.is_unsized):
                self._averages[i] = native.copy(p._t)

    def update(self) -> None:
        """Moves every average towards its parameter."""
        if len(self._averages) < len(self.parameters):
            self._join()
        native.advance_step(self._step)
        for i, average in self._averages.items():
            native.moving_average(average, self.parameters[i]._t, self._hyper, self._step)

    def averages(self) -> list[Tensor | None]:
        """The average of each parameter; None for those without a size."""
        return [
            Tensor(self._averages[i]) if i in self._averages else None for i in range(len(self.parameters))
        ]

    def copy_to(self, parameters: Iterable[Tensor] | None = None) -> None:
        """Writes the averages into these parameters, by default into those that are averaged."""
        targets = self.parameters if parameters is None else list(parameters)
        if len(targets) != len(self.parameters):
            raise ArgumentError(f"[EMA] {len(self.parameters)} averages for {len(targets)} parameters")
        with no_grad():
            for i, average in self._averages.items():
                targets[i][...] = Tensor(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the parameters have their averages' values; afterwards their own again."""
        own = {i: Tensor(native.copy(self.parameters[i]._t)) for i in self._averages}
        self.copy_to()
        try:
            yield
        finally:
            with no_grad():
                for i, value in own.items():
                    self.parameters[i][...] = value

    def state_dict(self) -> dict[str, Any]:
        """Copies of the averages, by the parameter's number, and the number of updates."""
        return {
            "step": int(self._step.numpy()[0]),
            "averages": {i: average.numpy().copy() for i, average in self._averages.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned.

        Raises:
            ArgumentError: numbers or shapes differ. Nothing has been changed.
        """
        given = {int(i): np.asarray(a) for i, a in state_dict["averages"].items()}
        self._join()
        for i, array in given.items():
            if i not in self._averages or array.shape != self._averages[i].shape:
                have = self._averages[i].shape if i in self._averages else "nothing"
                raise ArgumentError(f"[EMA] average {i} has shape {array.shape}, its parameter {have}")
        for i, array in given.items():
            average = self._averages[i]
            native.copy_into(native.view(average, 0, average.size), array.reshape(-1))
        native.copy_into(self._step, [int(state_dict["step"])])
