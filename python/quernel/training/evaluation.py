"""`Module.evaluate`, `predict` and the verbs of one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from quernel.autograd import no_grad
from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.jit import jit
from quernel.nn.module import Module
from quernel.runtime import device
from quernel.tensor import Tensor
from quernel.training.checked import checked_samples
from quernel.training.loop import EVALUATION_BATCH
from quernel.training.objective import Logs
from quernel.training.samples import Samples, checked_inputs
from quernel.training.sources import is_loader, source
from quernel.training.trainer import Trainer, mode, trainer_of


def train_on_batch(net: Module, x: Any, y: Any, sample_weight: Any, class_weight: Any) -> Logs:
    """See `Module.train_on_batch`."""
    trainer = trainer_of(net, "train_on_batch")
    samples = checked_samples("train_on_batch", trainer, x, y, sample_weight, class_weight)
    heads = trainer.heads
    heads.reset()
    with mode(net, training=True):
        logs, outputs = trainer.train([samples])
    heads.update(outputs[0], samples.targets, samples.weights)
    return logs | heads.compute()


def test_on_batch(net: Module, x: Any, y: Any, sample_weight: Any) -> Logs:
    """See `Module.test_on_batch`."""
    trainer = trainer_of(net, "test_on_batch")
    return _tested(trainer, [checked_samples("test_on_batch", trainer, x, y, sample_weight)])


def evaluate(net: Module, x: Any, y: Any, batch_size: int | None, sample_weight: Any) -> Logs:
    """See `Module.evaluate`."""
    _check_batch_size("evaluate", batch_size)
    trainer = trainer_of(net, "evaluate")
    return _tested(trainer, source("evaluate", trainer, x, y, sample_weight).batches(batch_size, False))


def _tested(trainer: Trainer, batches: Iterable[Samples]) -> Logs:
    with mode(trainer.net, training=False), no_grad():
        return trainer.test(batches)


def predict_on_batch(net: Module, x: Any) -> Any:
    """See `Module.predict_on_batch`."""
    return _predicted(net, "predict_on_batch", [checked_inputs("predict_on_batch", net, x)])


def predict(net: Module, x: Any, batch_size: int | None) -> Any:
    """See `Module.predict`."""
    _check_batch_size("predict", batch_size)
    if is_loader(x, None) and not isinstance(x, list):
        return _predicted(net, "predict", _loaded(net, x))
    samples = checked_inputs("predict", net, x)
    parts = samples.batches(batch_size or EVALUATION_BATCH) if len(samples) else [samples]
    return _predicted(net, "predict", parts)


def _check_batch_size(verb: str, batch_size: Any) -> None:
    if batch_size is not None and (isinstance(batch_size, bool) or not batch_size >= 1):
        raise ArgumentError(f"[{verb}] batch_size is a positive integer or None, got {batch_size!r}")


def _loaded(net: Module, loader: Iterable[Any]) -> Iterator[Samples]:
    """The inputs of a loader's batches; of tuples, (x, y) and (x, y, sample_weight), the first item."""
    empty = True
    for item in loader:
        empty = False
        yield checked_inputs("predict", net, item[0] if isinstance(item, tuple) else item)
    if empty:
        raise ArgumentError("[predict] the loader is empty: it gives no batch")


def _predicted(net: Module, verb: str, batches: Iterable[Samples]) -> Any:
    step = net._session.get("predict")
    if step is None:
        step = net._session["predict"] = jit(net.__call__)
    with mode(net, training=False), no_grad():
        parts = []
        for batch in batches:
            inputs, named = batch.arguments
            with device(net.device):
                parts.append(step(*inputs, **named) if len(batch) else net(*inputs, **named))
            _check_outputs(verb, parts[0])
    return _joined(parts)


def _check_outputs(verb: str, output: Any) -> None:
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        for part in output:
            _check_outputs(verb, part)
    elif not isinstance(output, Tensor):
        raise DTypeError(f"[{verb}] the model returns {type(output).__name__}, expected tensors")
    elif output.ndim == 0:
        raise ShapeError(
            f"[{verb}] the model returns a single number for a whole batch, not an output per sample; call it directly"
        )


def _joined(parts: Sequence[Any]) -> Any:
    """Outputs of batches as one array, or tuples and dictionaries of them as the model returns them."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple | list):
        return tuple(_joined(column) for column in zip(*parts, strict=True))
    return np.concatenate([part.numpy() for part in parts])
