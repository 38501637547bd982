"""Normalization layers."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import ClassVar

from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from quernel.nn import init
from quernel.nn.checks import in_unit_interval, positive
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.ops.create import ones, zeros
from quernel.tensor import Tensor


def _positive_eps(layer: str, eps: float) -> float:
    given: object = eps
    if not isinstance(given, numbers.Real) or not float(given) > 0:
        raise ArgumentError(f"[{layer}] eps is positive, got {eps!r}")
    return float(eps)


class _TracksStatistics(SizedByInput):
    """Base of batch and instance norm: a weight and bias per channel, and running statistics."""

    _size_name = "num_features"
    _op: ClassVar[str]

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int | None,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
    ) -> None:
        self.num_features = (
            positive(self._op, "num_features", num_features) if num_features is not None else None
        )
        self.eps = _positive_eps(self._op, eps)
        self.momentum = None if momentum is None else in_unit_interval(self._op, "momentum", momentum)
        self.track_running_stats = track_running_stats
        self.weight = Parameter() if affine else None
        self.bias = Parameter() if affine else None
        self.register_buffer("running_mean", None)
        self.register_buffer("running_var", None)
        self.register_buffer("num_batches_tracked", None)
        self._size(num_features)

    def _build(self, channels: int) -> None:
        fill(self.weight, (channels,), init.ones_)
        fill(self.bias, (channels,), init.zeros_)
        if self.track_running_stats:
            self.running_mean = zeros((channels,), self._float)
            self.running_var = ones((channels,), self._float)
            if self.momentum is None:
                self.num_batches_tracked = zeros((1,), self._float)

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return (shapes["weight"] if self.weight is not None else shapes["running_mean"])[0]

    def _parts(self, track_running_stats: bool) -> str:
        """For the repr; `track_running_stats` is the default."""
        parts = [str(self.num_features)]
        parts += [f"eps={self.eps}"] if self.eps != 1e-5 else []
        parts += [f"momentum={self.momentum}"] if self.momentum != 0.1 else []
        return ", ".join(parts + self._flags(track_running_stats))

    def _flags(self, track_running_stats: bool) -> list[str]:
        flags = []
        if self.track_running_stats != track_running_stats:
            flags.append(f"track_running_stats={self.track_running_stats}")
        return flags


def keeps_statistics(module: Module) -> bool:
    """Whether it has running statistics and its parameters are frozen, so that those should not change either."""
    if not isinstance(module, _TracksStatistics) or module.weight is None or module.bias is None:
        return False
    return not (module.weight.requires_grad or module.bias.requires_grad)


class _BatchNorm(_TracksStatistics):
    _op = "batch_norm"

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer; in training it also updates the running statistics."""
        return ops.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training or not self.track_running_stats,
            momentum=self.momentum,
            eps=self.eps,
            batches=self.num_batches_tracked,
        )

    def _flags(self, track_running_stats: bool) -> list[str]:
        return (["affine=False"] if self.weight is None else []) + super()._flags(track_running_stats)

    def extra_repr(self) -> str:
        return self._parts(True)


class BatchNorm2d(_BatchNorm):
    """y = (x - mean) / sqrt(var + eps) · weight + bias, per channel (Ioffe and Szegedy 2015).

    In training, mean and variance are those of the batch (biased variance), and the running ones follow them:
    running = (1 - momentum)·running + momentum·batch, with the unbiased variance. In evaluation the running ones are
    used. Any number of leading axes may precede the channels.

    Args:
        num_features: channels; None takes them from the first input.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; None makes them the average of all batches.
        affine: whether there are a weight (starts at 1) and a bias (starts at 0).
        track_running_stats: False uses batch statistics in evaluation too.

    Shapes:
        x (N, H, W, num_features) -> y of the same shape.

    Example:
        >>> nn.BatchNorm2d(3)(np.ones((2, 4, 4, 3))).shape
        (2, 4, 4, 3)
    """


