"""Batches in pieces of rows: the bits of the graph for every size of piece, and which size is taken."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

import quernel as qn
from quernel import compress, models, nn, ops
from quernel.graph import Frozen, Input, optimize, run, trace
from quernel.graph.freeze import bucket
from quernel.graph.pieces import Caches, RowCosts, piece_rows, row_costs
from tests.models import MODELS, evaluate, images, make

SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
CACHES = Caches(1 << 19, 1 << 25)


def always(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Makes frozen models take pieces of `size` rows, or a batch as a whole where it has fewer."""

    def chosen(_costs: RowCosts, batch: int, sizes: Sequence[int], *_: object) -> int:
        return min(bucket(batch, sizes[-1]), bucket(size, sizes[-1]))

    monkeypatch.setattr("quernel.graph.freeze.piece_rows", chosen)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4, 8])
def test_pieces_give_the_bits_of_the_graph(
    monkeypatch: pytest.MonkeyPatch, name: str, quantized: bool, size: int
) -> None:
    always(monkeypatch, size)
    net = make(name)
    model = compress.quantize(net, calibration=images(16)) if quantized else net
    frozen = model.freeze(max_batch=8)
    for batch in (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 23):
        x = images(batch, seed=batch)
        want = evaluate(model, x) if quantized else expected(net, x)
        for _ in range(2):  # the second goes the short way
            np.testing.assert_array_equal(frozen(x), want)


def expected(net: nn.Module, x: np.ndarray) -> np.ndarray:
    with qn.no_grad():
        y: np.ndarray = run(optimize(trace(net, [Input(x.shape[1:])])), [qn.tensor(x)]).numpy()
    return y


class Words(nn.Module):
    """Integers in, several outputs of several ranks and dtypes out."""

    def __init__(self) -> None:
        self.table = nn.Embedding(7, 4)
        self.cell = nn.GRU(4, 5, returns="last")
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: qn.Tensor, shift: qn.Tensor) -> dict[str, qn.Tensor]:
        hidden = self.cell(self.table(tokens))
        logits = self.head(hidden) + shift
        return {
            "logits": logits,
            "hidden": ops.reshape(hidden, (-1, 5, 1)),
            "label": ops.argmax(logits, axis=1),
        }


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [1, 3, 4])
def test_several_inputs_and_outputs(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    always(monkeypatch, size)
    net = Words().eval()
    frozen = Frozen(trace(net, [Input((6,), "int64"), Input((3,))]), max_batch=4)
    rng = np.random.default_rng(0)
    for batch in (1, 3, 5, 7, 11):
        tokens = rng.integers(0, 7, (batch, 6))
        shift = rng.standard_normal((batch, 3)).astype(np.float32)
        want, found = net(tokens, shift), frozen(tokens, shift)
        for name, y in found.items():
            np.testing.assert_array_equal(y, want[name].detach().numpy())


def test_another_number_of_threads_may_choose_other_pieces() -> None:
    net = models.lenet5().eval()
    frozen = net.freeze(max_batch=64, input_shape=(28, 28, 1))
    x = np.random.default_rng(0).standard_normal((33, 28, 28, 1)).astype(np.float32)
    want = frozen(x)
    before = qn.runtime.num_threads()
    try:
        for threads in (1, 2, 3, 1):
            qn.runtime.set_num_threads(threads)
            for _ in range(2):
                np.testing.assert_array_equal(frozen(x), want)
    finally:
        qn.runtime.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_memory_is_that_of_the_pieces_that_run_at_once() -> None:
    frozen = models.resnet8().eval().freeze(max_batch=64, input_shape=(32, 32, 3))
    one, many = frozen.memory(1), frozen.memory(64)
    size = piece_rows(row_costs(frozen.graph), 64, SIZES, qn.runtime.num_threads(), _caches())
    assert 64 // size > qn.runtime.num_threads()
    assert many.arena == one.arena * size * qn.runtime.num_threads()


@pytest.mark.usefixtures("threads")
def test_memory_counts_the_rest_of_a_batch() -> None:
    frozen = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 4)).freeze(8, input_shape=(8,))
    row = 4 * 128  # the hidden layer's
    assert frozen.memory(6).arena == 6 * row
    assert frozen.memory(5).arena == 6 * (
        row + 4 * 8 + 4 * 4
    )  # in six rows, with copies of what comes and goes
    # A full piece beside it on another thread, or alone. The six rows left are at hand, their results are not.
    apart = 6 * row
    assert frozen.memory(14).arena == max(8 * row, apart + 8 * row * (qn.runtime.num_threads() > 1))
    assert frozen.memory(13).arena == max(
        8 * row, 6 * (row + 4 * 4) + 8 * row * (qn.runtime.num_threads() > 1)
    )


