"""Normalization layers."""

from __future__ import annotations

from collections.abc import Mapping

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn import init
from quernel.nn.checks import in_unit_interval, positive
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.ops.create import ones, zeros
from quernel.tensor import Tensor


class BatchNorm2d(SizedByInput):
    """y = (x - mean) / sqrt(var + eps) · weight + bias, per channel (Ioffe and Szegedy 2015).

    In training, mean and variance are those of the batch (biased variance), and the running ones follow them:
    running = (1 - momentum)·running + momentum·batch, with the unbiased variance. In evaluation the running ones are
    used. Any number of leading axes may precede the channels.

    Args:
        num_features: channels; None takes them from the first input.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        affine: whether there are a weight (starts at 1) and a bias (starts at 0).
        track_running_stats: False uses batch statistics in evaluation too.

    Shapes:
        x (N, H, W, num_features) -> y of the same shape.

    Example:
        >>> nn.BatchNorm2d(3)(np.ones((2, 4, 4, 3))).shape
        (2, 4, 4, 3)
    """

    _size_name = "num_features"

    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(
        self,
        num_features: int | None = None,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.num_features = (
            positive("batch_norm", "num_features", num_features) if num_features is not None else None
        )
        if not eps > 0:
            raise ArgumentError(f"[batch_norm] eps is positive, got {eps!r}")
        self.eps = float(eps)
        self.momentum = in_unit_interval("batch_norm", "momentum", momentum)
        self.track_running_stats = track_running_stats
        self.weight = Parameter() if affine else None
        self.bias = Parameter() if affine else None
        self.register_buffer("running_mean", None)
        self.register_buffer("running_var", None)
        self._size(num_features)

    def _build(self, channels: int) -> None:
        fill(self.weight, (channels,), init.ones_)
        fill(self.bias, (channels,), init.zeros_)
        if self.track_running_stats:
            self.running_mean = zeros((channels,), self._float)
            self.running_var = ones((channels,), self._float)

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return (shapes["weight"] if self.weight is not None else shapes["running_mean"])[0]

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
        )

    def extra_repr(self) -> str:
        parts = [str(self.num_features)]
        parts += [f"eps={self.eps}"] if self.eps != 1e-5 else []
        parts += [f"momentum={self.momentum}"] if self.momentum != 0.1 else []
        parts += ["affine=False"] if self.weight is None else []
        parts += ["track_running_stats=False"] if not self.track_running_stats else []
        return ", ".join(parts)
