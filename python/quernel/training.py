"""`compile`, `fit`, `evaluate` and `predict`.

One step (forward, loss, backward, update) is a plain function; `qn.jit` makes it one native call, and ``run_eagerly``
calls it as it is, to the same bits. Data are checked before the first step, against what the model makes of one
sample: a call that raises leaves model, optimizer and random stream as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel import ops, random
from quernel.autograd import no_grad
from quernel.data.batching import batches
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError
from quernel.history import History
from quernel.jit import jit
from quernel.losses import LOSSES, Loss
from quernel.metrics import Metric, as_metric
from quernel.nn.module import Module
from quernel.optim import OPTIMIZERS, Optimizer
from quernel.progress import Progress, progress
from quernel.runtime import check_device
from quernel.suggest import suggestion
from quernel.tensor import Tensor
from quernel.training_data import Samples, checked_inputs, checked_samples, unchanged_on_error

if TYPE_CHECKING:
    from quernel.callbacks import Callback

_EVALUATION_BATCH = 256
_PRECISIONS = {"fp32": "float32", "fp64": "float64"}

Logs = dict[str, float]


class Trainer:
    """A compiled model.

    Attributes:
        net, optimizer, loss: what trains, and how.
        metrics: by the name that they have in the history.
        monitors: names that the logs of an epoch will contain, once training has begun.
        stop_training: set it to end a fit after the current epoch.
    """

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer | None,
        loss: Loss,
        metrics: dict[str, Metric],
        run_eagerly: bool,
    ) -> None:
        self.net = net
        self.optimizer = optimizer
        self.loss = loss
        self.metrics = metrics
        self.monitors: tuple[str, ...] = ()
        self.stop_training = False
        self.train_step, self.test_step = _steps(net, optimizer, loss, run_eagerly)

    def measure(
        self, step: Callable[..., Any], data: Iterable[tuple[NDArray[Any], ...]]
    ) -> Iterator[tuple[int, Logs]]:
        """Runs a step on each batch; yields its size, and its loss and metrics."""
        for *inputs, target in data:
            loss, output = step(target, *inputs)
            logs = {"loss": float(loss.item())}
            for name, metric in self.metrics.items():
                metric.reset()
                metric.update(output.numpy(), target)
                logs[name] = float(metric.compute())
            yield len(target), logs


def _steps(
    net: Module, optimizer: Optimizer | None, loss: Loss, run_eagerly: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The training step and the evaluation step; both return the loss and the output."""

    def train_step(target: Tensor, *inputs: Tensor) -> tuple[Tensor, Any]:
        assert optimizer is not None  # trainer_of has made sure
        optimizer.zero_grad()
        output = net(*inputs)
        value = loss(output, target)
        value.backward()
        optimizer.step()
        return value, output

    def test_step(target: Tensor, *inputs: Tensor) -> tuple[Tensor, Any]:
        output = net(*inputs)
        return loss(output, target), output

    train_step.__qualname__, test_step.__qualname__ = (
        f"{type(net).__name__}.{verb}" for verb in ("fit", "evaluate")
    )
    if not run_eagerly:
        return jit(train_step), jit(test_step)
    return _eagerly(train_step), _eagerly(test_step)


def _eagerly(step: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arrays: NDArray[Any]) -> Any:
        return step(*[ops.as_tensor(array) for array in arrays])

    return call


# ---- compile --------------------------------------------------------------------------------------------------------


def compile(
    net: Module,
    optimizer: str | Optimizer,
    loss: str | Loss,
    metrics: Iterable[Any],
    device: str,
    precision: str,
    run_eagerly: bool,
) -> None:
    """See `Module.compile`."""
    check_device(device)
    if precision not in _PRECISIONS:
        raise ArgumentError(f"[compile] unknown precision {precision!r}{suggestion(precision, _PRECISIONS)}")
    have, wanted = net.dtype, _PRECISIONS[precision]
    if have is not None and have != wanted:
        raise ArgumentError(
            f"[compile] the parameters are {have}, precision {precision!r} wants {wanted}; call net.to({wanted!r})"
        )
    chosen_loss = _named("loss", loss, LOSSES)
    named_metrics = {metric.name: metric for metric in map(as_metric, _listed(metrics))}
    if not isinstance(optimizer, str | Optimizer):
        raise ArgumentError(f"[compile] optimizer is a name or an optimizer, got {optimizer!r}")
    chosen: Optimizer | None
    if isinstance(optimizer, str):
        make = _named("optimizer", optimizer, OPTIMIZERS)
        chosen = make(net.parameters()) if any(p.requires_grad for p in net.parameters()) else None
    else:
        chosen = optimizer
    net._session["trainer"] = Trainer(net, chosen, chosen_loss, named_metrics, run_eagerly)


