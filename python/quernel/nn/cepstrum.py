"""What comes after a spectrogram's bands: decibels, logarithms and cepstral coefficients, normalized over each wave."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from quernel import ops
from quernel.errors import ArgumentError
from quernel.nn.checks import number, one_of, positive
from quernel.nn.module import Module
from quernel.nn.spectrogram import MelScale, MelSpectrogram
from quernel.ops.create import arange, tensor
from quernel.ops.shapes import check_lengths, check_rank
from quernel.tensor import Tensor

Normalize = Literal["mean", "mean_var"] | None

_QUIET = 1e-10  # -100 dB
_MFCC_EPS = 1e-6  # torchaudio's
_VARIANCE = 1e-10  # added to the variances of bands that are constant
_NORMALIZE = (None, "mean", "mean_var")


class AmplitudeToDB(Module):
    """Powers or magnitudes to decibels: ``10 log10(max(x, 1e-10))``, twice that for magnitudes.

    Args:
        stype: "power" or "magnitude".
        top_db: what lies further than this below the largest element of its row is raised to there. torchaudio takes the largest of
            the whole batch, which makes the result of a row depend on its neighbours.

    Shapes:
        x (N, ...) -> the same.

    Example:
        >>> nn.AmplitudeToDB()(np.array([[1, 10, 100]], np.float32)).tolist()
        [[0.0, 10.0, 20.0]]
    """

    def __init__(self, stype: Literal["power", "magnitude"] = "power", top_db: float | None = None) -> None:
        self.stype = one_of("amplitude_to_db", "stype", stype, ("power", "magnitude"))
        if top_db is not None and not number("amplitude_to_db", "top_db", top_db) >= 0:
            raise ArgumentError(f"[amplitude_to_db] top_db is not negative, got {top_db!r}")
        self.top_db = top_db

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        factor = (10 if self.stype == "power" else 20) / math.log(10)
        y = ops.mul(ops.log(ops.maximum(x, _QUIET)), factor)
        if self.top_db is None or y.ndim < 2:
            return y
        return ops.maximum(y, ops.max(y, dim=tuple(range(1, y.ndim)), keepdim=True) - self.top_db)

    def extra_repr(self) -> str:
        return f"{self.stype!r}" + (f", top_db={self.top_db:g}" if self.top_db is not None else "")


class _Normalized(MelSpectrogram):
    """What `LogMelSpectrogram` and `MFCC` have in common: frames that can be normalized over each wave."""

    normalize: Normalize

    def _over_wave(self, y: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        lengths = None if lengths is None else checked_samples(self._layer, x, lengths)
        if self.normalize is None:
            return y
        inside = None if lengths is None else self._inside(y, lengths)
        y = y - _mean(y, inside)
        y = y if inside is None else y * inside
        return y if self.normalize == "mean" else y * ops.rsqrt(_mean(ops.square(y), inside) + _VARIANCE)

    def _inside(self, y: Tensor, lengths: Tensor) -> Tensor:
        """(N, T, 1), 1 up to a wave's last frame, 0 behind it."""
        step = ops.reshape(arange(y.shape[1], device=y.device), (1, -1, 1))
        return ops.cast(ops.lt(step, ops.reshape(self.frames(lengths), (-1, 1, 1))), y.dtype)


def checked_samples(layer: str, x: Tensor, lengths: Tensor, least: int = 0) -> Tensor:
    """The lengths of waves (N, samples) as int64; each must be one from `least` to samples."""
    check_rank(layer, "x", x.shape, 2, "(N, samples)")
    check_lengths(layer, "lengths", lengths, x.shape[0], f"x: {x.shape}")
    return ops.checked_lengths(lengths, x.shape[1], least, "samples", layer)


def _mean(y: Tensor, inside: Tensor | None) -> Tensor:
    """Over the steps of (N, T, C), or those that lie inside."""
    if inside is None:
        return ops.mean(y, dim=1, keepdim=True)
    return ops.sum(y * inside, dim=1, keepdim=True) / ops.maximum(ops.sum(inside, dim=1, keepdim=True), 1.0)


