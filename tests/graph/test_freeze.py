"""Frozen models: the bits of the graph they run, at every batch size, from any thread, for good."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import compress, nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError, StateError
from quernel.graph import Frozen, Input, optimize, run, trace
from quernel.graph.freeze import bucket
from quernel.graph.rows import independent_rows
from tests.models import MODELS, SHAPE, evaluate, images, make

INPUT = [Input(SHAPE)]


def expected(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """The optimized graph of `net`, run op by op."""
    with qn.no_grad():
        y: np.ndarray = run(optimize(trace(net, INPUT)), [qn.tensor(x)]).numpy()
    return y


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("name", MODELS)
def test_a_plan_gives_the_bits_of_its_graph(name: str) -> None:
    net = make(name)
    frozen = net.freeze(max_batch=8)
    for batch in (1, 2, 3, 5, 8, 9, 21):
        x = images(batch, seed=batch)
        np.testing.assert_array_equal(frozen(x), expected(net, x))


@pytest.mark.usefixtures("quant_isa")
@pytest.mark.parametrize("name", MODELS)
def test_a_quantized_plan_gives_the_bits_of_its_graph(name: str) -> None:
    quantized = compress.quantize(make(name), calibration=images(32))
    frozen = quantized.freeze(max_batch=8)
    for batch in (1, 5, 8, 11):
        x = images(batch, seed=batch)
        np.testing.assert_array_equal(frozen(x), evaluate(quantized, x))


@pytest.mark.parametrize("name", MODELS)
def test_graphs_can_be_jitted(name: str) -> None:
    model = compress.quantize(make(name), calibration=images(32))
    step = qn.jit(model.forward)
    for seed in range(4):
        x = images(3, seed=seed)
        np.testing.assert_array_equal(step(x).numpy(), evaluate(model, x))
    assert len(step.plans()) == 1


@pytest.mark.parametrize("quantized", [False, True])
def test_plans_share_packed_weights_and_temporary_memory(quantized: bool) -> None:
    net = make("plain")
    frozen = (compress.quantize(net, calibration=images(16)) if quantized else net).freeze(max_batch=16)
    frozen(images(16))
    packed, temporary = frozen.packed_nbytes, frozen.arena_nbytes
    assert packed > 0 and temporary > 0
    for batch in (1, 2, 3, 7, 12, 30):
        frozen(images(batch))
    assert frozen.packed_nbytes == packed
    assert frozen.arena_nbytes == temporary


def test_buckets() -> None:
    sizes = sorted({bucket(n, 64) for n in range(1, 65)})
    assert sizes == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert all(n <= bucket(n, 64) for n in range(1, 65))
    assert bucket(5, 5) == 5


def test_an_empty_batch() -> None:
    assert make("plain").freeze()(images(0)).shape == (0, 5)


def test_results_are_fresh_and_inputs_stay() -> None:
    frozen = make("plain").freeze()
    x = images(3)
    kept = x.copy()
    first, second = frozen(x), frozen(x)
    copy = first.copy()
    second[...] = 0
    assert first.flags.writeable
    np.testing.assert_array_equal(first, copy)
    np.testing.assert_array_equal(x, kept)


def test_later_edits_and_training_do_not_reach_it() -> None:
    net = make("plain")
    frozen = net.freeze()
    x = images(4)
    y = frozen(x)
    with qn.no_grad():
        for parameter in net.parameters():
            parameter[...] = 0.0
    net.train()
    np.testing.assert_array_equal(frozen(x), y)
    np.testing.assert_array_equal(frozen(images(2, seed=1)), make("plain").freeze()(images(2, seed=1)))
    assert net.freeze()(x).shape == y.shape
    assert not np.array_equal(net.freeze()(x), y)


def test_freezing_in_training_mode_is_inference() -> None:
    net = make("plain").train()
    x = images(6)
    np.testing.assert_array_equal(net.freeze()(x), make("plain").freeze()(x))
    assert net.training


def test_layouts_and_dtypes_are_taken_as_numbers() -> None:
    frozen = make("plain").freeze()
    x = images(4)
    y = frozen(x)
    np.testing.assert_array_equal(frozen(x.astype(np.float64)), y)
    np.testing.assert_array_equal(frozen(np.asfortranarray(x)), y)
    np.testing.assert_array_equal(frozen(x[::-1])[::-1], y)
    np.testing.assert_array_equal(frozen(x.tolist()), y)
    read_only = x.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(frozen(read_only), y)
    np.testing.assert_array_equal(frozen(x.astype(x.dtype.newbyteorder())), y)


def test_what_does_not_fit_is_refused_clearly() -> None:
    frozen = make("plain").freeze()
    with pytest.raises(ShapeError, match=r"\(N, 8, 8, 3\), got \(8, 8, 3\); add the batch axis"):
        frozen(images(1)[0])
    with pytest.raises(ShapeError, match=r"\(N, 8, 8, 3\), got \(2, 8, 8, 4\)"):
        frozen(np.zeros((2, 8, 8, 4), np.float32))
    with pytest.raises(ShapeError, match="expected 1 inputs"):
        frozen(images(1), images(1))
    with pytest.raises(DTypeError, match="must hold numbers, got complex"):
        frozen(images(1).astype(np.complex64))
    with pytest.raises(DTypeError, match="must hold numbers"):
        frozen(np.full((1, *SHAPE), "a"))
    for wrong in (0, -3, 2.5):
        with pytest.raises(ArgumentError, match="max_batch"):
            make("plain").freeze(max_batch=wrong)


def test_fractions_are_not_cut_to_integers() -> None:
    frozen = nn.Flatten().freeze()
    np.testing.assert_array_equal(frozen(np.ones((2, 3), np.int64)), np.ones((2, 3), np.int64))
    with pytest.raises(DTypeError, match=r"\[frozen\] input 'input' takes int64, got float64"):
        frozen(np.full((2, 3), 0.5))


def test_without_a_shape_it_is_traced_at_its_first_call() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    frozen = net.freeze()
    with pytest.raises(StateError, match="first call"):
        _ = frozen.graph
    x = images(3)
    y = evaluate(net, x)
    net[2].bias.detach()[...] = 5.0
    thawed = pickle.loads(pickle.dumps(frozen))
    np.testing.assert_array_equal(frozen(x), y)
    np.testing.assert_array_equal(thawed(x), y)
    assert [n.op for n in frozen.graph.nodes] == ["conv2d", "flatten", "linear"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantized", [False, True])
def test_pickling(name: str, quantized: bool) -> None:
    net = make(name)
    frozen = (compress.quantize(net, calibration=images(16)) if quantized else net).freeze(max_batch=4)
    thawed = pickle.loads(pickle.dumps(frozen))
    assert thawed.max_batch == 4
    np.testing.assert_array_equal(thawed(images(5)), frozen(images(5)))


def test_eight_threads_at_once() -> None:
    net = make("residual")
    frozen = net.freeze(max_batch=4)
    quantized = compress.quantize(net, calibration=images(16)).freeze(max_batch=4)
    work = [(run_, images(b, seed=b)) for b in range(1, 7) for run_ in (frozen, quantized)]
    answers = [run_(x) for run_, x in work]
    fresh = [net.freeze(max_batch=4), pickle.loads(pickle.dumps(quantized))]  # plans still to be recorded
    wrong: list[str] = []

    def worker(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(work) * 20) % len(work)
        bad = [i for i in order if not np.array_equal(fresh[i % 2](work[i][1]), answers[i])]
        wrong.extend(f"thread {seed}, batch {len(work[i][1])}" for i in bad)

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_instruction_set_packs_anew() -> None:
    net = make("plain")
    frozen = net.freeze(max_batch=2)
    x = images(2)
    for isa in (*qn.runtime.supported_isas(), qn.runtime.active_isa()):
        with qn.runtime.isa(isa):
            np.testing.assert_array_equal(frozen(x), expected(net, x))


class Mixes(nn.Module):
    """Rows that see each other: neither padding nor chunks are allowed."""

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x - ops.mean(x, axis=0, keepdims=True)


def test_a_model_that_mixes_rows_gets_exact_plans() -> None:
    frozen = Mixes().freeze(max_batch=4, input_shape=(3,))
    for batch in (1, 3, 5, 9):
        x = np.random.default_rng(batch).normal(size=(batch, 3)).astype(np.float32)
        np.testing.assert_array_equal(frozen(x), evaluate(Mixes(), x))


class Pieces(nn.Module):
    def forward(self, x: qn.Tensor, y: qn.Tensor) -> tuple[qn.Tensor, list[qn.Tensor]]:
        return x + y, [x * 2.0, ops.sum(y, axis=1)]


def test_several_inputs_and_outputs() -> None:
    frozen = Pieces().freeze(max_batch=2, input_shape=[(3,), (3,)])
    x, y = np.ones((5, 3), np.float32), np.arange(15, dtype=np.float32).reshape(5, 3)
    total, (double, sums) = frozen(x, y)
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(double, 2 * x)
    np.testing.assert_array_equal(sums, y.sum(1))
    with pytest.raises(ShapeError, match="N = 5"):
        frozen(x, y[:4])


@pytest.mark.parametrize("name", MODELS)
def test_models_have_independent_rows(name: str) -> None:
    assert independent_rows(optimize(trace(make(name), INPUT)))
    assert independent_rows(compress.quantize(make(name), calibration=images(8)).graph)


MIXING = {
    "sum over the batch": lambda x: ops.sum(x, axis=0),
    "sum over all": lambda x: x / ops.sum(x),
    "negative axis": lambda x: x - ops.max(x, axis=-2, keepdims=True),
    "softmax over the batch": lambda x: ops.softmax(x, axis=0),
    "a column per sample": lambda x: x.T,
    "samples against samples": lambda x: ops.matmul(x, x.T),
    "reversed": lambda x: x[::-1],
    "broadcast against itself": lambda x: ops.sum(x, axis=1) + x[:, :1],
    "joined": lambda x: ops.concat([x, x], axis=0),
    "merged": lambda x: ops.reshape(x, (-1,)),
    "batch statistics": lambda x: ops.batch_norm(x, None, None),
}


NUMBERS = {
    "an operand": lambda x: x * x.shape[0],
    "a bound": lambda x: ops.clip(x, 0, x.shape[0]),
    "a slice": lambda x: x[:, : x.shape[0] + 2],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_batch_size_that_is_computed_with_stays_what_it_is(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            y: qn.Tensor = NUMBERS[name](x)
            return y

    frozen = Net().freeze(max_batch=4, input_shape=(6,))
    for batch in (1, 3, 5, 9):  # 5 would be padded to 6, 9 run in chunks of 4
        x = np.full((batch, 6), 7, np.float32)
        np.testing.assert_array_equal(frozen(x), evaluate(Net(), x))


@pytest.mark.parametrize("name", MIXING)
def test_models_that_mix_rows_are_seen(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x: qn.Tensor) -> qn.Tensor:
            y: qn.Tensor = MIXING[name](x)
            return y

    graph = trace(Net(), [Input((4,))])
    assert not independent_rows(graph)
    frozen = Frozen(graph, max_batch=4)
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(frozen(x), evaluate(Net(), x))


class Heads(nn.Module):
    def __init__(self) -> None:
        self.trunk = nn.Linear(4, 8)
        self.label = nn.Linear(8, 3)
        self.value = nn.Linear(8, 1)

    def forward(self, x: qn.Tensor) -> dict[str, Any]:
        h = qn.ops.relu(self.trunk(x))
        return {"label": self.label(h), "both": (self.value(h), h)}


def test_dictionaries_of_outputs_are_frozen_saved_and_summarized(tmp_path: Path) -> None:
    net = Heads().eval()
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    expected = net(x)
    net.save(tmp_path / "heads.safetensors", input_shape=(4,))
    loaded = qn.load(tmp_path / "heads.safetensors")
    for model in (net.freeze(max_batch=4, input_shape=(4,)), loaded.eval(), loaded.freeze()):
        found = model(x)
        assert list(found) == ["label", "both"]
        for a, b in zip(
            (found["label"], *found["both"]), (expected["label"], *expected["both"]), strict=True
        ):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b.detach()))
    assert "value" in str(loaded.summary(input_shape=(4,), show=False))
    quantized = qn.compress.quantize(net, calibration=x)
    assert quantized(x)["label"].shape == (5, 3)
