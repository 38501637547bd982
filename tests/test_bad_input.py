"""What users get wrong: each a clear error with the way out, and nothing changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError
from tests.test_training import blobs, mlp, state

X, Y = blobs(30)


def spoilt(array: np.ndarray, *places: tuple[int, ...], value: float = np.nan) -> np.ndarray:
    array = array.copy()
    for place in places:
        array[place] = value
    return array


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            spoilt(X, (7, 2), (9, 0), (9, 1)),
            (
                r"x is nan in row 7, column 2 \(2 of 30 rows have NaN or infinite values\); fill them, or keep the others: "
                r"np\.isfinite\(x\)\.all\(axis=1\)$"
            ),
        ),
        (spoilt(X, (29, 3), value=-np.inf), r"x is -inf in row 29, column 3 \(1 of 30 rows"),
        (spoilt(X.astype(np.float64), (0, 0), value=1e300), r"x is inf in row 0, column 0"),
        (
            spoilt(X.reshape(30, 2, 2, 1), (4, 1, 0, 0)),
            r"x is nan in row 4, position \(1, 0, 0\).*np\.isfinite\(x\)\.all\(axis=\(1, 2, 3\)\)",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_data_that_are_not_finite_are_named(x: np.ndarray, message: str, verb: str) -> None:
    net = nn.Sequential(nn.Flatten(), *mlp())
    net.compile()
    with pytest.raises(ArgumentError, match=rf"\[{verb}\] {message}"):
        getattr(net, verb)(x, Y)
    assert net[1].weight.is_unsized


def test_targets_that_are_not_finite_are_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    net.compile("sgd", loss="mse")
    with pytest.raises(ArgumentError, match=r"\[fit\] y is inf in row 3, column 1 \(1 of 30 rows"):
        net.fit(X, spoilt(X, (3, 1), value=np.inf), verbose=0)
    with pytest.raises(ArgumentError, match=r"\[fit: validation_data\] y is nan in row 3, column 1"):
        net.fit(X, X, validation_data=(X, spoilt(X, (3, 1))), verbose=0)


def test_large_finite_data_are_fine() -> None:
    """Their sum overflows; that must not count as infinite data."""
    net = nn.Sequential(nn.Linear(4, 3))
    net.compile("sgd")
    net.evaluate(np.full((10, 4), 3e38, np.float32), np.zeros(10, int))


def test_bad_data_in_the_middle_of_training_change_nothing() -> None:
    net = mlp()
    net.compile("adam")
    net.fit(X, Y, epochs=2, verbose=0)
    before, stream = state(net), qn.random.default_generator().base
    for x, y in [(spoilt(X, (0, 0)), Y), (X, Y + 1), (X[1:], Y)]:
        with pytest.raises((ArgumentError, ShapeError)):
            net.fit(x, y, verbose=0)
        with pytest.raises((ArgumentError, ShapeError)):
            net.train_on_batch(x, y)
    assert state(net) == before and qn.random.default_generator().base == stream


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0, 2.0], [3.0]], r"\[fit\] x is no array, its items have different shapes"),
        (np.array([["a"]] * 30), r"\[fit\] x holds <U1, expected numbers"),
        (np.array([None] * 30), r"\[fit\] x holds object, expected numbers"),
        (X + 1j, r"\[fit\] x holds complex"),
    ],
)
def test_what_is_no_array_of_numbers(x: Any, message: str) -> None:
    net = mlp()
    net.compile()
    with pytest.raises((DTypeError, ShapeError), match=message):
        net.fit(x, Y, verbose=0)


def test_gradients_are_of_floating_tensors() -> None:
    with pytest.raises(DTypeError, match="only floating tensors have gradients, this one is int64"):
        qn.tensor([1, 2]).requires_grad_()
    with pytest.raises(DTypeError, match="only floating tensors have gradients, this one is int32"):
        qn.tensor(np.arange(3, dtype=np.int32), requires_grad=True)
    with pytest.raises(StateError, match="does not depend on any tensor with requires_grad=True"):
        qn.tensor([1, 2]).sum().backward()


@pytest.mark.parametrize(
    "call", [ops.add, ops.mul, ops.div, ops.maximum, ops.lt, lambda a, b: ops.where(a > 0, a, b)]
)
def test_shapes_that_cannot_be_broadcast_are_both_named(call: Any) -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 4\)|\(2, 4\).*\(2, 3\)"):
        call(qn.ones((2, 3)), qn.ones((2, 4)))


def test_edits_of_what_a_gradient_needs_are_refused() -> None:
    x = qn.tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    with qn.no_grad():
        y[0] = 5.0
    with pytest.raises(
        StateError, match=r"that exp needs was changed in place after the forward pass .*backward\(\)"
    ):
        y.sum().backward()
    with pytest.raises(
        StateError, match=r"a leaf that requires grad cannot be updated in place; do it under"
    ):
        x += 1
    layer = nn.Linear(2, 2)
    z = layer(layer(np.ones((1, 2))))
    with qn.no_grad():
        layer.weight[...] = 0.0
    with pytest.raises(StateError, match="was changed in place after the forward pass"):
        z.sum().backward()


def test_a_broadcasting_mistake_in_a_loss_is_caught() -> None:
    """(N, 1) against (N,) would silently become (N, N)."""
    net = nn.Sequential(nn.Linear(4, 1))
    net.compile("sgd", loss="mse")
    with pytest.raises(
        ShapeError, match=r"output is \(N, 1\), y has shape \(30,\); use y\.reshape\(\(-1, 1\)\)"
    ):
        net.fit(X, X[:, 0], verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_accumulation": 0}, "gradient_accumulation is a positive integer, got 0"),
        ({"batch_size": True}, "batch_size is a positive integer, got True"),
        ({"validation_split": -0.1}, r"validation_split lies in \[0, 1\), got -0\.1"),
        ({"validation_split": 0.001}, r"validation_split=0\.001 of \d+ samples is none"),
        ({"validation_data": (X, Y, None, None)}, r"validation_data is \(x, y\), .*got tuple of 4"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    net = mlp()
    net.compile()
    with pytest.raises(ArgumentError, match=message):
        net.fit(X, Y, verbose=0, **options)
    assert net[0].weight.is_unsized
    for size in (0, -1, True):
        with pytest.raises(ArgumentError, match=r"\[predict\] batch_size is a positive integer or None"):
            net.predict(X, batch_size=size)
