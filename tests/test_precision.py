"""Training with ``precision="bf16"``: float32 parameters, bfloat16 products in linear and recurrent layers,
convolutions and attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import data, nn
from tests import reference
from tests.checks import check_equal

X, Y = data.load_digits()


def digits_net() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, groups=4)),
        *(nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(None, 10)),
    )  # fmt: skip


class Attention(nn.Module):
    """Rows of the image as a sequence."""

    def __init__(self) -> None:
        self.embed = nn.Conv1d(8, 16, 1)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)
        self.head = nn.Linear(16, 10)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y: qn.Tensor = self.head(self.layer(self.embed(x.reshape(-1, 8, 8))).mean(1))
        return y


class Rows(nn.Module):
    """Likewise, for layers that take sequences."""

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x.reshape(-1, 8, 8)


def recurrent() -> nn.Sequential:
    return nn.Sequential(
        *(
            Rows(),
            nn.LSTM(8, 20, bidirectional=True, returns="outputs"),
            nn.GRU(40, 24, 2, returns="outputs"),
        ),
        *(nn.RNN(24, 33, returns="last"), nn.Linear(33, 10)),
    )


NETS = (digits_net, convolutions, Attention, recurrent)
nets = pytest.mark.parametrize("make", NETS, ids=lambda make: make.__name__)


def trained(
    precision: str, epochs: int = 30, make: Callable[[], nn.Module] = digits_net, **options: Any
) -> tuple[nn.Module, float]:
    """A net and its loss on the data it was trained on."""
    qn.seed(0)
    net = make()
    net.compile(precision=precision, **options)
    net.fit(X, Y, epochs=epochs, batch_size=64, verbose=0, seed=1)
    return net, net.evaluate(X, Y)["loss"]


def one_cell(kind: str) -> nn.Sequential:
    return nn.Sequential(Rows(), getattr(nn, kind)(8, 48, returns="last"), nn.Linear(48, 10))


@pytest.mark.parametrize("kind", [None, "LSTM", "GRU", "RNN"])
def test_training_ends_within_a_percent_of_float32(kind: str | None) -> None:
    make = partial(one_cell, kind) if kind else digits_net
    (net, mixed), (_, plain) = trained("bf16", make=make), trained("fp32", make=make)
    assert plain < 0.2
    assert mixed != plain
    assert abs(mixed - plain) <= 0.01 * plain
    assert {p.dtype for p in net.parameters()} == {"float32"}


@nets
def test_a_jitted_step_equals_the_eager_one(make: Callable[[], nn.Module]) -> None:
    jitted, a = trained("bf16", 1, make)
    eager, b = trained("bf16", 1, make, run_eagerly=True)
    assert a == b
    for p, q in zip(jitted.parameters(), eager.parameters(), strict=True):
        check_equal(p.numpy(), q.numpy())
    check_equal(jitted.predict(X[:50]), jitted.eval()(X[:50]).numpy())


@nets
def test_threads_change_no_bit(make: Callable[[], nn.Module]) -> None:
    before = qn.runtime.num_threads()
    nets = []
    try:
        for threads in (1, 2):
            qn.runtime.set_num_threads(threads)
            nets.append(trained("bf16", 1, make)[0])
    finally:
        qn.runtime.set_num_threads(before)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        check_equal(p.numpy(), q.numpy())


@nets
def test_frozen_and_saved_nets_keep_the_precision(make: Callable[[], nn.Module], tmp_path: Any) -> None:
    net, _ = trained("bf16", 1, make)
    want = net.predict(X[:50])
    run = net.freeze()
    check_equal(run(X[:50]), want)
    check_equal(np.concatenate([run(X[i : i + 1]) for i in range(50)]), want)
    net.save(tmp_path / "net.safetensors")
    again = qn.load(tmp_path / "net.safetensors")
    check_equal(again.predict(X[:50]), want)


def test_a_batch_norm_is_folded_before_weights_are_rounded() -> None:
    """What a frozen net rounds is weight times scale: twice the unit roundoff of bfloat16 away from the net."""
    qn.seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, bias=False, precision="bf16"), nn.BatchNorm2d(8)
    net = nn.Sequential(conv, norm)
    x = np.random.default_rng(0).standard_normal((4, 9, 9, 3)).astype("f4")
    net(x)  # moves the statistics
    net.eval()
    scale = 1 / np.sqrt(norm.running_var.numpy() + norm.eps)
    size = scale * reference.conv2d(abs(x), abs(conv.weight.numpy()))
    assert (abs(net.freeze()(x) - net.predict(x)) <= 2 * 2.0**-8 * size * (1 + 2.0**-7)).all()


def test_layers_show_their_precision() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ConvTranspose1d(4, 4, 2), nn.MultiheadAttention(4, 2), nn.Linear(4, 2)
    )
    before = repr(net)
    net.compile(precision="bf16")
    assert "precision" not in before
    assert repr(net).count("precision='bf16'") == 5


class Own(nn.Module):
    """A module whose attribute of that name means something else."""

    def __init__(self) -> None:
        self.precision = 3
        self.inner = nn.Linear(4, 2)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y: qn.Tensor = self.inner(x)
        return y


def test_modules_of_ones_own_keep_their_attributes() -> None:
    net = Own()
    for precision, expected in (("fp32", None), ("bf16", "bf16"), ("fp32", None)):
        net.compile(precision=precision)
        assert net.precision == 3 and net.inner.precision == expected


def test_a_loaded_net_has_the_layers_with_their_precision(tmp_path: Any) -> None:
    net, _ = trained("bf16", 1, convolutions)
    net.save(tmp_path / "net.safetensors")
    assert repr(qn.load(tmp_path / "net.safetensors")) == repr(net)


@nets
def test_compiling_again_changes_the_precision(make: Callable[[], nn.Module]) -> None:
    net = make()
    plain = net.predict(X[:9])
    net.compile(precision="bf16")
    assert (net.predict(X[:9]) != plain).any()
    net.compile()
    check_equal(net.predict(X[:9]), plain)


def test_a_net_with_bfloat16_products_is_quantized() -> None:
    net, _ = trained("bf16", 3, convolutions)
    small = qn.compress.quantize(net, calibration=X[:256])
    share = (small.predict(X).argmax(1) == net.predict(X).argmax(1)).mean()
    assert share > 0.97


def test_what_it_does_not_concern_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"\[compile\] precision 'bf16' concerns the products of .* the model has none"
    ):
        nn.Sequential(nn.BatchNorm2d(1), nn.Flatten()).compile(precision="bf16")
    with pytest.raises(ValueError, match=r"parameters are float64, precision 'bf16' wants float32"):
        digits_net().to("float64").compile(precision="bf16")
