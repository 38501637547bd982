"""Profiles: what they say agrees with what ran, and looking changes nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import _core, losses, nn, optim
from quernel.cli import main
from quernel.errors import ArgumentError, StateError


def lenet() -> nn.Module:
    qn.seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 8, 8, 1)).astype(np.float32)


def test_a_model_is_profiled_inside_its_plan() -> None:
    net = lenet()
    result = qn.profile(net, images(2), repeats=5)
    assert [(step.op, step.layer) for step in result.steps] == [
        ("conv2d", "0"),
        ("max_pool2d", "2"),
        ("linear", "4"),
    ]
    conv, _, linear = result.steps
    assert linear.kernel == "gemm_f32"
    assert linear.flops == 2 * 2 * 64 * 10
    assert linear.nbytes >= 4 * (2 * 64 + 64 * 10 + 2 * 10)
    assert conv.flops == 2 * 2 * 8 * 8 * 4 * 9
    assert all(step.isa in qn.runtime.compiled_isas() and step.calls == 1 for step in result.steps)
    assert all(step.roofline is not None and step.roofline > 0 for step in result.steps)
    assert 0 < result.kernel_seconds < result.seconds * 1.5  # medians of parts need not add up
    assert result.repeats == 5 == len(result.spans)
    assert "gemm_f32" in result.table() and "us a call (median of 5" in str(result)


def test_a_training_step_trains_while_it_is_profiled() -> None:
    net = lenet()
    net(images(1))
    opt = optim.SGD(net.parameters(), lr=0.01)

    @qn.jit
    def step(x: qn.Tensor, y: qn.Tensor) -> qn.Tensor:
        opt.zero_grad()
        loss = losses.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = images(4), np.arange(4)
    before = step(x, y).item()
    result = qn.profile(step, x, y, repeats=4, warmup=3)
    kernels = {s.kernel for s in result.steps}
    assert {"conv2d_grad_weight_f32", "cross_entropy_grad", "sgd"} <= kernels
    assert step(x, y).item() < before

    twin = lenet()
    twin(images(1))
    other = optim.SGD(twin.parameters(), lr=0.01)
    for _ in range(9):
        other.zero_grad()
        losses.cross_entropy(twin(qn.tensor(x)), y).backward()
        other.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(np.asarray(p.detach()), np.asarray(q.detach()))


def test_int8_and_other_levels_are_named() -> None:
    net = lenet().eval()
    small = qn.compress.quantize(net, calibration=images(16))
    kernels = {s.kernel for s in qn.profile(small, images(1), repeats=3).steps}
    assert "gemm_u8s8" in kernels
    with qn.runtime.isa("scalar"):
        assert {s.isa for s in qn.profile(net, images(1), repeats=3).steps} == {"scalar"}


def test_eager_code_is_profiled_too_and_calls_that_differ_are_summed_up() -> None:
    sizes = iter([1, 2] * 10)

    def call(x: np.ndarray) -> None:
        for _ in range(next(sizes)):
            qn.ops.exp(qn.ops.as_tensor(x))

    result = qn.profile(call, np.ones(100, np.float32), repeats=4, warmup=4)
    (step,) = (s for s in result.steps if s.op == "exp")
    assert step.calls == 1.5
    assert "exp x1.5" in result.table()


def test_traces_and_plots(tmp_path: Path) -> None:
    result = qn.profile(lenet(), images(1), repeats=3)
    result.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert len(events) == 3 * len(result.steps)
    assert {e["name"] for e in events} == {s.layer for s in result.steps}
    ends = [(e["ts"], e["ts"] + e["dur"]) for e in events]
    assert ends[0][0] == 0 and all(a[1] <= b[0] + 1e-3 for a, b in itertools.pairwise(ends))
    pytest.importorskip("matplotlib")
    result.plot(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    net = lenet()
    net(images(1))
    net.save(tmp_path / "m.safetensors")
    trace = tmp_path / "t.json"
    assert main(["profile", str(tmp_path / "m.safetensors"), "--repeats", "3", "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert "conv2d" in out and "roofline" in out and trace.exists()
    assert main(["profile", str(tmp_path / "m.safetensors"), "--plot", str(tmp_path / "no" / "x.png")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="repeats is a whole number of at least 1, got 0"):
        qn.profile(lenet(), images(1), repeats=0)
    with pytest.raises(ArgumentError, match="expects a model or a function, got int"):
        qn.profile(3)
    for target in (lenet(), lenet().freeze(max_batch=1)):
        with pytest.raises(ArgumentError, match=r"is called with inputs: qn.profile\(model, x\)"):
            qn.profile(target)
    with pytest.raises(StateError, match="ran no kernel"):
        qn.profile(lambda: None)
    with pytest.raises(ZeroDivisionError):
        qn.profile(lambda: 1 / 0)
    first = _core.Profile()
    try:
        with pytest.raises(StateError, match="profiled already"):
            _core.Profile()
    finally:
        first.stop()
    _core.Profile().stop()
