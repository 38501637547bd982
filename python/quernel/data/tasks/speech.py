"""Synthetic speech for the task `spoken_tokens`: words as waves of 8 kHz, and the front end that makes frames of them.

A source (pulses at the pitch for vowels and nasals, white noise for fricatives) passes a filter that follows formant
tracks (source and filter: Fant 1960; formants of vowels after Peterson and Barney 1952, "Control Methods Used in a
Study of the Vowels"). The filter works on short overlapping windows in the frequency domain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import nn

Array = NDArray[Any]

RATE = 8000
WINDOW, HOP, BANDS = 256, 120, 32  # of the front end
_STEP = 64  # of the filter; its windows have 256 samples
# Three resonances in Hz; amplitudes of pulses and of noise, by which fricatives and the nasal come out softer than most
# vowels; duration in seconds.
PHONEMES: dict[str, tuple[float, float, float, float, float, float]] = {
    "i": (270, 2290, 3010, 1.0, 0.0, 0.072),
    "e": (530, 1840, 2480, 1.0, 0.0, 0.072),
    "a": (730, 1090, 2440, 1.0, 0.0, 0.08),
    "o": (570, 840, 2410, 1.0, 0.0, 0.077),
    "u": (300, 870, 2240, 1.0, 0.0, 0.072),
    "r": (490, 1350, 1690, 1.0, 0.0, 0.072),
    "s": (2900, 3300, 3600, 0.0, 0.02, 0.07),
    "f": (1200, 2100, 3200, 0.0, 0.2, 0.065),
    "n": (250, 1150, 2200, 1.0, 0.0, 0.06),
}
_TABLE = np.array([*PHONEMES.values(), (500, 1500, 2500, 0.0, 0.0, 0.0)])  # the last row is silence
_SILENCE = len(PHONEMES)


def speak(random: np.random.RandomState, words: list[list[int]]) -> tuple[Array, Array]:
    """A wave (samples,) of words, given as phonemes' places in `PHONEMES`, by a random speaker in random noise.

    Returns:
        The wave, and for every sample the number of its word, from 1 on, or 0 in the pauses.
    """
    pitch, tract, rate = random.uniform(90, 240), random.uniform(0.85, 1.18), random.uniform(0.75, 1.3)
    sounds, owners, seconds = [_SILENCE], [0], [random.uniform(0.02, 0.06)]
    for number, word in enumerate(words, start=1):
        sounds += [*word, _SILENCE]
        owners += [number] * len(word) + [0]
        seconds += [_TABLE[p, 5] * random.uniform(0.85, 1.2) / rate for p in word]
        seconds.append(random.uniform(0.02, 0.06) / rate)
    lengths = (np.array(seconds) * RATE).astype(np.int64)
    steps = np.repeat(sounds, lengths)[::_STEP]
    total = len(steps) * _STEP
    tracks = _smoothed(_TABLE[steps, :5])
    wave = _filtered(_pulses(random, pitch, total), tracks[:, :3] * tract, tracks[:, 3])
    wave += _filtered(random.normal(size=total), tracks[:, :3] * tract, tracks[:, 4])
    noise = _coloured(random, total)
    noise *= np.sqrt((wave**2).mean() / (noise**2).mean()) * 10 ** (-random.uniform(-5, 5) / 20)
    wave = (wave + noise) * 10 ** (random.uniform(-6, 6) / 20)
    owner = np.repeat(owners, lengths)
    return wave, np.pad(owner, (0, max(0, total - len(owner))))[:total]


def _smoothed(tracks: Array) -> Array:
    """Means over 5 steps (40 ms): sounds run into each other."""
    padded = np.pad(tracks, ((2, 2), (0, 0)), mode="edge")
    smooth: Array = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=0).mean(-1)
    return smooth


def _pulses(random: np.random.RandomState, pitch: float, total: int) -> Array:
    """One pulse a period; the pitch falls by a fifth and jitters by 2 %."""
    count = int(total * pitch / RATE) + 2
    falling = pitch * np.linspace(1.1, 0.9, count) * (1 + random.normal(0, 0.02, count))
    places = np.cumsum(RATE / falling).astype(np.int64)
    pulses = np.zeros(total)
    pulses[places[places < total]] = np.sqrt(RATE / pitch)  # power 1
    return pulses


def _filtered(source: Array, formants: Array, amplitude: Array) -> Array:
    """The source through three resonances per step, and on a slope of -6 dB an octave."""
    size = 4 * _STEP
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    padded = np.pad(source, (size // 2, size))
    parts = np.lib.stride_tricks.sliding_window_view(padded, size)[::_STEP][: len(formants)] * window
    f = np.fft.rfftfreq(size, 1 / RATE)[None, :]
    gain = amplitude[:, None] / (1 + f / 500)
    for i, bandwidth in enumerate((80, 110, 160)):
        centre = formants[:, i, None]
        gain = gain * centre**2 / np.sqrt((centre**2 - f**2) ** 2 + (bandwidth * f) ** 2)
    parts = np.fft.irfft(np.fft.rfft(parts, axis=1) * gain, n=size, axis=1) * window / 2
    wave = np.zeros((len(formants) + 4) * _STEP)
    for quarter in range(4):
        piece = parts[:, quarter * _STEP : (quarter + 1) * _STEP].reshape(-1)
        wave[quarter * _STEP : quarter * _STEP + len(piece)] += piece
    return wave[size // 2 : size // 2 + len(source)]


def _coloured(random: np.random.RandomState, total: int) -> Array:
    """Noise whose power falls with 1/f^u, u from 0 to 1.5."""
    spectrum = np.fft.rfft(random.normal(size=total))
    f = np.maximum(np.fft.rfftfreq(total, 1 / RATE), 50)
    noise: Array = np.fft.irfft(spectrum * f ** (-random.uniform(0, 1.5) / 2), n=total)
    return noise


def front_end() -> nn.LogMelSpectrogram:
    """Logarithms of 32 mel bands from 60 to 3900 Hz, of windows of 256 samples every 120, less their mean over the utterance."""
    return nn.LogMelSpectrogram(
        RATE,
        WINDOW,
        hop_length=HOP,
        f_min=60,
        f_max=3900,
        n_mels=BANDS,
        center=False,
        eps=1e-8,
        normalize="mean",
    )
