"""Parameter groups: parameters with their hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from quernel import recording
from quernel.errors import ArgumentError
from quernel.ops import optim as native
from quernel.optim.segment import Segment
from quernel.optim.table import Table

if TYPE_CHECKING:
    from quernel.tensor import Tensor

Check = Callable[[str, Any], Any]


def at_least_zero(what: str, value: Any) -> float:
    """`value` as a float, if it is finite and not negative."""
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ArgumentError(f"{what} is a finite number of at least 0, got {value!r}")
    return number


def below_one(what: str, value: Any) -> float:
    """`value` as a float, if it lies in [0, 1)."""
    number = float(value)
    if not 0 <= number < 1:
        raise ArgumentError(f"{what} lies in [0, 1), got {value!r}")
    return number


def two_below_one(what: str, value: Any) -> tuple[float, float]:
    """`value` as two floats in [0, 1)."""
    if not isinstance(value, Sequence) or len(value) != 2:
        raise ArgumentError(f"{what} is a pair of numbers in [0, 1), got {value!r}")
    return below_one(f"{what}[0]", value[0]), below_one(f"{what}[1]", value[1])


def flag(what: str, value: Any) -> bool:
    """`value`, if it is True or False."""
    if value not in (False, True):
        raise ArgumentError(f"{what} is True or False, got {value!r}")
    return bool(value)


def refuse_module(owner: str, params: Any) -> None:
    """Raises ArgumentError for a network where its parameters are wanted."""
    if callable(getattr(params, "parameters", None)):
        raise ArgumentError(f"[{owner}] takes parameters, got {type(params).__name__}; pass net.parameters()")


class ParamGroup(MutableMapping[str, Any]):
    """What PyTorch keeps in a dictionary: ``group["params"]``, ``group["lr"]``, … .

    A hyper-parameter is checked when it is set, and written to a native buffer that updates read, replayed ones too.
    """

    def __init__(
        self,
        owner: str,
        params: list[Tensor],
        values: dict[str, Any],
        checks: dict[str, Check],
        constants: tuple[float, ...],
    ) -> None:
        self.params = params
        self.unplaced = list(params)  # those that have never had a gradient
        self.segments: list[Segment | Table] = []
        self._owner = owner
        self._checks = checks
        self._constants = constants
        self._values = {name: self.checked(name, value) for name, value in values.items()}
        self._hyper: dict[str, native.Native] = {}  # by device

    def checked(self, name: str, value: Any) -> Any:
        """`value` as this group would store it.

        Raises:
            ArgumentError: it is not a value for this hyper-parameter.
        """
        check = self._checks.get(name)
        return value if check is None else check(f"[{self._owner}] {name}", value)

    def _packed(self) -> list[float]:
        packed: list[float] = []
        for name in self._checks:
            value = self._values[name]
            packed.extend(value if isinstance(value, tuple) else [float(value)])
        return [*packed, *self._constants]

    def hyper(self, device: str) -> native.Native:
        """What updates on that device read."""
        if device not in self._hyper:
            self._hyper[device] = native.from_values(self._packed(), "float64", device)

            def undo() -> None:  # it may hold what the step that fails has set
                del self._hyper[device]

            recording.on_rollback(undo)
        return self._hyper[device]

    def peek(self, name: str) -> Any:
        """A hyper-parameter, for what must not tie a plan to its value."""
        return self._values[name]

    def __getitem__(self, name: str) -> Any:
        if name == "params":
            return self.params
        value = self._values[name]
        recording.guard(self, name, value)
        return value

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "params":
            raise ArgumentError(f"[{self._owner}] the parameters of a group are fixed; use add_param_group")
        checked = self.checked(name, value)
        before = self._values.get(name)

        def undo() -> None:
            self._values[name] = before
            recording.host_write(f"{self._owner}.{name}")

        self._values[name] = checked
        recording.on_rollback(undo)
        if name in self._checks:
            for hyper in self._hyper.values():
                native.copy_into(hyper, self._packed())
        recording.host_write(f"{self._owner}.{name}")

    def __delitem__(self, name: str) -> None:
        raise ArgumentError(f"[{self._owner}] {name} cannot be removed from a parameter group")

    def __iter__(self) -> Iterator[str]:
        return iter(["params", *self._values])

    def __len__(self) -> int:
        return 1 + len(self._values)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self._values.items())
        return f"ParamGroup({len(self.params)} parameters, {values})"
