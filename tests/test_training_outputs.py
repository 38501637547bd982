"""Models with several inputs and outputs: how data are named, what is minimized, what the history says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import quernel as qn
from quernel import losses, metrics, nn, optim
from quernel.errors import ArgumentError, ShapeError
from tests.test_training import state

rng = np.random.default_rng(0)
A, B = rng.normal(size=(48, 3)).astype(np.float32), rng.normal(size=(48, 4)).astype(np.float32)
LABELS = (A[:, 0] > 0).astype(np.int64)
VALUES = (B[:, :2] * 2).astype(np.float32)


class Pair(NamedTuple):
    kind: qn.Tensor
    size: qn.Tensor


class Two(nn.Module):
    """Two inputs, two outputs, returned in one of several ways."""

    def __init__(self, make: Callable[..., Any] = dict) -> None:
        self.kind, self.size = nn.Linear(None, 2), nn.Linear(4, 2)
        self.make = make

    def forward(self, a: qn.Tensor, b: qn.Tensor, scale: Any = 1.0) -> Any:
        kind, size = self.kind(a), self.size(b) * scale
        if self.make is dict:
            return {"kind": kind, "size": size}
        return Pair(kind, size) if self.make is Pair else self.make((kind, size))


def trained(net: nn.Module, x: Any, y: Any, eagerly: bool = False, **options: Any) -> dict[str, list[float]]:
    net.compile("adam", **{"loss": ["cross_entropy", "mse"], "run_eagerly": eagerly} | options)
    return net.fit(x, y, epochs=2, batch_size=20, verbose=0).history


@pytest.mark.parametrize("eagerly", [False, True])
def test_all_ways_of_naming_train_alike(eagerly: bool) -> None:
    runs = []
    for make, x, y in [
        (dict, {"b": B, "a": A}, {"size": VALUES, "kind": LABELS}),
        (dict, (A, B), (LABELS, VALUES)),
        (tuple, [A, B], [LABELS, VALUES]),
        (list, {"a": A, "b": B}, {"output_1": VALUES, "output_0": LABELS}),
        (Pair, (A, B), {"kind": LABELS, "size": VALUES}),
    ]:
        qn.seed(0)
        net = Two(make)
        history = trained(net, x, y, eagerly)
        names = ("output_0", "output_1") if make in (tuple, list) else ("kind", "size")
        assert list(history) == ["loss", *(f"{name}_loss" for name in names)]
        runs.append((state(net), list(history.values())))
    assert all(run == runs[0] for run in runs)


def test_the_loss_is_the_weighted_sum_and_each_output_has_its_own() -> None:
    qn.seed(0)
    net, twin = Two(), Two()
    net((A, B)[0], B), twin(A, B)
    twin.load_state_dict(net.state_dict())
    net.compile(
        optim.SGD(net.parameters(), lr=0.1),
        loss={"size": "mse", "kind": losses.cross_entropy},
        loss_weights={"size": 0.25},
        metrics={"kind": ["accuracy", "f1"], "size": "mae"},
    )
    history = net.fit((A, B), (LABELS, VALUES), batch_size=48, shuffle=False, verbose=0, validation_split=0.0)
    opt = optim.SGD(twin.parameters(), lr=0.1)
    out = twin(A, B)
    first, second = losses.cross_entropy(out["kind"], LABELS), losses.mse(out["size"], VALUES)
    loss = first + second * 0.25
    loss.backward()
    opt.step()
    assert state(net) == state(twin)
    assert history["loss"] == [loss.item()]
    assert (history["kind_loss"], history["size_loss"]) == ([first.item()], [second.item()])
    assert history["kind_accuracy"] == [(out["kind"].numpy().argmax(1) == LABELS).mean()]
    assert list(history.history) == ["loss", "kind_loss", "size_loss", "kind_accuracy", "kind_f1", "size_mae"]
    result = net.evaluate({"a": A, "b": B}, (LABELS, VALUES))
    assert list(result) == list(history.history)
    assert net.test_on_batch((A, B), (LABELS, VALUES)) == result


def test_outputs_without_a_loss_need_no_target() -> None:
    qn.seed(0)
    net = Two()
    before = net.size.weight.numpy().copy()
    history = trained(net, (A, B), {"kind": LABELS}, loss={"kind": "cross_entropy"})
    assert list(history) == ["loss", "kind_loss"]
    assert np.array_equal(net.size.weight.numpy(), before)
    net.compile("adam", loss=["cross_entropy", None], metrics=[None, "mae"])
    with pytest.raises(ArgumentError, match=r"y\['size'\] is missing: output 'size' has a loss or a metric"):
        net.fit((A, B), {"kind": LABELS}, verbose=0)
    assert set(net.evaluate((A, B), (LABELS, VALUES))) == {"loss", "kind_loss", "size_mae"}


def test_a_loss_of_ones_own_takes_all_outputs_for_one_target() -> None:
    def both(output: dict[str, qn.Tensor], target: qn.Tensor) -> qn.Tensor:
        return losses.mse(output["kind"], target) + losses.mse(output["size"], target)

    def worst(output: dict[str, np.ndarray], target: np.ndarray) -> float:
        return float(np.abs(output["size"] - target).max())

    net = Two()
    history = trained(net, (A, B), VALUES, loss=both, metrics=[worst])
    assert list(history) == ["loss", "worst"] and history["loss"][1] < history["loss"][0]
    with pytest.raises(ArgumentError, match=r"y is one array, the model returns 2 outputs \(kind, size\)"):
        trained(net, (A, B), VALUES, loss="mse")


def test_inputs_with_defaults_may_be_left_out_or_given_by_name() -> None:
    net = Two(tuple)
    scale = np.full((48, 1), 3.0)
    plain, scaled = net.predict((A, B)), net.predict((A, B, scale))
    assert np.array_equal(net.predict({"a": A, "b": B, "scale": scale})[1], scaled[1])
    assert np.allclose(scaled[1], plain[1] * 3) and isinstance(plain, tuple)
    out = net.predict_on_batch({"b": B, "a": A})
    assert all(np.array_equal(x, y) for x, y in zip(out, plain, strict=True))

    class Keyword(nn.Module):
        def __init__(self) -> None:
            self.linear = nn.Linear(3, 2)

        def forward(self, a: qn.Tensor, extra: Any = None, *, bias: qn.Tensor) -> qn.Tensor:
            assert extra is None and bias.dtype == "float32"
            y: qn.Tensor = self.linear(a) + bias
            return y

    net2 = Keyword()
    bias = rng.normal(size=(48, 2))
    assert np.allclose(net2.predict({"bias": bias, "a": A}), net2(A, bias=bias).numpy())
    net2.compile(loss="mse")
    assert net2.fit({"bias": bias, "a": A}, VALUES, verbose=0)["loss"][0] > 0


def test_a_saved_model_of_ones_own_class_takes_its_inputs_too(tmp_path: Path) -> None:
    net = Two(tuple)
    expected = net.predict((A, B))
    net.save(tmp_path / "two.safetensors")
    loaded = qn.load(tmp_path / "two.safetensors")
    names = list(loaded.graph.inputs)
    for x in ((A, B), {names[1]: B, names[0]: A}):
        assert all(np.array_equal(p, q) for p, q in zip(loaded.predict(x), expected, strict=True))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"a": A, "c": B}, r"\[fit\] x names 'c', Two\.forward takes 'a', 'b', 'scale'"),
        ({"a": A}, r"\[fit\] x lacks 'b', Two\.forward takes 'a', 'b', 'scale'"),
        (A, r"\[fit\] Two\.forward takes 'a', 'b', 'scale', x has 1 input; pass a tuple"),
        ((A, B, B, B), r"\[fit\] Two\.forward takes 'a', 'b', 'scale', x has 4 inputs"),
        ({}, r"\[fit\] x is empty"),
        ((A, B[1:]), r"\[fit\] the inputs have 48, 47 samples"),
    ],
)
def test_inputs_that_the_model_does_not_take(x: Any, message: str) -> None:
    net = Two()
    net.compile("sgd", loss=["cross_entropy", "mse"])
    with pytest.raises((ArgumentError, ShapeError), match=message):
        net.fit(x, (LABELS, VALUES), verbose=0)
    assert net.kind.weight.is_unsized
    with pytest.raises((ArgumentError, ShapeError), match=message.replace("fit", "predict")):
        net.predict(x)


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({}, (LABELS,), r"y has 1 entries, the model returns 2 outputs \(kind, size\)"),
        (
            {},
            {"kind": LABELS, "siz": VALUES},
            r"y names 'siz', the model's outputs are 'kind' and 'size'; did you mean",
        ),
        ({}, (LABELS, VALUES[1:]), r"x has 48 samples, y\[1\] has 47"),
        (
            {},
            (VALUES, VALUES),
            r"cross_entropy wants whole class numbers, or probabilities from 0 to 1; y\[0\] is -",
        ),
        ({}, {"kind": LABELS, "size": VALUES[:, :1]}, r"output is \(N, 2\), y\['size'\] has shape \(48, 1\)"),
        (
            {"loss": {"knd": "mse"}},
            (LABELS, VALUES),
            r"loss names 'knd', the model's outputs are kind, size; did you",
        ),
        ({"loss": ["mse"]}, (LABELS, VALUES), r"loss has 1 entries, the model returns 2 outputs"),
        ({"loss": [None, None]}, (LABELS, VALUES), "no output has a loss"),
        ({"metrics": ["accuracy"]}, (LABELS, VALUES), r"metrics has 1 entries, the model returns 2 outputs"),
        ({"loss_weights": 2.0}, (LABELS, VALUES), r"loss_weights is a list or a dictionary"),
        (
            {"metrics": metrics.Accuracy()},
            (LABELS, VALUES),
            r"one Metric object cannot serve several outputs",
        ),
    ],
)
def test_what_does_not_fit_the_outputs(options: dict[str, Any], y: Any, message: str) -> None:
    net = Two()
    net.compile("sgd", **{"loss": ["cross_entropy", "mse"]} | options)
    with pytest.raises((TypeError, ValueError), match=message):
        net.fit((A, B), y, verbose=0)
    assert net.kind.weight.is_unsized


def test_one_output_has_one_loss() -> None:
    net = nn.Linear(3, 2)
    net.compile("sgd", loss={"a": "mse"})
    with pytest.raises(
        ArgumentError, match="loss is given for each of several outputs, the model returns one"
    ):
        net.fit(A, VALUES, verbose=0)
    net.compile("sgd", loss="mse")
    with pytest.raises(ArgumentError, match="y is a dictionary, the model returns one tensor"):
        net.fit(A, {"a": VALUES}, verbose=0)
    assert net.fit(A, (VALUES,), verbose=0)["loss"][0] > 0
    for weights in ([float("nan")], {"a": "much"}):
        with pytest.raises(ArgumentError, match="loss_weights are finite numbers"):
            net.compile("sgd", loss="mse", loss_weights=weights)
