"""What every model can do besides being called: the verbs of training, inspection and files.

They are implemented above this package, in modules that it knows by name only, so that layers do not depend on them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from quernel import metrics
    from quernel.callbacks import Callback
    from quernel.graph import Frozen, Summary
    from quernel.history import History
    from quernel.optim import Optimizer
    from quernel.tensor import Tensor

    Loss = str | Callable[[Any, Any], Tensor]
    Metrics = str | metrics.Metric | Callable[[NDArray[Any], NDArray[Any]], float]


def _above(name: str) -> ModuleType:
    return importlib.import_module(f"quernel.{name}")


class Verbs:
    """Mixin of `nn.Module`."""

    def compile(
        self,
        optimizer: str | Optimizer = "adam",
        loss: Loss = "cross_entropy",
        metrics: Metrics | Iterable[Metrics] = (),
        device: str = "auto",
        precision: str = "fp32",
        run_eagerly: bool = False,
    ) -> None:
        """Says how to train.

        Args:
            optimizer: "sgd", "adam" or "adamw" with default hyper-parameters, or an optimizer over the parameters.
            loss: "cross_entropy", "mse", or a function of (output, target) tensors that returns a scalar tensor.
            metrics: "accuracy" or another name of `quernel.metrics.METRICS`, a `Metric`, or a function of (output, target)
                arrays that returns a number, which is averaged over the samples.
            device: "auto" takes the best there is; "cpu"; "cuda" raises with the reason if there is none.
            precision: "fp32", or "fp64" for a module converted by ``to("float64")``.
            run_eagerly: False runs each step as one native call (`qn.jit`), True op by op, to the same bits.

        Raises:
            ArgumentError: a name is unknown.
            DeviceError: the device cannot be used.
        """
        _above("training").compile(self, optimizer, loss, metrics, device, precision, run_eagerly)

    def fit(
        self,
        x: ArrayLike | tuple[ArrayLike, ...],
        y: ArrayLike,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: tuple[Any, ArrayLike] | None = None,
        validation_split: float = 0.0,
        shuffle: bool = True,
        callbacks: Sequence[Callback] = (),
        verbose: str | int = "auto",
        seed: int | None = None,
    ) -> History:
        """Trains on arrays.

        Args:
            x: inputs, samples along the first axis; a tuple of arrays for a model with several inputs.
            y: targets, as many; integer class numbers for "cross_entropy".
            batch_size: samples a step; the last batch of an epoch may be shorter.
            epochs: passes over the data.
            validation_data: (x, y) evaluated after each epoch.
            validation_split: fraction of the samples, the last ones, to hold out as validation data instead.
            shuffle: whether to visit the samples in a new random order in each epoch.
            callbacks: see `quernel.callbacks`.
            verbose: 0 is silent, 1 a progress bar, 2 a line an epoch; "auto" is 1 on a terminal, else 2.
            seed: like calling ``qn.seed(seed)`` first; the order of samples comes from that stream too.

        Returns:
            Losses and metrics of every epoch.

        Raises:
            ShapeError, DTypeError, ArgumentError: the data do not fit the model or the loss. The model is unchanged.
            StateError: ``compile`` has not been called.
        """
        history: History = _above("training").fit(
            self,
            x,
            y,
            batch_size,
            epochs,
            validation_data,
            validation_split,
            shuffle,
            callbacks,
            verbose,
            seed,
        )
        return history

    def train_on_batch(self, x: ArrayLike | tuple[ArrayLike, ...], y: ArrayLike) -> dict[str, float]:
        """One step on one batch, in training mode; returns its loss and metrics."""
        logs: dict[str, float] = _above("training").train_on_batch(self, x, y)
        return logs

    def evaluate(
        self, x: ArrayLike | tuple[ArrayLike, ...], y: ArrayLike, *, batch_size: int = 256
    ) -> dict[str, float]:
        """Loss and metrics on data, in evaluation mode."""
        logs: dict[str, float] = _above("training").evaluate(self, x, y, batch_size)
        return logs

    def predict(self, x: ArrayLike | tuple[ArrayLike, ...], batch_size: int | None = None) -> NDArray[Any]:
        """Outputs for many samples, in evaluation mode; the values do not depend on `batch_size` (None: 256)."""
        outputs: NDArray[Any] = _above("training").predict(self, x, batch_size)
        return outputs

    def summary(
        self, input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None, show: bool = True
    ) -> Summary:
        """Prints a table of layers, output shapes, parameters, multiply-adds and bytes, and returns it.

        Args:
            input_shape: shape of one sample, or one shape per input; sizes left None are inferred from it. A model
                that has been called knows it.
            show: False does not print; ``str`` of the result is the table.
        """
        summary: Summary = _above("graph.summary").summary(self, input_shape, show)
        return summary

    def freeze(
        self, max_batch: int = 64, input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None
    ) -> Frozen:
        """An inference function of NumPy arrays, independent of later changes of the model, for any thread.

        Args:
            max_batch: samples of one native call at most; larger batches run in chunks, to the same bits.
            input_shape: as in `summary`. Without it, a model that has never been called is traced at the first call
                of the result.
        """
        frozen: Frozen = _above("graph.freeze").freeze(self, max_batch, input_shape)
        return frozen

    def save(
        self,
        path: str | PathLike[str],
        input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Writes architecture and weights to one .safetensors file, whole or not at all; `qn.load` reads it.

        Args:
            path: the file; an existing one is replaced.
            input_shape: as in `summary`; needed for a model with classes of your own that has never been called.
            optimizer: saved too, with the random stream, so that training can go on (`qn.io.load_optimizer`).
        """
        _above("io.checkpoint").save(self, path, input_shape, optimizer)
