"""Checks of what `fit`, `evaluate` and `predict` are given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import losses, random
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.losses import Loss
from quernel.nn.module import Module
from quernel.nn.sized import SizedByInput
from quernel.ops import as_tensor
from quernel.tensor import Tensor

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Inputs and, last, the target: arrays of one length."""

    arrays: tuple[Array, ...]

    def __len__(self) -> int:
        return len(self.arrays[-1])

    def split(self, share: float) -> tuple[Samples, Samples | None]:
        """Without the last `share` of the samples, and these."""
        if not 0 <= share < 1:
            raise ArgumentError(f"[fit] validation_split lies in [0, 1), got {share!r}")
        count = int(len(self) * share)
        if count == 0:
            return self, None
        return Samples(tuple(a[:-count] for a in self.arrays)), Samples(
            tuple(a[-count:] for a in self.arrays)
        )


def checked_inputs(verb: str, net: Module, x: Any) -> tuple[Array, ...]:
    """The inputs as arrays of one length, in the dtype of the parameters.

    Raises:
        DTypeError: they hold no numbers.
        ShapeError: their lengths differ.
    """
    given = x if isinstance(x, tuple) else (x,)
    dtype = net._input_dtype()
    arrays = tuple(_as_numbers(verb, "x", value, dtype) for value in given)
    if dtype is not None and not net._has_integers():
        arrays = tuple(a if a.dtype.kind == "b" else a.astype(dtype, copy=False) for a in arrays)
    if len({len(array) for array in arrays}) != 1:
        raise ShapeError(f"[{verb}] the inputs have {', '.join(str(len(array)) for array in arrays)} samples")
    return arrays


def checked_samples(verb: str, net: Module, loss: Loss, x: Any, y: Any) -> Samples:
    """Inputs and targets that fit together, the model and the loss.

    Raises:
        ArgumentError: there are no samples, or a label is out of range.
        ShapeError: lengths or shapes do not fit.
        DTypeError: the loss wants other targets.
    """
    inputs = checked_inputs(verb, net, x)
    target = _as_numbers(verb, "y", y, net.dtype)
    if len(inputs[0]) == 0:
        raise ArgumentError(f"[{verb}] there are no samples: x has shape {inputs[0].shape}")
    if len(inputs[0]) != len(target):
        raise ShapeError(f"[{verb}] x has {len(inputs[0])} samples, y has {len(target)}")
    if loss is losses.cross_entropy:
        _check_labels(verb, target)
    if target.dtype.kind in "biu":
        target = target.astype(np.int64)
    with unchanged_on_error(net):
        output = _probe(net, loss, inputs, target)
        if loss is losses.cross_entropy:
            _check_range(verb, target, output.shape[-1])
    return Samples((*inputs, target))


def _as_numbers(verb: str, name: str, value: Any, dtype: str | None) -> Array:
    if hasattr(value, "detach"):
        value = value.detach()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"[{verb}] {name} holds {array.dtype}, expected numbers")
    if array.ndim == 0:
        raise ShapeError(f"[{verb}] {name} is a single number; the first axis must count the samples")
    if array.dtype.kind == "f":
        array = array.astype(dtype or "float32", copy=False)
    return array


def _check_labels(verb: str, target: Array) -> None:
    if target.dtype.kind == "f":
        raise DTypeError(
            f"[{verb}] cross_entropy wants whole class numbers, y holds {target.dtype}; "
            + ("use y.argmax(-1) for one-hot rows" if target.ndim > 1 else "use y.astype('int64')")
        )
    if target.ndim != 1:
        way = "y.ravel()" if target.shape[1:] == (1,) else "y.argmax(-1) for one-hot rows"
        raise ShapeError(f"[{verb}] cross_entropy wants labels (N,), y has shape {target.shape}; use {way}")


def _check_shapes(target: Array, output: Tensor) -> None:
    wanted = output.shape[1:]
    if target.shape[1:] == wanted:
        return
    fitting = math.prod(wanted) == math.prod(target.shape[1:])
    way = f"; use y.reshape({(-1, *wanted)})" if fitting else ""
    shape = "(" + ", ".join(["N", *map(str, wanted)]) + ("" if wanted else ",") + ")"
    raise ShapeError(f"[mse] the model's output is {shape}, y has shape {target.shape}{way}")


def _check_range(verb: str, target: Array, classes: int) -> None:
    wrong = np.flatnonzero((target < 0) | (target >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise ArgumentError(
            f"[{verb}] label {target[first]} of sample {first} is out of range: the model has {classes} classes, "
            f"0 to {classes - 1}"
        )


@contextmanager
def unchanged_on_error(net: Module) -> Iterator[None]:
    """If the block raises, sizes that it has inferred are open again and the random stream is where it was."""
    generator = random.default_generator()
    stream = generator.seed, generator.base
    unsized = [module for module in net.modules() if isinstance(module, SizedByInput) and not module.is_sized]
    try:
        yield
    except BaseException:
        for layer in unsized:
            if layer.is_sized:
                layer._unsize()
        generator.set(*stream)
        raise


def _probe(net: Module, loss: Loss, inputs: tuple[Array, ...], target: Array) -> Tensor:
    """What the model makes of the first sample, in evaluation mode. It also infers sizes left None."""
    changed = [module for module in net.modules() if module.__dict__["_training"]]
    for module in changed:
        module.training = False
    try:
        with no_grad():
            output: Tensor = net(*[array[:1] for array in inputs])
            if loss is losses.mse:
                _check_shapes(target, output)
                loss(output, as_tensor(np.ascontiguousarray(target[:1])).astype(output.dtype))
            return output
    finally:
        for module in changed:
            module.training = True
