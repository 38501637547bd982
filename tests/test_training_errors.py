"""What compile and fit refuse, and that a refusal leaves the model as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim
from quernel.callbacks import EarlyStopping
from quernel.errors import ArgumentError, DeviceError, ShapeError, StateError
from tests.test_training import blobs, mlp, state

x3, y3 = blobs(30)
BAD_DATA: list[tuple[Any, Any, dict[str, Any], str]] = [
    (x3[:0], y3[:0], {}, r"\[fit\] there are no samples: x has shape \(0, 4\)"),
    (x3, y3[:-1], {}, r"\[fit\] x has 30 samples, y has 29"),
    (x3, y3.astype(float), {}, r"\[fit\] cross_entropy wants whole class numbers, y holds float32"),
    (
        x3,
        np.eye(3)[y3] * 2,
        {},
        r"\[fit\] cross_entropy wants .* probabilities from 0 to 1; y is 2\.0 at \(0, 0\)",
    ),
    (x3, np.eye(4)[y3], {}, r"\[fit\] cross_entropy wants whole class numbers.*argmax"),
    (
        x3,
        y3[:, None],
        {},
        r"\[fit\] cross_entropy wants labels \(N,\), y has shape \(30, 1\); use y\.ravel\(\)",
    ),
    (
        x3,
        np.where(y3 == 2, 3, y3),
        {},
        r"\[fit\] label 3 of sample 2 is out of range: the model has 3 classes, 0 to 2",
    ),
    (x3, -y3, {}, r"\[fit\] label -1 of sample 1 is out of range"),
    (x3.astype(str), y3, {}, r"\[fit\] x holds <U32, expected numbers"),
    (np.float32(1), y3, {}, r"\[fit\] x is a single number"),
    (x3, y3, {"batch_size": 0}, r"\[fit\] batch_size is a positive integer, got 0"),
    (x3, y3, {"batch_size": 2.5}, r"\[fit\] batch_size is a positive integer, got 2\.5"),
    (x3, y3, {"epochs": -1}, r"\[fit\] epochs is a positive integer, got -1"),
    (x3, y3, {"validation_split": 1.0}, r"\[fit\] validation_split lies in \[0, 1\), got 1\.0"),
    (
        x3,
        y3,
        {"validation_data": (x3, y3 + 1)},
        r"\[fit: validation_data\] label 3 of sample 2 is out of range",
    ),
    (x3, y3, {"validation_data": (x3, y3[1:])}, r"\[fit: validation_data\] x has 30 samples, y has 29"),
]


@pytest.mark.parametrize(("x", "y", "options", "message"), BAD_DATA)
@pytest.mark.parametrize("sized", [False, True])
def test_bad_data_leave_the_model_as_it_was(
    x: Any, y: Any, options: dict[str, Any], message: str, sized: bool
) -> None:
    qn.seed(0)
    net = mlp()
    net.compile(optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    if sized:
        net.train_on_batch(x3, y3)
    before = state(net) if sized else None
    stream = qn.random.default_generator().base
    given = [np.array(a) for a in (x, y)]
    with pytest.raises((ValueError, TypeError), match=message):
        net.fit(x, y, verbose=0, **options)
    for value, copy in zip((x, y), given, strict=True):
        assert np.array_equal(value, copy)
    assert all(module.training for module in net.modules())
    assert qn.random.default_generator().base == stream
    assert state(net) == before if sized else net[0].weight.is_unsized
    net.fit(x3, y3, verbose=0)


def test_inputs_of_a_wrong_shape_leave_sizes_open() -> None:
    net = nn.Sequential(nn.Conv2d(None, 4, 3), nn.Flatten(), nn.Linear(None, 3), nn.Linear(5, 3))
    net.compile()
    stream = qn.random.default_generator().base
    with pytest.raises(ShapeError, match=r"\[linear\] weight expects 5 input features, x has 3"):
        net.fit(np.ones((6, 8, 8, 2)), np.zeros(6, int), verbose=0)
    assert net[0].weight.is_unsized and net[2].weight.is_unsized and net[0].in_channels is None
    assert qn.random.default_generator().base == stream


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"optimizer": "adamm"},
            ArgumentError,
            r"\[compile\] unknown optimizer 'adamm'; did you mean 'adam'\?",
        ),
        ({"optimizer": 3}, ArgumentError, "optimizer is a name or an optimizer, got 3"),
        (
            {"loss": "crossentropy"},
            ArgumentError,
            "unknown loss 'crossentropy'; did you mean 'cross_entropy'",
        ),
        ({"metrics": ["acuracy"]}, ArgumentError, "unknown metric 'acuracy'; did you mean 'accuracy'"),
        ({"loss": nn.MSELoss}, ArgumentError, r"loss is a class; make one: MSELoss\(\)"),
        (
            {"optimizer": optim.SGD(nn.Linear(4, 2).parameters())},
            ArgumentError,
            r"the optimizer has no parameter of this model; make it of net.parameters\(\) of the same net",
        ),
        ({"metrics": [1]}, ArgumentError, "metric is a name or a function, got 1"),
        ({"precision": "fp8"}, ArgumentError, "unknown precision 'fp8'"),
        ({"device": "cuda"}, DeviceError, "'cuda' cannot be used: .*; pass device='cpu' or 'auto'"),
        ({"device": "tpu"}, DeviceError, "unknown device 'tpu'"),
    ],
)
def test_compile_refuses_what_it_does_not_know(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    net = mlp()
    net.compile("sgd")
    trainer = net._session["trainer"]
    with pytest.raises(error, match=message):
        net.compile(**options)
    assert net._session["trainer"] is trainer


def test_training_needs_compile_and_parameters() -> None:
    x, y = blobs()
    for verb in ("fit", "evaluate", "train_on_batch"):
        with pytest.raises(StateError, match=rf"\[{verb}\] call net\.compile"):
            getattr(mlp(), verb)(x, y)
    assert mlp().predict(x).shape == (90, 3)
    fixed = nn.ReLU()
    fixed.compile()
    assert fixed.evaluate(x, y)["loss"] > 0
    for verb in ("fit", "train_on_batch"):
        with pytest.raises(StateError, match=rf"\[{verb}\] the model has no parameters to train"):
            getattr(fixed, verb)(x, y)


@pytest.mark.parametrize("callbacks", [[3], [None], ["early"]])
def test_what_is_no_callback_is_refused(callbacks: Any) -> None:
    net = mlp()
    net.compile()
    with pytest.raises(ArgumentError, match=r"\[fit\] callbacks are instances of callbacks\.Callback, got"):
        net.fit(x3, y3, callbacks=callbacks, verbose=0)
    assert net[0].weight.is_unsized
    with pytest.raises(ArgumentError, match=r"write callbacks=\[EarlyStopping\(\.\.\.\)\]"):
        net.fit(x3, y3, callbacks=EarlyStopping(), verbose=0)  # type: ignore[arg-type]


def test_targets_of_another_shape_than_the_output() -> None:
    net = nn.Sequential(nn.Linear(4, 1))
    net.compile("sgd", loss="mse")
    message = r"\[mse\] the model's output is \(N, 1\), y has shape \(30,\); use y\.reshape\(\(-1, 1\)\)"
    with pytest.raises(ShapeError, match=message):
        net.fit(x3, y3.astype(float), verbose=0)
    with pytest.raises(ShapeError, match=r"output is \(N, 1\), y has shape \(30, 3\)$"):
        net.evaluate(x3, np.eye(3)[y3])


def test_predicting_needs_an_output_per_sample() -> None:
    class Total(nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return qn.ops.sum(x)

    with pytest.raises(ShapeError, match=r"\[predict\] the model returns a single number for a whole batch"):
        Total().predict(x3)
