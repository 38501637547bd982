"""Post-training quantization: the graph it makes, its numbers against integer arithmetic, and its accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import compress, nn, ops
from quernel.errors import ArgumentError, ShapeError, StateError, UnsupportedError
from quernel.graph import Graph, Node, Ref
from quernel.graph.ir import Resolver
from quernel.quant.observers import MinMax, Scale
from tests import reference
from tests.models import MODELS, SHAPE, Branches, evaluate, images, make

INT8 = {
    "quantize",
    "dequantize",
    "qlinear",
    "qconv2d",
    "qadd",
    "qlookup",
    "qmax_pool2d",
    "qavg_pool2d",
    "qmean_hw",
}
NAMES = {
    "scale": "y_scale",
    "zero_point": "y_zp",
    "a_zero_point": "a_zp",
    "b_zero_point": "b_zp",
}


def quantized(name: str) -> compress.QuantizedModel:
    return compress.quantize(make(name), calibration=images(64))


def kinds(model: compress.QuantizedModel) -> list[str]:
    return [node.op for node in model.graph.nodes]


# ---- the graph ------------------------------------------------------------------------------------------------------


def test_tensors_stay_int8_from_layer_to_layer() -> None:
    body = ["qconv2d", "qmax_pool2d", "qconv2d", "qavg_pool2d", "flatten"]
    assert kinds(quantized("plain")) == ["quantize", *body, "qlinear", "qlookup", "qlinear"]
    assert kinds(quantized("residual")) == [
        *(
            "quantize",
            "qconv2d",
            "qconv2d",
            "qconv2d",
            "qadd",
            "pad",
            "qconv2d",
            "qconv2d",
            "qadd",
            "qlookup",
        ),
        *("qmean_hw", "qlinear"),
    ]
    branches = kinds(quantized("branches"))
    assert branches == [
        *("quantize", "qconv2d", "qconv2d", "qlookup", "concat", "qconv2d"),
        *("dequantize", "mul", "quantize"),  # mul has no int8 form
        *("qadd", "qmean_hw", "reshape", "getitem", "flatten", "qlinear", "log_softmax"),
    ]
    assert kinds(quantized("fused")) == ["quantize", "qconv2d", "qadd", "qlookup", "flatten", "qlinear"]


@pytest.mark.parametrize("name", MODELS)
def test_every_value_has_the_shape_that_the_graph_says(name: str) -> None:
    model = quantized(name)
    seen: dict[Ref, tuple[tuple[int, ...], str]] = {}
    x = qn.tensor(images(3))
    qn.graph.run(model.graph, [x], observe=lambda ref, v: seen.update({ref: (v.shape, v.dtype)}))
    for node in model.graph.nodes:
        assert seen[Ref(node.name)] == (node.outputs[0].at(3), node.outputs[0].dtype), node.name


def test_the_input_is_quantized_once() -> None:
    assert [kinds(quantized(name)).count("quantize") for name in MODELS] == [1, 1, 2, 1]


def test_relu_is_a_bound() -> None:
    graph = quantized("residual").graph
    node = graph.node("1")
    assert node.op == "qadd"
    assert node.args["lo"] == node.args["zero_point"]
    assert "relu" not in kinds(quantized("plain"))


def test_concat_shares_one_scale() -> None:
    graph = quantized("branches").graph
    concat = next(n for n in graph.nodes if n.op == "concat")
    left, right = (graph.node(ref.node) for ref in concat.refs)
    mix = graph.node("mix")
    assert mix.args["x_zero_point"] == left.args["zero_point"] == 0  # neither branch is negative
    table = graph.weights[right.weights[0]].numpy()
    ranges = graph.weights["mix.scale"].numpy() / (
        np.abs(make("branches").mix.weight.numpy()).max((1, 2, 3)) / 127
    )
    step = ranges * mix_output_scale(graph)
    half = np.rint(0.5 / step)
    assert len(set(half)) == 1
    assert half[0] in table  # sigmoid(0) on the common scale


def mix_output_scale(graph: Graph) -> float:
    """The scale of what `mix` makes, as the dequantize behind it has it."""
    scale = next(n for n in graph.nodes if n.op == "dequantize").args["scale"]
    assert isinstance(scale, float)
    return scale


def test_the_model_stays_as_it_was() -> None:
    net = make("branches").train()
    state = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    x = images(32)
    kept = x.copy()
    compress.quantize(net, calibration=x)
    assert net.training and net.dropout.training
    np.testing.assert_array_equal(x, kept)
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), state[k])


def test_state_is_int8() -> None:
    state = quantized("plain").state_dict()
    assert {k: v.dtype for k, v in state.items() if k.startswith("0.")} == {
        "0.weight_int8": "int8",
        "0.bias_int32": "int32",
        "0.scale": "float32",
    }
    assert all(v.dtype != "float32" or k.endswith("scale") for k, v in state.items())
    weights = np.concatenate([np.abs(v.numpy().astype(int)).ravel() for k, v in state.items() if "int8" in k])
    assert weights.max() == 127


# ---- the numbers ----------------------------------------------------------------------------------------------------


def by_reference(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The graph in NumPy's integer arithmetic; float ops run as ops."""
    values: dict[Ref, Any] = {Ref(name): x for name in graph.inputs}
    weights = {k: v.numpy() for k, v in graph.weights.items()}
    for node in graph.nodes:
        arguments = {k: Resolver(values, weights, len(x))(v) for k, v in node.args.items()}
        values[Ref(node.name)] = _one(node, arguments)
    y: np.ndarray = values[graph.results[0]]
    return y


