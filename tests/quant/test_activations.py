"""Quantized nets with the activations that are tables, and those that are bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

import quernel as qn
from quernel import compress, nn, ops


def images(n: int) -> Any:
    return np.random.default_rng(3).standard_normal((n, 8, 8, 3)).astype(np.float32)


def kinds(model: compress.QuantizedModel) -> list[str]:
    return [node.op for node in model.graph.nodes]


def close(net: nn.Module, model: compress.QuantizedModel) -> None:
    """Over the calibration range, int8 stays within a few steps of 1/255 of it."""
    x = images(64)
    exact, got = net.eval()(x).numpy(), model(x).numpy()
    assert np.abs(got - exact).max() < 0.04 * (exact.max() - exact.min())
    np.testing.assert_array_equal(model.freeze(max_batch=16)(x), got)


def test_leaky_relu_is_a_table() -> None:
    qn.seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3), nn.LeakyReLU(), nn.Flatten(), nn.Linear(None, 16), nn.Mish(), nn.Linear(16, 4)),
    )
    net(images(2))
    model = compress.quantize(net, calibration=images(64))
    body = [
        "qconv2d",
        "qlookup",
        "qmax_pool2d",
        "qconv2d",
        "qlookup",
        "flatten",
        "qlinear",
        "qlookup",
        "qlinear",
    ]
    assert kinds(model) == ["quantize", *body]
    close(net, model)


def test_relu6_is_a_bound_and_hardswish_a_table() -> None:
    qn.seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8)),
        *(nn.BatchNorm2d(8), nn.Hardswish(), nn.GlobalAvgPool2d(), nn.Linear(8, 4)),
    )
    net(images(2))
    with qn.no_grad():
        net[0].weight[...] = net[0].weight * 8.0  # so that 6 is reached
    model = compress.quantize(net, calibration=images(64))
    assert kinds(model) == ["quantize", "qconv2d", "qconv2d", "qlookup", "qmean_hw", "qlinear"]
    first = next(node for node in model.graph.nodes if node.op == "qconv2d")
    assert (first.args["lo"], first.args["hi"], first.args["zero_point"]) == (0, 255, 0)  # 255 steps are 6
    close(net, model)


class Clamps(nn.Module):
    """A contraction and an addition with bounds of their own, on the scale of a concatenation."""

    def __init__(self) -> None:
        self.left, self.right, self.last = (nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1))

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        left, right = ops.hardtanh(self.left(x), -0.5, 0.25), ops.clip(self.right(x), 0.125, None)
        return self.last(ops.concat([left, ops.relu6(left + right)], -1))


def test_hardtanh_and_clip_are_bounds_too() -> None:
    qn.seed(0)
    net = Clamps()
    model = compress.quantize(net, calibration=images(64))
    assert kinds(model) == ["quantize", "qconv2d", "qconv2d", "qadd", "concat", "qconv2d"]
    left, right, total = (model.graph.nodes[i].args for i in (1, 2, 3))
    scale, zero_point = total["scale"], total["zero_point"]
    assert left["zero_point"] == zero_point  # concat shares one scale
    assert left["lo"] == 0
    assert left["hi"] == zero_point + round(0.25 / scale) < 255
    assert total["lo"] == zero_point > 0
    assert right["lo"] > right["zero_point"] == 0
    close(net, model)


def test_a_bound_behind_the_last_contraction_stays_an_op() -> None:
    qn.seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(None, 4), nn.ReLU6())
    net(images(2))
    model = compress.quantize(net, calibration=images(64))
    assert kinds(model) == ["quantize", "flatten", "qlinear", "relu6"] or kinds(model) == [
        *("flatten", "quantize", "qlinear", "relu6")
    ]
    close(net, model)


def test_a_frozen_net_changes_its_level() -> None:
    """Weights packed for one level serve no other: depthwise, and runs that are no multiple of four bytes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 11, 3)).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24))
    model = compress.quantize(net, calibration=x).freeze(max_batch=2)
    want = model(x).copy()
    for name in qn.runtime.supported_isas():
        with qn.runtime.isa(name):
            np.testing.assert_array_equal(model(x), want)
    np.testing.assert_array_equal(model(x), want)
