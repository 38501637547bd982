"""Training with ``precision="bf16"``: float32 parameters, bfloat16 products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import data, nn
from tests.checks import check_equal

X, Y = data.load_digits()


def digits_net() -> nn.Sequential:
    qn.seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def trained(precision: str, epochs: int = 30, **options: Any) -> tuple[nn.Sequential, float]:
    """A net and its loss on the data it was trained on."""
    net = digits_net()
    net.compile(precision=precision, **options)
    net.fit(X, Y, epochs=epochs, batch_size=64, verbose=0, seed=1)
    return net, net.evaluate(X, Y)["loss"]


def test_training_ends_within_a_percent_of_float32() -> None:
    (net, mixed), (_, plain) = trained("bf16"), trained("fp32")
    assert plain < 0.15
    assert mixed != plain
    assert abs(mixed - plain) <= 0.01 * plain
    assert {p.dtype for p in net.parameters()} == {"float32"}


def test_a_jitted_step_equals_the_eager_one() -> None:
    (jitted, a), (eager, b) = trained("bf16", epochs=1), trained("bf16", epochs=1, run_eagerly=True)
    assert a == b
    for p, q in zip(jitted.parameters(), eager.parameters(), strict=True):
        check_equal(p.numpy(), q.numpy())
    check_equal(jitted.predict(X[:50]), jitted(X[:50]).numpy())


def test_threads_change_no_bit() -> None:
    before = qn.runtime.num_threads()
    nets = []
    try:
        for threads in (1, 2):
            qn.runtime.set_num_threads(threads)
            nets.append(trained("bf16", epochs=1)[0])
    finally:
        qn.runtime.set_num_threads(before)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        check_equal(p.numpy(), q.numpy())


def test_frozen_and_saved_nets_keep_the_precision(tmp_path: Any) -> None:
    net, _ = trained("bf16", epochs=1)
    want = net.predict(X[:50])
    run = net.freeze()
    check_equal(run(X[:50]), want)
    check_equal(np.concatenate([run(X[i : i + 1]) for i in range(50)]), want)
    net.save(tmp_path / "net.safetensors")
    again = qn.load(tmp_path / "net.safetensors")
    check_equal(again.predict(X[:50]), want)
    assert "precision='bf16'" in repr(again[1])


def test_compiling_again_changes_the_precision() -> None:
    net = digits_net()
    plain = net.predict(X[:9])
    net.compile(precision="bf16")
    assert (net.predict(X[:9]) != plain).any()
    net.compile()
    check_equal(net.predict(X[:9]), plain)


def test_what_it_does_not_concern_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"\[compile\] precision 'bf16' concerns nn.Linear, and the model has none"
    ):
        nn.Sequential(nn.Conv2d(1, 2, 3)).compile(precision="bf16")
    with pytest.raises(ValueError, match=r"parameters are float64, precision 'bf16' wants float32"):
        digits_net().to("float64").compile(precision="bf16")
