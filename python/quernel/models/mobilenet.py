"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks").

A block widens its input by a 1x1 convolution, filters every channel on its own (a depthwise 3x3 convolution), and
narrows the result by a 1x1 convolution without activation; where shapes allow, the input is added.
"""

from __future__ import annotations

import sys
from typing import Literal

from quernel import nn
from quernel.errors import ArgumentError

# The paper's table 2: expansion, channels, blocks, stride of the first block for ImageNet's and for CIFAR's sizes.
_STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 2),
    (6, 64, 4, 2, 2),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 2, 2),
    (6, 320, 1, 1, 1),
)


def mobilenet_v2_small(classes: int = 10, channels: int = 3) -> nn.Sequential:
    """MobileNetV2 at half width for images of about 32 x 32 pixels: 0.59 M parameters; see `mobilenet_v2`."""
    return mobilenet_v2(classes, channels, width=0.5, stem="cifar")


def mobilenet_v2(
    classes: int = 1000,
    channels: int = 3,
    width: float = 1.0,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    dropout: float = 0.2,
) -> nn.Sequential:
    """MobileNetV2: 3.5 M parameters, 300 M multiply-adds at 224 x 224.

    Args:
        classes: outputs.
        channels: of the images.
        width: factor of all numbers of channels, which are rounded to multiples of 8; the last 1x1 convolution has at
            least 1280 outputs for ImageNet.
        stem: "imagenet" divides height and width by 32, "cifar" by 8, for small images.
        dropout: share of the features dropped before the last layer, in training.

    Shapes:
        x (N, H, W, channels) -> scores (N, classes).

    Example:
        >>> from quernel import models
        >>> sum(p.size for p in models.mobilenet_v2().parameters())
        3504872
    """
    if stem not in ("imagenet", "cifar"):
        raise ArgumentError(f"[mobilenet_v2] stem is 'imagenet' or 'cifar', got {stem!r}")
    if not width > 0:
        raise ArgumentError(f"[mobilenet_v2] width is positive, got {width!r}")
    inputs = _rounded(32 * width)
    layers: list[nn.Module] = _conv(channels, inputs, 3, stride=2 if stem == "imagenet" else 1)
    for expansion, base, blocks, *strides in _STAGES:
        outputs = _rounded(base * width)
        for block in range(blocks):
            stride = strides[stem == "cifar"] if block == 0 else 1
            layers.append(_block(inputs, outputs, expansion, stride))
            inputs = outputs
    last = _rounded(1280 * (max(1.0, width) if stem == "imagenet" else width))
    layers += _conv(inputs, last, 1)
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Dropout(dropout), nn.Linear(last, classes))


def _block(inputs: int, outputs: int, expansion: int, stride: int) -> nn.Module:
    """An inverted residual block."""
    hidden = inputs * expansion
    body = nn.Sequential(
        *(_conv(inputs, hidden, 1) if expansion > 1 else ()),
        *_conv(hidden, hidden, 3, stride, groups=hidden),
        *_conv(hidden, outputs, 1, relu=False),
    )
    return nn.Residual(body) if stride == 1 and inputs == outputs else body


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> list[nn.Module]:
    """A convolution that keeps the size but for its stride, BatchNorm, ReLU6. Weights start after He et al. (2015)."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU6()] if relu else [])]


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that takes no more than a tenth away, as in the authors' code."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


if __name__ == "__main__":
    from quernel.models.command import run

    sys.exit(
        run(
            "python -m quernel.models.mobilenet",
            __doc__,
            lambda args, shape, classes: mobilenet_v2(classes, shape[2], args.width, args.stem),
            input_shape=(32, 32, 3),
            options={
                "--width": (float, 0.5, "factor of all numbers of channels"),
                "--stem": (str, "cifar", "imagenet or cifar"),
            },
        )
    )