class LogMelSpectrogram(_Normalized):
    """``log(mel + eps)`` of a `MelSpectrogram`, the usual front end of acoustic models.

    Args:
        sample_rate, n_fft, win_length, hop_length, f_min, f_max, n_mels, power, center, pad_mode, norm, mel_scale: as in
            `MelSpectrogram`.
        eps: added to the bands.
        normalize: "mean" takes from each band its mean over the wave, which removes what a microphone does to all frames alike;
            "mean_var" also divides by the deviation. Frames behind the end of a wave then are 0.

    Shapes:
        x (N, samples), lengths (N,) whole numbers of samples, None for all -> (N, T, n_mels); T is ``frames(samples)``. Only `normalize`
        makes use of lengths, but they are checked without it too: each is one from 0 to samples.

    Example:
        >>> layer = nn.LogMelSpectrogram(8000, 256, hop_length=80, n_mels=32, normalize="mean")
        >>> wave = np.sin(np.arange(8000) * 0.3).astype(np.float32)
        >>> layer(wave[None]).shape
        (1, 101, 32)
    """

    _layer = "log_mel_spectrogram"
    takes_integers = True  # lengths

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        n_mels: int = 80,
        power: float = 2.0,
        center: bool = True,
        pad_mode: str = "reflect",
        norm: Literal["slaney"] | None = None,
        mel_scale: MelScale = "htk",
        eps: float = 1e-6,
        normalize: Normalize = None,
    ) -> None:
        super().__init__(
            sample_rate, n_fft, win_length, hop_length, f_min, f_max, n_mels, power, center, pad_mode, norm, mel_scale
        )  # fmt: skip
        if not eps > 0:
            raise ArgumentError(
                f"[{self._layer}] eps is positive, as the logarithm of 0 is not finite, got {eps!r}"
            )
        self.eps = float(eps)
        self.normalize = one_of(self._layer, "normalize", normalize, _NORMALIZE)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Applies the layer."""
        return self._over_wave(ops.log(self._mels(x) + self.eps), x, lengths)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, eps={self.eps:g}" + _told(self.normalize)


class MFCC(_Normalized):
    """Mel-frequency cepstral coefficients: the orthonormal DCT-II of the bands in decibels, or of their logarithms.

    Davis and Mermelstein 1980, "Comparison of Parametric Representations for Monosyllabic Word Recognition".

    Args:
        sample_rate, n_fft, win_length, hop_length, f_min, f_max, n_mels, power, center, pad_mode, norm, mel_scale: as in
            `MelSpectrogram`. `n_mels` is 80 unless told otherwise, torchaudio's is 128; `norm` is that of the triangles, torchaudio's
            is that of the DCT, here always "ortho".
        n_mfcc: coefficients that are kept, the first ones.
        log_mels: whether they are those of ``log(mel + 1e-6)``; else of `AmplitudeToDB`.
        top_db: decibels further than this below a wave's loudest are raised to there, None: none are; see `AmplitudeToDB`. Not used
            with ``log_mels=True``.
        normalize: as in `LogMelSpectrogram`.

    Shapes:
        x (N, samples), lengths (N,) whole numbers of samples, None for all -> (N, T, n_mfcc); T is ``frames(samples)``. Only `normalize`
        makes use of lengths, but they are checked without it too: each is one from 0 to samples.

    Example:
        >>> nn.MFCC(16000, 13, n_fft=512, hop_length=160, n_mels=40)(np.zeros((1, 16000), np.float32)).shape
        (1, 101, 13)
    """

    dct: Tensor
    _layer = "mfcc"
    takes_integers = True  # lengths

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mfcc: int = 40,
        n_fft: int = 400,
        win_length: int | None = None,
        hop_length: int | None = None,
        f_min: float = 0.0,
        f_max: float | None = None,
        n_mels: int = 80,
        power: float = 2.0,
        center: bool = True,
        pad_mode: str = "reflect",
        norm: Literal["slaney"] | None = None,
        mel_scale: MelScale = "htk",
        log_mels: bool = False,
        top_db: float | None = 80.0,
        normalize: Normalize = None,
    ) -> None:
        super().__init__(
            sample_rate, n_fft, win_length, hop_length, f_min, f_max, n_mels, power, center, pad_mode, norm, mel_scale
        )  # fmt: skip
        self.n_mfcc = positive(self._layer, "n_mfcc", n_mfcc)
        if self.n_mfcc > self.n_mels:
            raise ArgumentError(f"[{self._layer}] n_mfcc is at most n_mels={self.n_mels}, got {self.n_mfcc}")
        self.log_mels = bool(log_mels)
        self.top_db = top_db
        self.normalize = one_of(self._layer, "normalize", normalize, _NORMALIZE)
        self.to_db = AmplitudeToDB("power", top_db)
        self._add_table("dct")

    def _exact(self, name: str) -> Tensor:
        if name != "dct":
            return super()._exact(name)
        angles = np.pi / self.n_mels * np.outer(np.arange(self.n_mfcc), np.arange(self.n_mels) + 0.5)
        table = np.cos(angles) * math.sqrt(2 / self.n_mels)
        table[0] *= math.sqrt(0.5)
        return tensor(table)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Applies the layer."""
        mels = self._mels(x)
        loud = ops.log(mels + _MFCC_EPS) if self.log_mels else self.to_db(mels)
        return self._over_wave(ops.linear(loud, self.dct), x, lengths)

    def extra_repr(self) -> str:
        parts = f"n_mfcc={self.n_mfcc}" + (", log_mels=True" if self.log_mels else "")
        return f"{super().extra_repr()}, {parts}" + _told(self.normalize)


def _told(normalize: Normalize) -> str:
    return f", normalize={normalize!r}" if normalize else ""
