"""LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition")."""

from __future__ import annotations

import sys
from typing import Literal

from quernel import nn
from quernel.errors import ArgumentError


def lenet5(classes: int = 10, channels: int = 1, variant: Literal["relu", "tanh"] = "relu") -> nn.Sequential:
    """Two convolutions with pooling, three linear layers: 61,706 parameters for images of 28 x 28 pixels and 1 channel.

    It is the net that textbooks call LeNet-5: every map of the second convolution sees all maps of the first, pooling
    has no parameters, and a linear layer takes the place of the radial basis functions (the paper's own count, with
    sparse connections and trainable pooling, is about 60,000).

    Args:
        classes: outputs.
        channels: of the images.
        variant: "relu" with max pooling, or the original "tanh" with average pooling.

    Shapes:
        x (N, 28, 28, channels) -> scores (N, classes); the padding of 2 stands for the paper's frame of 32 x 32 pixels.

    Example:
        >>> from quernel import models
        >>> sum(p.size for p in models.lenet5().parameters())
        61706
    """
    if variant not in ("relu", "tanh"):
        raise ArgumentError(f"[lenet5] variant is 'relu' or 'tanh', got {variant!r}")

    def follow() -> list[nn.Module]:
        return [nn.ReLU(), nn.MaxPool2d(2)] if variant == "relu" else [nn.Tanh(), nn.AvgPool2d(2)]

    def activation() -> nn.Module:
        return nn.ReLU() if variant == "relu" else nn.Tanh()

    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 5, padding=2), *follow()),
        *(nn.Conv2d(6, 16, 5), *follow(), nn.Flatten()),
        *(nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, classes)),
    )


if __name__ == "__main__":
    from quernel.models.command import run

    sys.exit(
        run(
            "python -m quernel.models.lenet",
            __doc__,
            lambda args, shape, classes: lenet5(classes, shape[2], args.variant),
            input_shape=(28, 28, 1),
            options={"--variant": (str, "relu", "relu with max pooling, or tanh with average pooling")},
        )
    )
