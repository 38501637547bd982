"""Layers whose number of inputs may be left ``None`` and is taken from the first input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from quernel import recording
from quernel.autograd import no_grad
from quernel.errors import ShapeError
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.ops.op import set_tracer
from quernel.random import default_generator
from quernel.runtime import device
from quernel.tensor import Tensor


class SizedByInput(Module):
    """Base of Linear, Conv2d and BatchNorm2d.

    Its subclasses call ``_size(n)`` at the end of their constructor, n being the size of the last axis of the inputs,
    or None. Their ``_build(n)`` then runs now or at the first input and fills the parameters.
    """

    _size_name: ClassVar[str]  # the attribute that is None before
    _is_sized: bool = False
    _filled: tuple[Parameter, ...] = ()

    @property
    def is_sized(self) -> bool:
        """Whether the parameters have their sizes and values."""
        return self._is_sized

    def _size(self, channels: int | None) -> None:
        if channels is not None:
            self._fill(channels)

    def _unsize(self) -> None:
        """Back to before the first input, which turned out not to fit, or whose step failed."""
        for parameter in self._filled:
            parameter.clear()
        for name in self._buffers:
            setattr(self, name, None)
        setattr(self, self._size_name, None)
        self._is_sized = False

    def _ensure(self, channels: int) -> None:
        generator = default_generator()
        stream = generator.seed, generator.base
        recording.on_rollback(lambda: generator.set(*stream))
        recording.on_rollback(self._unsize)
        self._fill(channels)

    def _fill(self, channels: int) -> None:
        tracer = set_tracer(None)  # filling parameters is no part of what is being traced
        unsized = tuple(p for p in self._parameters.values() if p.is_unsized)
        try:
            with no_grad(), device(self.device):
                self._build(channels)
        finally:
            set_tracer(tracer)
        setattr(self, self._size_name, channels)
        self._is_sized = True
        self._filled = unsized

    def _build(self, channels: int) -> None:
        raise NotImplementedError

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The size of the inputs, given the shapes of the parameters by name; KeyError if they do not tell."""
        raise NotImplementedError

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_sized or not args:
            return super()._call(args, kwargs)
        x = self._as_input(args[0])
        if isinstance(x, Tensor) and x.ndim:
            with device(x.device):  # of layers without parameters
                self._ensure(x.shape[-1])
        try:
            return super()._call((x, *args[1:]), kwargs)
        except BaseException:
            self._unsize()
            raise


def fill(parameter: Parameter | None, shape: tuple[int, ...], initialize: Callable[[Tensor], Any]) -> None:
    """Gives an unsized parameter memory and values; one that another layer has sized must have this shape."""
    if parameter is None:
        return
    if not parameter.is_unsized:
        if parameter.shape != shape:
            raise ShapeError(
                f"[parameter] shared between layers that need shapes {parameter.shape} and {shape}"
            )
        return
    parameter.allocate(shape)
    initialize(parameter)
