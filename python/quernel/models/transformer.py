"""Small Transformers (Vaswani et al., arXiv 1706.03762), their branches normalized first (Xiong et al., arXiv 2002.04745)."""

from __future__ import annotations

from typing import Any

from quernel import nn, ops, recording
from quernel.errors import ArgumentError, ShapeError
from quernel.models.classifier import pooled
from quernel.models.language import LanguageModel
from quernel.nn.checks import operand, positive
from quernel.ops.create import arange
from quernel.ops.shapes import check_lengths, check_rank
from quernel.tensor import Tensor


class _Transformer(nn.Module):
    """What both have: vectors of tokens and of positions, layers that take them further, and a head."""

    _owner: str
    max_len: int

    def _set_up(
        self, tokens: int, outputs: int, d_model: int, heads: int, layers: int, max_len: int, dropout: float
    ) -> None:
        self.tokens, self.d_model, self.heads = tokens, d_model, heads
        self.layers, self.max_len, self.dropout = layers, max_len, dropout
        self.embed = self._table("tokens", tokens, d_model)
        self.positions = self._table("max_len", max_len, d_model)
        self.drop = nn.Dropout(dropout)
        # They start apart, unlike those of `nn.TransformerEncoder`.
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(d_model, heads, 4 * d_model, dropout, "gelu", norm_first=True)
            for _ in range(positive(self._owner, "layers", layers))
        )
        self.norm = nn.LayerNorm(d_model)
        self.head = nn.Linear(d_model, outputs)

    def _table(self, name: str, count: int, d_model: int) -> nn.Embedding:
        """Vectors that start normal with standard deviation 0.02, as GPT-2's."""
        table = nn.Embedding(positive(self._owner, name, count), d_model)
        nn.init.normal_(table.weight, 0.0, 0.02)
        return table

    def _vectors(self, x: Tensor, cache: nn.KeyValueCache | None = None) -> Tensor:
        """Those of the tokens x (N, T), which come after what the cache holds, and of their positions."""
        x = operand(self._owner, "x", x)
        check_rank(self._owner, "x", x.shape, 2, "(N, T)")
        count = x.shape[1]
        if cache is None or recording.current() is None:  # a replay's positions are checked as indices
            self._check_end(count if cache is None else len(cache) + count, x)
        places = arange(count, device=x.device) if cache is None else cache.positions(count, x.device)
        y: Tensor = self.drop(self.embed(x) + self.positions(places))
        return y

    def _check_end(self, end: int, x: Tensor) -> None:
        if end > self.max_len:
            raise ShapeError(
                f"[{self._owner}] sequences have at most max_len={self.max_len} tokens, got {end} (x: {x.shape})"
            )


class TransformerClassifier(_Transformer):
    """Tokens and positions as vectors, layers of a Transformer's encoder, the mean over time, and scores of classes.

    Args:
        tokens: how many there are, ``len(vocabulary)``.
        classes: outputs.
        d_model: size of the vectors.
        heads: of the attention; they divide d_model.
        layers: of the encoder.
        max_len: length of the longest sequence.
        dropout: of the vectors and in the layers.

    Shapes:
        x (N, T) whole numbers, lengths (N,) from 1 to T -> scores (N, classes). What lies behind a row's length has no part.

    Raises:
        ShapeError: T is above max_len.
        ArgumentError: a length is out of range.

    Example:
        >>> from quernel import models
        >>> net = models.TransformerClassifier(100, classes=2)
        >>> net(np.ones((3, 7), np.int64), np.array([7, 2, 4])).shape
        (3, 2)
    """

    _owner = "transformer_classifier"

    def __init__(
        self,
        tokens: int,
        classes: int,
        d_model: int = 64,
        heads: int = 4,
        layers: int = 2,
        max_len: int = 256,
        dropout: float = 0.1,
    ) -> None:
        self.classes = classes
        self._set_up(tokens, classes, d_model, heads, layers, max_len, dropout)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores of classes."""
        y = self._vectors(x)
        if y.shape[1] == 0:
            raise ShapeError(
                f"[{self._owner}] x has no tokens, of which there is no mean (x: {tuple(y.shape[:2])}, (N, T))"
            )
        padding = None
        if lengths is not None:
            check_lengths(self._owner, "lengths", lengths, y.shape[0], f"x: {y.shape[:2]}")
            padding = ops.logical_not(ops.sequence_mask(lengths, y.shape[1]))
        for block in self.blocks:
            y = block(y, src_key_padding_mask=padding)
        z: Tensor = self.head(pooled(self.norm(y), lengths, "mean"))
        return z


class TransformerLanguageModel(_Transformer, LanguageModel):
    """A small GPT: tokens and positions as vectors, layers of causal attention, and the scores of the token that follows.

    Args:
        tokens: how many there are, ``len(vocabulary)``.
        d_model: size of the vectors.
        heads: of the attention; they divide d_model.
        layers: how many.
        max_len: length of the longest sequence, prompt and all.
        dropout: of the vectors and in the layers.

    Shapes:
        x (N, T) whole numbers -> scores (N, T, tokens). Targets of "cross_entropy" are (N, T), the tokens one later.

    Raises:
        ShapeError: T is above max_len.

    Example:
        >>> from quernel import models
        >>> net = models.TransformerLanguageModel(100, max_len=64)
        >>> net(np.ones((3, 7), np.int64)).shape
        (3, 7, 100)
        >>> len(net.generate([1, 2, 3], 5, seed=0))
        5
    """

    _owner = "transformer_language_model"

    def __init__(
        self,
        tokens: int,
        d_model: int = 64,
        heads: int = 4,
        layers: int = 2,
        max_len: int = 256,
        dropout: float = 0.1,
    ) -> None:
        self._set_up(tokens, tokens, d_model, heads, layers, max_len, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Scores for whole sequences."""
        y = self._vectors(x)
        for block in self.blocks:
            y = block(y, is_causal=True)
        z: Tensor = self.head(self.norm(y))
        return z

    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """See `LanguageModel`, in evaluation; the state, a cache of keys and values for each layer, is changed in place."""
        caches = [nn.KeyValueCache() for _ in self.blocks] if state is None else state
        y = self._vectors(x, caches[0])
        for block, cache in zip(self.blocks, caches, strict=True):
            assert isinstance(block, nn.TransformerEncoderLayer)
            y = block.decode(y, cache)
        return self.head(self.norm(y)), caches

    def _begin(self, length: int) -> Any:
        return [nn.KeyValueCache(1 << (length - 1).bit_length()) for _ in self.blocks]

    def _check_length(self, prompt: int, length: int) -> None:
        if prompt + length > self.max_len:
            raise ArgumentError(
                f"[generate] a prompt of {prompt} tokens and {length} more are above the model's max_len={self.max_len}"
            )
