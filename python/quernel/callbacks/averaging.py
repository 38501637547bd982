"""A callback that averages weights."""

from __future__ import annotations

import math

from quernel import optim
from quernel.autograd import no_grad
from quernel.callbacks.base import Callback, Logs
from quernel.ops import optim as native
from quernel.tensor import Tensor


class EMA(Callback):
    """Keeps an exponential moving average of the weights; the model is validated, saved and left with it.

    From the beginning of validation (or the end of an epoch, if there is none) until the next epoch begins, and after
    training, the parameters have their averages' values; training itself goes on with their own. Without validation,
    give it before callbacks that save the model or keep its best weights. Buffers, such as BatchNorm's statistics, are
    averages already and stay as they are. A fit that is interrupted in training leaves the model's own weights.

    Args:
        decay: in [0, 1); 0.999 averages over about the last thousand updates.
        warmup: begin with a smaller decay, for short trainings; see `optim.EMA`.

    Attributes:
        average: the `optim.EMA` of the last fit.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 2))
        >>> net.compile("sgd")
        >>> ema = callbacks.EMA(decay=0.9)
        >>> _ = net.fit(np.ones((8, 4)), np.zeros(8, int), verbose=0, callbacks=[ema])
        >>> bool((net[0].weight == ema.average.averages()[0]).numpy().all())
        True
    """

    def __init__(self, decay: float = 0.999, warmup: bool = False) -> None:
        self.decay = decay
        self.warmup = warmup
        optim.EMA([], decay, warmup)  # refuses what is no decay

    def on_train_begin(self) -> None:
        self.average = optim.EMA(self.net.parameters(), self.decay, self.warmup)
        self._own: list[Tensor] | None = None

    def on_batch_end(self, batch: int, logs: Logs) -> None:  # noqa: ARG002
        if (
            math.isfinite(logs["loss"]) and not self.trainer.discard_batch
        ):  # else LRRollback, if any, undoes the step
            self.average.update()

    def on_validation_begin(self) -> None:
        self._swap_in()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:  # noqa: ARG002
        self._swap_in()

    def on_epoch_begin(self, epoch: int) -> None:  # noqa: ARG002
        if self._own is not None:
            with no_grad():
                for parameter, value in zip(self.average.parameters, self._own, strict=True):
                    parameter[...] = value
            self._own = None

    def on_train_end(self) -> None:
        self._own = None

    def _swap_in(self) -> None:
        if self._own is None:
            self._own = [Tensor(native.copy(parameter._t)) for parameter in self.average.parameters]
            self.average.copy_to()