class BatchNorm1d(_BatchNorm):
    """`BatchNorm2d` of features (N, num_features) or sequences (N, T, num_features); the arguments are the same.

    Raises:
        ShapeError: an input of another rank.

    Example:
        >>> nn.BatchNorm1d(3)(np.ones((4, 3))).shape
        (4, 3)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer; in training it also updates the running statistics."""
        if x.ndim not in (2, 3):
            raise ShapeError(
                f"[batch_norm] BatchNorm1d takes (N, C) or (N, T, C), got {x.shape}; images go through BatchNorm2d"
            )
        return super().forward(x)


class _InstanceNorm(_TracksStatistics):
    momentum: float
    _op = "instance_norm"
    _rank: ClassVar[int]
    _layout: ClassVar[str]

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        if momentum is None:
            raise ArgumentError("[instance_norm] momentum lies between 0 and 1, got None")
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer; in training it also updates running statistics, if it tracks them."""
        if x.ndim != self._rank:
            raise ShapeError(f"[instance_norm] {type(self).__name__} takes {self._layout}, got {x.shape}")
        return ops.instance_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            use_input_stats=self.training or not self.track_running_stats,
            momentum=self.momentum,
            eps=self.eps,
        )

    def _flags(self, track_running_stats: bool) -> list[str]:
        return (["affine=True"] if self.weight is not None else []) + super()._flags(track_running_stats)

    def extra_repr(self) -> str:
        return self._parts(False)


class InstanceNorm2d(_InstanceNorm):
    """y = (x - mean) / sqrt(var + eps) · weight + bias, per image and channel (Ulyanov et al. 2016).

    Args:
        num_features: channels; None takes them from the first input.
        eps: added to the (biased) variance.
        momentum: weight of the newest batch in the running statistics.
        affine: whether there are a weight (starts at 1) and a bias (starts at 0); as in PyTorch there are none.
        track_running_stats: whether evaluation uses running statistics, which training updates.

    Shapes:
        x (N, H, W, num_features) -> y of the same shape.

    Example:
        >>> nn.InstanceNorm2d(3)(np.ones((2, 4, 4, 3))).shape
        (2, 4, 4, 3)
    """

    _rank = 4
    _layout = "images (N, H, W, C)"


class InstanceNorm1d(_InstanceNorm):
    """`InstanceNorm2d` of sequences (N, T, num_features); the arguments are the same."""

    _rank = 3
    _layout = "sequences (N, T, C)"


class GroupNorm(SizedByInput):
    """y = (x - mean) / sqrt(var + eps) · weight + bias, per sample and group of channels (Wu and He 2018).

    Args:
        num_groups: how many groups of neighbouring channels; it divides them.
        num_channels: channels; None takes them from the first input.
        eps: added to the (biased) variance.
        affine: whether there are a weight (starts at 1) and a bias (starts at 0), per channel.

    Shapes:
        x (N, ..., num_channels) -> y of the same shape.

    Example:
        >>> nn.GroupNorm(2, 6)(np.ones((2, 4, 4, 6))).shape
        (2, 4, 4, 6)
    """

    _size_name = "num_channels"

    def __init__(
        self, num_groups: int, num_channels: int | None = None, eps: float = 1e-5, affine: bool = True
    ) -> None:
        self.num_groups = positive("group_norm", "num_groups", num_groups)
        self.num_channels = (
            positive("group_norm", "num_channels", num_channels) if num_channels is not None else None
        )
        self.eps = _positive_eps("group_norm", eps)
        self.weight = Parameter() if affine else None
        self.bias = Parameter() if affine else None
        self._size(num_channels)

    def _build(self, channels: int) -> None:
        if channels % self.num_groups:
            raise ArgumentError(
                f"[group_norm] num_groups={self.num_groups} does not divide the {channels} channels"
            )
        fill(self.weight, (channels,), init.ones_)
        fill(self.bias, (channels,), init.zeros_)

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight"][0]

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        parts = [f"{self.num_groups}, {self.num_channels}"]
        parts += [f"eps={self.eps}"] if self.eps != 1e-5 else []
        parts += ["affine=False"] if self.weight is None else []
        return ", ".join(parts)


class _RowNorm(SizedByInput):
    """Base of LayerNorm and RMSNorm: parameters of the shape of the last axes."""

    _size_name = "_columns"
    _op: ClassVar[str]

    normalized_shape: tuple[int, ...] | None

    def _set_shape(self, normalized_shape: int | Sequence[int] | None) -> None:
        """Checks the shape and, if there is one, builds; called at the end of constructors."""
        self._columns: int | None = None
        self.normalized_shape = None
        if normalized_shape is None:
            return
        given = normalized_shape if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        self.normalized_shape = tuple(positive(self._op, "normalized_shape", n) for n in given)
        if not self.normalized_shape:
            raise ArgumentError(f"[{self._op}] normalized_shape has at least one size, got ()")
        self._size(math.prod(self.normalized_shape))

    def _unsize(self) -> None:
        super()._unsize()
        self.normalized_shape = None

    def _shape_for(self, columns: int) -> tuple[int, ...]:
        if self.normalized_shape is None:
            self.normalized_shape = (columns,)
        return self.normalized_shape

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        self.normalized_shape = tuple(shapes["weight"])
        return math.prod(self.normalized_shape)


class LayerNorm(_RowNorm):
    """y = (x - mean) / sqrt(var + eps) · weight + bias over the last axes (Ba, Kiros and Hinton 2016).

    Args:
        normalized_shape: sizes of the last axes; one number for the last, None takes that from the first input.
        eps: added to the (biased) variance.
        elementwise_affine: whether there are a weight (starts at 1) and a bias, of that shape.
        bias: whether there is a bias (starts at 0) beside the weight.

    Shapes:
        x (..., *normalized_shape) -> y of the same shape.

    Example:
        >>> nn.LayerNorm(8)(np.ones((2, 5, 8))).shape
        (2, 5, 8)
    """

    _op = "layer_norm"

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None = None,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.eps = _positive_eps("layer_norm", eps)
        self.weight = Parameter() if elementwise_affine else None
        self.bias = Parameter() if elementwise_affine and bias else None
        self._set_shape(normalized_shape)

    def _build(self, channels: int) -> None:
        shape = self._shape_for(channels)
        fill(self.weight, shape, init.ones_)
        fill(self.bias, shape, init.zeros_)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.layer_norm(x, self.normalized_shape or x.shape[-1:], self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        parts = [str(self.normalized_shape)]
        parts += [f"eps={self.eps}"] if self.eps != 1e-5 else []
        parts += ["elementwise_affine=False"] if self.weight is None else []
        parts += ["bias=False"] if self.weight is not None and self.bias is None else []
        return ", ".join(parts)


class RMSNorm(_RowNorm):
    """y = x / sqrt(mean(x²) + eps) · weight over the last axes (Zhang and Sennrich 2019).

    Args:
        normalized_shape: sizes of the last axes; one number for the last, None takes that from the first input.
        eps: added to the mean; None is the distance from 1 to the next number of the dtype.
        elementwise_affine: whether there is a weight (starts at 1), of that shape.

    Shapes:
        x (..., *normalized_shape) -> y of the same shape.
    """

    _op = "rms_norm"

    def __init__(
        self,
        normalized_shape: int | Sequence[int] | None = None,
        eps: float | None = None,
        elementwise_affine: bool = True,
    ) -> None:
        self.eps = None if eps is None else _positive_eps("rms_norm", eps)
        self.weight = Parameter() if elementwise_affine else None
        self._set_shape(normalized_shape)

    def _build(self, channels: int) -> None:
        fill(self.weight, self._shape_for(channels), init.ones_)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.rms_norm(x, self.normalized_shape or x.shape[-1:], self.weight, self.eps)

    def extra_repr(self) -> str:
        parts = [str(self.normalized_shape)]
        parts += [f"eps={self.eps}"] if self.eps is not None else []
        parts += ["elementwise_affine=False"] if self.weight is None else []
        return ", ".join(parts)
