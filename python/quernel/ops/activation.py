"""The activations that `linear` and `conv2d` apply in the same pass, and their gradients."""

from __future__ import annotations

from quernel import _core
from quernel.errors import ArgumentError
from quernel.tensor import Tensor

_FROM_OUTPUT = {"relu": _core.relu_grad, "tanh": _core.tanh_grad, "sigmoid": _core.sigmoid_grad}
_FROM_INPUT = {"gelu": _core.gelu_grad, "silu": _core.silu_grad}

ACTIVATIONS = (*_FROM_OUTPUT, *_FROM_INPUT)


def check_activation(op: str, activation: str | None) -> None:
    """Raises unless there is such an activation."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ArgumentError(
            f"[{op}] unknown activation {activation!r}; there are {', '.join(ACTIVATIONS)} and None"
        )


def needs_input(activation: str | None) -> bool:
    """Whether the gradient needs what went into the activation, not only what came out."""
    return activation in _FROM_INPUT


def saved_for(activation: str | None, y: _core.Tensor, pre: _core.Tensor | None) -> _core.Tensor | None:
    """What to save for `activation_gradient`."""
    return None if activation is None else pre if activation in _FROM_INPUT else y


def activation_gradient(activation: str | None, saved: Tensor | None, g: _core.Tensor) -> _core.Tensor:
    """Turns the gradient of the activation's output into that of its input."""
    if activation is None or saved is None:
        return g
    gradient = _FROM_OUTPUT.get(activation) or _FROM_INPUT[activation]
    return gradient(saved._t, g)
