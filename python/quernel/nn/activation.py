"""Activations: one layer per elementwise op."""

from __future__ import annotations

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn.checks import positive
from quernel.nn.init import constant_
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.nn.sized import fill
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


class ReLU6(Module):
    """y = min(max(x, 0), 6); NaN stays."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.relu6(x)


class Hardswish(Module):
    """y = x·ReLU6(x + 3) / 6 (Howard et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.hardswish(x)


class Hardsigmoid(Module):
    """y = ReLU6(x + 3) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.hardsigmoid(x)


class Hardtanh(Module):
    """y = min(max(x, min_val), max_val)."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class LeakyReLU(Module):
    """y = x where x > 0, else negative_slope·x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """y = x where x > 0, else alpha·(exp(x) - 1) (Clevert et al. 2015)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class SELU(Module):
    """y = 1.0507·ELU(x) with alpha = 1.6733 (Klambauer et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.selu(x)


class CELU(Module):
    """y = x where x > 0, else alpha·(exp(x / alpha) - 1) (Barron 2017)."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.celu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Softplus(Module):
    """y = log(1 + exp(beta·x)) / beta; x itself where beta·x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta = beta
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Mish(Module):
    """y = x·tanh(log(1 + exp(x))) (Misra 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.mish(x)


class LogSigmoid(Module):
    """y = log(sigmoid(x)), without overflow."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.logsigmoid(x)


class Softsign(Module):
    """y = x / (1 + |x|)."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.softsign(x)


class PReLU(Module):
    """y = x where x > 0, else weight·x with a learned slope (He et al. 2015).

    Args:
        num_parameters: 1 slope for all, or one for each of the C channels of the last axis.
        init: what the slopes start from.

    Shapes:
        x (..., C), weight (num_parameters) -> y (..., C).
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        self.num_parameters = positive("prelu", "num_parameters", num_parameters)
        self.init = init
        self.weight = Parameter()
        fill(self.weight, (num_parameters,), lambda w: constant_(w, init))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softmax(Module):
    """y = exp(x) / sum(exp(x)) along an axis; `losses.cross_entropy` wants the input of this layer, not its output."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """y = x - log(sum(exp(x))) along an axis; what `losses.nll` wants."""

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


ACTIVATIONS: dict[str, type[Module]] = {
    "relu": ReLU,
    "gelu": GELU,
    "silu": SiLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "relu6": ReLU6,
    "hardswish": Hardswish,
    "hardsigmoid": Hardsigmoid,
    "hardtanh": Hardtanh,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "selu": SELU,
    "celu": CELU,
    "softplus": Softplus,
    "mish": Mish,
    "logsigmoid": LogSigmoid,
    "softsign": Softsign,
    "prelu": PReLU,
}


def activation(value: str | Module | None) -> Module | None:
    """The layer that `value` names; a layer is returned as it is."""
    if value is None or isinstance(value, Module):
        return value
    if value not in ACTIVATIONS:
        raise ArgumentError(f"[activation] unknown activation {value!r}{suggestion(value, ACTIVATIONS)}")
    return ACTIVATIONS[value]()