def _caches() -> Caches:
    return Caches(qn.runtime.cache_nbytes(2), qn.runtime.cache_nbytes(3))


# ---- the choice -----------------------------------------------------------------------------------------------------

CONVOLUTIONS = RowCosts(((10_000_000, 256),) * 2, widest=200_000, activations=800_000, weights=300_000)
LINEAR = RowCosts(((200_000, 1), (30_000, 1)), widest=4_000, activations=7_000, weights=920_000)
HEAVY = RowCosts(((500_000_000, 64),), widest=800_000, activations=6_000_000, weights=50_000_000)


def test_one_thread_takes_pieces_that_its_cache_holds() -> None:
    size = piece_rows(CONVOLUTIONS, 64, SIZES, 1, CACHES)
    assert size * CONVOLUTIONS.widest <= CACHES.own
    assert piece_rows(CONVOLUTIONS, 64, SIZES, 1, Caches(1 << 21, 1 << 25)) > size
    assert piece_rows(CONVOLUTIONS, 64, SIZES, 1, Caches(1 << 30, 1 << 31)) == 64


def test_weights_that_are_read_for_few_rows_keep_a_batch_together() -> None:
    assert piece_rows(LINEAR, 64, SIZES, 1, CACHES) == 64
    assert piece_rows(HEAVY, 64, SIZES, 1, CACHES) == 64


def test_two_threads_share_a_batch_unless_it_is_small() -> None:
    assert piece_rows(LINEAR, 64, SIZES, 2, CACHES) == 32
    assert piece_rows(LINEAR, 16, SIZES, 2, CACHES) == 16  # each half of the weights fits into a cache
    assert piece_rows(LINEAR._replace(weights=230_000), 16, SIZES, 2, CACHES) == 8
    assert piece_rows(LINEAR, 2, SIZES, 2, CACHES) == 2
    tiny = LINEAR._replace(products=((100, 1),), weights=400)
    assert piece_rows(tiny, 64, SIZES, 2, CACHES) == 64


@pytest.mark.parametrize("costs", [CONVOLUTIONS, LINEAR, HEAVY])
def test_a_batch_that_no_piece_holds_is_cut(costs: RowCosts) -> None:
    for batch, threads in itertools.product((9, 100, 1000), (1, 2, 16)):
        assert piece_rows(costs, batch, [1, 2, 3, 4, 6, 7], threads, CACHES) in (1, 2, 3, 4, 6, 7)
    assert piece_rows(costs, 1, SIZES, 2, CACHES) == 1


def test_what_a_row_costs() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(None, 5))
    net(np.zeros((1, 6, 6, 3), np.float32))
    costs = row_costs(optimize(trace(net, [Input((6, 6, 3))])))
    assert (4 * 4 * 8 * 27 + 4 * 4 * 8, 16) in costs.products
    assert (128 * 5 + 5, 1) in costs.products
    assert costs.widest == 4 * 2 * 128  # what flatten takes and gives
    assert costs.weights == 4 * (8 * 27 + 8 + 128 * 5 + 5)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_refusal_names_the_row_of_a_batch_of_any_size(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    always(monkeypatch, size)
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(None, 2))
    frozen = Frozen(trace(net, [Input((3,), "int64")]), max_batch=8)
    tokens = np.arange(20 * 3).reshape(20, 3) % 5
    expected = frozen(tokens)
    for row in (1, 5, 13):
        bad = tokens.copy()
        bad[row, 2] = 7
        with pytest.raises(IndexError, match=rf"index 7 at position \({row % 8}, 2\)") as caught:
            frozen(bad)
        notes = getattr(caught.value, "__notes__", [])
        assert notes == ([f"[frozen] rows count from row {row // 8 * 8} of the batch on"] if row > 7 else [])
    np.testing.assert_array_equal(frozen(tokens), expected)


def test_memory_of_an_empty_batch() -> None:
    mixing = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for net in (nn.Linear(3, 4), mixing):
        frozen = Frozen(trace(net, [Input((3,))]), max_batch=4)
        none, one = frozen.memory(0), frozen.memory(1)
        assert none.weights == one.weights > 0 and none.arena <= one.arena
        assert frozen(np.ones((0, 3), np.float32)).shape == (0, 4)
