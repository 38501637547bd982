"""Group norm and instance norm: the channels of each sample are normalized by themselves, in groups or one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.norm import batch_norm
from quernel.ops.op import Spec, op
from quernel.ops.shapes import check_floating, check_params, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _check(op: str, x: Any, params: dict[str, Any], eps: float, least_rank: int) -> Spec:
    spec = spec_of(x)
    check_floating(op, "x", spec.dtype)
    if len(spec.shape) < least_rank:
        raise ShapeError(
            f"[{op}] x must have at least {least_rank} dimensions (N, ..., C), got shape {spec.shape}"
        )
    check_params(op, spec, spec.shape[-1:], params)
    if not eps > 0:
        raise ArgumentError(f"[{op}] eps must be positive, got {eps}")
    return spec


def _normalized(
    x: Tensor, mean: _core.Tensor, var: _core.Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    w, b = (None if t is None else t._t for t in (weight, bias))
    y = _core.group_norm(x._t, mean, var, w, b, eps)
    if not needs_grad(x, weight, bias):
        return Tensor(y)
    wanted = [t is not None and bool(t._requires_grad) for t in (x, weight, bias)]

    def backward(g: Tensor, x: Tensor, mean: Tensor, var: Tensor, w: Tensor | None) -> Gradients:
        factor = None if w is None else w._t
        found = _core.group_norm_grad(x._t, g._t, mean._t, var._t, factor, eps)
        return [Tensor(t) if want else None for t, want in zip(found, wanted, strict=True)]

    return put_on_tape(y, (x, weight, bias), backward, (x._t, mean, var, w))


def _group_rule(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Spec:
    spec = _check("group_norm", x, {"weight": weight, "bias": bias}, eps, 2)
    if isinstance(num_groups, bool) or not hasattr(num_groups, "__index__") or num_groups < 1:
        raise ArgumentError(f"[group_norm] num_groups is a positive integer, got {num_groups!r}")
    if spec.shape[-1] % num_groups:
        raise ShapeError(
            f"[group_norm] num_groups={num_groups} does not divide the {spec.shape[-1]} channels (x: {spec.shape})"
        )
    if 0 in spec.shape[1:-1] and spec.shape[0] and spec.shape[-1]:
        raise ShapeError(f"[group_norm] a group needs at least one value (x: {spec.shape})")
    return spec


@op(shape=_group_rule)
def group_norm(
    x: TensorLike,
    num_groups: int,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Returns ``(x - mean) / sqrt(var + eps) * weight + bias`` with statistics per sample and group of channels.

    Mean and (biased) variance go over all positions and over ``C / num_groups`` neighbouring channels. Wu and He,
    "Group Normalization", arXiv 1803.08494.

    Args:
        x: (N, ..., C), floating.
        num_groups: How many groups there are; it divides C.
        weight: (C,), 1 if None.
        bias: (C,), 0 if None.
        eps: Added to the variance.

    Raises:
        ShapeError: The groups do not divide the channels, or a parameter has another shape.
        ArgumentError: ``num_groups`` or ``eps`` is not positive.

    Example:
        >>> qn.ops.group_norm(qn.ones((2, 8, 8, 6)), 3).shape
        (2, 8, 8, 6)
    """
    a = as_tensor(x)
    w, b = (None if t is None else as_tensor(t) for t in (weight, bias))
    _group_rule(a, num_groups, w, b, eps)
    mean, var = _core.group_norm_stats(a._t, int(num_groups))
    return _normalized(a, mean, var, w, b, eps)


def _instance_rule(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Spec:
    params = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    spec = _check("instance_norm", x, params, eps, 3)
    if (running_mean is None) != (running_var is None):
        raise ArgumentError("[instance_norm] running_mean and running_var come together, or neither does")
    if not use_input_stats and running_mean is None:
        raise ArgumentError("[instance_norm] use_input_stats=False needs running_mean and running_var")
    if not 0 <= momentum <= 1:
        raise ArgumentError(f"[instance_norm] momentum lies between 0 and 1, got {momentum}")
    if use_input_stats and math.prod(spec.shape[1:-1]) < 2 and spec.shape[0] and spec.shape[-1]:
        raise ShapeError(f"[instance_norm] needs at least 2 values per channel and sample (x: {spec.shape})")
    return spec


@op(shape=_instance_rule)
def instance_norm(
    x: TensorLike,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Returns ``(x - mean) / sqrt(var + eps) * weight + bias`` with statistics per sample and channel.

    Given running statistics, ``use_input_stats`` also moves them, in place, towards the mean over the samples:
    ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance; without it they are what is
    used, as in `batch_norm`. Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", arXiv 1607.08022.

    Args:
        x: (N, ..., C), floating, with at least 2 positions.
        running_mean: (C,), or None.
        running_var: (C,), likewise.
        weight: (C,), 1 if None.
        bias: (C,), 0 if None.
        use_input_stats: Whether to use (and to learn) the statistics of ``x``.
        momentum: Weight of ``x`` in the running statistics.
        eps: Added to the variance.

    Raises:
        ShapeError: The number of channels differs, or there are too few positions.
        ArgumentError: Statistics are missing, or a bad ``eps`` or ``momentum``.
    """
    a = as_tensor(x)
    w, b = (None if t is None else as_tensor(t) for t in (weight, bias))
    _instance_rule(a, running_mean, running_var, w, b, use_input_stats, momentum, eps)
    if not use_input_stats:
        return batch_norm(a, running_mean, running_var, w, b, False, momentum, eps)
    n, *positions, channels = a._t.shape
    mean, var = _core.group_norm_stats(a._t, max(channels, 1))
    y = _normalized(a, mean, var, w, b, eps)
    if running_mean is not None and running_var is not None and n:
        batch_mean, batch_var = _core.mean(mean, [0]), _core.mean(var, [0])
        rows = math.prod(positions)
        _core.batch_norm_update_(batch_mean, batch_var, running_mean._t, running_var._t, momentum, rows)
    return y
