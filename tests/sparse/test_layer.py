"""nn.SparseLinear: made, trained, saved, loaded, frozen."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn
from quernel.sparse import CSR, BlockSparse
from tests.checks import Array, check_equal
from tests.runs import both_ways, simple_step, state_of

BLOCKS: tuple[tuple[int, int] | None, ...] = (None, (16, 1), (16, 4))
every_block = pytest.mark.parametrize("block", BLOCKS)


def clusters(n: int, seed: int) -> tuple[Array, Array]:
    """Four classes around random corners of a cube of 40 dimensions."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(0).choice([-1.0, 1.0], (4, 40))
    y = rng.integers(0, 4, n)
    return (centers[y] + rng.normal(0, 1.2, (n, 40))).astype("f4"), y


def net_of(block: tuple[int, int] | None, density: float = 0.25) -> nn.Module:
    return nn.Sequential(nn.SparseLinear(None, 50, density=density, block=block), nn.ReLU(), nn.Linear(50, 4))


@every_block
def test_sizes_and_repr(block: tuple[int, int] | None) -> None:
    qn.seed(0)
    layer = nn.SparseLinear(None, 50, density=0.25, block=block)
    assert repr(layer) == f"SparseLinear(None, 50, density=0.25, block={block})"
    assert layer(np.ones((3, 2, 40), "f4")).shape == (3, 2, 50)
    grid = (50, 40) if block is None else (4, 40 // block[1])
    assert layer.values.shape[0] == round(0.25 * grid[0] * grid[1])
    assert isinstance(layer.weight, CSR if block is None else BlockSparse)
    assert abs(layer.weight.density - 0.25) < 1e-9
    assert layer.weight is layer.weight
    bound = 1 / np.sqrt(40 * 0.25)
    values = layer.values.detach().numpy()
    assert np.abs(values).max() <= bound and np.abs(values).max() > 0.8 * bound


@every_block
def test_from_dense_keeps_the_largest_and_back(block: tuple[int, int] | None) -> None:
    qn.seed(1)
    dense = nn.Linear(40, 50)
    weight = dense.weight.detach().numpy()
    layer = nn.SparseLinear.from_dense(dense, density=0.3, block=block)
    kept = layer.weight.to_dense().numpy()
    stored = kept != 0
    check_equal(kept, np.where(stored, weight, 0).astype("f4"))
    if block is None:
        assert stored.sum() == 600
        assert np.abs(weight[stored]).min() >= np.abs(weight[~stored]).max()
    else:
        norms = [float((weight[p : p + 16, c : c + block[1]].astype("f8") ** 2).sum())
                 for p in range(0, 50, 16) for c in range(0, 40, block[1])]  # fmt: skip
        stays = [bool(stored[p, c]) for p in range(0, 50, 16) for c in range(0, 40, block[1])]
        pairs = list(zip(norms, stays, strict=True))
        assert min(n for n, s in pairs if s) >= max(n for n, s in pairs if not s)
    x = np.random.default_rng(0).standard_normal((5, 40)).astype("f4")
    back = layer.to_dense()
    check_equal(back.weight.detach().numpy(), kept)
    check_equal(back(x).detach().numpy(), layer(x).detach().numpy())
    check_equal(dense.weight.detach().numpy(), weight)


@every_block
def test_from_dense_with_a_mask(block: tuple[int, int] | None) -> None:
    dense = nn.Linear(40, 50, bias=False).to("float64")
    mask = np.zeros((50, 40), bool)
    mask[3, 7] = mask[49, 39] = True
    layer = nn.SparseLinear.from_dense(dense, mask=mask, block=block)
    check_equal(layer.weight.to_dense().numpy(), np.where(mask, dense.weight.detach().numpy(), 0))
    assert layer.bias is None and layer.values.dtype == "float64"
    assert layer.indices.size == 2
    with pytest.raises(ValueError, match="density= or mask=, one of the two"):
        nn.SparseLinear.from_dense(dense)
    with pytest.raises(ValueError, match=r"the weight is \(50, 40\), the mask \(40, 50\)"):
        nn.SparseLinear.from_dense(dense, mask=mask.T)


@every_block
def test_it_learns_with_fit(block: tuple[int, int] | None) -> None:
    qn.seed(0)
    net = net_of(block)
    net.compile(optimizer="adam", loss="cross_entropy", metrics=["accuracy"])
    net.fit(*clusters(600, 1), epochs=6, batch_size=32, verbose=0)
    first = net.get_submodule("0")
    assert isinstance(first, nn.SparseLinear)
    places = first.indices.numpy().copy()
    assert net.evaluate(*clusters(400, 2))["accuracy"] > 0.9
    check_equal(first.indices.numpy(), places)


@every_block
def test_a_jitted_step_trains_as_eager_ones_do(block: tuple[int, int] | None) -> None:
    x, y = clusters(24, 3)

    def train(wrap: Any) -> object:
        net = net_of(block)
        opt = qn.optim.Adam(net.parameters(), lr=1e-2)
        step = wrap(simple_step(net, opt))
        losses = [step(x, y).item() for _ in range(5)]
        return losses, state_of(net)

    both_ways(train)


@every_block
def test_saved_and_loaded(block: tuple[int, int] | None, tmp_path: Path) -> None:
    qn.seed(4)
    net = net_of(block)
    x, _ = clusters(5, 0)
    expected = net.predict(x)
    net.save(tmp_path / "net.safetensors")
    again = qn.load(tmp_path / "net.safetensors")
    assert repr(again) == repr(net)
    check_equal(again.predict(x), expected)
    for one in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        check_equal(one.predict(x), expected)
    layer = nn.SparseLinear.from_dense(nn.Linear(40, 50), density=1 / 3, block=block)
    nn.Sequential(layer).save(tmp_path / "one.safetensors")
    check_equal(qn.load(tmp_path / "one.safetensors").predict(x), layer(x).detach().numpy())


@every_block
def test_a_users_class_is_saved_as_its_graph(block: tuple[int, int] | None, tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.SparseLinear(40, 50, density=0.2, block=block)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return qn.ops.relu(self.layer(x))

    net, (x, _) = Own(), clusters(5, 0)
    expected = net.predict(x)
    net.save(tmp_path / "own.safetensors")
    again = qn.load(tmp_path / "own.safetensors")
    check_equal(again.predict(x), expected)
    assert {name for name, _ in again.named_buffers()} == {"layer.indices", "layer.indptr"}
    again.train()(x).sum().backward()
    assert again.get_parameter("layer.values").grad is not None
    check_equal(again.freeze()(x), expected)


@every_block
def test_loading_other_places_renews_plans(block: tuple[int, int] | None) -> None:
    qn.seed(5)
    net, other = net_of(block), net_of(block)
    x, y = clusters(8, 1)
    for one in (net, other):
        one(x)
    step = qn.jit(simple_step(net, qn.optim.SGD(net.parameters(), lr=0.0)))
    for _ in range(3):
        step(x, y)
    net.load_state_dict(other.state_dict())
    other_step = simple_step(other, qn.optim.SGD(other.parameters(), lr=0.0))
    assert step(x, y).item() == other_step(x, y).item()
    check_equal(net.state_dict()["0.indices"].numpy(), other.state_dict()["0.indices"].numpy())
    check_equal(net.get_parameter("0.values").grad.numpy(), other.get_parameter("0.values").grad.numpy())
    bad = {name: np.asarray(t).copy() for name, t in other.state_dict().items()}
    bad["0.indices"][:] = 10_000
    net.load_state_dict(bad)
    with pytest.raises(ValueError, match="index 10000 in row 0 is out of range"):
        step(x, y)


@every_block
def test_frozen_and_summed_up(block: tuple[int, int] | None) -> None:
    qn.seed(6)
    net, (x, _) = net_of(block).eval(), clusters(33, 1)
    expected = net(x).detach().numpy()
    run = net.freeze(max_batch=16, input_shape=(40,))
    assert [node.op for node in run.graph.nodes] == ["sparse_linear", "linear"]
    check_equal(run(x), expected)
    check_equal(pickle.loads(pickle.dumps(run))(x[:3]), expected[:3])
    table = net.summary(input_shape=(40,), show=False)
    first = net.get_submodule("0")
    assert isinstance(first, nn.SparseLinear)
    assert table.rows[0].parameters == first.values.size + 50
    assert table.rows[0].kind == "SparseLinear"
    assert table.rows[0].macs == first.values.size


def test_quantizing_leaves_it_in_float() -> None:
    qn.seed(7)
    net, (x, _) = net_of((16, 1)).eval(), clusters(64, 1)
    net(x)
    small = qn.compress.quantize(net, calibration=x)
    assert {"sparse_linear", "qlinear"} <= {node.op for node in small.graph.nodes}
    assert np.mean(small.predict(x).argmax(1) == net.predict(x).argmax(1)) > 0.9


def test_arguments_that_make_no_layer() -> None:
    with pytest.raises(ValueError, match=r"block is \(16, 1\), \(16, 4\) or None, got \(4, 4\)"):
        nn.SparseLinear(4, 4, block=(4, 4))
    with pytest.raises(ValueError, match=r"density lies between 0 and 1, got 1\.5"):
        nn.SparseLinear(4, 4, density=1.5)
