"""Inputs, targets and weights as arrays that fit together."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.arrays import numbers_of
from quernel.data.batching import batches
from quernel.errors import ArgumentError, ShapeError
from quernel.nn.module import Module
from quernel.suggest import suggestion
from quernel.tensor import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Arrays of one length.

    Attributes:
        inputs: what ``forward`` takes, in its order.
        keywords: names of the last inputs, which it is given by name.
        targets: one for each output; None where nobody looks at one.
        weights: of the samples, one for each output; None weighs them alike.
    """

    inputs: tuple[Array, ...]
    keywords: tuple[str, ...] = ()
    targets: tuple[Array | None, ...] = ()
    weights: tuple[Array | None, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def arguments(self) -> tuple[tuple[Array, ...], dict[str, Array]]:
        """What the model is called with: in order, and by name."""
        if not self.keywords:
            return self.inputs, {}
        first = len(self.inputs) - len(self.keywords)
        return self.inputs[:first], dict(zip(self.keywords, self.inputs[first:], strict=True))

    @property
    def _flat(self) -> tuple[Array | None, ...]:
        return (*self.inputs, *self.targets, *self.weights)

    def _with(self, arrays: Sequence[Array | None]) -> Samples:
        """The same of other arrays, arranged as `_flat` does."""
        a, b = len(self.inputs), len(self.inputs) + len(self.targets)
        inputs: Any = tuple(arrays[:a])
        return Samples(inputs, self.keywords, tuple(arrays[a:b]), tuple(arrays[b:]))

    def split(self, share: float) -> tuple[Samples, Samples | None]:
        """Without the last `share` of the samples, and these."""
        count = int(len(self) * share)
        if count == 0:
            return self, None
        ends = [None if a is None else a[-count:] for a in self._flat]
        return self._with([None if a is None else a[:-count] for a in self._flat]), self._with(ends)

    def batches(self, batch_size: int | None, order: NDArray[np.int64] | None = None) -> Iterator[Samples]:
        """Parts of `batch_size` samples, the last one possibly shorter; None: everything at once."""
        flat = self._flat
        places = [i for i, array in enumerate(flat) if array is not None]
        arrays = [array for array in flat if array is not None]
        for parts in batches(arrays, batch_size or max(1, len(self)), order):
            if len(parts) == len(flat):
                yield self._with(parts)
                continue
            full: list[Array | None] = [None] * len(flat)
            for place, part in zip(places, parts, strict=True):
                full[place] = part
            yield self._with(full)


def as_numbers(verb: str, name: str, value: Any, dtype: str | None) -> Array:
    """An array of numbers whose first axis counts the samples; fractions in `dtype`."""
    array = numbers_of(verb, name, value)
    if array.ndim == 0:
        raise ShapeError(f"[{verb}] {name} is a single number; the first axis must count the samples")
    if array.dtype.kind == "f":
        array = array.astype(dtype or "float32", copy=False)
    return array


def is_array(value: Any) -> bool:
    """Whether something is an array or a tensor, of this library or another one."""
    return isinstance(value, np.ndarray | Tensor) or (hasattr(value, "__array__") and hasattr(value, "shape"))


# ---- inputs ---------------------------------------------------------------------------------------------------------


def checked_inputs(verb: str, net: Module, x: Any) -> Samples:
    """The inputs as arrays of one length, in the dtype of the parameters.

    Raises:
        ArgumentError: names or their number are not those that ``forward`` takes.
        DTypeError: they hold no numbers.
        ShapeError: their lengths differ.
    """
    named, keywords = _arranged(verb, net, x)
    dtype = net._input_dtype()
    arrays = [as_numbers(verb, name, value, dtype) for name, value in named]
    if dtype is not None and not net._has_integers():
        arrays = [a if a.dtype.kind == "b" else a.astype(dtype, copy=False) for a in arrays]
    if len({len(array) for array in arrays}) != 1:
        raise ShapeError(f"[{verb}] the inputs have {', '.join(str(len(array)) for array in arrays)} samples")
    return Samples(tuple(arrays), keywords)


def _arranged(verb: str, net: Module, x: Any) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
    """Inputs with their names for messages, in the order of the call, and which of the last are given by name."""
    if isinstance(x, Mapping):
        return _by_name(verb, net, x)
    several = isinstance(x, tuple) or (isinstance(x, list) and _takes_several(net) and all(map(is_array, x)))
    given = list(x) if several else [x]
    if not given:
        raise ArgumentError(f"[{verb}] x is empty")
    parameters = _parameters(net)
    if parameters is not None:
        required = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        if not len(required) <= len(given) <= len(parameters):
            raise ArgumentError(
                f"[{verb}] {type(net).__name__}.forward takes {_listed([p.name for p in parameters])}, "
                f"x has {len(given)} input{'s' * (len(given) > 1)}; pass a tuple with one array for each, or a dictionary"
            )
    names = ["x"] if len(given) == 1 else [f"x[{i}]" for i in range(len(given))]
    return list(zip(names, given, strict=True)), ()


def _by_name(verb: str, net: Module, x: Mapping[str, Any]) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
    if not x:
        raise ArgumentError(f"[{verb}] x is empty")
    inputs = getattr(getattr(net, "graph", None), "inputs", None)  # a loaded graph knows the names
    parameters = _parameters(net) if inputs is None else None
    if parameters is not None:
        names = [p.name for p in parameters]
        required = [p.name for p in parameters if p.default is p.empty]
    elif inputs is not None:
        names = required = list(inputs)
    else:
        raise ArgumentError(
            f"[{verb}] x is a dictionary, {type(net).__name__}.forward does not name what it takes; pass a tuple"
        )
    wrong = [name for name in x if name not in names]
    missing = [name for name in required if name not in x]
    if wrong or missing:
        problem = f"names {wrong[0]!r}" if wrong else f"lacks {missing[0]!r}"
        hint = suggestion(str(wrong[0]), names) if wrong else ""
        raise ArgumentError(
            f"[{verb}] x {problem}, {type(net).__name__}.forward takes {_listed(names)}{hint}"
        )
    given = [name for name in names if name in x]
    leading = 0
    while (
        leading < len(given)
        and given[leading] == names[leading]
        and (parameters is None or parameters[leading].kind is not inspect.Parameter.KEYWORD_ONLY)
    ):
        leading += 1
    return [(f"x[{name!r}]", x[name]) for name in given], tuple(given[leading:])


def _parameters(net: Module) -> list[inspect.Parameter] | None:
    """What ``forward`` takes; None if it takes whatever it is given."""
    method = net.forward
    function = getattr(method, "__func__", None)
    parameters = list(
        inspect.signature(method).parameters.values() if function is None else _of(function)[1:]
    )
    return None if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) else parameters


