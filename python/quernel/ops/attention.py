"""Scaled dot-product attention, fused: no matrix of all scores is in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from quernel import _core, random
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError, QuernelError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.op import Spec, op
from quernel.ops.operands import native
from quernel.ops.shapes import check_floating, check_same_dtype, is_number, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

_Shape = tuple[int, ...]


def _check_mask(name: str, mask: Any, dtype: str, scores: _Shape, dims: str) -> None:
    spec = spec_of(mask)
    if spec.dtype not in ("bool", dtype):
        raise DTypeError(
            f"[{name}] attn_mask is bool (True = takes part) or {dtype}, as q is, got {spec.dtype}; "
            "cast it with .astype()"
        )
    padded = (1,) * (len(scores) - len(spec.shape)) + spec.shape
    if len(padded) != len(scores) or any(m not in (1, n) for m, n in zip(padded, scores, strict=True)):
        raise ShapeError(f"[{name}] attn_mask of shape {spec.shape} does not broadcast to {dims} = {scores}")


def _check_numbers(name: str, dropout_p: float, scale: float | None, is_causal: bool, past: Any) -> None:
    if isinstance(dropout_p, bool) or not is_number(dropout_p) or not 0 <= dropout_p <= 1:
        raise ArgumentError(f"[{name}] dropout_p is a probability in [0, 1], got {dropout_p!r}")
    if scale is not None and not (is_number(scale) and math.isfinite(scale)):
        raise ArgumentError(f"[{name}] scale must be finite, got {scale!r}")
    if not isinstance(is_causal, int | np.bool_):
        raise ArgumentError(f"[{name}] is_causal is True or False, got {is_causal!r}")
    if isinstance(past, Tensor):
        if past.dtype != "int64" or past.size != 1 or not is_causal:
            raise ArgumentError(
                f"[{name}] past is one int64 beside a causal mask, got {past.dtype} {past.shape} with is_causal={is_causal}"
            )
    elif not _is_count(past) or (past and not is_causal):
        raise ArgumentError(
            f"[{name}] past counts the keys before the first query of a causal mask, got {past} "
            f"with is_causal={is_causal}"
        )


def _is_count(past: Any) -> bool:
    """Whether a sum of it and a number of queries is one of 64 bits."""
    return isinstance(past, int | np.integer) and 0 <= int(past) < 2**62


def _attend(
    operands: tuple[Tensor, Tensor | None, Tensor | None],
    mask: TensorLike | None,
    heads: int,
    dropout_p: float,
    is_causal: bool,
    past: int | Tensor,
    scale: float,
) -> Tensor:
    q, k, v = map(native, operands)
    summand = None if mask is None else as_tensor(mask)
    past_at = past._t if isinstance(past, Tensor) else None
    how = heads, bool(is_causal), past if past_at is None else past_at, scale, float(dropout_p)
    assert q is not None
    inputs = *operands, summand
    wanted = needs_grad(*inputs)
    y, lse, drawn = _core.attention(q, k, v, native(summand), *how, random.default_generator(), wanted)
    if not wanted:
        return Tensor(y)
    wants = [t is not None and bool(t._requires_grad) for t in inputs]

    def backward(
        g: Tensor,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        mask: Tensor | None,
        y: Tensor,
        lse: Tensor,
        drawn: Tensor | None,
        _past: Tensor | None,  # saved for its version alone
    ) -> Gradients:
        rows, columns, values, summand = map(native, (q, k, v, mask))
        assert rows is not None
        saved = y._t, lse._t, native(drawn)
        found = _core.attention_grad(rows, columns, values, summand, *how, *saved, g._t, *wants)
        return [None if t is None else Tensor(t) for t in found]

    return put_on_tape(y, inputs, backward, (q, k, v, native(summand), y, lse, drawn, past_at))


def _sdpa_rule(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    past: int | Tensor = 0,
) -> Spec:
    name = "scaled_dot_product_attention"
    query, key, value = spec_of(q), spec_of(k), spec_of(v)
    check_floating(name, "q", query.dtype)
    check_same_dtype(name, "q", query.dtype, "k", key.dtype)
    check_same_dtype(name, "q", query.dtype, "v", value.dtype)
    rank = len(query.shape)
    if rank not in (2, 3, 4) or len(key.shape) != rank or len(value.shape) != rank:
        raise ShapeError(
            f"[{name}] q, k and v have 2 to 4 dimensions (N, H, T, D), all the same number, "
            f"got {query.shape}, {key.shape} and {value.shape}"
        )
    lead = query.shape[:-2]
    if key.shape[:-2] != lead or value.shape[:-2] != lead:
        raise ShapeError(
            f"[{name}] q, k and v differ before their last two dimensions: "
            f"{query.shape}, {key.shape} and {value.shape}; repeat the heads of k and v with ops.repeat_interleave"
        )
    if key.shape[-1] != query.shape[-1]:
        raise ShapeError(
            f"[{name}] k has {key.shape[-1]} columns, q has {query.shape[-1]} (q: {query.shape}, k: {key.shape})"
        )
    if key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"[{name}] v has {value.shape[-2]} rows, k has {key.shape[-2]} (k: {key.shape}, v: {value.shape})"
        )
    if attn_mask is not None:
        dims = ("(Tq, Tk)", "(N, Tq, Tk)", "(N, H, Tq, Tk)")[rank - 2]
        _check_mask(name, attn_mask, query.dtype, (*lead, query.shape[-2], key.shape[-2]), dims)
    _check_numbers(name, dropout_p, scale, is_causal, past)
    return Spec((*query.shape[:-1], value.shape[-1]), query.dtype)


@op(shape=_sdpa_rule)
def scaled_dot_product_attention(
    q: TensorLike,
    k: TensorLike,
    v: TensorLike,
    attn_mask: TensorLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    past: int | Tensor = 0,
) -> Tensor:
    """Returns ``dropout(softmax(q kᵀ scale + mask)) v`` for each head, without the matrix of scores in memory.

    Vaswani et al., "Attention Is All You Need", arXiv 1706.03762; blocks of scores with running maxima and sums as in Dao
    et al., arXiv 2205.14135. The gradient computes the scores again, and draws what was dropped again. A query that no
    key takes part for gives zeros and gets zero gradients (a plain softmax gives NaN there).

    Args:
        q: (N, H, Tq, D), (N, Tq, D) or (Tq, D), floating.
        k: (N, H, Tk, D), and so on.
        v: (N, H, Tk, Dv), and so on.
        attn_mask: broadcasts to (N, H, Tq, Tk): bool, True = the key takes part, or numbers that are added to the
            scores, such as a learned bias: their gradient is summed where they are broadcast.
        dropout_p: probability of leaving a weight out; the others are divided by ``1 - dropout_p``. Pass 0 in evaluation:
            as in PyTorch, the function knows of no mode. Weight (n, h, i, j) has the draw that `dropout` would give it in
            a matrix (N, H, Tq, Tk) whose rows are padded to a multiple of 4.
        is_causal: Whether query i sees only keys up to i, beside what the mask says; for Tq ≠ Tk too, as in PyTorch.
        scale: Factor of the scores; None is 1 / sqrt(D).
        past: With ``is_causal``, how many keys lie before the first query: query i sees keys up to ``past + i``. Of a
            tensor, one int64, a jitted step's replay reads the number anew.

    Raises:
        ShapeError: The shapes do not fit.
        DTypeError: Operands of different dtypes, or that are no floats.
        ArgumentError: ``past`` is negative or stands without ``is_causal``; ``dropout_p`` is no probability.

    Example:
        >>> q = qn.ones((1, 2, 3, 4))
        >>> qn.ops.scaled_dot_product_attention(q, q, q, is_causal=True).shape
        (1, 2, 3, 4)
    """
    operands = as_tensor(q), as_tensor(k), as_tensor(v)
    spec = _sdpa_rule(*operands, attn_mask, dropout_p, is_causal, scale, past)
    factor = 1 / math.sqrt(max(operands[0]._t.shape[-1], 1)) if scale is None else float(scale)
    missing = 4 - len(spec.shape)
    if not missing:
        return _attend(operands, attn_mask, 0, dropout_p, is_causal, past, factor)
    mask = attn_mask
    if mask is not None and len(spec_of(mask).shape) == 3:  # (N, Tq, Tk), of one head each
        mask = as_tensor(mask)
        mask = mask.reshape(mask.shape[0], 1, *mask.shape[1:])
    lead = (1, 1) if missing == 2 else (spec.shape[0], 1)
    heads = tuple(t.reshape(*lead, *t.shape[-2:]) for t in operands)
    return _attend((heads[0], heads[1], heads[2]), mask, 0, dropout_p, is_causal, past, factor).reshape(
        spec.shape
    )


def _parts_of(q: Any, k: Any, v: Any) -> tuple[int, int]:
    """How many operands the rows of q and of k hold."""
    if k is None:
        return 3, 0
    if v is not None:
        return 1, 1
    return 3 if q.shape and k.shape and 2 * q.shape[-1] == 3 * k.shape[-1] else 1, 2


def _check_heads(name: str, num_heads: Any) -> None:
    if isinstance(num_heads, bool) or not hasattr(num_heads, "__index__") or num_heads < 1:
        raise ArgumentError(f"[{name}] num_heads is a positive integer, got {num_heads!r}")


def _multi_head_rule(
    q: Any,
    k: Any = None,
    v: Any = None,
    num_heads: int = 1,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    past: int | Tensor = 0,
    training: bool = True,  # noqa: ARG001
) -> Spec:
    name = "multi_head_attention"
    _check_heads(name, num_heads)
    if k is None and v is not None:
        raise ArgumentError(f"[{name}] v comes with k; give both, k alone (with v behind it) or neither")
    query = spec_of(q)
    check_floating(name, "q", query.dtype)
    key, value = (None if t is None else spec_of(t) for t in (k, v))
    q_parts, k_parts = _parts_of(query, key, value)
    for n, spec, parts in (("q", query, q_parts), ("k", key, k_parts), ("v", value, 1)):
        if spec is None:
            continue
        check_same_dtype(name, "q", query.dtype, n, spec.dtype)
        if len(spec.shape) != 3 or spec.shape[-1] % (parts * num_heads):
            holds = "" if parts == 1 else f" for each of the {parts} operands in its rows"
            raise ShapeError(
                f"[{name}] {n} must be (N, T, columns) with a multiple of num_heads={num_heads} columns{holds}, "
                f"got {spec.shape}"
            )
        if spec.shape[0] != query.shape[0]:
            raise ShapeError(f"[{name}] {n} has {spec.shape[0]} samples, q has {query.shape[0]}")
    width = query.shape[-1] // q_parts
    keys = query.shape if key is None else key.shape
    if key is not None and keys[-1] // k_parts != width:
        raise ShapeError(f"[{name}] k of shape {keys} does not fit q of shape {query.shape}")
    columns = width if value is None else value.shape[-1]
    if value is not None and value.shape[1] != keys[1]:
        raise ShapeError(f"[{name}] v has {value.shape[1]} rows, k has {keys[1]}")
    if attn_mask is not None:
        scores = query.shape[0], int(num_heads), query.shape[1], keys[1]
        _check_mask(name, attn_mask, query.dtype, scores, "(N, H, Tq, Tk)")
    _check_numbers(name, dropout_p, scale, is_causal, past)
    return Spec((*query.shape[:2], columns), query.dtype)


@op(shape=_multi_head_rule)
def multi_head_attention(
    q: TensorLike,
    k: TensorLike | None = None,
    v: TensorLike | None = None,
    num_heads: int = 1,
    attn_mask: TensorLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    past: int | Tensor = 0,
    training: bool = True,
) -> Tensor:
    """Returns `scaled_dot_product_attention` of heads that lie side by side in rows, where they are: nothing is copied.

    Without ``v``, the rows of ``k`` hold it behind their own columns; without ``k``, those of ``q`` hold all three, as
    one projection makes them.

    Args:
        q: (N, Tq, H·D), or (N, T, 3·H·D), of which beside a k without v the first H·D columns count.
        k: (N, Tk, H·D), or (N, Tk, 2·H·D).
        v: (N, Tk, H·Dv).
        num_heads: H.
        attn_mask: as in `scaled_dot_product_attention`, and so are the others.
        is_causal: Whether query i sees only keys up to i.
        scale: Factor of the scores; None is 1 / sqrt(D).
        past: How many keys lie before the first query, a number or a tensor of one int64.
        training: Whether ``dropout_p`` means anything, as in `dropout`.

    Returns:
        (N, Tq, H·Dv).

    Raises:
        ShapeError: The shapes do not fit.
        ArgumentError: ``num_heads`` is not positive, or ``v`` comes without ``k``.

    Example:
        >>> qn.ops.multi_head_attention(qn.ones((2, 5, 3 * 8)), num_heads=2).shape
        (2, 5, 8)
    """
    first = as_tensor(q)
    second, third = (None if t is None else as_tensor(t) for t in (k, v))
    _check_heads("multi_head_attention", num_heads)
    _check_numbers("multi_head_attention", dropout_p, scale, is_causal, past)
    parts = _parts_of(first, second, third)[0]
    if parts == 3 and second is not None and needs_grad(first, second, attn_mask):
        first, parts = first[..., : first.shape[-1] // 3], 1
    factor = scale
    if factor is None:
        columns = first._t.shape[-1] if first._t.shape else 0
        factor = 1 / math.sqrt(max(columns // (parts * num_heads), 1))
    p = dropout_p if training else 0.0
    try:
        return _attend((first, second, third), attn_mask, int(num_heads), p, is_causal, past, float(factor))
    except (QuernelError, TypeError):
        _multi_head_rule(first, second, third, num_heads, attn_mask, dropout_p, is_causal, scale, past)
        raise


def append_rows_(y: Tensor, length: Tensor, rows: TensorLike) -> Tensor:
    """Writes rows behind the ``length`` rows that ``y`` holds, in place, and adds their number to ``length``.

    A jitted step that does so is one plan whatever the length. It is for caches of keys and values: of wider rows, such as
    one projection makes with the queries in front, the last columns are taken.

    Args:
        y: (N, capacity, C).
        length: (1,), int64, how many rows count so far.
        rows: (N, t, C) or wider.

    Returns:
        What ``length`` was, as a tensor of its own: ``past`` of `multi_head_attention`.

    Raises:
        OutOfRangeError: there is no room for the rows. Nothing has been written.
        ShapeError: The rows do not fit.

    Example:
        >>> y, length = qn.zeros((1, 4, 2)), qn.zeros((1,), dtype="int64")
        >>> [qn.ops.append_rows_(y, length, qn.ones((1, t, 2))).item() for t in (3, 1)], length.item()
        ([0, 3], 4)
    """
    for name, value in (("y", y), ("length", length)):
        if not isinstance(value, Tensor):
            raise DTypeError(
                f"[append_rows_] {name} is written in place and must be a tensor, got {type(value).__name__}; qn.tensor() makes one"
            )
    return Tensor(_core.append_rows_(y._t, length._t, as_tensor(rows)._t))


def length_now(length: Tensor) -> int:
    """The number in a ``length`` of `append_rows_`, also while a step is recorded: a replay would refuse where it is too large."""
    return _core.length_now(length._t)