def _listed(metrics: Any) -> list[Any]:
    return [metrics] if isinstance(metrics, str | Metric) or callable(metrics) else list(metrics)


def _named(kind: str, value: Any, known: dict[str, Any]) -> Any:
    """What a name stands for; anything callable stands for itself."""
    if isinstance(value, str):
        if value not in known:
            raise ArgumentError(f"[compile] unknown {kind} {value!r}{suggestion(value, known)}")
        return known[value]
    if not callable(value):
        raise ArgumentError(f"[compile] {kind} is a name or a function, got {value!r}")
    return value


def trainer_of(net: Module, verb: str) -> Trainer:
    """What `compile` made."""
    trainer: Trainer | None = net._session.get("trainer")
    if trainer is None:
        raise StateError(f"[{verb}] call net.compile(optimizer=..., loss=...) first")
    if trainer.optimizer is None and verb != "evaluate":
        raise StateError(f"[{verb}] the model has no parameters to train; an int8 model is for inference")
    return trainer


# ---- fit ------------------------------------------------------------------------------------------------------------


def fit(
    net: Module,
    x: Any,
    y: Any,
    batch_size: int,
    epochs: int,
    validation_data: tuple[Any, Any] | None,
    validation_split: float,
    shuffle: bool,
    callbacks: Sequence[Callback],
    verbose: str | int,
    seed: int | None,
) -> History:
    """See `Module.fit`."""
    trainer = trainer_of(net, "fit")
    for name, value in (("batch_size", batch_size), ("epochs", epochs)):
        if not _is_count(value):
            raise ArgumentError(f"[fit] {name} is a positive integer, got {value!r}")
    callbacks = _callbacks(callbacks)
    display = progress(verbose, epochs)
    with unchanged_on_error(net):
        if seed is not None:
            random.seed(seed)
        samples, validation = _split(net, trainer.loss, x, y, validation_data, validation_split)
    trainer.stop_training = False
    names = ("loss", *trainer.metrics)
    trainer.monitors = names + tuple(f"val_{name}" for name in names if validation)
    for callback in callbacks:
        callback.trainer = trainer
    for callback in callbacks:
        callback.on_train_begin()
    try:
        return _epochs(trainer, samples, validation, batch_size, epochs, shuffle, callbacks, display)
    finally:
        display.close()


def _split(
    net: Module, loss: Loss, x: Any, y: Any, validation_data: tuple[Any, Any] | None, validation_split: float
) -> tuple[Samples, Samples | None]:
    """Checked samples to train on, and to validate on."""
    samples = checked_samples("fit", net, loss, x, y)
    if validation_data is None:
        return samples.split(validation_split)
    return samples, checked_samples("fit: validation_data", net, loss, *validation_data)


def _callbacks(given: Any) -> list[Callback]:
    from quernel.callbacks import Callback

    if isinstance(given, Callback):
        raise ArgumentError(
            f"[fit] callbacks is a list of callbacks; write callbacks=[{type(given).__name__}(...)]"
        )
    listed = list(given)
    for callback in listed:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"[fit] callbacks are instances of callbacks.Callback, got {callback!r}")
    return listed


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value > 0)


