"""Resampling of images (N, H, W, C) and sequences (N, T, C)."""

from __future__ import annotations

from collections.abc import Sequence

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn.module import Module
from quernel.ops.upsample import MODES
from quernel.tensor import Tensor


class Upsample(Module):
    """Resamples to another size; see `qn.ops.interpolate` for where pixels lie.

    Args:
        size: (height, width) of the output, or one number for both (or for a sequence).
        scale_factor: instead of `size`: output pixels per input pixel, one number or two.
        mode: "nearest", "nearest-exact", "bilinear" for images, "linear" for sequences.
        align_corners: for linear modes, whether corners stay where they are; None is False.

    Shapes:
        x (N, H, W, C) -> y (N, OH, OW, C), OH = floor(H · scale_factor).

    Example:
        >>> nn.Upsample(scale_factor=2, mode="bilinear")(np.ones((1, 4, 5, 3))).shape
        (1, 8, 10, 3)
    """

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        if (size is None) == (scale_factor is None):
            raise ArgumentError("[interpolate] give either size or scale_factor")
        if mode not in MODES:
            raise ArgumentError(f"[interpolate] mode is one of {', '.join(map(repr, MODES))}, got {mode!r}")
        self.size = tuple(size) if isinstance(size, Sequence) else size
        self.scale_factor = tuple(scale_factor) if isinstance(scale_factor, Sequence) else scale_factor
        self.mode = mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.interpolate(
            x,
            size=self.size,
            scale_factor=self.scale_factor,
            mode=self.mode,
            align_corners=self.align_corners,
        )

    def extra_repr(self) -> str:
        parts = [f"size={self.size}"] if self.size is not None else [f"scale_factor={self.scale_factor}"]
        parts += [f"mode={self.mode!r}"]
        parts += [f"align_corners={self.align_corners}"] if self.align_corners is not None else []
        return ", ".join(parts)
