"""Tracing: what a graph says, that it says it without changing anything, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

import quernel as qn
from quernel import nn, ops
from quernel.errors import ShapeError, StateError, UnsupportedError
from quernel.graph import TRAINING, Dim, Graph, Input, Ref, Weight, inputs_of, run, trace
from tests.models import MODELS, SHAPE, Branches, evaluate, images, make

INPUT = [Input(SHAPE)]


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_what_the_model_computes(name: str) -> None:
    net = make(name)
    graph = trace(net, INPUT, training=True)
    for batch in (1, 5):
        x = images(batch)
        with qn.no_grad():
            y = run(graph, [qn.tensor(x)]).numpy()
        np.testing.assert_array_equal(y, evaluate(net, x))


@pytest.mark.parametrize("name", MODELS)
def test_every_value_has_the_shape_that_the_graph_says(name: str) -> None:
    graph = trace(make(name), INPUT)
    seen: dict[Ref, tuple[tuple[int, ...], str]] = {}
    x = qn.tensor(images(3))
    run(graph, [x], observe=lambda ref, value: seen.update({ref: (value.shape, value.dtype)}))
    for node in graph.nodes:
        for index, value in enumerate(node.outputs):
            assert seen[Ref(node.name, index)] == (value.at(3), value.dtype), node.name


def test_nodes_are_named_after_layers_and_weights_after_parameters() -> None:
    net = make("branches")
    graph = trace(net, INPUT, training=True)
    assert graph.node("left").op == "conv2d"
    assert graph.node("left").layer == "Conv2d"
    assert graph.node("left").args["weight"] == Weight("left.weight")
    assert graph.node("dropout").args["training"] is TRAINING
    assert graph.node("norm").args["training"] is TRAINING
    assert graph.node("reshape").args["shape"] == (Dim(), 2, 4)
    assert graph.weights["scale"] is net.scale
    assert graph.buffers == {"norm.running_mean", "norm.running_var"}
    assert [str(v) for v in graph.inputs.values()] == ["(N, 8, 8, 3)"]
    assert str(graph.value(graph.results[0])) == "(N, 5)"


def test_without_training_marks_it_is_the_evaluation_graph() -> None:
    net = make("branches").train()
    graph = trace(net, INPUT)
    assert graph.node("dropout").args["training"] is False
    assert net.training and net.dropout.training


@pytest.mark.parametrize("name", MODELS)
def test_tracing_changes_nothing(name: str) -> None:
    net = make(name)
    net.train()
    list(net.modules())[-1].eval()
    modes = [m.training for m in net.modules()]
    attributes = [sorted(m.__dict__) for m in net.modules()]
    state = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    qn.seed(3)
    expected = ops.uniform((4,)).numpy()
    qn.seed(3)
    trace(net, INPUT, training=True)
    np.testing.assert_array_equal(ops.uniform((4,)).numpy(), expected)
    assert [m.training for m in net.modules()] == modes
    assert [sorted(m.__dict__) for m in net.modules()] == attributes
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), state[k])


def test_sizes_are_inferred() -> None:
    net = nn.Sequential(nn.Conv2d(None, 4, 3), nn.Flatten(), nn.Linear(None, 2))
    graph = trace(net, INPUT)
    assert net[2].in_features == 6 * 6 * 4
    assert [n.op for n in graph.nodes] == ["conv2d", "flatten", "linear"]


def test_a_layer_called_twice_and_a_shared_parameter() -> None:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    other = nn.Linear(4, 4)
    other.weight = layer.weight
    net.append(other)
    graph = trace(net, [Input((4,))])
    assert [n.name for n in graph.nodes] == ["0", "1", "0:1", "3"]
    assert graph.node("3").args["weight"] == graph.node("0").args["weight"] == Weight("0.weight")
    assert set(graph.weights) == {"0.weight", "0.bias", "3.bias"}


def test_a_forward_set_on_the_instance_is_traced_and_kept() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(x: qn.Tensor) -> qn.Tensor:
        return x.tanh()

    net[1].forward = forward
    assert [(n.name, n.op) for n in trace(net, [Input((3,))]).nodes] == [("0", "linear"), ("1", "tanh")]
    assert net[1].forward is forward


def test_no_thread_sees_a_traced_model_altered() -> None:
    seen: list[object] = []

    class Watched(nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            watcher = threading.Thread(target=lambda: seen.append(self.__dict__.get("forward")))
            watcher.start()
            watcher.join()
            return x * 2

    trace(nn.Sequential(Watched()), [Input((3,))])
    assert seen and all(forward is None for forward in seen)


def test_layers_may_be_called_anything() -> None:
    net = nn.Sequential({"input": nn.Linear(3, 3), "input:1": nn.Linear(3, 3), "relu": nn.Linear(3, 2)})
    graph = trace(net, [Input((3,))])
    assert len({n.name for n in graph.nodes} | set(graph.inputs)) == 4
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(graph, [qn.tensor(x)]).numpy(), evaluate(net, x))


class Two(nn.Module):
    def __init__(self) -> None:
        self.a = nn.Linear(3, 4)
        self.table = qn.tensor(np.arange(4, dtype=np.float32))

    def forward(self, x: qn.Tensor, y: qn.Tensor) -> tuple[qn.Tensor, list[qn.Tensor]]:
        z = self.a(x) + y * np.array([1, 2, 3, 4], np.float32) + self.table
        return z, [ops.mean(z, axis=-1), x]


def test_several_inputs_and_outputs_and_constants() -> None:
    net = Two()
    graph = trace(net, [Input((3,)), Input((4,))])
    assert list(graph.inputs) == ["input0", "input1"]
    x, y = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
    z, (m, same) = run(graph, [qn.tensor(x), qn.tensor(y)])
    expected, (mean, _) = net(x, y)
    np.testing.assert_array_equal(z.numpy(), expected.numpy())
    np.testing.assert_array_equal(m.numpy(), mean.numpy())
    np.testing.assert_array_equal(same.numpy(), x)
    assert len(graph.buffers) == 2


def test_a_call_that_fails_is_not_remembered() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ShapeError):
        net(np.zeros((1, 4)))
    assert inputs_of(net) is None
    net(np.zeros((5, 3)))
    assert inputs_of(net) == [Input((3,))]


def test_inputs_of() -> None:
    assert inputs_of(nn.Linear(3, 2), 3) == [Input((3,))]
    assert inputs_of(nn.Linear(3, 2).to("float64"), (5, 3)) == [Input((5, 3), "float64")]
    assert inputs_of(Two(), [(3,), (4,)]) == [Input((3,)), Input((4,))]
    assert inputs_of(nn.Linear(3, 2)) is None
    for wrong in ((0,), (3, -1), ("a",), [(3,), ("b",)]):
        with pytest.raises(ShapeError, match="input_shape"):
            inputs_of(nn.Linear(3, 2), wrong)


# ---- what it refuses ------------------------------------------------------------------------------------------------


class ByValue(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x if ops.sum(x).item() > 0 else -x


class ByTruth(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x if ops.sum(x) > 0 else -x


class ByBatch(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return ops.relu(x) if x.shape[0] > 12 else ops.tanh(x)


class ByMode(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return ops.relu(x) if self.training else x + 1


class Constant(nn.Module):
    def forward(self, x: qn.Tensor) -> str:
        return str(x.shape)


@pytest.mark.parametrize("net", [ByValue(), ByTruth()])
def test_deciding_by_values_is_refused(net: nn.Module) -> None:
    with pytest.raises(StateError, match="no values"):
        trace(net, [Input((3,))])
    assert qn.ops.current_tracer() is None


def test_deciding_by_the_batch_size_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"different paths with batch sizes.*tanh.*relu"):
        trace(ByBatch(), [Input((3,))])


@pytest.mark.parametrize("number", [lambda n: n * n, lambda n: n % 2, lambda n: min(n, 10)])
def test_a_number_not_linear_in_the_batch_size_is_refused(number: Callable[[int], int]) -> None:
    class Net(nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return x * number(x.shape[0])

    with pytest.raises(UnsupportedError, match="different paths with batch sizes"):
        trace(Net(), [Input((3,))])


class BatchSizedConstant(nn.Module):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x + np.zeros((x.shape[0], 1), np.float32)


def test_a_constant_that_depends_on_the_batch_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="a tensor that forward makes is not the same"):
        trace(BatchSizedConstant(), [Input((3,))])


def test_threads_may_call_the_model_while_it_is_traced() -> None:
    net = make("residual")
    x = images(2)
    expected = evaluate(net, x)
    expected_graph = str(trace(net, INPUT))
    wrong: list[str] = []

    def work(seed: int) -> None:
        for _ in range(15):
            if seed % 2 and str(trace(net, INPUT)) != expected_graph:
                wrong.append("graph")
            if not seed % 2 and not np.array_equal(evaluate(net, x), expected):
                wrong.append("output")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_other_ops_in_training_are_refused_only_where_training_matters() -> None:
    assert len(trace(ByMode(), [Input((3,))]).nodes) == 1
    with pytest.raises(UnsupportedError, match="evaluation and training"):
        trace(ByMode(), [Input((3,))], training=True)


def test_other_outputs_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="got str"):
        trace(Constant(), [Input((3,))])


def test_an_op_that_refuses_says_so() -> None:
    with pytest.raises(ShapeError, match=r"\[conv2d\] weight expects 3 .*\(x: \(N, 8, 8, 4\), NHWC\)"):
        trace(make("plain"), [Input((8, 8, 4))])


def test_a_call_with_another_shape_is_refused() -> None:
    graph = trace(Branches(), INPUT)
    with pytest.raises(ShapeError, match=r"\(N, 8, 8, 3\), got \(2, 8, 8, 4\)"):
        run(graph, [qn.zeros((2, 8, 8, 4))])
    with pytest.raises(ShapeError, match="expected 1 inputs"):
        run(graph, [])
    two = trace(Two(), [Input((3,)), Input((4,))])
    with pytest.raises(ShapeError, match="N = 2"):
        run(two, [qn.zeros((2, 3)), qn.zeros((5, 4))])


def test_text_of_a_graph() -> None:
    graph: Graph = trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), [Input((3,))])
    assert str(graph).splitlines() == [
        "input: float32(N, 3)",
        "0 = linear(x=input, weight=@0.weight, bias=@0.bias) -> float32(N, 2)",
        "1 = relu(x=0) -> float32(N, 2)",
        "return 1",
    ]
