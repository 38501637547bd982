"""Convolutions. Images are (N, H, W, C), weights (O, KH, KW, I/groups); sequences (N, T, C), weights (O, K, I/groups)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from quernel.nn import init
from quernel.nn.checks import Size2, one_of, positive
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.ops.conv import padding_around
from quernel.tensor import Tensor

Sizes = tuple[int, ...]  # one per spatial axis
NamedPadding = Literal["same", "valid", "causal"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(SizedByInput):
    """What all convolutions have in common: sizes, parameters, and their text."""

    _has_precision = True
    _size_name = "in_channels"
    _op: ClassVar[str]
    _rank: ClassVar[int]

    in_channels: int | None
    padding: Sizes | NamedPadding
    precision: str | None

    def _set_up(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2,
        dilation: Size2,
        groups: int,
    ) -> None:
        self.in_channels = positive(self._op, "in_channels", in_channels) if in_channels is not None else None
        self.out_channels = positive(self._op, "out_channels", out_channels)
        self.kernel_size = self._sizes("kernel_size", kernel_size)
        self.stride = self._sizes("stride", stride)
        self.dilation = self._sizes("dilation", dilation)
        self.groups = positive(self._op, "groups", groups)
        if self.out_channels % self.groups:
            raise ArgumentError(
                f"[{self._op}] groups={self.groups} does not divide out_channels={self.out_channels}"
            )

    def _allocate(self, bias: bool) -> None:
        self.weight = Parameter()
        self.bias = Parameter() if bias else None
        self._size(self.in_channels)

    def _sizes(self, name: str, value: Size2, least: int = 1) -> Sizes:
        values = tuple(value) if isinstance(value, Sequence) else (value,) * self._rank
        for v in values:
            if isinstance(v, bool) or not hasattr(v, "__index__") or int(v) < least:
                raise ArgumentError(f"[{self._op}] {name} holds integers from {least} on, got {value!r}")
        if len(values) != self._rank:
            wanted = "one integer or a pair (height, width)" if self._rank == 2 else "one integer"
            raise ArgumentError(f"[{self._op}] {name} is {wanted}, got {value!r}")
        return tuple(int(v) for v in values)

    def _weight_shape(self, channels: int) -> tuple[int, ...]:
        return (self.out_channels, *self.kernel_size, channels // self.groups)

    def _build(self, channels: int) -> None:
        if channels % self.groups:
            raise ShapeError(
                f"[{self._op}] groups={self.groups} does not divide the {channels} input channels"
            )
        shape = self._weight_shape(channels)
        bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        fill(self.weight, shape, lambda w: init.uniform_(w, -bound, bound))
        fill(self.bias, (self.out_channels,), lambda b: init.uniform_(b, -bound, bound))

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight"][-1] * self.groups

    def _extra(self) -> list[str]:
        """Arguments that the base class does not know, as text."""
        return []

    def extra_repr(self) -> str:
        one, none = (1,) * self._rank, (0,) * self._rank
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        parts += [f"stride={self.stride}"] if self.stride != one else []
        parts += [f"padding={self.padding!r}"] if self.padding != none else []
        parts += [f"dilation={self.dilation}"] if self.dilation != one else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"precision={self.precision!r}"] if self.precision else []
        return ", ".join([*parts, *self._extra()])


class _Windowed(_Convolution):
    """Conv1d and Conv2d."""

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 | NamedPadding = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        precision: str | None = None,
    ) -> None:
        self._set_up(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = self._checked_padding(padding)
        self.padding_mode: PaddingMode = one_of(self._op, "padding_mode", padding_mode, _MODES)
        self.precision = precision
        self._allocate(bias)

    def _checked_padding(self, padding: Size2 | NamedPadding) -> Sizes | NamedPadding:
        if not isinstance(padding, str):
            return self._sizes("padding", padding, least=0)
        known = ("same", "valid") if self._rank == 2 else ("same", "valid", "causal")
        if padding not in known:
            sizes = "an integer, a pair" if self._rank == 2 else "an integer"
            raise ArgumentError(
                f"[{self._op}] padding is {sizes} or one of {', '.join(map(repr, known))}, got {padding!r}"
            )
        return padding

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        padding = self.padding
        if self.padding_mode != "zeros" and x.ndim == self._rank + 2:
            before, after = padding_around(
                self._op, padding, x.shape[1:-1], self.kernel_size, self.stride, self.dilation
            )
            if any(before) or any(after):
                x = ops.pad(x, [(0, 0), *zip(before, after, strict=True), (0, 0)], mode=self.padding_mode)
            padding = (0,) * self._rank
        convolution = ops.conv2d if self._rank == 2 else ops.conv1d
        return convolution(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            precision=self.precision,
        )

    def _extra(self) -> list[str]:
        return [f"padding_mode={self.padding_mode!r}"] if self.padding_mode != "zeros" else []


class Conv2d(_Windowed):
    """2-D convolution (cross-correlation) of images.

    Weight and bias start uniform in ±1/sqrt(fan_in), fan_in = in_channels/groups·KH·KW, as in PyTorch.

    Args:
        in_channels: channels of x; None takes them from the first input.
        out_channels: channels of y.
        kernel_size: height and width of the window.
        stride: steps of the window.
        padding: cells on each side; "valid": none; "same": as many as give ceil(H / stride) x ceil(W / stride) pixels,
            an odd one below or to the right. With stride 1 the size stays, as in PyTorch; with others it is Keras' "same".
        dilation: steps between the taps of the window.
        groups: channel groups that do not see each other; groups = in_channels is a depthwise convolution.
        bias: whether to add one.
        padding_mode: what the padding holds: "zeros", or the image "reflect"ed, its edge "replicate"d, or the opposite
            side ("circular").
        precision: "bf16" multiplies in bfloat16 with float32 sums, see `ops.conv2d`; None in the dtype of the weight.
            `compile` sets it.

    Shapes:
        x (N, H, W, in_channels), weight (out_channels, KH, KW, in_channels/groups), bias (out_channels) ->
        y (N, OH, OW, out_channels), OH = (H + 2·padding - dilation·(KH - 1) - 1) // stride + 1.

    Example:
        >>> nn.Conv2d(None, 8, 3, padding="same")(np.ones((2, 5, 5, 3))).shape
        (2, 5, 5, 8)
    """

    _op = "conv2d"
    _rank = 2


class Conv1d(_Windowed):
    """1-D convolution (cross-correlation) of sequences.

    Weight and bias start uniform in ±1/sqrt(fan_in), fan_in = in_channels/groups·K, as in PyTorch.

    Args:
        in_channels: channels of x; None takes them from the first input.
        out_channels: channels of y.
        kernel_size: steps under the window.
        stride: steps of the window.
        padding: steps at both ends; "valid": none; "same": as many as give ceil(T / stride) steps, an odd one at the end;
            "causal": dilation·(K - 1) at the start, so that no output sees what comes after it.
        dilation: steps between the taps of the window.
        groups: channel groups that do not see each other.
        bias: whether to add one.
        padding_mode: what the padding holds: "zeros", or the sequence "reflect"ed, its ends "replicate"d, or the other
            end ("circular").
        precision: as for `Conv2d`.

    Shapes:
        x (N, T, in_channels), weight (out_channels, K, in_channels/groups), bias (out_channels) ->
        y (N, OT, out_channels), OT = (T + 2·padding - dilation·(K - 1) - 1) // stride + 1.

    Example:
        >>> nn.Conv1d(None, 8, 3, padding="causal")(np.ones((2, 10, 4))).shape
        (2, 10, 8)
    """

    _op = "conv1d"
    _rank = 1


class _Transposed(_Convolution):
    """ConvTranspose1d and ConvTranspose2d."""

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        output_padding: Size2 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size2 = 1,
        precision: str | None = None,
    ) -> None:
        self._set_up(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.padding = self._sizes("padding", padding, least=0)
        self.output_padding = self._sizes("output_padding", output_padding, least=0)
        self.precision = precision
        self._allocate(bias)

    def _weight_shape(self, channels: int) -> tuple[int, ...]:
        return (channels, *self.kernel_size, self.out_channels // self.groups)

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight"][0]

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        convolution = ops.conv_transpose2d if self._rank == 2 else ops.conv_transpose1d
        assert not isinstance(self.padding, str)
        return convolution(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            dilation=self.dilation,
            precision=self.precision,
        )

    def _extra(self) -> list[str]:
        return [f"output_padding={self.output_padding}"] if any(self.output_padding) else []


class ConvTranspose2d(_Transposed):
    """Transposed 2-D convolution: the adjoint of Conv2d, which makes images larger.

    Weight and bias start uniform in ±1/sqrt(fan), fan = out_channels/groups·KH·KW, as in PyTorch.

    Args:
        in_channels: channels of x; None takes them from the first input.
        out_channels: channels of y.
        kernel_size: height and width of the window that each pixel is spread over.
        stride: pixels of y from one pixel of x to the next.
        padding: pixels cut off on each side.
        output_padding: pixels more below and to the right, fewer than stride or dilation.
        groups: channel groups that do not see each other.
        bias: whether to add one.
        dilation: steps between the taps of the window.
        precision: as for `Conv2d`.

    Shapes:
        x (N, H, W, in_channels), weight (in_channels, KH, KW, out_channels/groups), bias (out_channels) ->
        y (N, OH, OW, out_channels), OH = (H - 1)·stride - 2·padding + dilation·(KH - 1) + output_padding + 1.

    Example:
        >>> nn.ConvTranspose2d(None, 8, 3, stride=2, padding=1, output_padding=1)(np.ones((2, 5, 5, 3))).shape
        (2, 10, 10, 8)
    """

    _op = "conv_transpose2d"
    _rank = 2


class ConvTranspose1d(_Transposed):
    """Transposed 1-D convolution: the adjoint of Conv1d, which makes sequences longer.

    Weight and bias start uniform in ±1/sqrt(fan), fan = out_channels/groups·K, as in PyTorch.

    Args:
        in_channels: channels of x; None takes them from the first input.
        out_channels: channels of y.
        kernel_size: steps that each step of x is spread over.
        stride: steps of y from one step of x to the next.
        padding: steps cut off at both ends.
        output_padding: steps more at the end, fewer than stride or dilation.
        groups: channel groups that do not see each other.
        bias: whether to add one.
        dilation: steps between the taps of the window.
        precision: as for `Conv2d`.

    Shapes:
        x (N, T, in_channels), weight (in_channels, K, out_channels/groups), bias (out_channels) ->
        y (N, OT, out_channels), OT = (T - 1)·stride - 2·padding + dilation·(K - 1) + output_padding + 1.

    Example:
        >>> nn.ConvTranspose1d(None, 8, 4, stride=2, padding=1)(np.ones((2, 5, 3))).shape
        (2, 10, 8)
    """

    _op = "conv_transpose1d"
    _rank = 1
