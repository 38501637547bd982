"""Data checked against the model: before the first step, and for every batch of a loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel import losses, random
from quernel.autograd import no_grad
from quernel.errors import ArgumentError, ShapeError
from quernel.nn.module import Module
from quernel.nn.sized import SizedByInput
from quernel.ops import as_tensor
from quernel.runtime import device
from quernel.tensor import Tensor
from quernel.training.checks import check_finite, check_target
from quernel.training.objective import Heads, function_of, name_of, names_of
from quernel.training.samples import Samples, as_numbers, checked_inputs, is_array, per_output
from quernel.training.trainer import Trainer, mode
from quernel.training.weights import checked_weights

Array = NDArray[Any]


@contextmanager
def unchanged_on_error(net: Module) -> Iterator[None]:
    """If the block raises, sizes that it has inferred are open again and the random stream is where it was."""
    generator = random.default_generator()
    stream = generator.seed, generator.base
    unsized = [module for module in net.modules() if isinstance(module, SizedByInput) and not module.is_sized]
    try:
        yield
    except BaseException:
        for layer in unsized:
            if layer.is_sized:
                layer._unsize()
        generator.set(*stream)
        raise


def checked_samples(
    verb: str, trainer: Trainer, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None
) -> Samples:
    """Inputs, targets and weights that fit together, the model and the losses.

    Raises:
        ArgumentError: there are no samples, a number is not finite, a label or a weight is out of range.
        ShapeError: lengths or shapes do not fit.
        DTypeError: a loss wants other targets.
    """
    net = trainer.net
    if y is None:
        raise ArgumentError(f"[{verb}] y is missing; pass targets, or x as an iterable of (x, y) batches")
    inputs = checked_inputs(verb, net, x)
    if len(inputs) == 0:
        raise ArgumentError(f"[{verb}] there are no samples: x has shape {inputs.inputs[0].shape}")
    for i, array in enumerate(inputs.inputs):
        check_finite(verb, "x" if len(inputs.inputs) == 1 else f"x[{i}]", array)
    with unchanged_on_error(net):
        return _against_model(verb, trainer, inputs, y, sample_weight, class_weight)


def _against_model(
    verb: str, trainer: Trainer, inputs: Samples, y: Any, sample_weight: Any, class_weight: Any
) -> Samples:
    net = trainer.net
    if is_array(y):  # what can be told before the model runs
        _check_lengths(verb, inputs, "y", y)
    stream = random.default_generator()
    key = net._structure, inputs.keywords, [(a.shape[1:], a.dtype) for a in inputs.inputs]
    if trainer.seen is not None and trainer.seen[0] == key:
        output, probed = trainer.seen[1:]
    else:
        output, probed = _probe(net, inputs), None
    heads = trainer.bind(_names(trainer, output, y))
    outputs = heads.outputs(output)
    targets = _targets(verb, net, heads, outputs, inputs, y)
    weights = checked_weights(
        verb, heads, sample_weight, class_weight, targets, outputs, len(inputs), net.dtype
    )
    signature = [None if t is None else (t.shape[1:], t.dtype) for t in targets], [w is None for w in weights]
    if probed != signature:  # a loss may object to what no check here knows
        position = stream.seed, stream.base
        with device(net.device):
            _try_losses(heads, output, targets, weights)
        stream.set(*position)
    trainer.seen = (net._structure, *key[1:]), output, signature  # sizes may have been inferred
    return Samples(inputs.inputs, inputs.keywords, targets, weights)


def _names(trainer: Trainer, output: Any, y: Any) -> tuple[str, ...] | None:
    """Names of the outputs that have losses of their own; None if one loss takes all that the model returns."""
    names = names_of(output)
    one_target = not isinstance(y, tuple | dict) and not (isinstance(y, list) and all(map(is_array, y)))
    loss = trainer.recipe.loss
    if names is not None and one_target and callable(loss) and not _is_ours(loss):
        return None
    if isinstance(output, tuple) and one_target and function_of(loss) is losses.ctc:
        return None  # log_probs and their lengths
    return names


def _is_ours(loss: Any) -> bool:
    return str(getattr(function_of(loss), "__module__", "")).startswith("quernel.")


def _targets(
    verb: str, net: Module, heads: Heads, outputs: tuple[Any, ...], inputs: Samples, y: Any
) -> tuple[Array | None, ...]:
    given = per_output(verb, "y", y, heads.names, [not head.is_used for head in heads.heads])
    targets: list[Array | None] = []
    for (name, value), head, output in zip(given, heads.heads, outputs, strict=True):
        if value is None or not head.is_used:
            targets.append(None)
            continue
        if head.loss is not None and heads.names is not None and not isinstance(output, Tensor):
            raise ArgumentError(
                f"[{verb}] output {head.name!r} is a {type(output).__name__}, {name_of(head.loss)} wants a tensor; "
                "return a flat tuple or a dictionary of tensors"
            )
        target = as_numbers(verb, name, value, net.dtype)
        _check_lengths(verb, inputs, name, target)
        check_finite(verb, name, target)
        if target.dtype.kind in "biu":
            target = target.astype(np.int64)
        check_target(verb, name, head.loss, target, output)
        targets.append(target)
    return tuple(targets)


def _check_lengths(verb: str, inputs: Samples, name: str, target: Any) -> None:
    shape = np.shape(target)
    if shape and shape[0] != len(inputs):
        raise ShapeError(f"[{verb}] x has {len(inputs)} samples, {name} has {shape[0]}")


def _probe(net: Module, inputs: Samples) -> Any:
    """What the model makes of the first sample, in evaluation mode. It also infers sizes left None."""
    first, named = inputs.arguments
    with mode(net, training=False), no_grad():
        return net(*[a[:1] for a in first], **{name: a[:1] for name, a in named.items()})


def _try_losses(
    heads: Heads, output: Any, targets: tuple[Array | None, ...], weights: tuple[Array | None, ...]
) -> None:
    """Computes the losses of the first sample, whose errors come before the first step that way."""

    def first(array: Array | None) -> Tensor | None:
        return None if array is None else as_tensor(np.ascontiguousarray(array[:1]))

    with no_grad():
        values: Sequence[Any] = heads.values(
            heads.functions, output, [first(t) for t in targets], [first(w) for w in weights]
        )
    for name, value in zip(heads.loss_names, values, strict=True):
        if not isinstance(value, Tensor) or value.ndim:
            got = f"a tensor of shape {value.shape}" if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"[fit] {name} is {got}; a loss returns one number for the batch, such as a mean"
            )
