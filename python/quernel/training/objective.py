"""What is minimized and what is measured: a loss and metrics for each output of a model."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import losses, ops
from quernel.errors import ArgumentError, ShapeError
from quernel.losses import LOSSES, Loss
from quernel.metrics import Metric, as_metric
from quernel.nn import loss as layers
from quernel.nn.module import Module
from quernel.suggest import suggestion
from quernel.tensor import Tensor

Array = NDArray[Any]
Logs = dict[str, float]
Losses = tuple[Loss | None, ...]

_FUNCTION_OF = {
    layers.BCELoss: losses.binary_cross_entropy,
    layers.BCEWithLogitsLoss: losses.binary_cross_entropy_with_logits,
    layers.CrossEntropyLoss: losses.cross_entropy,
    layers.CTCLoss: losses.ctc,
    layers.FocalLoss: losses.focal,
    layers.HuberLoss: losses.huber,
    layers.KLDivLoss: losses.kl_divergence,
    layers.L1Loss: losses.mae,
    layers.MSELoss: losses.mse,
    layers.NLLLoss: losses.nll,
    layers.SmoothL1Loss: losses.smooth_l1,
}


@dataclass(frozen=True)
class Recipe:
    """What the user gave to `compile`, its names resolved. Outputs are not known yet.

    Attributes:
        loss: a function, or one for each output in a sequence or by name.
        loss_weights: likewise; None weighs all alike.
        metrics: those that count all samples alike.
        weighted_metrics: those that are given the samples' weights.
    """

    loss: Any
    loss_weights: Any = None
    metrics: Any = ()
    weighted_metrics: Any = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """What another model is compiled with, to have the same losses and metrics."""
        return dict(vars(self))


@dataclass(frozen=True)
class Head:
    """One output: its loss, the weight of that, and its metrics by the names that they have in the history."""

    name: str
    loss: Loss | None
    weight: float
    metrics: Mapping[str, Metric]
    weighted_metrics: Mapping[str, Metric]

    @property
    def is_used(self) -> bool:
        """Whether anything looks at the output, so that a target is needed."""
        return self.loss is not None or bool(self.metrics) or bool(self.weighted_metrics)

    def value(self, loss: Loss, output: Any, target: Any, weight: Tensor | None) -> Tensor:
        """The loss of a batch; with weights, the mean over the samples of their losses, each times its weight."""
        return loss(output, target) if weight is None else _weighted(loss, output, target, weight)

    def update(self, output: Any, target: Array | None, weight: Array | None) -> None:
        """Takes a batch into the metrics."""
        if target is None:
            return
        for metric in self.metrics.values():
            metric.update(output, target)
        for metric in self.weighted_metrics.values():
            metric.update(output, target, weight)


@dataclass(frozen=True)
class Heads:
    """All outputs.

    Attributes:
        names: of the outputs; None if the model returns one tensor, or the loss takes all that it returns.
        heads: one for each.
    """

    names: tuple[str, ...] | None
    heads: tuple[Head, ...]

    @property
    def functions(self) -> Losses:
        """The losses; `values` is handed them, so that `qn.jit` finds them in a variable of the step."""
        return tuple(head.loss for head in self.heads)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """What `values` returns, as the history calls it."""
        if self.names is None:
            return ("loss",)
        return ("loss", *(f"{head.name}_loss" for head in self.heads if head.loss is not None))

    @property
    def log_names(self) -> tuple[str, ...]:
        """Everything that an epoch's logs contain, validation aside."""
        return (*self.loss_names, *(name for name, _ in self._metrics()))

    def _metrics(self) -> Iterator[tuple[str, Metric]]:
        for head in self.heads:
            yield from head.metrics.items()
            yield from head.weighted_metrics.items()

    def outputs(self, output: Any) -> tuple[Any, ...]:
        """What the model returned, one item per head."""
        return (output,) if self.names is None else parts_of(output, self.names)

    def values(
        self, functions: Losses, output: Any, targets: Sequence[Any], weights: Sequence[Tensor | None]
    ) -> tuple[Tensor, ...]:
        """The loss, and with several outputs the loss of each before its weight."""
        total: Tensor | None = None
        each: list[Tensor] = []
        for head, loss, part, target, weight in zip(
            self.heads, functions, self.outputs(output), targets, weights, strict=True
        ):
            if loss is None:
                continue
            value = head.value(loss, part, target, weight)
            each.append(value)
            scaled = value if head.weight == 1 else value * head.weight
            total = scaled if total is None else total + scaled
        assert total is not None  # `bind` has seen to it
        return (total,) if self.names is None else (total, *each)

    def measured(self, output: Any) -> tuple[Any, ...]:
        """The outputs that metrics look at, None for the others: what nobody reads need not leave the step."""
        return tuple(
            [
                part if head.metrics or head.weighted_metrics else None
                for head, part in zip(self.heads, self.outputs(output), strict=True)
            ]
        )

    def reset(self) -> None:
        """Forgets what the metrics have gathered."""
        for _, metric in self._metrics():
            metric.reset()

    def update(
        self, outputs: Sequence[Any], targets: Sequence[Array | None], weights: Sequence[Array | None]
    ) -> None:
        """Takes a batch into the metrics; `outputs` as `measured` returns them."""
        for head, output, target, weight in zip(self.heads, outputs, targets, weights, strict=True):
            if output is not None:
                head.update(as_arrays(output), target, weight)

    def compute(self) -> Logs:
        """The metrics of all batches since `reset`."""
        return {name: float(metric.compute()) for name, metric in self._metrics()}


