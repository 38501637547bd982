"""`Module.compile`: names and options become a `Trainer`."""

from __future__ import annotations

import math
from typing import Any

from quernel.errors import ArgumentError
from quernel.nn.module import Module
from quernel.optim import OPTIMIZERS, Optimizer
from quernel.runtime import check_device
from quernel.suggest import suggestion
from quernel.training.objective import Recipe, check_metrics, check_weights, resolved
from quernel.training.trainer import Clipping, Trainer

# The dtype of the parameters, and what layers that have a choice (`Module._has_precision`) get as their `precision`.
_PRECISIONS = {"fp32": ("float32", None), "fp64": ("float64", None), "bf16": ("float32", "bf16")}


def compile(
    net: Module,
    optimizer: Any,
    loss: Any,
    metrics: Any,
    *,
    loss_weights: Any,
    weighted_metrics: Any,
    clip_norm: float | None,
    clip_value: float | None,
    device: str,
    precision: str,
    run_eagerly: bool,
) -> None:
    """See `Module.compile`."""
    place = check_device(device)
    given: object = precision
    if not isinstance(given, str) or given not in _PRECISIONS:
        raise ArgumentError(
            f"[compile] unknown precision {precision!r}{suggestion(str(precision), _PRECISIONS)}"
        )
    have, (wanted, products) = net.dtype, _PRECISIONS[precision]
    if have is not None and have != wanted:
        raise ArgumentError(
            f"[compile] the parameters are {have}, precision {precision!r} wants {wanted}; call net.to({wanted!r})"
        )
    layers: list[Any] = [module for module in net.modules() if module._has_precision]
    if products is not None and not layers:
        raise ArgumentError(
            f"[compile] precision {precision!r} concerns the products of linear, convolutional, recurrent and attention "
            "layers, and the model has none; use 'fp32'"
        )
    check_metrics(metrics)
    check_metrics(weighted_metrics)
    check_weights(loss_weights)
    recipe = Recipe(resolved(loss), loss_weights, metrics, weighted_metrics)
    clipping = Clipping(_limit("clip_norm", clip_norm), _limit("clip_value", clip_value))
    chosen = _optimizer(net, optimizer)
    net.to(place)
    for layer in layers:
        if layer.precision != products:
            layer.precision = products
    net._session["trainer"] = Trainer(
        net, chosen, recipe, clipping, run_eagerly, trains_all=isinstance(optimizer, str)
    )


def _limit(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ArgumentError(f"[compile] {name} is a positive number or None, got {value!r}")
    return float(value)


def _optimizer(net: Module, given: Any) -> Optimizer | None:
    """The optimizer that is meant; None for a model without parameters."""
    if isinstance(given, Optimizer):
        mine = {id(p) for p in net.parameters()}
        if mine and not any(id(p) in mine for group in given.param_groups for p in group.params):
            raise ArgumentError(
                "[compile] the optimizer has no parameter of this model; make it of net.parameters() of the same net"
            )
        return given
    if not isinstance(given, str):
        raise ArgumentError(f"[compile] optimizer is a name or an optimizer, got {given!r}")
    if given not in OPTIMIZERS:
        raise ArgumentError(f"[compile] unknown optimizer {given!r}{suggestion(given, OPTIMIZERS)}")
    if not any(p.requires_grad for p in net.parameters()):
        return None
    return OPTIMIZERS[given](net.parameters())
