"""Passes: each keeps every bit, folding keeps its error bound, and none touches the graph it was given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import nn, ops
from quernel.graph import (
    Graph,
    Input,
    drop_dead,
    fold_batch_norm,
    for_inference,
    fuse_activation,
    fuse_residual,
    optimize,
    run,
    trace,
)
from quernel.graph.passes import separate
from tests.models import MODELS, SHAPE, images, make

EXACT = [for_inference, fuse_residual, fuse_activation, drop_dead, separate]


def traced(name: str) -> Graph:
    return trace(make(name), [Input(SHAPE)], training=True)


def outputs(graph: Graph, x: np.ndarray) -> np.ndarray:
    with qn.no_grad():
        y: np.ndarray = run(graph, [qn.tensor(x)]).numpy()
    return y


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rewrite", EXACT)
def test_bits_stay(name: str, rewrite: Callable[[Graph], Graph]) -> None:
    graph = traced(name)
    before = str(graph)
    x = images(3)
    np.testing.assert_array_equal(outputs(rewrite(graph), x), outputs(graph, x))
    assert str(graph) == before


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("name", MODELS)
def test_the_fused_graph_equals_the_folded_one(name: str) -> None:
    graph = fold_batch_norm(for_inference(traced(name)))
    x = images(5)
    np.testing.assert_array_equal(outputs(optimize(graph), x), outputs(graph, x))


def test_what_fuses() -> None:
    ops_of = {name: [n.op for n in optimize(traced(name)).nodes] for name in MODELS}
    assert ops_of["plain"] == ["conv2d", "max_pool2d", "conv2d", "avg_pool2d", "flatten", "linear", "linear"]
    assert ops_of["residual"] == ["conv2d"] * 5 + ["global_avg_pool2d", "linear"]
    graph = optimize(traced("residual"))
    assert graph.node("1.body.3").args["residual"] is not None
    assert graph.node("1.body.3").args["activation"] == "relu"
    assert [n.args["activation"] for n in graph.nodes if n.op == "conv2d"] == [
        None,
        "relu",
        "relu",
        None,
        "gelu",
    ]
    assert "dropout" not in ops_of["branches"]
    assert set(ops_of["fused"]) == {"conv2d", "flatten", "linear"}
    assert not any("norm" in name or name.startswith("1.") for name in optimize(traced("plain")).weights)


def test_separate_undoes_fusion() -> None:
    graph = optimize(traced("residual"))
    apart = separate(graph)
    assert [n.op for n in apart.nodes].count("add") == 2
    assert all(n.args["activation"] is None for n in apart.nodes if n.op in ("conv2d", "linear"))
    assert str(optimize(apart)).count("residual=") == 2
    kept = separate(graph, kept=("relu",))
    assert [n.args["activation"] for n in kept.nodes if n.op == "conv2d"].count("relu") == 1


class Shared(nn.Module):
    """Values with two readers, or that are outputs, may not be fused away."""

    def __init__(self) -> None:
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.twice, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: qn.Tensor) -> tuple[qn.Tensor, ...]:
        y = self.conv(x)
        doubled = self.twice(x)
        half = self.other(x)
        return y, ops.relu(self.norm(y)), doubled + doubled, half + x[:, :1], half + 1.0


def test_values_with_other_readers_are_not_fused() -> None:
    net = Shared().eval()
    graph = trace(net, [Input(SHAPE)])
    best = optimize(graph)
    assert sorted(n.op for n in best.nodes) == sorted(n.op for n in graph.nodes)
    x = qn.tensor(images(2))
    with qn.no_grad():
        for a, b in zip(run(best, [x]), run(graph, [x]), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_batch_norm_1d_folds_into_linear() -> None:
    qn.seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), nn.ReLU(), nn.Linear(4, 2))
    rng = np.random.default_rng(0)
    for _ in range(3):
        net(rng.normal(1, 2, (8, 3)).astype(np.float32))
    graph = trace(net.eval(), [Input((3,))])
    best = optimize(graph)
    assert [n.op for n in best.nodes] == ["linear", "linear"]
    assert not any(name.startswith("1.") for name in best.weights)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(outputs(best, x), outputs(graph, x), atol=1e-5)


def test_dead_code_and_its_weights_go() -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 9)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            ops.relu(self.unused(x))
            return self.used(x)

    graph = drop_dead(trace(Dead(), [Input((3,))]))
    assert [n.name for n in graph.nodes] == ["used"]
    assert set(graph.weights) == {"used.weight", "used.bias"}


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["linear", "conv2d", "grouped"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 5, 17]),
)
def test_folding_stays_within_its_bound(
    seed: int, kind: str, bias: bool, affine: bool, channels: int
) -> None:
    """|folded - exact| <= gamma_(K+2) (|x| |W'| + |b'|), against float64; the unfolded graph has its own error."""
    qn.seed(seed % 2**16)
    rng = np.random.default_rng(seed)
    layer: nn.Module
    if kind == "linear":
        layer, x = nn.Linear(channels, 6, bias=bias), rng.normal(size=(4, channels))
    else:
        groups = channels if kind == "grouped" else 1
        layer = nn.Conv2d(channels, 6 * channels, 3, padding=1, groups=groups, bias=bias)
        x = rng.normal(size=(2, 5, 5, channels))
    outputs_of = layer.weight.shape[0]
    norm = nn.BatchNorm2d(outputs_of, affine=affine)
    net = nn.Sequential(layer, norm).eval()
    norm.running_mean[...] = rng.normal(size=outputs_of).astype(np.float32)
    norm.running_var[...] = rng.uniform(0.01, 4, outputs_of).astype(np.float32)
    if affine:
        norm.weight.detach()[...] = rng.normal(size=outputs_of).astype(np.float32)
        norm.bias.detach()[...] = rng.normal(size=outputs_of).astype(np.float32)
    graph = trace(net, [Input(x.shape[1:])])
    folded = fold_batch_norm(graph)
    assert [n.op for n in folded.nodes] == [graph.nodes[0].op]
    exact = net.to("float64")
    y64 = exact(x.astype(np.float32).astype(np.float64)).numpy()
    weight, shift = (folded.weights[folded.nodes[0].args[k].name].numpy() for k in ("weight", "bias"))
    sizes = nn.Linear(channels, 6) if kind == "linear" else layer
    absolute = _absolute(
        sizes, kind, np.abs(x), np.abs(weight.astype(np.float64)), np.abs(shift.astype(np.float64))
    )
    n = weight[0].size + 3  # products, bias, and the rounding of the folded weights
    gamma = n * 2.0**-24 / (1 - n * 2.0**-24)
    assert (np.abs(outputs(folded, x.astype(np.float32)) - y64) <= gamma * absolute + n * 2.0**-149).all()


def _absolute(layer: nn.Module, kind: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    if kind == "linear":
        y: np.ndarray = x @ weight.T + bias
        return y
    geometry = {k: getattr(layer, k) for k in ("stride", "padding", "dilation", "groups")}
    y = ops.conv2d(x, weight, bias, **geometry).numpy()
    return y * (1 + 1e-12)


def test_batch_norm_with_batch_statistics_is_not_folded() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert [n.op for n in fold_batch_norm(trace(net, [Input((3,))])).nodes] == ["linear", "batch_norm"]
    trained = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4))
    marked = trace(trained, [Input((3,))], training=True)
    assert [n.op for n in fold_batch_norm(marked).nodes] == ["linear", "batch_norm"]


def test_a_tied_weight_is_folded_for_one_use_only() -> None:
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.BatchNorm2d(4), nn.Tanh(), layer).eval()
    net[1].running_mean[...] = np.arange(4, dtype=np.float32)
    graph = trace(net, [Input((4,))])
    folded = drop_dead(fold_batch_norm(graph))
    assert folded.weights["0.weight"] is layer.weight
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(outputs(folded, x), outputs(graph, x), atol=1e-5)