def names_of(output: Any) -> tuple[str, ...] | None:
    """What the outputs of a model are called; None for a single tensor."""
    if isinstance(output, Mapping):
        return tuple(map(str, output))
    if isinstance(output, tuple | list):
        fields: tuple[str, ...] | None = getattr(output, "_fields", None)
        return fields or tuple(f"output_{i}" for i in range(len(output)))
    return None


def parts_of(output: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The outputs in the order of their names."""
    return tuple([output[name] for name in names]) if isinstance(output, Mapping) else tuple(output)


def as_arrays(output: Any) -> Any:
    """The structure of an output with arrays for its tensors."""
    if isinstance(output, Tensor):
        return output.numpy()
    if isinstance(output, Mapping):
        return {name: as_arrays(part) for name, part in output.items()}
    if isinstance(output, tuple | list):
        return tuple(as_arrays(part) for part in output)
    return output


# ---- losses ---------------------------------------------------------------------------------------------------------


def resolved(loss: Any) -> Any:
    """The functions that a user's loss, list or dictionary of losses stands for."""
    if isinstance(loss, Mapping):
        return {name: None if item is None else resolved(item) for name, item in loss.items()}
    if isinstance(loss, list | tuple):
        return tuple(None if item is None else resolved(item) for item in loss)
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ArgumentError(f"[compile] unknown loss {loss!r}{suggestion(loss, LOSSES)}")
        return LOSSES[loss]
    if isinstance(loss, type):
        raise ArgumentError(f"[compile] loss is a class; make one: {loss.__name__}()")
    if not callable(loss):
        raise ArgumentError(f"[compile] loss is a name or a function, got {loss!r}")
    return loss


def function_of(loss: Any) -> Any:
    """The library's function behind a loss: itself, what a partial holds, or what a loss module calls."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return _FUNCTION_OF.get(type(loss), loss)


def name_of(loss: Any) -> str:
    """A loss as messages call it."""
    function = function_of(loss)
    return str(getattr(function, "__name__", type(function).__name__))


def _weighted(loss: Any, output: Any, target: Any, weight: Tensor) -> Tensor:
    """The weighted loss: by the loss itself if it takes ``sample_weight``, else from the losses of each sample."""
    parameters = _parameters(loss)
    value: Tensor
    if "sample_weight" in parameters:
        value = loss(output, target, sample_weight=weight)
        return value
    if _is_module(loss):
        each, reduction = copy.copy(loss), loss.reduction
        each.__dict__["reduction"] = "none"
        value = each(output, target)
    else:
        check_takes_weights(loss)
        value, reduction = loss(output, target, reduction="none"), parameters["reduction"].default
    if value.ndim == 0 or value.shape[0] != weight.shape[0]:
        raise ShapeError(
            f"[fit] with reduction='none' {name_of(loss)} gives {value.shape}, expected a loss for each of "
            f"{weight.shape[0]} samples, so that weights can be applied"
        )
    value = ops.mul(value, ops.reshape(weight, weight.shape + (1,) * (value.ndim - 1)))
    if reduction == "sum":
        return ops.sum(value)
    if reduction == "batchmean":
        return ops.div(ops.sum(value), float(value.shape[0]))
    return ops.mean(value)


def check_takes_weights(loss: Any) -> None:
    """Raises if a loss cannot be weighted."""
    if not _is_module(loss) and not {"sample_weight", "reduction"} & set(_parameters(loss)):
        raise ArgumentError(
            f"[fit] sample_weight and class_weight need the loss of each sample, which {name_of(loss)} does not give; "
            "let it take reduction='mean' and return one loss per sample for reduction='none'"
        )


def _is_module(loss: Any) -> bool:
    return isinstance(loss, Module) and hasattr(loss, "reduction")


def _parameters(loss: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(loss.forward if isinstance(loss, Module) else loss).parameters
    except (TypeError, ValueError):
        return {}


# ---- outputs --------------------------------------------------------------------------------------------------------


def bind(recipe: Recipe, names: tuple[str, ...] | None, threshold: Callable[[Any], float | None]) -> Heads:
    """Gives each output its loss and metrics.

    Args:
        recipe: what the user wants.
        names: of the outputs, or None for one.
        threshold: what decides between two classes, given a loss; for metrics that are no objects.
    """
    if names is None:
        return Heads(None, (_only_head(recipe, threshold),))
    wanted = _per_output("loss", recipe.loss, names, None)
    weights = _per_output("loss_weights", recipe.loss_weights, names, None)
    metrics = _per_output("metrics", recipe.metrics, names, ())
    weighted = _per_output("weighted_metrics", recipe.weighted_metrics, names, ())
    if all(loss is None for loss in wanted):
        raise ArgumentError("[compile] no output has a loss")
    heads = []
    for i, name in enumerate(names):
        limit = threshold(wanted[i])
        heads.append(
            Head(
                name,
                wanted[i],
                1.0 if weights[i] is None else float(weights[i]),
                _named(metrics[i], f"{name}_", limit),
                _named(weighted[i], f"{name}_", limit),
            )
        )
    return Heads(names, tuple(heads))


def _only_head(recipe: Recipe, threshold: Callable[[Any], float | None]) -> Head:
    loss, weight = recipe.loss, recipe.loss_weights
    for option, value in (("loss", loss), ("metrics", recipe.metrics), ("loss_weights", weight)):
        if isinstance(value, Mapping) or (option == "loss" and isinstance(value, tuple) and len(value) != 1):
            raise ArgumentError(
                f"[compile] {option} is given for each of several outputs, the model returns one tensor"
            )
    if isinstance(loss, tuple):
        (loss,) = loss
    if isinstance(weight, list | tuple):
        (weight,) = weight
    limit = threshold(loss)
    metrics, weighted = _named(recipe.metrics, "", limit), _named(recipe.weighted_metrics, "", limit)
    return Head("", loss, 1.0 if weight is None else float(weight), metrics, weighted)


def _per_output(option: str, given: Any, names: tuple[str, ...], default: Any) -> list[Any]:
    """What is given for each output: by name, in their order, or once for all."""
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ArgumentError(
                f"[compile] {option} names {unknown[0]!r}, the model's outputs are {', '.join(names)}"
                + suggestion(str(unknown[0]), names)
            )
        return [given.get(name, default) for name in names]
    if isinstance(given, list | tuple) and given:
        if len(given) != len(names):
            raise ArgumentError(
                f"[compile] {option} has {len(given)} entries, the model returns {len(names)} outputs "
                f"({', '.join(names)}); give one entry for each, or a dictionary"
            )
        return [default if item is None else item for item in given]
    if option == "loss_weights" and given is not None:
        raise ArgumentError("[compile] loss_weights is a list or a dictionary, with a number for each output")
    if isinstance(given, Metric):
        raise ArgumentError(
            "[compile] one Metric object cannot serve several outputs; give a dictionary of metrics"
        )
    return [given or default] * len(names)


def listed(metrics: Any) -> list[Any]:
    """Metrics as a list, however they were given."""
    if metrics is None:
        return []
    return [metrics] if isinstance(metrics, str | Metric) or callable(metrics) else list(metrics)


def _named(metrics: Any, prefix: str, threshold: float | None) -> dict[str, Metric]:
    made = [as_metric(metric, threshold) for metric in listed(metrics)]
    return {f"{prefix}{metric.name}": metric for metric in made}


def check_metrics(metrics: Any) -> None:
    """Raises if something among the metrics, as far as they are known before the outputs are, is none."""
    if isinstance(metrics, Mapping):
        for item in metrics.values():
            check_metrics(item)
    else:
        for item in listed(metrics):
            if isinstance(item, list | tuple):
                check_metrics(item)
            elif item is not None:
                as_metric(item)


def check_weights(loss_weights: Any) -> None:
    """Raises if loss weights are no numbers."""
    given = loss_weights.values() if isinstance(loss_weights, Mapping) else loss_weights
    for value in given if isinstance(given, Iterable) else [given]:
        if value is not None and not (isinstance(value, int | float) and np.isfinite(value)):
            raise ArgumentError(f"[compile] loss_weights are finite numbers, got {value!r}")