def _one(node: Node, arguments: dict[str, Any]) -> Any:
    if node.op in INT8:
        if node.op == "dequantize":
            arguments["x"] = arguments.pop("q")
            arguments = dict(
                zip(
                    ("q", "scale", "zero_point"), (arguments["x"], *list(arguments.values())[:2]), strict=True
                )
            )
        elif node.op == "qadd":
            arguments = {NAMES.get(k, k): v for k, v in arguments.items()}
        return getattr(reference, node.op)(**arguments)
    if node.op == "concat":
        return np.concatenate(arguments["tensors"], arguments["dim"])
    with qn.no_grad():
        return getattr(ops, node.op)(**arguments).numpy()


@pytest.mark.usefixtures("quant_isa", "threads")
@pytest.mark.parametrize("name", MODELS)
def test_every_bit_is_that_of_integer_arithmetic(name: str) -> None:
    model = quantized(name)
    for batch in (1, 5):
        x = images(batch, seed=batch) * 1.3  # beyond the calibrated range, too
        np.testing.assert_array_equal(evaluate(model, x), by_reference(model.graph, x))


@pytest.mark.parametrize("name", MODELS)
def test_the_error_is_of_the_size_of_a_step(name: str) -> None:
    """Against the float model on calibrated data: the noise of 8 bits through a few layers, not a wrong scale."""
    net = make(name)
    x = images(64)
    y = evaluate(net, x)
    error = evaluate(quantized(name), x) - y
    signal = 10 * np.log10(np.var(y) / np.mean(error**2))
    assert signal > 30, f"{signal:.1f} dB"  # 35 to 50; borders padded with 0 give below 24


def test_one_layer_by_hand() -> None:
    """2 inputs in [-1, 3]: scale 4/255, zero point 64 (63.75); weights 2 and -1 become 127 and -64 (-63.5 to even)."""
    net = nn.Sequential(nn.Linear(2, 1))
    net[0].weight.detach()[...] = [[2.0, -1.0]]
    net[0].bias.detach()[...] = [0.5]
    model = compress.quantize(net, calibration=np.array([[-1, 3], [0, 1]], np.float32))
    node = model.graph.node("0")
    first = model.graph.nodes[0]
    assert first.args["scale"] == np.float32(4 / 255)
    assert first.args["zero_point"] == 64
    step = np.float32(4 / 255) * (np.float32(2) / np.float32(127))
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    np.testing.assert_array_equal(state["0.weight_int8"], [[127, -64]])
    np.testing.assert_array_equal(state["0.scale"], [step])
    np.testing.assert_array_equal(state["0.bias_int32"], [np.rint(0.5 / np.float64(step)) - 64 * (127 - 64)])
    assert node.args["out_float"] is True
    x = np.array([[1.0, 2.0]], np.float32)
    q = reference.quantize(x, 4 / 255, 64).astype(int)
    exact = (q @ [[127], [-64]] + state["0.bias_int32"]).astype(np.float32) * step
    np.testing.assert_array_equal(evaluate(model, x), exact)


