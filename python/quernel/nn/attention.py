"""Multi-head attention."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from quernel import ops, recording
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.nn import init
from quernel.nn.checks import in_unit_interval, operand, positive
from quernel.nn.linear import Linear
from quernel.nn.module import Module
from quernel.nn.parameter import Parameter
from quernel.ops.attention import length_now
from quernel.ops.create import arange, full, zeros
from quernel.ops.dtypes import INTEGER
from quernel.ops.shapes import whole_number
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

_LAYER = "multihead_attention"


class KeyValueCache(recording.State):
    """Keys and values of the positions that `MultiheadAttention.decode` has seen, for one sequence or batch of them.

    Its memory grows to powers of two, so that a position costs what it holds, however long the sequence. How many it
    holds is a number in memory like the rows: a jitted step that decodes replays one plan for as long as there is room. A
    cache that is an argument of the step shares this plan with others of its size.

    Args:
        capacity: room for so many positions from the start, so that it need not grow.

    Example:
        >>> net, cache = nn.MultiheadAttention(8, 2), nn.KeyValueCache(capacity=100)
        >>> step = qn.jit(net.decode)
        >>> [step(np.ones((1, 1, 8), np.float32), cache).shape for _ in range(50)][-1], len(cache)
        ((1, 1, 8), 50)
    """

    def __init__(self, capacity: int = 0) -> None:
        self._capacity = whole_number(_LAYER, "capacity", capacity)
        self._made = 0  # how often `parts` were, which tells plans that the memory is another

    def __len__(self) -> int:
        recording.host_read("the length of a KeyValueCache")
        return self._length()

    @property
    def rows(self) -> Tensor | None:
        """(N, T, 2·embed_dim), keys and behind them values; None before the first position."""
        if not self.parts:
            return None
        held: Tensor = self.parts[0]
        length = len(self)
        return held if held.shape[1] == length else held[:, :length]

    def append(self, rows: Tensor) -> Tensor:
        """Adds positions, without their gradients.

        Returns:
            What the cache holds, (N, capacity, 2·embed_dim): the first ``len(cache)`` rows are positions.
        """
        return self.take(rows, rows.shape[2])[0]

    @no_grad()
    def take(self, rows: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """`append` of the last ``columns`` of rows; also returns how many positions came before, as one int64."""
        if self.parts:
            count, _, wide = self.parts[0].shape
            if rows.shape[0] != count:
                raise ShapeError(
                    f"[{_LAYER}] the cache holds {count} sequences, got {rows.shape[0]}; begin a new one"
                )
            if columns != wide:
                raise ShapeError(
                    f"[{_LAYER}] the cache holds rows of {wide} columns, got {columns}; begin a new one"
                )
        self._make_room(rows, columns)
        held, length = self.parts
        return held, ops.append_rows_(held, length, rows)

    def positions(self, count: int, device: str) -> Tensor:
        """The numbers of the next so many positions, (count,), int64."""
        places = arange(count, device=device)
        if self.parts:
            self._watch()
            places = places + self.parts[1]
        return places

    def once(self, make: Callable[[], Tensor]) -> Tensor:
        """What the cache holds; an empty one first takes in the rows that ``make`` gives, and has room for no more."""
        if self.parts:
            self._watch()
        else:
            rows = make()
            self._set(rows, rows.shape[1])
        held: Tensor = self.parts[0]
        return held

    def truncate(self, length: int) -> None:
        """Forgets the positions from ``length`` on, as where a search goes back to an earlier one."""
        if whole_number(_LAYER, "length", length, None) not in range(len(self) + 1):
            raise ArgumentError(f"[{_LAYER}] the cache holds {len(self)} positions, got length={length}")
        if self.parts:
            self.parts[1][...] = length

    def _length(self) -> int:
        return length_now(self.parts[1]) if self.parts else 0

    def _make_room(self, rows: Tensor, columns: int) -> None:
        """Takes more memory if it is needed. A replay never needs it: there the write is refused, and the call runs eagerly."""
        length = self._length()
        end, before = length + rows.shape[1], self.parts
        if before and end <= before[0].shape[1]:
            self._watch()
            return
        capacity = max(self._capacity, 1 << (end - 1).bit_length())
        held = zeros((rows.shape[0], capacity, columns), rows.dtype, device=rows.device)
        if before:
            held[:, :length] = before[0][:, :length]
        self._set(held, length)

    def _set(self, held: Tensor, length: int) -> None:
        current = recording.current()
        if current is not None:
            current.abandon("a KeyValueCache takes memory", may_succeed_later=True)
        recording.on_rollback(partial(setattr, self, "parts", self.parts))
        self.parts = held, full((1,), length, "int64", device=held.device)
        self._made += 1
        recording.host_write("a KeyValueCache")

    def _watch(self) -> None:
        """Ties the plan being recorded to the memory, unless that is an argument."""
        current = recording.current()
        if current is not None and all(state is not self for state in current.states):
            recording.guard(self, "_made", self._made)


def check_cache(layer: str, cache: object, kind: type) -> None:
    """Raises ArgumentError unless the cache is of this class."""
    if not isinstance(cache, kind):
        raise ArgumentError(f"[{layer}] cache is an nn.{kind.__name__}, got {type(cache).__name__}")


class MultiheadAttention(Module):
    """Attention of several heads between projections: Concat(head_1, …, head_h) W_out, head_i = softmax(q kᵀ / √D) v.

    Vaswani et al., "Attention Is All You Need", arXiv 1706.03762. Names of parameters and their first values are
    PyTorch's: projections uniform after Glorot, biases 0. Sequences are (N, T, C), the batch first. Unlike PyTorch's, the
    layer returns the output alone unless ``need_weights=True`` asks for the weights too: they are nowhere in memory.

    Args:
        embed_dim: size of the queries and of the output.
        num_heads: it divides embed_dim.
        dropout: probability of leaving a key's weight out in training.
        bias: whether projections add one.
        kdim: size of the keys; None is embed_dim.
        vdim: size of the values; None is embed_dim.
        precision: "bf16" multiplies in the projections in bfloat16 with float32 sums, see `ops.linear`; scores and what
            they weigh stay float32. `compile` sets it.

    Shapes:
        query (N, Tq, embed_dim), key (N, Tk, kdim), value (N, Tk, vdim) -> y (N, Tq, embed_dim). in_proj_weight
        (3·embed_dim, embed_dim), or q_proj_weight, k_proj_weight and v_proj_weight (embed_dim, size) where sizes differ.

    Raises:
        ArgumentError: num_heads does not divide embed_dim; a value comes without a key.

    Example:
        >>> nn.MultiheadAttention(8, 2)(np.ones((4, 5, 8)), is_causal=True).shape
        (4, 5, 8)
    """

    _has_precision = True
    takes_integers = True  # to refuse them as masks, of which they would be numbers to add

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        precision: str | None = None,
    ) -> None:
        self.embed_dim = positive(_LAYER, "embed_dim", embed_dim)
        self.num_heads = positive(_LAYER, "num_heads", num_heads)
        if self.embed_dim % self.num_heads:
            raise ArgumentError(
                f"[{_LAYER}] num_heads={self.num_heads} does not divide embed_dim={self.embed_dim}"
            )
        self.kdim = self.embed_dim if kdim is None else positive(_LAYER, "kdim", kdim)
        self.vdim = self.embed_dim if vdim is None else positive(_LAYER, "vdim", vdim)
        self.dropout = in_unit_interval(_LAYER, "dropout", dropout)
        self.bias = bool(bias)
        self.precision = precision
        same = self.kdim == self.vdim == self.embed_dim
        self.in_proj_weight = self._projection(3 * self.embed_dim, self.embed_dim) if same else None
        self.q_proj_weight = None if same else self._projection(self.embed_dim, self.embed_dim)
        self.k_proj_weight = None if same else self._projection(self.embed_dim, self.kdim)
        self.v_proj_weight = None if same else self._projection(self.embed_dim, self.vdim)
        self.in_proj_bias = Parameter(zeros((3 * self.embed_dim,))) if bias else None
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias, precision)
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
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Applies the layer.

        Args:
            query: what asks.
            key: what answers; None is the query.
            value: what the answers weigh; None is the key.
            key_padding_mask: (N, Tk), bool, True where a key is left out.
            need_weights: whether to return the weights of the keys as well, for looking at: the output has the same bits,
                the weights are computed once more, before dropout, as a matrix in memory.
            attn_mask: (Tq, Tk), (N·num_heads, Tq, Tk) or (N, num_heads, Tq, Tk): bool, True where a key is left out as in
                PyTorch's layer (its function, `ops.scaled_dot_product_attention`, means the contrary), or numbers that
                are added to the scores.
            average_attn_weights: whether the weights are the heads' mean.
            is_causal: whether query i sees only keys up to i.

        Returns:
            y (N, Tq, embed_dim), or (y, weights): (N, Tq, Tk), or (N, num_heads, Tq, Tk) of every head.
        """
        if key is None and value is not None:
            raise ArgumentError(f"[{_LAYER}] value comes without key; pass key too")
        query = operand(_LAYER, "query", query)
        key = query if key is None else operand(_LAYER, "key", key)
        value = key if value is None else operand(_LAYER, "value", value)
        for name, x, size in (
            ("query", query, self.embed_dim),
            ("key", key, self.kdim),
            ("value", value, self.vdim),
        ):
            self._check(name, x, size)
        mask = self._mask(query, key, key_padding_mask, attn_mask)
        operands = self._project(query, key, value)
        heads = ops.multi_head_attention(
            *operands, self.num_heads, mask, self.dropout, is_causal, training=self.training
        )
        y: Tensor = self.out_proj(heads)
        if not need_weights:
            return y
        weights = self._weights(operands[0], operands[1], mask, is_causal)
        return y, weights.mean(1) if average_attn_weights else weights

    @no_grad()
    def decode(self, x: Tensor, cache: KeyValueCache) -> Tensor:
        """Causal self-attention of the next positions of a sequence, x (N, t, embed_dim), over all before and of them.

        A sequence fed in pieces of any length gives the bits of ``forward(sequence, is_causal=True)`` in evaluation. It is
        for generating: there is no dropout, and nothing gets a gradient.

        Example:
            >>> net, cache = nn.MultiheadAttention(8, 2), nn.KeyValueCache()
            >>> [net.decode(np.ones((1, t, 8)), cache).shape for t in (3, 1)], len(cache)
            ([(1, 3, 8), (1, 1, 8)], 4)
        """
        recording.guard_structure(self)
        check_cache(_LAYER, cache, KeyValueCache)
        x, size = operand(_LAYER, "x", self._as_input(x)), self.embed_dim
        weight = self._joint_weight("decode")
        self._check("x", x, size)
        rows = ops.linear(x, weight, self.in_proj_bias, precision=self.precision)
        held, past = cache.take(rows, 2 * size)  # rows that are not written yet lie behind the causal mask
        y = ops.multi_head_attention(rows, held, None, self.num_heads, is_causal=True, past=past)
        z: Tensor = self.out_proj(y)
        return z

    @no_grad()
    def decode_memory(
        self, x: Tensor, memory: Tensor, cache: KeyValueCache, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """Attention of the next positions over a memory, whose keys and values an empty cache takes in once.

        It has the bits of ``forward(x, memory, key_padding_mask=key_padding_mask)`` in evaluation.
        """
        recording.guard_structure(self)
        check_cache(_LAYER, cache, KeyValueCache)
        x, memory = (operand(_LAYER, name, self._as_input(t)) for name, t in (("x", x), ("memory", memory)))
        size = self.embed_dim
        weight, bias = self._joint_weight("decode_memory"), self.in_proj_bias
        project = partial(ops.linear, precision=self.precision)
        self._check("x", x, size)
        self._check("memory", memory, size)
        held = cache.once(lambda: project(memory, weight[size:], None if bias is None else bias[size:]))
        if held.shape[:2] != memory.shape[:2]:
            raise ShapeError(
                f"[{_LAYER}] the cache holds {held.shape[:2]} rows of another memory, this one is {memory.shape[:2]}; "
                "begin a new one"
            )
        mask = self._mask(
            x, memory, None if key_padding_mask is None else self._as_input(key_padding_mask), None
        )
        q = project(x, weight[:size], None if bias is None else bias[:size])
        y: Tensor = self.out_proj(ops.multi_head_attention(q, held, None, self.num_heads, mask))
        return y

    def _joint_weight(self, method: str) -> Tensor:
        if self.in_proj_weight is None:
            raise ArgumentError(
                f"[{_LAYER}] {method} needs kdim and vdim of embed_dim={self.embed_dim}, as self-attention does"
            )
        return self.in_proj_weight

    def _check(self, name: str, x: Tensor, size: int) -> None:
        if x.ndim != 3 or x.shape[-1] != size:
            raise ShapeError(f"[{_LAYER}] {name} must be (N, T, {size}), got {x.shape}")

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The operands of `ops.multi_head_attention`: as few products as inputs."""
        weight, bias, size = self.in_proj_weight, self.in_proj_bias, self.embed_dim
        project = partial(ops.linear, precision=self.precision)
        if weight is not None and key is query and value is key:
            return project(query, weight, bias), None, None
        parts = slice(0, size), slice(size, 2 * size), slice(2 * size, 3 * size)
        biases = [None if bias is None else bias[part] for part in parts]
        if weight is not None and value is key:
            both = slice(size, 3 * size)
            answers = project(key, weight[both], None if bias is None else bias[both])
            return project(query, weight[parts[0]], biases[0]), answers, None
        weights: list[Tensor | None] = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        if weight is not None:
            weights = [weight[part] for part in parts]
        q, k, v = (
            project(x, w, b)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
            if w is not None
        )
        return q, k, v

    def _weights(self, q: Tensor, k: Tensor | None, mask: Tensor | None, is_causal: bool) -> Tensor:
        """Softmax of the scores of projected rows, (N, num_heads, Tq, Tk); 0 for a query without keys, as fused."""
        size = self.embed_dim
        if (q if k is None else k).shape[1] == 0:
            return zeros((q.shape[0], self.num_heads, q.shape[1], 0), q.dtype, device=q.device)
        k = q[:, :, size : 2 * size] if k is None else k[:, :, :size]
        q, k = (
            t.reshape(*t.shape[:2], self.num_heads, size // self.num_heads).transpose(1, 2)
            for t in (q[:, :, :size], k)
        )
        scores = ops.matmul(q, k.transpose(2, 3)) * (1 / math.sqrt(size // self.num_heads))
        if mask is not None:
            scores = ops.where(mask, scores, -math.inf) if mask.dtype == "bool" else scores + mask
        if is_causal:
            queries, keys = (arange(n, device=scores.device) for n in scores.shape[2:])
            scores = ops.where(ops.le(keys, ops.unsqueeze(queries, 1)), scores, -math.inf)
        without = ops.eq(ops.max(scores, -1, keepdim=True), -math.inf)
        return ops.where(without, 0.0, ops.softmax(ops.where(without, 0.0, scores), -1))

    def _mask(self, query: Tensor, key: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """One mask, (…, Tq, Tk), True where a key takes part; numbers if those are added."""
        samples, queries, keys = query.shape[0], query.shape[1], key.shape[1]
        if mask is not None:
            mask = operand(_LAYER, "attn_mask", mask)
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
        padding = operand(_LAYER, "key_padding_mask", padding)
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
        parts += [f"dropout={self.dropout}"] if self.dropout else []
        parts += [] if self.bias else ["bias=False"]
        parts += [f"{k}={v}" for k, v in (("kdim", self.kdim), ("vdim", self.vdim)) if v != self.embed_dim]
        parts += [f"precision={self.precision!r}"] if self.precision else []
        return ", ".join(parts)
