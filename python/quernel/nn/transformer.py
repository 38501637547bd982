"""The Transformer's encoder and decoder."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from quernel import ops, recording
from quernel.autograd import no_grad
from quernel.errors import ArgumentError
from quernel.nn.attention import KeyValueCache, MultiheadAttention, check_cache
from quernel.nn.checks import operand, positive
from quernel.nn.container import ModuleList
from quernel.nn.dropout import Dropout
from quernel.nn.linear import Linear
from quernel.nn.module import Module
from quernel.nn.norm import LayerNorm
from quernel.suggest import suggestion
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

_ACTIVATIONS = {"relu": ops.relu, "gelu": ops.gelu}


class _TransformerLayer(Module):
    """Base of the layers: the branch of two Linear layers, and where branches are normalized."""

    _name: str
    norm_first: bool

    def _add_feed_forward(
        self, d_model: int, dim_feedforward: int, dropout: float, activation: str, bias: bool
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise ArgumentError(
                f"[{self._name}] activation is 'relu' or 'gelu', got {activation!r}"
                f"{suggestion(str(activation), list(_ACTIVATIONS))}"
            )
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.activation = activation

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = _ACTIVATIONS[self.activation](self.linear1(x))
        y: Tensor = self.linear2(self.dropout(hidden))
        return y

    def _residual(
        self, x: Tensor, branch: Callable[[Tensor], Tensor], norm: Module, dropout: Module
    ) -> Tensor:
        """The branch beside x, normalized before it or after both."""
        y: Tensor = x + dropout(branch(norm(x))) if self.norm_first else norm(x + dropout(branch(x)))
        return y

    def extra_repr(self) -> str:
        first = ", norm_first=True" if self.norm_first else ""
        return f"activation={self.activation!r}{first}"


class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention and two Linear layers, each with a residual and a LayerNorm.

    ``y = norm1(x + attention(x))`` and then ``norm2(y + linear2(activation(linear1(y))))``; with norm_first
    ``y = x + attention(norm1(x))``, then ``y + linear2(activation(linear1(norm2(y))))``. Vaswani et al., arXiv 1706.03762;
    Xiong et al., arXiv 2002.04745. Parameters are named as in PyTorch; sequences are (N, T, C), the batch first.

    Args:
        d_model: C.
        nhead: number of heads, which divides d_model.
        dim_feedforward: size between the two Linear layers.
        dropout: probability with which what a branch adds, what lies between its Linear layers and the weights of the
            attention are zeroed in training.
        activation: "relu" or "gelu".
        layer_norm_eps: added to variances.
        norm_first: whether branches are normalized before, not after them.
        bias: whether there are any.

    Shapes:
        src (N, T, d_model), src_mask (T, T) and others that `MultiheadAttention` takes, src_key_padding_mask (N, T) -> y like src.

    Example:
        >>> nn.TransformerEncoderLayer(8, 2, 16)(np.ones((4, 5, 8))).shape
        (4, 5, 8)
    """

    _name = "transformer_encoder_layer"

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
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias)
        self._add_feed_forward(d_model, dim_feedforward, dropout, activation, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.norm_first = bool(norm_first)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Applies the layer; masks are those of `MultiheadAttention`."""

        def attend(x: Tensor) -> Tensor:
            y: Tensor = self.self_attn(
                x, key_padding_mask=src_key_padding_mask, attn_mask=src_mask, is_causal=is_causal
            )
            return y

        return self._branches(src, attend)

    @no_grad()
    def decode(self, src: Tensor, cache: KeyValueCache) -> Tensor:
        """The next positions of a sequence, src (N, t, C), after those that the cache has seen.

        In evaluation a sequence fed in pieces of any length gives the bits of ``forward(sequence, is_causal=True)``. Nothing
        gets a gradient.

        Example:
            >>> layer, cache = nn.TransformerEncoderLayer(8, 2, 16).eval(), nn.KeyValueCache()
            >>> [layer.decode(np.ones((1, t, 8)), cache).shape for t in (3, 1)], len(cache)
            ([(1, 3, 8), (1, 1, 8)], 4)
        """
        recording.guard_structure(self)
        return self._branches(self._as_input(src), lambda x: self.self_attn.decode(x, cache))

    def _branches(self, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
        y = self._residual(x, attend, self.norm1, self.dropout1)
        return self._residual(y, self._feed_forward, self.norm2, self.dropout2)


class TransformerEncoder(Module):
    """Copies of an encoder layer, one after the other.

    Args:
        encoder_layer: copied num_layers times, its first values too, as in PyTorch.
        num_layers: how many.
        norm: applied at the end, such as a LayerNorm; None: nothing.

    Shapes:
        As those of the layer.

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


class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention over a memory and two Linear layers, each with a residual and a LayerNorm.

    As `TransformerEncoderLayer`, with a branch in the middle whose keys and values are ``memory``, what an encoder has
    made of its sequence. Vaswani et al., arXiv 1706.03762. Parameters are named as in PyTorch; sequences are (N, T, C).

    Args:
        d_model: C.
        nhead: number of heads, which divides d_model.
        dim_feedforward: size between the two Linear layers.
        dropout: as in `TransformerEncoderLayer`.
        activation: "relu" or "gelu".
        layer_norm_eps: added to variances.
        norm_first: whether branches are normalized before, not after them.
        bias: whether there are any.

    Shapes:
        tgt (N, T, d_model), memory (N, S, d_model); tgt_mask (T, T), memory_mask (T, S) and others that `MultiheadAttention`
        takes, tgt_key_padding_mask (N, T), memory_key_padding_mask (N, S) -> y like tgt.

    Example:
        >>> net = nn.TransformerDecoderLayer(8, 2, 16)
        >>> net(np.ones((4, 5, 8)), np.ones((4, 3, 8)), tgt_is_causal=True).shape
        (4, 5, 8)
    """

    _name = "transformer_decoder_layer"

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
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias)
        self._add_feed_forward(d_model, dim_feedforward, dropout, activation, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.norm_first = bool(norm_first)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Applies the layer; masks are those of `MultiheadAttention`, of tgt to itself and to memory."""

        memory = operand(self._name, "memory", memory)  # None would be tgt itself

        def attend(x: Tensor) -> Tensor:
            y: Tensor = self.self_attn(
                x, key_padding_mask=tgt_key_padding_mask, attn_mask=tgt_mask, is_causal=tgt_is_causal
            )
            return y

        def ask(x: Tensor) -> Tensor:
            y: Tensor = self.multihead_attn(
                x,
                memory,
                key_padding_mask=memory_key_padding_mask,
                attn_mask=memory_mask,
                is_causal=memory_is_causal,
            )
            return y

        return self._branches(tgt, attend, ask)

    def decode(
        self,
        tgt: Tensor,
        memory: Tensor,
        cache: tuple[KeyValueCache, KeyValueCache],
        memory_key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The next positions of a sequence, see `TransformerDecoder.decode`; caches of tgt and of memory."""
        recording.guard_structure(self)
        own, other = cache
        return self._branches(
            tgt,
            lambda x: self.self_attn.decode(x, own),
            lambda x: self.multihead_attn.decode_memory(x, memory, other, memory_key_padding_mask),
        )

    def _branches(
        self, x: Tensor, attend: Callable[[Tensor], Tensor], ask: Callable[[Tensor], Tensor]
    ) -> Tensor:
        y = self._residual(x, attend, self.norm1, self.dropout1)
        y = self._residual(y, ask, self.norm2, self.dropout2)
        return self._residual(y, self._feed_forward, self.norm3, self.dropout3)


class TransformerDecoder(Module):
    """Copies of a decoder layer, one after the other.

    Args:
        decoder_layer: copied num_layers times, its first values too, as in PyTorch.
        num_layers: how many.
        norm: applied at the end, such as a LayerNorm; None: nothing.

    Shapes:
        As those of the layer.

    Example:
        >>> net = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 3)
        >>> net(np.ones((4, 5, 8)), np.ones((4, 3, 8)), tgt_is_causal=True).shape
        (4, 5, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self.num_layers = positive("transformer_decoder", "num_layers", num_layers)
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(self.num_layers)])
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Applies the layers; masks are those of `MultiheadAttention`, of tgt to itself and to memory."""
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        y = tgt
        for layer in self.layers:
            y = layer(y, memory, *masks, tgt_is_causal, memory_is_causal)
        return y if self.norm is None else self.norm(y)

    @no_grad()
    def decode(
        self,
        tgt: Tensor,
        memory: Tensor,
        cache: DecoderCache,
        memory_key_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """The next positions of a sequence, tgt (N, t, C), after those that the cache has seen.

        In evaluation a sequence fed in pieces of any length gives the bits of
        ``forward(sequence, memory, tgt_is_causal=True)``. Nothing gets a gradient.

        Example:
            >>> net = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 3).eval()
            >>> memory, cache = np.ones((1, 7, 8)), nn.DecoderCache()
            >>> [net.decode(np.ones((1, t, 8)), memory, cache).shape for t in (3, 1)], len(cache)
            ([(1, 3, 8), (1, 1, 8)], 4)
        """
        recording.guard_structure(self)
        check_cache("transformer_decoder", cache, DecoderCache)
        y, memory = self._as_input(tgt), self._as_input(memory)
        for layer, caches in zip(self.layers, cache.of_layers(self.num_layers), strict=True):
            assert isinstance(layer, TransformerDecoderLayer)
            y = layer.decode(y, memory, caches, memory_key_padding_mask)
        z: Tensor = y if self.norm is None else self.norm(y)
        return z


class DecoderCache:
    """What `TransformerDecoder.decode` keeps of one sequence, or batch of them, and of its memory.

    Its length is the number of positions that it has seen.

    Example:
        >>> len(nn.DecoderCache())
        0
    """

    def __init__(self) -> None:
        self._layers: list[tuple[KeyValueCache, KeyValueCache]] = []

    def __len__(self) -> int:
        return len(self._layers[0][0]) if self._layers else 0

    def of_layers(self, count: int) -> list[tuple[KeyValueCache, KeyValueCache]]:
        """For each layer the keys and values of the sequence and those of the memory."""
        if not self._layers:
            self._layers = [(KeyValueCache(), KeyValueCache()) for _ in range(count)]
        if len(self._layers) != count:
            raise ArgumentError(
                f"[transformer_decoder] the cache is of {len(self._layers)} layers, the decoder has {count}; begin a new one"
            )
        return self._layers
