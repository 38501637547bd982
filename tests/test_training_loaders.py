"""Training on the batches of an iterable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import callbacks, nn, optim
from quernel.errors import ArgumentError
from tests.test_training import blobs, mlp, state

X, Y = blobs(50)
W = np.linspace(0.5, 2, 50)


class Loader:
    """Batches of 16 samples, iterated anew as often as one likes."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays
        self.rounds = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        self.rounds += 1
        for begin in range(0, len(self.arrays[0]), 16):
            yield tuple(array[begin : begin + 16] for array in self.arrays)


def net_of(**options: Any) -> nn.Sequential:
    qn.seed(0)
    net = mlp()
    net.compile(optim.SGD(net.parameters(), lr=0.1, momentum=0.9), metrics=["accuracy"], **options)
    return net


def test_a_loader_trains_as_its_arrays_do() -> None:
    a, b, c = net_of(), net_of(), net_of()
    loader = Loader(X, Y, W)
    options: dict[str, Any] = {"epochs": 3, "verbose": 0, "seed": 0, "class_weight": {0: 2.0}}
    first = a.fit(loader, validation_data=Loader(X, Y), **options)
    second = b.fit(X, Y, sample_weight=W, batch_size=16, shuffle=False, validation_data=(X, Y), **options)
    third = c.fit(list(loader), validation_data=[(X, Y)], **options)
    assert state(a) == state(b) == state(c)
    assert loader.rounds == 4  # one for each epoch, and the list
    for name in ("loss", "accuracy"):
        assert first[name] == second[name] == third[name]
        assert first[f"val_{name}"] == pytest.approx(second[f"val_{name}"])
    assert a.evaluate(Loader(X, Y)) == pytest.approx(b.evaluate(X, Y))
    assert np.array_equal(a.predict(Loader(X, Y)), a.predict(X))
    assert np.array_equal(a.predict(x for x, _ in Loader(X, Y)), a.predict(X))


def test_an_iterator_has_one_epoch_in_it() -> None:
    net = net_of()
    assert len(net.fit(iter(Loader(X, Y)), verbose=0)) == 1
    with pytest.raises(ArgumentError, match="x is an iterator, which is empty after one epoch of 2; pass an"):
        net.fit(iter(Loader(X, Y)), epochs=2, verbose=0)
    with pytest.raises(ArgumentError, match="validation_data is an iterator, which is empty"):
        net.fit(X, Y, epochs=2, validation_data=iter(Loader(X, Y)), verbose=0)

    class Once:
        """Claims that it can be iterated anew."""

        items: Any = iter(Loader(X, Y))

        def __iter__(self) -> Iterator[Any]:
            return (item for item in self.items)

    with pytest.raises(ArgumentError, match="the loader is empty: it gives no batch any more"):
        net.fit(Once(), epochs=2, verbose=0)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        ([], {}, r"\[fit\] the loader is empty: it gives no batch"),
        (Loader(X[:0], Y[:0]), {}, r"\[fit\] the loader is empty"),
        (
            Loader(X),
            {},
            r"\[fit\] batch 0 of the loader is 1 items, expected \(x, y\) or \(x, y, sample_weight\)",
        ),
        (iter([X]), {}, r"\[fit\] batch 0 of the loader is ndarray, expected"),
        (Loader(X, Y + 1), {}, r"\[fit\] batch 0 of the loader: label 3 of sample 2 is out of range"),
        (
            Loader(X, Y),
            {"validation_split": 0.5},
            r"validation_split holds out samples of arrays; x is a loader",
        ),
        (Loader(X, Y), {"sample_weight": W}, r"x is a loader; let it give the weights of its samples"),
        (X, {}, r"\[fit\] y is missing; pass targets, or x as an iterable of \(x, y\) batches"),
        (Loader(X, Y), {"validation_data": X}, r"validation_data is \(x, y\), .*got ndarray"),
        (Loader(X, Y), {"validation_data": ()}, r"validation_data is \(x, y\), .*got tuple of 0"),
        (
            Loader(X, Y),
            {"callbacks": [callbacks.BatchSizeScheduler()]},
            r"x is a loader, which makes its own batches",
        ),
    ],
)
def test_loaders_that_cannot_be_trained_on(x: Any, options: dict[str, Any], message: str) -> None:
    net = net_of()
    with pytest.raises(ArgumentError, match=message):
        net.fit(x, verbose=0, **options)
    assert net[0].weight.is_unsized
    with pytest.raises(ArgumentError, match=r"\[predict\] the loader is empty"):
        net.predict(iter([]))


def test_a_bad_batch_ends_training_with_its_number() -> None:
    bad = X.copy()
    bad[37, 2] = np.inf
    net = net_of()
    steps: list[int] = []
    spy = callbacks.LambdaCallback(on_batch_end=lambda batch, logs: steps.append(batch))  # noqa: ARG005
    with pytest.raises(
        ArgumentError, match=r"batch 2 of the loader: x is inf in row 5, column 2 \(1 of 16 rows"
    ):
        net.fit(Loader(bad, Y), callbacks=[spy], verbose=0)
    assert steps == [0, 1] and all(module.training for module in net.modules())
    assert np.isfinite(net.predict(X)).all()


def test_the_bar_learns_the_size_of_an_epoch(capfd: pytest.CaptureFixture[str]) -> None:
    net_of().fit(Loader(X, Y), epochs=2, verbose=1)
    text = capfd.readouterr().err
    assert "epoch 1/2: 0.00sample [" in text and "/50.0 [" in text
