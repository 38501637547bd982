"""Front ends for sound: waves (N, samples) to frames (N, T, bands), as layers of the model that hears them.

The Fourier transform of a window is a product with a fixed matrix of cosines and sines, the window itself folded in; that of all
windows is one strided convolution, which gives it its gradient. Its work grows with the square of n_fft, as an FFT's would not. The
tables follow from the arguments and are no part of a saved state. Names and most defaults are torchaudio's; the order of the axes
is not.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from quernel import ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.nn.checks import number, one_of, positive
from quernel.nn.module import Module
from quernel.ops.create import tensor
from quernel.ops.shapes import check_rank
from quernel.tensor import Tensor

Array = NDArray[Any]
MelScale = Literal["htk", "slaney"]

_log = logging.getLogger("quernel.nn")

_SCALES = ("htk", "slaney")
_PAD_MODES = ("reflect", "constant", "replicate", "circular")
_SMALLEST = 1e-24  # powers below have the magnitude 1e-12: the slope of the square root at 0 is infinite
_LINEAR_UP_TO = 1000.0  # Hz; Slaney's scale is linear below and logarithmic above
_SLANEY_STEP, _SLANEY_LOG_STEP = 200 / 3, math.log(6.4) / 27


class Spectrogram(Module):
    """Power of the short-time Fourier transform: ``|sum_t w_t x_(iH + t) exp(-2 pi j k t / n_fft)|²`` for frame i and bin k.

    w is a periodic Hann window of `win_length` samples in the middle of `n_fft`, H the `hop_length`. Equals
    ``torch.stft(x, ...).abs() ** power`` with the last two axes exchanged.

    Args:
        n_fft: samples of a transform.
        win_length: samples of the window; None: `n_fft`.
        hop_length: samples from one frame to the next; None: half of `win_length`.
        power: 2 for powers, 1 for magnitudes.
        center: whether waves are padded by half of `n_fft` on both sides, so that frame i has its middle at i · hop_length.
            A wave that was filled up with zeros ends in those, not in its mirror image.
        pad_mode: how, see `qn.ops.pad`.

    Shapes:
        x (N, samples) of any number type -> (N, T, n_fft // 2 + 1); T is ``frames(samples)``.

    Example:
        >>> layer = nn.Spectrogram(256, hop_length=80, center=False)
        >>> layer(np.zeros((2, 8000), np.float32)).shape, layer.frames(8000)
        ((2, 97, 129), 97)
    """

    kernel: Tensor
    _layer = "spectrogram"

    def __init__(
        self,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        power: float = 2.0,
        center: bool = True,
        pad_mode: str = "reflect",
    ) -> None:
        self._set_up(n_fft, win_length, hop_length, power, center, pad_mode)
        self._add_table("kernel")

    def _set_up(
        self,
        n_fft: int,
        win_length: int | None,
        hop_length: int | None,
        power: float,
        center: bool,
        pad_mode: str,
    ) -> None:
        self.n_fft = positive(self._layer, "n_fft", n_fft)
        self.win_length = positive(
            self._layer, "win_length", self.n_fft if win_length is None else win_length
        )
        if self.win_length > self.n_fft:
            raise ArgumentError(
                f"[{self._layer}] win_length is at most n_fft={self.n_fft}, got {self.win_length}"
            )
        half = max(1, self.win_length // 2)
        self.hop_length = positive(self._layer, "hop_length", half if hop_length is None else hop_length)
        self.power = float(one_of(self._layer, "power", power, (1, 2)))
        self.center = bool(center)
        self.pad_mode = one_of(self._layer, "pad_mode", pad_mode, _PAD_MODES)

    def _add_table(self, name: str) -> None:
        self.register_buffer(name, self._exact(name).astype(self._float), persistent=False)

    def _exact(self, name: str) -> Tensor:
        return tensor(self._waves(self._bins())) if name == "kernel" else super()._exact(name)

    def _bins(self) -> Array:
        """The bins that are worked out."""
        return np.arange(self.n_fft // 2 + 1)

    def _waves(self, bins: Array) -> Array:
        """Windowed cosines, then sines, of these bins; only where the window is: what lies around it is 0."""
        t = np.arange(self.win_length)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * t / self.win_length)
        # Whole turns are taken out of the angle while it is a whole number, so that it is exact.
        angle = 2 * np.pi / self.n_fft * (np.outer(bins, t + self._skipped) % self.n_fft)
        table: Array = np.concatenate([np.cos(angle), np.sin(angle)]) * window
        return table[:, :, None]

    @property
    def _skipped(self) -> int:
        """Samples of a transform in front of the window."""
        return (self.n_fft - self.win_length) // 2

    @overload
    def frames(self, lengths: int) -> int: ...
    @overload
    def frames(self, lengths: Tensor) -> Tensor: ...
    @overload
    def frames(self, lengths: Array) -> Array: ...
    def frames(self, lengths: Any) -> Any:
        """How many frames waves of these lengths give: for ``lengths`` of what follows, a recurrent layer or a loss.

        Args:
            lengths: samples, one number or (N,) of them in an array or a tensor.

        Example:
            >>> nn.Spectrogram(400, hop_length=160).frames(np.array([16000, 8000])).tolist()
            [101, 51]
        """
        added = 2 * (self.n_fft // 2) if self.center else 0
        if isinstance(lengths, Tensor):
            wide = ops.cast(lengths, "int64")  # sums and differences of bytes may not fit a byte
            return ops.maximum(ops.floor_divide(wide + (added - self.n_fft), self.hop_length) + 1, 0)
        given = np.asarray(lengths)
        if given.size and given.dtype.kind not in "iu":
            raise DTypeError(f"[{self._layer}] frames takes whole numbers of samples, got {given.dtype}")
        count = np.maximum((given.astype(np.int64) + (added - self.n_fft)) // self.hop_length + 1, 0)
        return count if count.ndim else int(count)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return self._spectrum(x)

    def _spectrum(self, x: Tensor) -> Tensor:
        """Powers or magnitudes (N, T, bins of the kernel)."""
        parts = ops.conv1d(ops.unsqueeze(self._framed(x), -1), self.kernel, stride=self.hop_length)
        bins = self.kernel.shape[0] // 2
        power = ops.square(parts[..., :bins]) + ops.square(parts[..., bins:])
        return power if self.power == 2 else ops.sqrt(ops.maximum(power, _SMALLEST))

    def _framed(self, x: Tensor) -> Tensor:
        """The waves from the first sample under a window to the last."""
        check_rank(self._layer, "x", x.shape, 2, "(N, samples)")
        samples, half = x.shape[1], self.n_fft // 2
        least = half + 1 if self.center and self.pad_mode == "reflect" else 1 if self.center else self.n_fft
        if samples < least:
            raise ShapeError(
                f"[{self._layer}] x has {samples} samples, n_fft={self.n_fft} with center={self.center} takes waves from "
                f"{least} on; fill them up with zeros (x: {x.shape})"
            )
        x = ops.cast(x, self.kernel.dtype)
        before = self._skipped
        behind = self.n_fft - self.win_length - before
        if self.center:
            return ops.pad(x, [(0, 0), (half - before, half - behind)], self.pad_mode)
        return x[:, before : samples - behind] if before + behind else x

    def extra_repr(self) -> str:
        parts = [f"n_fft={self.n_fft}"]
        parts += [f"win_length={self.win_length}"] if self.win_length != self.n_fft else []
        parts += [f"hop_length={self.hop_length}"]
        parts += [f"power={self.power:g}"] if self.power != 2 else []
        parts += ["center=False"] if not self.center else []
        parts += [f"pad_mode={self.pad_mode!r}"] if self.center and self.pad_mode != "reflect" else []
        return ", ".join(parts)


class MelSpectrogram(Spectrogram):
    """`Spectrogram` summed in triangles that are evenly spaced on the mel scale.

    "htk" is ``2595 log10(1 + f / 700)`` (O'Shaughnessy 1987), torchaudio's default; "slaney" is linear up to 1000 Hz and logarithmic
    above (Slaney, Auditory Toolbox, 1998), librosa's, which also takes norm="slaney": each triangle divided by half its width in Hz.

    Args:
        sample_rate: samples a second.
        n_fft, win_length, hop_length, power, center, pad_mode: as in `Spectrogram`.
        f_min: Hz at which the first triangle begins.
        f_max: Hz at which the last one ends; None: half the sample rate.
        n_mels: triangles.
        norm: None or "slaney".
        mel_scale: "htk" or "slaney".

    Shapes:
        x (N, samples) -> (N, T, n_mels); T is ``frames(samples)``.

    Example:
        >>> nn.MelSpectrogram(16000, n_fft=512, hop_length=160, n_mels=80)(np.zeros((1, 16000), np.float32)).shape
        (1, 101, 80)
    """

    mel: Tensor
    _layer = "mel_spectrogram"

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        n_mels: int = 128,
        power: float = 2.0,
        center: bool = True,
        pad_mode: str = "reflect",
        norm: Literal["slaney"] | None = None,
        mel_scale: MelScale = "htk",
    ) -> None:
        self._set_up(n_fft, win_length, hop_length, power, center, pad_mode)
        self.sample_rate = positive(self._layer, "sample_rate", sample_rate)
        self.n_mels = positive(self._layer, "n_mels", n_mels)
        self.f_min = number(self._layer, "f_min", f_min)
        self.f_max = self.sample_rate / 2 if f_max is None else number(self._layer, "f_max", f_max)
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ArgumentError(
                f"[{self._layer}] 0 <= f_min < f_max <= sample_rate / 2 = {self.sample_rate / 2:g}, got f_min={self.f_min:g} and "
                f"f_max={self.f_max:g}"
            )
        self.norm = one_of(self._layer, "norm", norm, (None, "slaney"))
        self.mel_scale = one_of(self._layer, "mel_scale", mel_scale, _SCALES)
        filters = self._filters()
        if not (sounding := filters.any(1)).any():
            raise ArgumentError(
                f"[{self._layer}] no bin of n_fft={self.n_fft} lies between f_min={self.f_min:g} and f_max={self.f_max:g}; take "
                "a larger n_fft"
            )
        if not sounding.all():
            _log.warning(
                "[%s] %d of %d triangles lie between two of the bins of n_fft=%d and will always be 0; take fewer, or a larger "
                "n_fft", self._layer, self.n_mels - sounding.sum(), self.n_mels, self.n_fft,
            )  # fmt: skip
        self._add_table("kernel")
        self._add_table("mel")

    def _exact(self, name: str) -> Tensor:
        return tensor(self._filters()[:, self._bins()]) if name == "mel" else super()._exact(name)

    def _bins(self) -> Array:
        """Those inside a triangle."""
        return np.flatnonzero(self._filters().any(0))

    def _filters(self) -> Array:
        """(n_mels, n_fft // 2 + 1), what each bin counts in each triangle."""
        low, high = (_to_mel(f, self.mel_scale) for f in (self.f_min, self.f_max))
        edges = _hertz(np.linspace(low, high, self.n_mels + 2), self.mel_scale)[:, None]
        f = np.arange(self.n_fft // 2 + 1) * (self.sample_rate / self.n_fft)
        widths = np.diff(edges, axis=0)
        rising, falling = (f - edges[:-2]) / widths[:-1], (edges[2:] - f) / widths[1:]
        filters: Array = np.maximum(0, np.minimum(rising, falling))
        if self.norm == "slaney":
            filters *= 2 / (edges[2:] - edges[:-2])
        return filters

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return self._mels(x)

    def _mels(self, x: Tensor) -> Tensor:
        return ops.linear(self._spectrum(x), self.mel)

    def extra_repr(self) -> str:
        parts = [f"{self.sample_rate}, {super().extra_repr()}, n_mels={self.n_mels}"]
        parts += [f"f_min={self.f_min:g}"] if self.f_min else []
        parts += [f"f_max={self.f_max:g}"] if self.f_max != self.sample_rate / 2 else []
        parts += [f"norm={self.norm!r}"] if self.norm else []
        parts += [f"mel_scale={self.mel_scale!r}"] if self.mel_scale != "htk" else []
        return ", ".join(parts)


def _to_mel(f: float, scale: str) -> float:
    if scale == "htk":
        return 2595 * math.log10(1 + f / 700)
    if f < _LINEAR_UP_TO:
        return f / _SLANEY_STEP
    return _LINEAR_UP_TO / _SLANEY_STEP + math.log(f / _LINEAR_UP_TO) / _SLANEY_LOG_STEP


def _hertz(mels: Array, scale: str) -> Array:
    if scale == "htk":
        result: Array = 700 * (10 ** (mels / 2595) - 1)
        return result
    corner = _LINEAR_UP_TO / _SLANEY_STEP
    above = _LINEAR_UP_TO * np.exp(_SLANEY_LOG_STEP * (np.maximum(mels, corner) - corner))
    return np.where(mels < corner, _SLANEY_STEP * mels, above)
