"""Multilayer perceptron: linear layers with an activation between them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from quernel import nn
from quernel.nn.activation import activation as make_activation


def mlp(
    inputs: int | None = 784,
    hidden: Sequence[int] = (256, 128),
    outputs: int = 10,
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Linear layers of sizes `inputs`, `hidden` … and `outputs`; the last one has no activation.

    Args:
        inputs: features of a sample; None takes them from the first input.
        hidden: sizes of the hidden layers.
        outputs: classes, or values.
        activation: name of the activation after every hidden layer.
        dropout: share of every hidden layer that is dropped in training.

    Example:
        >>> from quernel import models
        >>> models.mlp(4, [8], 3)
        Sequential(
          (0): Linear(4, 8)
          (1): ReLU()
          (2): Linear(8, 3)
        )
    """
    layers: list[nn.Module] = []
    before = inputs
    for size in hidden:
        layers.append(nn.Linear(before, size))
        layers += [layer for layer in (make_activation(activation),) if layer is not None]
        layers += [nn.Dropout(dropout)] if dropout else []
        before = size
    return nn.Sequential(*layers, nn.Linear(before, outputs))


if __name__ == "__main__":
    from quernel.models.command import integers, run

    sys.exit(
        run(
            "python -m quernel.models.perceptron",
            __doc__,
            lambda args, _shape, classes: nn.Sequential(nn.Flatten(), *mlp(None, args.hidden, classes)),
            input_shape=(28, 28, 1),
            classes=10,
            options={"--hidden": (integers, (256, 128), "sizes of the hidden layers")},
        )
    )