@functools.lru_cache(maxsize=256)
def _of(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(function).parameters.values())


def _takes_several(net: Module) -> bool:
    parameters = _parameters(net)
    return parameters is None or sum(p.default is p.empty for p in parameters) > 1


def _listed(names: Sequence[str]) -> str:
    return " and ".join(repr(name) for name in names) if len(names) < 3 else ", ".join(map(repr, names))


# ---- one array for each output --------------------------------------------------------------------------------------


def per_output(
    verb: str, what: str, value: Any, names: tuple[str, ...] | None, optional: Sequence[bool]
) -> list[tuple[str, Any]]:
    """A value for each output of a model, with its name for messages.

    Args:
        verb: for messages.
        what: "y" or "sample_weight".
        value: an array, or a tuple, a list or a dictionary of them.
        names: of the outputs; None for one.
        optional: for which outputs there need not be one.
    """
    if names is None:
        if isinstance(value, Mapping):
            raise ArgumentError(f"[{verb}] {what} is a dictionary, the model returns one tensor")
        if isinstance(value, tuple) and len(value) == 1:
            (value,) = value
        return [(what, value)]
    if isinstance(value, Mapping):
        wrong = [name for name in value if name not in names]
        if wrong:
            raise ArgumentError(
                f"[{verb}] {what} names {wrong[0]!r}, the model's outputs are {_listed(names)}"
                + suggestion(str(wrong[0]), names)
            )
        given = [(f"{what}[{name!r}]", value.get(name)) for name in names]
    elif isinstance(value, tuple | list):
        if len(value) != len(names):
            raise ArgumentError(
                f"[{verb}] {what} has {len(value)} entries, the model returns {len(names)} outputs ({', '.join(names)})"
            )
        given = [(f"{what}[{i}]", item) for i, item in enumerate(value)]
    else:
        raise ArgumentError(
            f"[{verb}] {what} is one array, the model returns {len(names)} outputs ({', '.join(names)}); "
            "pass a tuple or a dictionary with one for each"
        )
    for (label, item), may_lack, name in zip(given, optional, names, strict=True):
        if item is None and not may_lack:
            raise ArgumentError(f"[{verb}] {label} is missing: output {name!r} has a loss or a metric")
    return given
