"""The Transformer's encoder, and encodings of positions."""

from __future__ import annotations

import copy
import math

import numpy as np

from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from quernel.nn import init
from quernel.nn.attention import MultiheadAttention
from quernel.nn.checks import in_unit_interval, positive
from quernel.nn.container import ModuleList
from quernel.nn.dropout import Dropout
from quernel.nn.linear import Linear
from quernel.nn.module import Module
from quernel.nn.norm import LayerNorm
from quernel.nn.parameter import Parameter
from quernel.ops.create import tensor, zeros
from quernel.suggest import suggestion
from quernel.tensor import Tensor

_ACTIVATIONS = {"relu": ops.relu, "gelu": ops.gelu}


class TransformerEncoderLayer(Module):
    """Self-attention and two Linear layers, each with a residual and a LayerNorm.

    ``y = norm1(x + attention(x))`` and then ``norm2(y + linear2(activation(linear1(y))))``; with norm_first
    ``y = x + attention(norm1(x))``, then ``y + linear2(activation(linear1(norm2(y))))``. Vaswani et al., arXiv 1706.03762;
    Xiong et al., arXiv 2002.04745. Parameters are named as in PyTorch; sequences are (N, T, C), the batch first.

    Args:
        d_model: C.
        nhead: number of heads, which divides d_model.
        dim_feedforward: size between the two Linear layers.
        dropout: probability with which what a branch adds, and what lies between its Linear layers, is zeroed in
            training; the weights of the attention have none.
        activation: "relu" or "gelu".
        layer_norm_eps: added to variances.
        norm_first: whether branches are normalized before, not after them.
        bias: whether there are any.

    Example:
        >>> nn.TransformerEncoderLayer(8, 2, 16)(np.ones((4, 5, 8))).shape
        (4, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str = "relu",
        layer_norm_eps: float = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise ArgumentError(
                f"[transformer_encoder_layer] activation is 'relu' or 'gelu', got {activation!r}"
                f"{suggestion(str(activation), list(_ACTIVATIONS))}"
            )
        self.self_attn = MultiheadAttention(d_model, nhead, bias=bias)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = activation
        self.norm_first = bool(norm_first)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Applies the layer; masks are those of `MultiheadAttention`."""
        masks = src_key_padding_mask, src_mask, is_causal
        if self.norm_first:
            y = src + self._attend(self.norm1(src), *masks)
            return y + self._feed_forward(self.norm2(y))
        y = self.norm1(src + self._attend(src, *masks))
        z: Tensor = self.norm2(y + self._feed_forward(y))
        return z

    def _attend(self, x: Tensor, padding: Tensor | None, mask: Tensor | None, is_causal: bool) -> Tensor:
        y = self.self_attn(x, key_padding_mask=padding, attn_mask=mask, is_causal=is_causal)
        z: Tensor = self.dropout1(y)
        return z

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = _ACTIVATIONS[self.activation](self.linear1(x))
        y: Tensor = self.dropout2(self.linear2(self.dropout(hidden)))
        return y

    def extra_repr(self) -> str:
        first = ", norm_first=True" if self.norm_first else ""
        return f"activation={self.activation!r}{first}"


class TransformerEncoder(Module):
    """Copies of an encoder layer, one after the other.

    Args:
        encoder_layer: copied num_layers times, its first values too, as in PyTorch.
        num_layers: how many.
        norm: applied at the end, such as a LayerNorm; None: nothing.

    Example:
        >>> net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3)
        >>> net(np.ones((4, 5, 8))).shape
        (4, 5, 8)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self.num_layers = positive("transformer_encoder", "num_layers", num_layers)
        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(self.num_layers)])
        self.norm = norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Applies the layers; masks are those of `MultiheadAttention`."""
        y = src
        for layer in self.layers:
            y = layer(y, mask, src_key_padding_mask, is_causal)
        return y if self.norm is None else self.norm(y)


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

    Example:
        >>> nn.PositionalEncoding(4)(np.zeros((1, 2, 4))).tolist()[0][0]
        [0.0, 1.0, 0.0, 1.0]
    """

    pe: Tensor

    def __init__(self, d_model: int, dropout: float = 0.0, max_len: int = 5000) -> None:
        self.d_model = positive("positional_encoding", "d_model", d_model)
        self.max_len = positive("positional_encoding", "max_len", max_len)
        self.p = in_unit_interval("positional_encoding", "dropout", dropout)
        rates = np.exp(np.arange(0, self.d_model, 2) * (-math.log(10000.0) / self.d_model))
        angles = np.arange(self.max_len)[:, None] * rates
        table = np.empty((self.max_len, self.d_model), np.float32)
        table[:, 0::2] = np.sin(angles)
        table[:, 1::2] = np.cos(angles)[:, : self.d_model // 2]
        self.register_buffer("pe", tensor(table), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer."""
        return ops.dropout(self._add(x, self.pe), self.p, self.training)


class LearnedPositionalEncoding(_AddsPositions):
    """Adds a learned vector for each position, which starts normal with standard deviation 0.02.

    Args:
        d_model: size of the last axis.
        max_len: length of the longest sequence.

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
