"""What every model can do besides being called: the verbs of training, inspection and files.

They are implemented above this package, in modules that it knows by name only, so that layers do not depend on them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    Inputs = ArrayLike | tuple[ArrayLike, ...] | Sequence[ArrayLike] | Mapping[str, ArrayLike]
    Loss = str | Callable[..., Tensor]
    Losses = Loss | Sequence[Loss | None] | Mapping[str, Loss | None]
    Metric = str | metrics.Metric | Callable[[NDArray[Any], NDArray[Any]], float]
    Metrics = Metric | Iterable[Metric | Iterable[Metric] | None] | Mapping[str, Metric | Iterable[Metric]]


def _above(name: str) -> ModuleType:
    return importlib.import_module(f"quernel.{name}")


class Verbs:
    """Mixin of `nn.Module`."""

    def compile(
        self,
        optimizer: str | Optimizer = "adam",
        loss: Losses = "cross_entropy",
        metrics: Metrics = (),
        *,
        loss_weights: Sequence[float | None] | Mapping[str, float] | None = None,
        weighted_metrics: Metrics = (),
        clip_norm: float | None = None,
        clip_value: float | None = None,
        device: str = "auto",
        precision: str = "fp32",
        run_eagerly: bool = False,
    ) -> None:
        """Says how to train.

        Args:
            optimizer: a name with default hyper-parameters ("sgd", "adam", …: `optim.OPTIMIZERS`), or an optimizer over
                the parameters.
            loss: a name ("cross_entropy", "mse", …: `losses.LOSSES`), or a function of (output, target) tensors that
                returns a scalar tensor. For a model that returns several tensors (a tuple, or a dictionary) a list or
                a dictionary of losses, one for each output; None leaves an output out. One loss for several outputs
                serves each of them; a function of your own with a single target takes all that the model returns.
            metrics: a name, a function of (output, target) arrays that returns a number, or a `metrics.Metric`; or a
                list of these. With several outputs a list of such lists, or a dictionary.
            loss_weights: with several outputs, factors of their losses in the sum that is minimized.
            weighted_metrics: like `metrics`; these take ``sample_weight`` and ``class_weight`` into account.
            clip_norm: before each update the gradients are scaled down to at most this Euclidean norm, all together.
            clip_value: before each update the gradients are clipped to ±clip_value, each element.
            device: "auto" takes the best there is; "cpu"; "cuda" raises with the reason if there is none.
            precision: "fp32"; "fp64" for a module converted by ``to("float64")``; "bf16" multiplies in bfloat16 in
                linear and recurrent layers, convolutions and the projections of attention, forward and backward (it
                sets their attribute ``precision``). Convolutions in groups, the scores of attention, parameters,
                gradients, the optimizer's state, sums and all else stay float32.
            run_eagerly: False runs each step as one native call (`qn.jit`), True op by op, to the same bits.

        Raises:
            ArgumentError: a name is unknown.
            DeviceError: the device cannot be used.
        """
        _above("training").compile(
            self,
            optimizer,
            loss,
            metrics,
            loss_weights=loss_weights,
            weighted_metrics=weighted_metrics,
            clip_norm=clip_norm,
            clip_value=clip_value,
            device=device,
            precision=precision,
            run_eagerly=run_eagerly,
        )

    def fit(
        self,
        x: Inputs | Iterable[tuple[Any, ...]],
        y: Inputs | None = None,
        *,
        batch_size: int | None = 32,
        epochs: int = 1,
        validation_data: tuple[Any, ...] | Iterable[tuple[Any, ...]] | None = None,
        validation_split: float = 0.0,
        class_weight: Mapping[int, float] | ArrayLike | None = None,
        sample_weight: Inputs | None = None,
        shuffle: bool = True,
        gradient_accumulation: int = 1,
        callbacks: Sequence[Callback] = (),
        verbose: str | int = "auto",
        seed: int | None = None,
    ) -> History:
        """Trains on arrays, or on the batches of a loader.

        Args:
            x: inputs, samples along the first axis. For a model with several inputs a tuple of arrays, or a dictionary
                by the names of ``forward``'s parameters. Or any iterable of batches (x, y) or (x, y, sample_weight),
                which is iterated anew in each epoch; then `y` is None.
            y: targets, as many; integer class numbers for "cross_entropy". For a model with several outputs a tuple,
                or a dictionary by their names: the keys of what the model returns, or "output_0", "output_1", … .
            batch_size: samples a batch; the last one of an epoch may be smaller. None takes all samples at once, which
                is gradient descent proper. A loader makes its own batches.
            epochs: passes over the data.
            validation_data: (x, y), (x, y, sample_weight) or a loader, evaluated after each epoch.
            validation_split: fraction of the samples, the last ones, to hold out as validation data instead.
            class_weight: a factor of the losses of each class's samples: a dictionary, in which a missing class counts
                1, or an array with all classes.
            sample_weight: (N,), a factor of each sample's loss; for several outputs also a tuple or a dictionary. The
                loss is the sum of weighted losses divided by the number of samples, as in Keras.
            shuffle: whether to visit the samples in a new random order in each epoch.
            gradient_accumulation: batches whose gradients are averaged over their samples for one update. Callbacks
                see one batch then.
            callbacks: see `quernel.callbacks`.
            verbose: 0 is silent, 1 a progress bar, 2 a line an epoch; "auto" is 1 on a terminal, else 2.
            seed: like calling ``qn.seed(seed)`` first; the order of samples comes from that stream too.

        Returns:
            Losses and metrics of every epoch. With several outputs "loss" is the weighted sum, and "NAME_loss" and
            "NAME_METRIC" are those of an output.

        Raises:
            ShapeError, DTypeError, ArgumentError: the data do not fit the model or the loss, or hold NaN or infinite
                values. The model is unchanged (of a loader only the first batch is seen before training).
            StateError: ``compile`` has not been called.
        """
        history: History = _above("training").fit(
            self,
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=validation_data,
            validation_split=validation_split,
            class_weight=class_weight,
            sample_weight=sample_weight,
            shuffle=shuffle,
            gradient_accumulation=gradient_accumulation,
            callbacks=callbacks,
            verbose=verbose,
            seed=seed,
        )
        return history

    def train_on_batch(
        self,
        x: Inputs,
        y: Inputs,
        *,
        sample_weight: Inputs | None = None,
        class_weight: Mapping[int, float] | ArrayLike | None = None,
    ) -> dict[str, float]:
        """One step on one batch, in training mode; returns its losses and metrics. Arguments as in `fit`."""
        logs: dict[str, float] = _above("training").train_on_batch(self, x, y, sample_weight, class_weight)
        return logs

    def test_on_batch(self, x: Inputs, y: Inputs, *, sample_weight: Inputs | None = None) -> dict[str, float]:
        """Losses and metrics on one batch, in evaluation mode."""
        logs: dict[str, float] = _above("training").test_on_batch(self, x, y, sample_weight)
        return logs

    def predict_on_batch(self, x: Inputs) -> Any:
        """Outputs for one batch, in evaluation mode and in one piece; see `predict`."""
        return _above("training").predict_on_batch(self, x)

    def evaluate(
        self,
        x: Inputs | Iterable[tuple[Any, ...]],
        y: Inputs | None = None,
        *,
        batch_size: int | None = 256,
        sample_weight: Inputs | None = None,
    ) -> dict[str, float]:
        """Losses and metrics on data, in evaluation mode.

        Args:
            x, y, sample_weight: as in `fit`.
            batch_size: samples a batch; None takes all at once.
        """
        logs: dict[str, float] = _above("training").evaluate(self, x, y, batch_size, sample_weight)
        return logs

    def predict(self, x: Inputs | Iterable[Any], batch_size: int | None = None) -> Any:
        """Outputs for many samples, in evaluation mode.

        Args:
            x: as in `fit`; or a loader of batches, in whose tuples the first item is the input.
            batch_size: samples a batch (None: 256); the values do not depend on it.

        Returns:
            An array; a tuple or a dictionary of arrays if the model returns one of tensors.
        """
        return _above("training").predict(self, x, batch_size)

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
