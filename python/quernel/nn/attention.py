"""Multi-head attention."""

from __future__ import annotations

import math

from quernel import ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.nn import init
from quernel.nn.checks import positive
from quernel.nn.linear import Linear
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.ops.create import zeros
from quernel.ops.dtypes import INTEGER
from quernel.tensor import Tensor

_LAYER = "multihead_attention"


class KeyValueCache:
    """Keys and values of the positions that `MultiheadAttention.decode` has seen, for one sequence or batch of them.

    Attributes:
        rows: (N, T, 2·embed_dim), keys and behind them values; None before the first position.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.rows is None else self.rows.shape[1]

    def append(self, rows: Tensor) -> Tensor:
        """Adds positions; returns all."""
        if self.rows is not None:
            if rows.shape[0] != self.rows.shape[0]:
                raise ShapeError(
                    f"[{_LAYER}] the cache holds {self.rows.shape[0]} sequences, got {rows.shape[0]}; begin a new one"
                )
            rows = ops.concat([self.rows, rows], 1)
        self.rows = rows
        return rows


class MultiheadAttention(Module):
    """Attention of several heads between projections: Concat(head_1, …, head_h) W_out, head_i = softmax(q kᵀ / √D) v.

    Vaswani et al., "Attention Is All You Need", arXiv 1706.03762. Names of parameters and their first values are
    PyTorch's: projections uniform after Glorot, biases 0. Sequences are (N, T, C), the batch first. Only the output is
    returned; the weights of the keys are nowhere in memory. There is no dropout of these weights.

    Args:
        embed_dim: size of the queries and of the output.
        num_heads: it divides embed_dim.
        bias: whether projections add one.
        kdim: size of the keys; None is embed_dim.
        vdim: size of the values; None is embed_dim.

    Shapes:
        query (N, Tq, embed_dim), key (N, Tk, kdim), value (N, Tk, vdim) -> y (N, Tq, embed_dim). in_proj_weight
        (3·embed_dim, embed_dim), or q_proj_weight, k_proj_weight and v_proj_weight (embed_dim, size) where sizes differ.

    Raises:
        ArgumentError: num_heads does not divide embed_dim; a value comes without a key.

    Example:
        >>> nn.MultiheadAttention(8, 2)(np.ones((4, 5, 8)), is_causal=True).shape
        (4, 5, 8)
    """

    takes_integers = True  # to refuse them as masks, of which they would be numbers to add

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
    ) -> None:
        self.embed_dim = positive(_LAYER, "embed_dim", embed_dim)
        self.num_heads = positive(_LAYER, "num_heads", num_heads)
        if self.embed_dim % self.num_heads:
            raise ArgumentError(
                f"[{_LAYER}] num_heads={self.num_heads} does not divide embed_dim={self.embed_dim}"
            )
        self.kdim = self.embed_dim if kdim is None else positive(_LAYER, "kdim", kdim)
        self.vdim = self.embed_dim if vdim is None else positive(_LAYER, "vdim", vdim)
        self.bias = bool(bias)
        same = self.kdim == self.vdim == self.embed_dim
        self.in_proj_weight = self._projection(3 * self.embed_dim, self.embed_dim) if same else None
        self.q_proj_weight = None if same else self._projection(self.embed_dim, self.embed_dim)
        self.k_proj_weight = None if same else self._projection(self.embed_dim, self.kdim)
        self.v_proj_weight = None if same else self._projection(self.embed_dim, self.vdim)
        self.in_proj_bias = Parameter(zeros((3 * self.embed_dim,))) if bias else None
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    @staticmethod
    def _projection(outputs: int, inputs: int) -> Parameter:
        weight = Parameter(zeros((outputs, inputs)))
        init.xavier_uniform_(weight)
        return weight

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Applies the layer.

        Args:
            query: what asks.
            key: what answers; None is the query.
            value: what the answers weigh; None is the key.
            key_padding_mask: (N, Tk), bool, True where a key is left out.
            attn_mask: (Tq, Tk), (N·num_heads, Tq, Tk) or (N, num_heads, Tq, Tk): bool, True where a key is left out as in
                PyTorch's layer (its function, `ops.scaled_dot_product_attention`, means the contrary), or numbers that
                are added to the scores.
            is_causal: whether query i sees only keys up to i.
        """
        if key is None and value is not None:
            raise ArgumentError(f"[{_LAYER}] value comes without key; pass key too")
        key = query if key is None else key
        value = key if value is None else value
        for name, x, size in (
            ("query", query, self.embed_dim),
            ("key", key, self.kdim),
            ("value", value, self.vdim),
        ):
            if x.ndim != 3 or x.shape[-1] != size:
                raise ShapeError(f"[{_LAYER}] {name} must be (N, T, {size}), got {x.shape}")
        mask = self._mask(query, key, key_padding_mask, attn_mask)
        operands = self._project(query, key, value)
        y: Tensor = self.out_proj(ops.multi_head_attention(*operands, self.num_heads, mask, is_causal))
        return y

    def decode(self, x: Tensor, cache: KeyValueCache) -> Tensor:
        """Causal self-attention of the next positions of a sequence, x (N, t, embed_dim), over all before and of them.

        A sequence fed in pieces of any length gives the bits of ``forward(sequence, is_causal=True)``.

        Example:
            >>> net, cache = nn.MultiheadAttention(8, 2), nn.KeyValueCache()
            >>> [net.decode(np.ones((1, t, 8)), cache).shape for t in (3, 1)], len(cache)
            ([(1, 3, 8), (1, 1, 8)], 4)
        """
        x, size, past = self._as_input(x), self.embed_dim, len(cache)
        if self.in_proj_weight is None:
            raise ArgumentError(
                f"[{_LAYER}] decode needs kdim and vdim of embed_dim={size}, as self-attention does"
            )
        if x.ndim != 3 or x.shape[-1] != size:
            raise ShapeError(f"[{_LAYER}] x must be (N, t, {size}), got {x.shape}")
        rows = ops.linear(x, self.in_proj_weight, self.in_proj_bias)
        seen = cache.append(rows[:, :, size:])
        y = ops.multi_head_attention(rows[:, :, :size], seen, None, self.num_heads, is_causal=True, past=past)
        z: Tensor = self.out_proj(y)
        return z

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The operands of `ops.multi_head_attention`: as few products as inputs."""
        weight, bias, size = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        if weight is not None and key is query and value is key:
            return ops.linear(query, weight, bias), None, None
        parts = slice(0, size), slice(size, 2 * size), slice(2 * size, 3 * size)
        biases = [None if bias is None else bias[part] for part in parts]
        if weight is not None and value is key:
            both = slice(size, 3 * size)
            answers = ops.linear(key, weight[both], None if bias is None else bias[both])
            return ops.linear(query, weight[parts[0]], biases[0]), answers, None
        weights: list[Tensor | None] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        if weight is not None:
            weights = [weight[part] for part in parts]
        q, k, v = (
            ops.linear(x, w, b)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
            if w is not None
        )
        return q, k, v

    def _mask(self, query: Tensor, key: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """One mask, (…, Tq, Tk), True where a key takes part; numbers if those are added."""
        samples, queries, keys = query.shape[0], query.shape[1], key.shape[1]
        if mask is not None:
            wanted = (samples * self.num_heads, queries, keys)
            if mask.ndim == 3 and mask.shape != wanted:
                raise ShapeError(
                    f"[{_LAYER}] attn_mask of three dimensions must be (N·num_heads, Tq, Tk) = {wanted}, got {mask.shape}; of two "
                    "it is (Tq, Tk), for all samples and heads"
                )
            if mask.dtype in INTEGER:
                raise DTypeError(
                    f"[{_LAYER}] attn_mask is bool (True = left out) or numbers that are added to the scores, got {mask.dtype}; "
                    "compare it with == or !="
                )
            if mask.ndim == 3:
                mask = mask.reshape(samples, self.num_heads, queries, keys)
            if mask.dtype == "bool":
                mask = ops.logical_not(mask)
        if padding is None:
            return mask
        if padding.dtype != "bool":
            raise DTypeError(
                f"[{_LAYER}] key_padding_mask is bool (True = left out), got {padding.dtype}; compare it with == or !="
            )
        if padding.shape != (samples, keys):
            raise ShapeError(f"[{_LAYER}] key_padding_mask must be {(samples, keys)}, got {padding.shape}")
        kept = ops.logical_not(padding).reshape(samples, 1, 1, keys)
        if mask is None:
            return kept
        if mask.dtype == "bool":
            return ops.logical_and(mask, kept)
        return ops.where(kept, mask, -math.inf)

    def extra_repr(self) -> str:
        parts = [str(self.embed_dim), str(self.num_heads)]
        parts += [] if self.bias else ["bias=False"]
        parts += [f"{k}={v}" for k, v in (("kdim", self.kdim), ("vdim", self.vdim)) if v != self.embed_dim]
        return ", ".join(parts)
