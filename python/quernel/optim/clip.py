"""Clipping of gradients, in place, before an optimizer's step. Both may be part of a recorded step.

Gradients of parameters that lie side by side in an arena are clipped as one block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from quernel import ops
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, StateError
from quernel.ops import optim as native
from quernel.optim.arena import Arena, find
from quernel.optim.group import refuse_module
from quernel.tensor import Tensor


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scales all gradients by min(1, max_norm / (norm + 1e-6)), norm being that of all of them together.

    As ``torch.nn.utils.clip_grad_norm_``; Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063.

    Args:
        parameters: whose gradients are clipped; those without one are skipped.
        max_norm: the largest norm that is left alone.
        norm_type: 2, 1 or ``math.inf``.
        error_if_nonfinite: raise instead of scaling by a norm that is NaN or infinite. This looks at the norm on the host, which
            keeps a recorded step eager.

    Returns:
        The norm before.

    Raises:
        ArgumentError: `max_norm` is not positive, or the norm is another one.
        StateError: the norm is not finite, and `error_if_nonfinite`.

    Example:
        >>> w = qn.tensor([0.0, 0.0], requires_grad=True)
        >>> (w * qn.tensor([3.0, 4.0])).sum().backward()
        >>> optim.clip_grad_norm_([w], 1.0).item()
        5.0
        >>> [round(g, 5) for g in w.grad.tolist()]
        [0.6, 0.8]
    """
    if not max_norm > 0:
        raise ArgumentError(f"[clip_grad_norm_] max_norm is positive, got {max_norm!r}")
    if norm_type not in (1, 2, math.inf):
        raise ArgumentError(f"[clip_grad_norm_] norm_type is 1, 2 or math.inf, got {norm_type!r}")
    gradients = _gradients("clip_grad_norm_", parameters)
    if not gradients:
        return ops.as_tensor(0.0)
    with no_grad():
        total = _norm(gradients, norm_type)
        if error_if_nonfinite and not math.isfinite(total.item()):
            raise StateError(f"[clip_grad_norm_] the norm of the gradients is {total.item()}")
        factor = ops.minimum(max_norm / (total + 1e-6), 1.0)
        for g in gradients:
            g[...] = g * ops.cast(factor, g.dtype)
    return total


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Clips every element of every gradient to [-clip_value, clip_value], as ``torch.nn.utils.clip_grad_value_``.

    Raises:
        ArgumentError: `clip_value` is not positive.
    """
    if not clip_value > 0:
        raise ArgumentError(f"[clip_grad_value_] clip_value is positive, got {clip_value!r}")
    with no_grad():
        for g in _gradients("clip_grad_value_", parameters):
            g[...] = ops.clip(g, -clip_value, clip_value)


def _norm(gradients: list[Tensor], norm_type: float) -> Tensor:
    if norm_type == 2:
        parts = [ops.sum(ops.square(g)) for g in gradients]
    elif norm_type == 1:
        parts = [ops.sum(ops.abs(g)) for g in gradients]
    else:
        parts = [ops.max(ops.abs(g)) for g in gradients]
    dtype = "float64" if any(part.dtype == "float64" for part in parts) else "float32"
    total = ops.cast(parts[0], dtype)
    for part in parts[1:]:
        total = (ops.maximum if norm_type == math.inf else ops.add)(total, ops.cast(part, dtype))
    return ops.sqrt(total) if norm_type == 2 else total


def _gradients(name: str, parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    """The gradients, those of neighbours in an arena as one flat tensor with the zeros between them."""
    refuse_module(name, parameters)
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    alone: list[Tensor] = []
    placed: dict[Arena, list[int]] = {}
    for p in listed:
        if not isinstance(p, Tensor):
            raise ArgumentError(f"[{name}] parameters are tensors, got {type(p).__name__}")
        g = p.grad
        if isinstance(g, ops.RowGradient):  # what pads it is zero
            alone.append(g.padded)
            continue
        if g is None or not g.size:
            continue
        arena = find(p._t)
        if arena is None:
            alone.append(g)
        else:
            placed.setdefault(arena, []).append(arena.places[p._t.identity].position)
    return alone + [block for arena, positions in placed.items() for block in _blocks(arena, positions)]


def _blocks(arena: Arena, positions: list[int]) -> list[Tensor]:
    ends = {place.position: (place.begin, place.end) for place in arena.places.values()}
    blocks: list[Tensor] = []
    wanted = sorted(set(positions))
    first = wanted[0]
    for at, following in zip(wanted, [*wanted[1:], -1], strict=True):
        if following != at + 1:
            begin, end = ends[first][0], ends[at][1]
            blocks.append(Tensor(native.view(arena.grads, begin, end - begin)))
            first = following
    return blocks
