"""Encodings of positions."""

from __future__ import annotations

import math

import numpy as np

from quernel import ops
from quernel.errors import ShapeError
from quernel.nn import init
from quernel.nn.checks import in_unit_interval, positive
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.ops.create import tensor, zeros
from quernel.tensor import Tensor


class _AddsPositions(Module):
    """Base of the encodings: adds the first T rows of a table to (N, T, C)."""

    max_len: int
    d_model: int

    def _add(self, x: Tensor, table: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != self.d_model or x.shape[1] > self.max_len:
            raise ShapeError(
                f"[positional_encoding] x must be (N, T, {self.d_model}) with T up to max_len={self.max_len}, "
                f"got {x.shape}"
            )
        return x + table[: x.shape[1]]

    def extra_repr(self) -> str:
        return f"{self.d_model}, max_len={self.max_len}"


class PositionalEncoding(_AddsPositions):
    """Adds sines and cosines: column 2i of row t is sin(t / 10000^(2i / d_model)), column 2i + 1 its cosine.

    Vaswani et al., arXiv 1706.03762, section 3.5.

    Args:
        d_model: size of the last axis.
        dropout: probability of zeroing an element of the sum in training.
        max_len: length of the longest sequence.

    Shapes:
        x (N, T, d_model), T up to max_len -> y (N, T, d_model).

    Example:
        >>> nn.PositionalEncoding(4)(np.zeros((1, 2, 4))).tolist()[0][0]
        [0.0, 1.0, 0.0, 1.0]
    """

    pe: Tensor

    def __init__(self, d_model: int, dropout: float = 0.0, max_len: int = 5000) -> None:
        self.d_model = positive("positional_encoding", "d_model", d_model)
        self.max_len = positive("positional_encoding", "max_len", max_len)
        self.dropout = in_unit_interval("positional_encoding", "dropout", dropout)
        rates = np.exp(np.arange(0, self.d_model, 2) * (-math.log(10000.0) / self.d_model))
        angles = np.arange(self.max_len)[:, None] * rates
        table = np.empty((self.max_len, self.d_model), np.float32)
        table[:, 0::2] = np.sin(angles)
        table[:, 1::2] = np.cos(angles)[:, : self.d_model // 2]
        self.register_buffer("pe", tensor(table), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.dropout(self._add(x, self.pe), self.dropout, self.training)


class LearnedPositionalEncoding(_AddsPositions):
    """Adds a learned vector for each position, which starts normal with standard deviation 0.02.

    Args:
        d_model: size of the last axis.
        max_len: length of the longest sequence.

    Shapes:
        x (N, T, d_model), T up to max_len -> y (N, T, d_model).

    Example:
        >>> nn.LearnedPositionalEncoding(4, 16)(np.zeros((1, 2, 4))).shape
        (1, 2, 4)
    """

    def __init__(self, d_model: int, max_len: int) -> None:
        self.d_model = positive("positional_encoding", "d_model", d_model)
        self.max_len = positive("positional_encoding", "max_len", max_len)
        self.weight = Parameter(zeros((self.max_len, self.d_model)))
        init.normal_(self.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return self._add(x, self.weight)
