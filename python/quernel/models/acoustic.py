"""An acoustic model: frames of sound in, labels without places out (Graves et al. 2006, connectionist temporal classification)."""

from __future__ import annotations

from typing import Any

import numpy as np

from quernel import nn, ops
from quernel.errors import ArgumentError
from quernel.nn.cepstrum import checked_samples
from quernel.nn.checks import positive
from quernel.tensor import Tensor


class AcousticModel(nn.Module):
    """A bidirectional LSTM over frames, and the logarithms of the probabilities of the labels and of a blank in each.

    With a front end it takes waves, so that what is saved hears by itself.

    Behind a row's length it is sure of the blank, so that losses and decoders need not be told lengths again. It is trained by
    ``compile(loss="ctc")`` and ``fit((x, lengths), labels)``; `quernel.text` turns its outputs into labels.

    Args:
        labels: how many labels there are; they count from 1, 0 being the blank.
        bands: numbers in a frame; None: as many as the first input has.
        hidden: size of the state of each layer and direction.
        layers: of the LSTM.
        dropout: between them.
        front: what makes frames of waves, such as nn.LogMelSpectrogram; lengths then are in samples, and it needs its
            method ``frames``.

    Shapes:
        x (N, T, bands), or (N, samples) with a front end; lengths (N,) whole numbers -> (N, T, 1 + labels).

    Example:
        >>> from quernel import models
        >>> net = models.AcousticModel(10, bands=32)
        >>> net(np.zeros((2, 7, 32), np.float32), np.array([7, 4])).shape
        (2, 7, 11)
        >>> front = nn.LogMelSpectrogram(8000, 256, hop_length=80, n_mels=32, normalize="mean")
        >>> hears = models.AcousticModel(10, front=front)
        >>> hears(np.zeros((2, 4000), np.float32), np.array([4000, 2000])).shape, front.frames(4000)
        ((2, 51, 11), 51)
    """

    silence: Tensor  # of a frame that is there to fill up

    def __init__(
        self,
        labels: int,
        bands: int | None = None,
        hidden: int = 64,
        layers: int = 2,
        dropout: float = 0.0,
        front: nn.Module | None = None,
    ) -> None:
        labels = positive("acoustic_model", "labels", labels)
        if front is not None and not callable(front):
            raise ArgumentError(
                f"[acoustic_model] front is a layer of frames such as nn.LogMelSpectrogram, got {type(front).__name__}"
            )
        self.labels, self.bands, self.hidden = labels, bands, hidden
        self.layers, self.dropout, self.front = layers, dropout, front
        self.lstm = nn.LSTM(bands, hidden, layers, dropout=dropout, bidirectional=True, returns="outputs")
        self.head = nn.Linear(2 * hidden, 1 + labels)
        self.register_buffer(
            "silence", ops.clone(np.where(np.arange(1 + labels) == 0, np.float32(0), np.float32(-np.inf)))
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logarithms of probabilities for each frame."""
        if self.front is not None:
            x, lengths = (self.front(x), None) if lengths is None else self._frames(x, lengths)
        log_probs = ops.log_softmax(self.head(self.lstm(x, lengths=lengths)))
        if lengths is None:
            return log_probs
        sounds = ops.sequence_mask(lengths, x.shape[1])
        return ops.where(ops.unsqueeze(sounds, -1), log_probs, self.silence)

    def _frames(self, waves: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The frames of waves of several lengths, and how many each has."""
        front: Any = self.front
        if not hasattr(front, "frames"):
            raise ArgumentError(
                f"[acoustic_model] lengths need a front that tells how many frames there are, as the method frames of "
                f"nn.LogMelSpectrogram does; {type(front).__name__} has none"
            )
        least = 1 if front.center else front.n_fft  # samples of which there is a frame
        lengths = checked_samples("acoustic_model", waves, lengths, least)
        return front(waves, lengths), front.frames(lengths)