@given(st.integers(0, 2**32 - 1), st.floats(-50, 50, width=32), st.floats(0, 100, width=32))
def test_scales_cover_their_range_and_zero(seed: int, lo: float, width: float) -> None:
    hi = lo + width
    scale = Scale.covering(lo, hi)
    assert 0 <= scale.zero_point <= 255
    assert scale.dequantize(np.array([scale.zero_point], np.uint8))[0] == 0
    x = np.random.default_rng(seed).uniform(min(lo, 0), max(hi, 0), 100).astype(np.float32)
    error = np.abs(scale.dequantize(scale.quantize(x)).astype(np.float64) - x)
    if max(hi, 0) - min(lo, 0) > 1e-30:
        assert error.max() <= scale.scale * (
            1 + 1e-5
        )  # half a step, and half a step of zero point at the ends
        assert np.median(error) <= scale.scale * 0.5 * (1 + 1e-5)
    np.testing.assert_array_equal(scale.quantize(x), reference.quantize(x, scale.scale, scale.zero_point))


def test_a_bias_that_dwarfs_its_weights() -> None:
    """As behind a BatchNorm with a dying channel: the bias must survive, though it is 10^12 steps of max|w| / 127."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    net[0].weight.detach()[...] = [[1e-13, -1e-13, 1e-13], [1.0, 2.0, 3.0]]
    net[0].bias.detach()[...] = [0.75, -0.5]
    net[2].weight.detach()[...] = [[1.0, 0.5]]
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    y = evaluate(net, x)
    assert np.abs(evaluate(compress.quantize(net, calibration=x), x) - y).max() < 0.02 * np.abs(y).max()


class Tail(nn.Module):
    """An addition and its relu behind the last contraction: they stay in float, and the relu stays."""

    def __init__(self) -> None:
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return ops.mean(ops.relu(self.a(x) + self.b(x)), axis=(1, 2))


def test_what_follows_the_last_contraction_is_float() -> None:
    qn.seed(0)
    net = Tail()
    model = compress.quantize(net, calibration=images(32))
    assert kinds(model) == ["quantize", "qconv2d", "qconv2d", "add", "relu", "mean"]
    x = images(8)
    np.testing.assert_allclose(evaluate(model, x), evaluate(net, x), atol=0.05)


def test_a_mean_over_height_and_width_is_a_global_pooling() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.tail, self.head = Tail(), nn.Linear(4, 2)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return self.head(self.tail(x))

    expected = ["quantize", "qconv2d", "qconv2d", "qadd", "qmean_hw", "qlinear"]
    assert kinds(compress.quantize(Net(), calibration=images(16))) == expected


def test_all_zeros() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for parameter in net.parameters():
        parameter.detach()[...] = 0.0
    model = compress.quantize(net, calibration=np.zeros((4, 3), np.float32))
    np.testing.assert_array_equal(evaluate(model, np.ones((2, 3), np.float32)), np.zeros((2, 2)))


class Shapes(nn.Module):
    """Paddings, poolings and resamplings that have an int8 form."""

    def __init__(self) -> None:
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(16, 4)
        self.reflect, self.replicate = nn.ReflectionPad2d(1), nn.ReplicationPad2d(1)
        self.up, self.halves, self.quarters = (
            nn.Upsample(scale_factor=2),
            nn.AdaptiveMaxPool2d(8),
            nn.AdaptiveAvgPool2d(2),
        )

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y = self.up(self.a(self.reflect(x)))
        y = self.halves(self.b(self.replicate(y)))
        return self.head(ops.concat([ops.global_max_pool2d(y), ops.global_avg_pool2d(self.quarters(y))], 1))


class Floats(nn.Module):
    """The same with arguments for which there is none: these ops run in float between dequantize and quantize."""

    def __init__(self) -> None:
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8 * 9, 4)
        self.up, self.thirds, self.ceil = (
            nn.Upsample((9, 9), mode="bilinear"),
            nn.AdaptiveAvgPool2d(4),
            nn.MaxPool2d(2, 1, ceil_mode=True),
        )
        self.norm, self.layer = nn.GroupNorm(2, 8), nn.LayerNorm(8 * 9)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        y = self.thirds(self.norm(self.b(self.up(self.a(x)))))
        return self.head(self.layer(ops.flatten(self.ceil(y), 1)))


@pytest.mark.parametrize(("make_net", "expected"), [
    (Shapes, ["pad", "quantize", "qconv2d", "interpolate", "pad", "qconv2d", "qmax_pool2d", "qmax_pool2d", "flatten",
              "qavg_pool2d", "qmean_hw", "concat", "qlinear"]),
    (Floats, ["quantize", "qconv2d", "interpolate", "quantize", "qconv2d", "group_norm",
              "adaptive_avg_pool2d", "max_pool2d", "flatten", "layer_norm", "quantize", "qlinear"]),
])  # fmt: skip
def test_shapes_of_images(make_net: Any, expected: list[str]) -> None:
    qn.seed(0)
    net = make_net().eval()
    model = compress.quantize(net, calibration=images(64))
    assert kinds(model) == expected
    x = images(8)
    want = evaluate(net, x)
    got = evaluate(model, x)
    assert np.abs(got - want).max() < 0.06 * np.abs(want).max()
    for node in model.graph.nodes:
        if node.op in ("interpolate", "pad") and make_net is Shapes and node is not model.graph.nodes[0]:
            assert node.outputs[0].dtype == "uint8"
    np.testing.assert_array_equal(model.freeze(max_batch=8)(x), got)
    np.testing.assert_array_equal(model.freeze(max_batch=3)(x), got)


# ---- using it -------------------------------------------------------------------------------------------------------


def test_predict_and_evaluate() -> None:
    model = quantized("plain")
    x, y = images(40), np.random.default_rng(0).integers(0, 5, 40)
    outputs = model.predict(x, batch_size=16)
    np.testing.assert_array_equal(outputs, evaluate(model, x))
    model.compile(loss="cross_entropy", metrics=["accuracy"])
    assert model.evaluate(x, y)["accuracy"] == pytest.approx(np.mean(outputs.argmax(1) == y))


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x: qn.Tensor, y: qn.Tensor) -> qn.Tensor:
            return self.a(x) + self.b(y)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 3)).astype(np.float32), rng.normal(size=(64, 2)).astype(np.float32)
    net = Two()
    model = compress.quantize(net, calibration=(x, y))
    with qn.no_grad():
        np.testing.assert_allclose(model(x, y).numpy(), net(x, y).numpy(), atol=0.05)
    with pytest.raises(ArgumentError, match="has 2 inputs, calibration 1"):
        compress.quantize(net, calibration=x)
    with pytest.raises(ArgumentError, match="as many for every input; got 64, 63"):
        compress.quantize(net, calibration=(x, y[:-1]))


def test_clear_refusals() -> None:
    net = make("plain")
    with pytest.raises(ArgumentError, match="needs samples"):
        compress.quantize(net, calibration=images(0))
    for empty in ([], (), (images(4), images(0))):
        with pytest.raises(ArgumentError, match="needs samples"):
            compress.quantize(net, calibration=empty)
    model = quantized("branches")
    model.compile(loss="cross_entropy")
    with pytest.raises(StateError, match="int8 model is for inference"):
        model.fit(images(4), np.zeros(4, np.int64), verbose=0)
    with pytest.raises(ShapeError, match="stacked"):
        compress.quantize(net, calibration=3.0)
    with pytest.raises(ShapeError, match="conv2d"):
        compress.quantize(net, calibration=np.zeros((4, 8, 8, 2), np.float32))
    with pytest.raises(UnsupportedError, match="quantized already"):
        compress.quantize(model, calibration=images(4))
    with pytest.raises(UnsupportedError, match="no float32 linear or conv2d"):
        compress.quantize(nn.Sequential(nn.ReLU()), calibration=images(4))
    bad = images(4)
    bad[2, 0, 0, 0] = np.nan
    with pytest.raises(ArgumentError, match="'input' is not finite"):
        compress.quantize(net, calibration=bad)
    net[0].bias.detach()[...] = np.inf
    with pytest.raises(ArgumentError, match="'0' is not finite"):
        compress.quantize(net, calibration=images(4))


def test_min_max() -> None:
    seen = MinMax()
    seen.update(np.zeros((0, 3), np.float32))
    seen.update(np.array([1.0, 2.0]))
    seen.update(np.array([-3.0]))
    assert (seen.lo, seen.hi) == (-3.0, 2.0)


def test_a_branching_model_of_another_size() -> None:
    net = Branches().eval()
    model = compress.quantize(
        net, calibration=np.random.default_rng(1).normal(size=(32, *SHAPE)).astype(np.float32)
    )
    assert model.int8_ops
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
