"""Classifiers of texts and other sequences of tokens."""

from __future__ import annotations

from quernel import nn, ops
from quernel.nn.checks import one_of, positive
from quernel.tensor import Tensor

_POOLINGS = ("max", "mean", "last")


def pooled(x: Tensor, lengths: Tensor | None, kind: str) -> Tensor:
    """The largest or the mean of vectors (N, T, C) over time, as far as the rows go (lengths (N,); None: all)."""
    if lengths is None:
        return ops.max(x, 1) if kind == "max" else ops.mean(x, 1)
    inside = ops.unsqueeze(ops.sequence_mask(lengths, x.shape[1]), -1)
    if kind == "max":
        return ops.max(ops.where(inside, x, float("-inf")), 1)
    return ops.sum(ops.where(inside, x, 0.0), 1) / ops.unsqueeze(ops.cast(lengths, x.dtype), 1)


class LSTMClassifier(nn.Module):
    """Tokens as vectors, layers of LSTM over them, what they say pooled over time, and scores of classes.

    Args:
        tokens: how many there are, ``len(vocabulary)``.
        classes: outputs.
        embedding: size of a token's vector.
        hidden: size of the state of each layer and direction.
        layers: of the LSTM.
        bidirectional: whether it reads backwards too.
        pooling: over time: "max", "mean", or "last", the last state of each direction.
        dropout: of the vectors, between layers and before the scores.

    Shapes:
        x (N, T) whole numbers, lengths (N,) from 1 to T -> scores (N, classes). What lies behind a row's length has no part.

    Example:
        >>> from quernel import models
        >>> vocabulary = qn.text.WordVocabulary.build(["a fine film", "dull"])
        >>> net = models.LSTMClassifier(len(vocabulary), classes=2)
        >>> net(*vocabulary.encode_batch(["a fine film", "dull"])).shape
        (2, 2)
    """

    def __init__(
        self,
        tokens: int,
        classes: int,
        embedding: int = 32,
        hidden: int = 64,
        layers: int = 1,
        bidirectional: bool = True,
        pooling: str = "max",
        dropout: float = 0.0,
    ) -> None:
        self.tokens, self.classes, self.embedding = tokens, classes, embedding
        self.hidden, self.layers, self.bidirectional = hidden, layers, bidirectional
        self.pooling, self.dropout = one_of("lstm_classifier", "pooling", pooling, _POOLINGS), dropout
        self.embed = nn.Embedding(positive("lstm_classifier", "tokens", tokens), embedding)
        self.drop = nn.Dropout(dropout)
        self.lstm = nn.LSTM(
            embedding, hidden, layers,
            dropout=dropout, bidirectional=bidirectional, returns="last" if pooling == "last" else "outputs",
        )  # fmt: skip
        self.head = nn.Linear((2 if bidirectional else 1) * hidden, classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores of classes."""
        y = self.lstm(self.drop(self.embed(x)), lengths=lengths)
        if self.pooling != "last":
            y = pooled(y, lengths, self.pooling)
        z: Tensor = self.head(self.drop(y))
        return z