def _epochs(
    trainer: Trainer,
    samples: Samples,
    validation: Samples | None,
    batch_size: int,
    epochs: int,
    shuffle: bool,
    callbacks: Sequence[Callback],
    display: Progress,
) -> History:
    history = History()
    for epoch in range(epochs):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        display.begin_epoch(epoch, len(samples))
        logs = _epoch(
            trainer, samples, batch_size, _order(len(samples)) if shuffle else None, callbacks, display
        )
        if validation:
            logs |= {
                f"val_{name}": value
                for name, value in _evaluate(trainer, validation, _EVALUATION_BATCH).items()
            }
        history.append(epoch, logs)
        display.end_epoch(epoch, logs)
        for callback in callbacks:
            callback.on_epoch_end(epoch, logs)
        if trainer.stop_training:
            break
    for callback in callbacks:
        callback.on_train_end()
    return history


def _order(length: int) -> NDArray[np.int64]:
    """A random order from the library's own stream."""
    keys: NDArray[Any] = ops.uniform((length,), dtype="float64").numpy()
    return np.argsort(keys, kind="stable")


def _epoch(
    trainer: Trainer,
    samples: Samples,
    batch_size: int,
    order: NDArray[np.int64] | None,
    callbacks: Sequence[Callback],
    display: Progress,
) -> Logs:
    mean = _Mean()
    with _mode(trainer.net, training=True):
        steps = trainer.measure(trainer.train_step, batches(samples.arrays, batch_size, order))
        for batch, (size, logs) in enumerate(steps):
            mean.add(size, logs)
            display.advance(size, logs["loss"])
            for callback in callbacks:
                callback.on_batch_end(batch, logs)
    return mean.value()


class _Mean:
    """Means of numbers over samples."""

    def __init__(self) -> None:
        self._sums: Logs = {}
        self._size = 0

    def add(self, size: int, logs: Logs) -> None:
        self._size += size
        for name, value in logs.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * size

    def value(self) -> Logs:
        return {name: total / self._size for name, total in self._sums.items()}


@contextmanager
def _mode(net: Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for a while; every module then gets back its own."""
    changed = [module for module in net.modules() if module.__dict__["_training"] != training]
    for module in changed:
        module.training = training
    try:
        yield
    finally:
        for module in changed:
            module.training = not training


# ---- the other verbs ------------------------------------------------------------------------------------------------


def train_on_batch(net: Module, x: Any, y: Any) -> Logs:
    """See `Module.train_on_batch`."""
    trainer = trainer_of(net, "train_on_batch")
    samples = checked_samples("train_on_batch", net, trainer.loss, x, y)
    with _mode(net, training=True):
        ((_, logs),) = trainer.measure(trainer.train_step, [samples.arrays])
    return logs


def evaluate(net: Module, x: Any, y: Any, batch_size: int) -> Logs:
    """See `Module.evaluate`."""
    trainer = trainer_of(net, "evaluate")
    return _evaluate(trainer, checked_samples("evaluate", net, trainer.loss, x, y), batch_size)


def _evaluate(trainer: Trainer, samples: Samples, batch_size: int) -> Logs:
    mean = _Mean()
    with _mode(trainer.net, training=False), no_grad():
        for size, logs in trainer.measure(trainer.test_step, batches(samples.arrays, batch_size)):
            mean.add(size, logs)
    return mean.value()


def predict(net: Module, x: Any, batch_size: int | None) -> Any:
    """See `Module.predict`."""
    inputs = checked_inputs("predict", net, x)
    step = net._session.get("predict")
    if step is None:
        step = net._session["predict"] = jit(net.__call__)
    with _mode(net, training=False), no_grad():
        parts = [step(*batch) for batch in batches(inputs, batch_size or _EVALUATION_BATCH)]
        if not parts:
            parts = [net(*inputs)]
    _check_outputs(parts[0])
    return _joined(parts)


def _check_outputs(output: Any) -> None:
    if isinstance(output, tuple | list):
        for part in output:
            _check_outputs(part)
    elif not isinstance(output, Tensor):
        raise DTypeError(f"[predict] the model returns {type(output).__name__}, expected tensors")
    elif output.ndim == 0:
        raise ShapeError(
            "[predict] the model returns a single number for a whole batch, not an output per sample; call it directly"
        )


def _joined(parts: Sequence[Any]) -> Any:
    """Outputs of batches as one array, or tuples of them as the model returns them."""
    if isinstance(parts[0], tuple | list):
        return tuple(_joined(column) for column in zip(*parts, strict=True))
    return np.concatenate([part.numpy() for part in parts])
