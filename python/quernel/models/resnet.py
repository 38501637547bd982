"""Residual networks (He et al. 2016, "Deep Residual Learning for Image Recognition").

Two families. CIFAR's, for images of about 32 x 32 pixels: a 3x3 convolution of 16 channels, then three stages of n
blocks with 16, 32 and 64 channels, 6n + 2 layers deep (section 4.2 of the paper). ImageNet's: a 7x7 convolution of
stride 2 and a max pooling, then four stages with 64 to 512 channels (its table 1).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from quernel import nn, ops
from quernel.errors import ArgumentError
from quernel.tensor import Tensor

Shortcut = Literal["identity", "projection", "projection_bn"]
_SHORTCUTS = ("identity", "projection", "projection_bn")


def resnet8(classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> nn.Sequential:
    """The CIFAR net of one block a stage: 77,850 parameters, 12.5 M multiply-adds at 32 x 32; see `resnet_cifar`."""
    return resnet_cifar(8, classes, channels, shortcut=shortcut)


def resnet20(classes: int = 10, channels: int = 3, shortcut: Shortcut = "projection") -> nn.Sequential:
    """The CIFAR net of three blocks a stage: 0.27 M parameters, 41 M multiply-adds at 32 x 32; see `resnet_cifar`."""
    return resnet_cifar(20, classes, channels, shortcut=shortcut)


def resnet_cifar(
    depth: int = 20,
    classes: int = 10,
    channels: int = 3,
    width: int = 16,
    shortcut: Shortcut = "projection",
) -> nn.Sequential:
    """The nets of section 4.2 of the paper.

    Args:
        depth: 6n + 2: 8, 14, 20, 32, 44, 56, 110 …
        classes: outputs.
        channels: of the images.
        width: channels of the first stage; the paper has 16.
        shortcut: how x is brought to the shape of a wider block. "identity" (the paper's option A for CIFAR) takes
            every other pixel and adds channels of zeros, "projection" is a 1x1 convolution (option B), "projection_bn"
            adds a BatchNorm to it.

    Shapes:
        x (N, H, W, channels) -> scores (N, classes), for images of any size from 4 on.

    Example:
        >>> from quernel import models
        >>> sum(p.size for p in models.resnet_cifar(20, shortcut="identity").parameters())
        269722
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ArgumentError(f"[resnet_cifar] depth is 6n + 2, such as 8, 14 or 20, got {depth}")
    stem = _conv(channels, width, 3)
    stages = _stages(width, [width, 2 * width, 4 * width], [blocks] * 3, shortcut)
    return nn.Sequential(*stem, *stages, nn.GlobalAvgPool2d(), nn.Linear(4 * width, classes))


def resnet18(
    classes: int = 1000, channels: int = 3, stem: Literal["imagenet", "cifar"] = "imagenet", width: int = 64
) -> nn.Sequential:
    """ResNet-18: four stages of two blocks, 11.7 M parameters, 1.8 G multiply-adds at 224 x 224.

    Args:
        classes: outputs.
        channels: of the images.
        stem: "imagenet" is a 7x7 convolution and a max pooling, both of stride 2; "cifar" a 3x3 convolution, for small
            images.
        width: channels of the first stage; the paper has 64.

    Shapes:
        x (N, H, W, channels) -> scores (N, classes).

    Example:
        >>> from quernel import models
        >>> sum(p.size for p in models.resnet18().parameters())
        11689512
    """
    if stem not in ("imagenet", "cifar"):
        raise ArgumentError(f"[resnet18] stem is 'imagenet' or 'cifar', got {stem!r}")
    first = _conv(channels, width, 3)
    if stem == "imagenet":
        first = [*_conv(channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)]
    stages = _stages(width, [width, 2 * width, 4 * width, 8 * width], [2] * 4, "projection_bn")
    return nn.Sequential(*first, *stages, nn.GlobalAvgPool2d(), nn.Linear(8 * width, classes))


class Subsample(nn.Module):
    """Takes every `stride`-th pixel and adds channels of zeros: a shortcut without parameters.

    Args:
        channels: channels of x.
        outputs: channels of y; the new ones, half of them in front, are 0.
        stride: steps of the pixels.
    """

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        self.stride = stride
        self.before = (outputs - channels) // 2
        self.after = outputs - channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        y = x[:, :: self.stride, :: self.stride]
        return ops.pad(y, [(0, 0), (0, 0), (0, 0), (self.before, self.after)])


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, BatchNorm, ReLU. Weights start after He et al. (2015)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]


def _stages(
    inputs: int, widths: Sequence[int], blocks: Sequence[int], shortcut: Shortcut
) -> list[nn.Residual]:
    """The blocks of all stages; each stage but the first halves the image."""
    layers = []
    for stage, (outputs, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            layers.append(_block(inputs, outputs, 2 if stage > 0 and block == 0 else 1, shortcut))
            inputs = outputs
    return layers


def _block(inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> nn.Residual:
    """Two 3x3 convolutions and what bypasses them."""
    body = nn.Sequential(*_conv(inputs, outputs, 3, stride), *_conv(outputs, outputs, 3, relu=False))
    if stride == 1 and inputs == outputs:
        return nn.Residual(body, activation="relu")
    if shortcut not in _SHORTCUTS:
        raise ArgumentError(f"[resnet] shortcut is one of {', '.join(_SHORTCUTS)}, got {shortcut!r}")
    bypass: nn.Module
    if shortcut == "identity":
        bypass = Subsample(inputs, outputs, stride)
    else:
        layers = _conv(inputs, outputs, 1, stride, relu=False)
        bypass = nn.Sequential(*layers) if shortcut == "projection_bn" else layers[0]
    return nn.Residual(body, bypass, activation="relu")


if __name__ == "__main__":
    from quernel.models.command import run

    sys.exit(
        run(
            "python -m quernel.models.resnet",
            __doc__,
            lambda args, shape, classes: (
                resnet18(classes, shape[2], args.stem)
                if args.depth == 18
                else resnet_cifar(args.depth, classes, shape[2], shortcut=args.shortcut)
            ),
            input_shape=(32, 32, 3),
            options={
                "--depth": (int, 8, "18, or 6n + 2 for CIFAR's nets: 8, 14, 20, 32 ..."),
                "--shortcut": (str, "projection", f"of CIFAR's nets: {', '.join(_SHORTCUTS)}"),
                "--stem": (str, "imagenet", "of ResNet-18: imagenet or cifar"),
            },
        )
    )
