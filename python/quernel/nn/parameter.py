"""Parameters: the tensors that a module trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from quernel.errors import StateError
from quernel.ops.create import tensor, zeros
from quernel.runtime import default_device
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.row_gradient import RowGradient


class Parameter(Tensor):
    """A tensor that becomes part of a module's state when it is assigned to an attribute of the module.

    Without data it is *unsized*: a layer whose input size is ``None`` gives it memory at its first use. An unsized
    parameter can be handed to an optimizer, shared between layers and frozen like any other.

    Args:
        data: initial values (array-like or Tensor; copied), or None for an unsized parameter.
        requires_grad: whether ``backward`` accumulates a gradient.
        dtype: element type; of an unsized parameter, the one it will get.

    Example:
        >>> nn.Parameter([1.0, 2.0]).requires_grad
        True
    """

    __slots__ = ("_future_device", "_future_dtype")

    def __init__(self, data: Any = None, requires_grad: bool = True, dtype: str | None = None) -> None:
        self._future_dtype = dtype or "float32"
        self._future_device = default_device()
        native = None
        if data is not None:
            native = tensor(data, dtype=dtype)._t
        super().__init__(native, requires_grad)  # type: ignore[arg-type]

    @property
    def _memory(self) -> object | None:
        return self._t

    @property
    def is_unsized(self) -> bool:
        """True until the layer has seen its first input."""
        return self._memory is None

    @property
    def dtype(self) -> str:
        """Element type, as NumPy names it."""
        native: Any = self._t  # every call of a module looks here
        return self._future_dtype if native is None else native.dtype

    @property
    def device(self) -> str:
        """Where the elements live, or will once there are any."""
        native: Any = self._t
        return self._future_device if native is None else native.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes; an unsized parameter has none yet."""
        if self.is_unsized:
            raise StateError(
                "[parameter] its size is inferred at first use: call the module on an input, or "
                "net.summary(input_shape=...), first"
            )
        return self._t.shape

    @property
    def grad(self) -> Tensor | RowGradient | None:
        """What `backward` has accumulated, or None."""
        return None if self.is_unsized else super().grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if not self.is_unsized or value is not None:
            Tensor.grad.fset(self, value)  # type: ignore[attr-defined]

    def allocate(self, shape: tuple[int, ...]) -> None:
        """Gives an unsized parameter memory, all zeros."""
        self._t = zeros(shape, self.dtype, device=self.device)._t

    def clear(self) -> None:
        """Makes it unsized again."""
        self._future_dtype, self._future_device = self.dtype, self.device
        self._t = None  # type: ignore[assignment]

    def become(self, dtype: str, device: str) -> None:
        """Converts the values and moves them to a device; a gradient is then forgotten."""
        if not self.is_unsized and (self.dtype, self.device) != (dtype, device):
            self._t = self.detach().astype(dtype).to(device)._t
        self._future_dtype, self._future_device = dtype, device

    def _host(self, what: str) -> Any:
        _ = self.shape  # an unsized one has no values, and says so
        return super()._host(what)

    def detach(self) -> Tensor:
        """The values without a gradient, sharing memory; an unsized parameter stands for itself."""
        return self if self.is_unsized else super().detach()

    def __repr__(self) -> str:
        return f"Parameter(unsized, {self.dtype})" if self.is_unsized else f"Parameter({super().__repr__()})"

    def __reduce__(self) -> tuple[Any, ...]:
        values = None if self.is_unsized else np.array(self.detach())
        return Parameter, (values, self._requires_grad, self.dtype)
