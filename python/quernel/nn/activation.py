"""Activations: one layer per elementwise op."""

from __future__ import annotations

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn.module import Module
from quernel.suggest import suggestion
from quernel.tensor import Tensor


class ReLU(Module):
    """y = max(x, 0); NaN stays."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.relu(x)


class GELU(Module):
    """y = x·Phi(x), Phi the normal distribution function (exact, not the tanh form; Hendrycks and Gimpel 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.gelu(x)


class SiLU(Module):
    """y = x·sigmoid(x), also called swish."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.silu(x)


class Tanh(Module):
    """y = tanh(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.tanh(x)


class Sigmoid(Module):
    """y = 1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.sigmoid(x)


class Softmax(Module):
    """y = exp(x) / sum(exp(x)) along an axis; `losses.cross_entropy` wants the input of this layer, not its output."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


ACTIVATIONS: dict[str, type[Module]] = {
    "relu": ReLU,
    "gelu": GELU,
    "silu": SiLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
}


def activation(value: str | Module | None) -> Module | None:
    """The layer that `value` names; a layer is returned as it is."""
    if value is None or isinstance(value, Module):
        return value
    if value not in ACTIVATIONS:
        raise ArgumentError(f"[activation] unknown activation {value!r}{suggestion(value, ACTIVATIONS)}")
    return ACTIVATIONS[value]()
