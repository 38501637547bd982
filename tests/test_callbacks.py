"""Callbacks, driven by made-up histories and by real training."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import callbacks, nn, optim
from quernel.errors import ArgumentError


def drive(callback: callbacks.Callback, losses: list[float], lr: float = 1.0, name: str = "val_loss") -> Any:
    """Feeds a callback one loss per epoch, the weight being the number of the epoch; returns what it acted on."""
    net = nn.Linear(1, 1)
    trainer: Any = SimpleNamespace(
        net=net,
        optimizer=optim.SGD(net.parameters(), lr=lr),
        stop_training=False,
        monitors=("loss", name),
        rates=[],
    )
    callback.trainer = trainer
    callback.on_train_begin()
    for epoch, loss in enumerate(losses):
        with qn.no_grad():
            net.weight[...] = float(epoch)
        callback.on_epoch_end(epoch, {"loss": 0.0, name: loss})
        trainer.rates.append(trainer.optimizer.lr)
        if trainer.stop_training:
            break
    callback.on_train_end()
    return trainer


@pytest.mark.parametrize(
    ("options", "losses", "epochs"),
    [
        ({"patience": 2}, [3, 2, 2, 2, 1], 4),
        ({"patience": 2}, [3, 2, 2, 1.5, 2, 2, 2], 6),
        ({"patience": 0}, [3, 2, 2, 1], 3),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.8, 2.6, 0], 3),
        ({"patience": 1}, [3, math.nan, 1], 2),
        ({"patience": 1, "mode": "max"}, [3, 4, 4, 5], 3),
        ({"patience": 5}, [3, 4, 4, 5], 4),
        ({"patience": 1, "start_from_epoch": 3}, [1, 2, 3, 9, 8, 8], 6),
    ],
)
def test_early_stopping_counts_epochs_without_improvement(
    options: dict[str, Any], losses: list[float], epochs: int
) -> None:
    callback = callbacks.EarlyStopping(**options)
    trainer = drive(callback, losses)
    assert len(trainer.rates) == epochs
    assert callback.stopped_epoch == (epochs - 1 if trainer.stop_training else None)


def test_accuracies_are_better_when_they_are_larger() -> None:
    callback = callbacks.EarlyStopping(monitor="val_accuracy", patience=1)
    drive(callback, [0.5, 0.8, 0.7], name="val_accuracy")
    assert (callback.best, callback.best_epoch, callback.stopped_epoch) == (0.8, 1, 2)


@pytest.mark.parametrize(
    "name", ["val_top5_accuracy", "val_f1", "val_roc_auc", "val_precision", "val_recall", "val_r2"]
)
def test_scores_are_better_when_they_are_larger(name: str) -> None:
    callback = callbacks.EarlyStopping(monitor=name, patience=2)
    drive(callback, [0.5, 0.8, 0.7], name=name)
    assert callback.best == 0.8


def test_the_best_weights_come_back() -> None:
    trainer = drive(callbacks.EarlyStopping(patience=2, restore_best_weights=True), [3, 1, 2, 2])
    assert trainer.net.weight.item() == 1.0
    trainer = drive(callbacks.EarlyStopping(patience=9, restore_best_weights=True), [3, 1, 2, 2])
    assert trainer.net.weight.item() == 1.0
    trainer = drive(callbacks.EarlyStopping(patience=2), [3, 1, 2, 2])
    assert trainer.net.weight.item() == 3.0


@pytest.mark.parametrize(
    ("options", "losses", "rates"),
    [
        ({"patience": 1}, [3, 3, 3, 1, 1], [1, 0.5, 0.25, 0.25, 0.125]),
        ({"patience": 2}, [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
        ({"patience": 1, "min_lr": 0.3}, [3, 3, 3, 3], [1, 0.5, 0.3, 0.3]),
        ({"patience": 1, "cooldown": 2}, [3, 3, 3, 3, 3], [1, 0.5, 0.5, 0.5, 0.25]),
        ({"patience": 1, "min_delta": 1.0}, [3, 2.5, 0], [1, 0.5, 0.5]),
    ],
)
def test_the_learning_rate_drops_on_a_plateau(
    options: dict[str, Any], losses: list[float], rates: list[float]
) -> None:
    assert drive(callbacks.ReduceLROnPlateau(factor=0.5, **options), losses).rates == rates


def test_callbacks_see_the_whole_of_a_fit() -> None:
    calls: list[str] = []

    class Spy(callbacks.Callback):
        def on_train_begin(self) -> None:
            calls.append(f"begin {','.join(self.trainer.monitors)}")

        def on_train_end(self) -> None:
            calls.append("end")

        def on_epoch_begin(self, epoch: int) -> None:
            assert self.net.training and isinstance(self.optimizer, optim.Adam)
            calls.append(f"epoch {epoch}")

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            calls.append(f"done {epoch} {','.join(logs)}")
            self.trainer.stop_training = epoch == 1

        def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
            calls.append(f"batch {batch} {','.join(logs)}")

    net = nn.Linear(2, 2)
    net.compile(metrics=["accuracy"])
    x, y = np.ones((8, 2), np.float32), np.zeros(8, np.int64)
    history = net.fit(x, y, batch_size=4, epochs=5, validation_split=0.25, callbacks=[Spy()], verbose=0)
    epoch = ["batch 0 loss", "batch 1 loss", "done {} loss,accuracy,val_loss,val_accuracy"]
    assert calls == [
        "begin loss,accuracy,val_loss,val_accuracy",
        *(line.format(n) for n in (0, 1) for line in ["epoch {}", *epoch]),
        "end",
    ]
    assert len(history) == 2


def test_a_quantity_that_will_not_be_there_is_refused_before_training() -> None:
    net = nn.Linear(2, 2)
    net.compile()
    before = net.weight.numpy().copy()
    x, y = np.ones((8, 2), np.float32), np.zeros(8, np.int64)
    with pytest.raises(
        ArgumentError, match=r"'val_loss' is not among loss; pass validation_data= or validation_split="
    ):
        net.fit(x, y, callbacks=[callbacks.EarlyStopping()], verbose=0)
    with pytest.raises(ArgumentError, match=r"'los' is not among loss$"):
        net.fit(x, y, callbacks=[callbacks.ReduceLROnPlateau("los")], verbose=0)
    assert np.array_equal(net.weight.numpy(), before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: callbacks.EarlyStopping(patience=-1),
            r"\[EarlyStopping\] patience and min_delta are at least 0",
        ),
        (lambda: callbacks.EarlyStopping(min_delta=math.nan), "min_delta are at least 0, got 0 and nan"),
        (lambda: callbacks.EarlyStopping(start_from_epoch=-1), "start_from_epoch is at least 0, got -1"),
        (lambda: callbacks.EarlyStopping(mode="up"), "mode is 'auto', 'min' or 'max', got 'up'"),
        (lambda: callbacks.ReduceLROnPlateau(factor=1.0), "factor lies between 0 and 1, got 1.0"),
        (lambda: callbacks.ReduceLROnPlateau(min_lr=math.nan), "min_lr is at least 0, got nan"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()
