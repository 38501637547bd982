"""Callbacks that write files, functions as callbacks, pictures and tables of a history."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import callbacks, nn, optim
from quernel.errors import ArgumentError
from quernel.history import History
from tests.test_training import blobs, mlp, state

X, Y = blobs(40)


def net_of(**options: Any) -> nn.Sequential:
    qn.seed(0)
    net = mlp()
    net.compile("adam", metrics=["accuracy"], **options)
    return net


def test_checkpoints_of_every_epoch_have_its_numbers_in_their_names(tmp_path: Path) -> None:
    net = net_of()
    path = tmp_path / "runs" / "{epoch:02d}-{val_loss:.4f}.safetensors"
    checkpoint = callbacks.ModelCheckpoint(path, every=2)
    history = net.fit(X, Y, epochs=5, validation_split=0.25, callbacks=[checkpoint], verbose=0)
    names = [f"{epoch + 1:02d}-{history['val_loss'][epoch]:.4f}.safetensors" for epoch in (1, 3)]
    assert sorted(file.name for file in (tmp_path / "runs").iterdir()) == names
    assert checkpoint.last_path == tmp_path / "runs" / names[-1]
    loaded = qn.load(tmp_path / "runs" / names[0])
    loaded.compile("adam")
    assert loaded.evaluate(X[30:], Y[30:])["loss"] == history["val_loss"][1]


def test_only_the_best_is_saved_and_training_goes_on_from_it(tmp_path: Path) -> None:
    net = net_of()
    path = tmp_path / "best.safetensors"
    best = callbacks.ModelCheckpoint(path, monitor="accuracy", save_best_only=True, save_optimizer=True)
    saved: list[int] = []
    note = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: saved.append(path.stat().st_mtime_ns))  # noqa: ARG005
    history = net.fit(X, Y, epochs=8, batch_size=8, callbacks=[best, note], verbose=0)
    accuracies = history["accuracy"]
    records = sum(accuracies[i] > max(accuracies[:i], default=-1) for i in range(8))
    assert len(set(saved)) == records and best.best == max(accuracies)
    loaded = qn.load(path)
    optimizer = optim.Adam(loaded.parameters())
    qn.io.load_optimizer(path, optimizer)
    loaded.compile(optimizer)
    assert len(loaded.fit(X, Y, verbose=0)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: callbacks.ModelCheckpoint("x-{val_acc}.safetensors"),
            r"the path has {val_acc}, known are epoch, loss",
        ),
        (
            lambda: callbacks.ModelCheckpoint("x", save_best_only=True),
            r"'val_loss' is not among loss, accuracy; pass",
        ),
        (lambda: callbacks.ModelCheckpoint("x", every=0), "every is at least 1"),
        (lambda: callbacks.ModelCheckpoint("x", mode="best"), "mode is 'auto', 'min' or 'max'"),
    ],
)
def test_checkpoints_that_cannot_be(make: Any, message: str) -> None:
    net = net_of()
    with pytest.raises(ArgumentError, match=message):
        net.fit(X, Y, callbacks=[make()], verbose=0)
    assert net[0].weight.is_unsized


def test_a_model_that_cannot_be_saved_is_refused_before_training(tmp_path: Path) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(4, 3)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            y: qn.Tensor = self.linear(x)
            return y * (1.0 if y.numpy().max() < 1e9 else 2.0)

    net = Reads()
    net.compile("sgd")
    before = state(net)
    with pytest.raises(qn.QuernelError, match="has a shape and a dtype but no values"):
        net.fit(X, Y, callbacks=[callbacks.ModelCheckpoint(tmp_path / "x.safetensors")], verbose=0)
    assert state(net) == before and not list(tmp_path.iterdir())


def test_a_line_per_epoch_is_written_as_it_ends(tmp_path: Path) -> None:
    net, path = net_of(), tmp_path / "logs" / "run.csv"
    lines: list[int] = []
    note = callbacks.LambdaCallback(on_epoch_end=lambda *_: lines.append(path.read_text().count("\n")))
    logger = callbacks.CSVLogger(path, append=True)
    first = net.fit(X, Y, epochs=2, validation_split=0.2, callbacks=[logger, note], verbose=0)
    second = net.fit(X, Y, epochs=1, validation_split=0.2, callbacks=[logger, note], verbose=0)
    assert lines == [2, 3, 4]
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr"]
    expected = [
        [i, *(v[i] for v in h.history.values()), 0.001]
        for h, n in ((first, 2), (second, 1))
        for i in range(n)
    ]
    assert [[float(cell) for cell in row] for row in rows] == expected
    with pytest.raises(
        ArgumentError, match=r"run\.csv has the columns .*this fit writes epoch, loss, accuracy, lr"
    ):
        net.fit(X, Y, callbacks=[logger], verbose=0)
    net.fit(X, Y, callbacks=[callbacks.CSVLogger(path, separator=";")], verbose=0)
    assert path.read_text().startswith("epoch;loss;accuracy;lr\n0;") and path.read_text().count("\n") == 2


def test_functions_stand_for_methods() -> None:
    calls: list[str] = []
    names = ["on_train_begin", "on_epoch_begin", "on_batch_begin", "on_batch_end", "on_validation_begin",
             "on_epoch_end", "on_train_end"]  # fmt: skip
    spy = callbacks.LambdaCallback(**{name: lambda *_, name=name: calls.append(name) for name in names})
    net_of().fit(X, Y, validation_split=0.2, callbacks=[spy], verbose=0)
    assert calls == names
    with pytest.raises(ArgumentError, match="a callback has no 'on_epoch_ends'; did you mean 'on_epoch_end'"):
        callbacks.LambdaCallback(on_epoch_ends=print)
    with pytest.raises(ArgumentError, match="on_epoch_end is a function, got 3"):
        callbacks.LambdaCallback(on_epoch_end=3)  # type: ignore[arg-type]


def test_training_stops_after_the_batch_that_asks_for_it() -> None:
    net = net_of()
    seen: list[int] = []

    class Stop(callbacks.Callback):
        def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:  # noqa: ARG002
            seen.append(batch)
            self.trainer.stop_training = batch == 1

    history = net.fit(X, Y, batch_size=8, epochs=3, validation_split=0.2, callbacks=[Stop()], verbose=0)
    assert seen == [0, 1] and len(history) == 1 and "val_loss" in history.history


def test_a_batch_can_be_left_out_of_the_numbers() -> None:
    class Discard(callbacks.Callback):
        def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
            self.trainer.discard_batch = batch != 1
            if batch == 1:
                self.kept = logs["loss"]

    net, discard = net_of(), Discard()
    assert net.fit(X, Y, batch_size=8, callbacks=[discard], verbose=0)["loss"] == [discard.kept]


def test_the_picture_shows_metrics_and_a_changing_rate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("matplotlib")
    caplog.set_level(logging.WARNING)
    history = History()
    for epoch in range(3):
        logs = {
            "loss": 1 / (epoch + 1),
            "accuracy": epoch / 3,
            "val_loss": 2 / (epoch + 1),
            "val_accuracy": epoch / 4,
        }
        history.append(epoch, logs, 0.1 / (epoch + 1))
    figure = history.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy", "learning rate"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 1]
    history.lr = [0.1] * 3
    assert len(history.plot(tmp_path / "history.svg").axes) == 2
    assert "<svg" in (tmp_path / "history.svg").read_text()
    assert History().plot().axes == [] and np.isfinite(history.lr).all()
