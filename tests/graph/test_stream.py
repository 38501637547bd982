"""Frozen recurrent models fed chunk by chunk: the bits of the whole sequence, or an error that says why not."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError, UnsupportedError
from quernel.graph.freeze import Frozen
from quernel.graph.trace import Input, trace

LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "RNN": (nn.RNN, {}),
    "RNN relu": (nn.RNN, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_stream_of_chunks_has_the_bits_of_the_whole(name: str, precision: str | None) -> None:
    qn.seed(4)
    make, options = LAYERS[name]
    net = nn.Sequential(
        nn.Embedding(9, 6),
        nn.LayerNorm(6),
        make(6, 11, 2, **options, returns="outputs", precision=precision),
        nn.Linear(11, 3),
        nn.Softmax(-1),
    ).eval()
    x = np.random.default_rng(0).integers(0, 9, (5, 12))
    whole = net.freeze(max_batch=4, input_shape=(12,))(x)
    run = net.freeze(max_batch=4, input_shape=(3,))
    stream = run.stream()
    chunks = [stream(x[:, t : t + 3]) for t in (0, 3)]
    later = run.stream(stream.state)  # goes on where the other one is
    chunks += [later(x[:, t : t + 3]) for t in (6, 9)]
    np.testing.assert_array_equal(np.concatenate(chunks, 1), whole)
    np.testing.assert_array_equal(run.stream()(x[:, :3]), chunks[0])
    with pytest.raises(ShapeError, match=r"\[stream\] the chunk has 2 rows, the state 5"):
        later(x[:2, :3])
    with pytest.raises(ShapeError, match=r"\[stream\] the model has \d states, got 1"):
        run.stream([np.zeros((5, 11), "f4")])


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: nn.LSTM(2, 3, bidirectional=True, returns="outputs"), "walks from the end of its sequences"),
        (lambda: nn.Sequential(nn.LSTM(2, 3, returns="outputs"), nn.Flatten()), r"1 \(flatten\) may look at several steps"),
        (lambda: nn.Linear(2, 3), "the model has no recurrent layer"),
        (
            lambda: nn.Sequential(nn.PositionalEncoding(2), nn.LSTM(2, 3, returns="outputs")),
            r"0:1 \(add\) has an operand \(4, 2\) that tells the steps of a chunk apart",
        ),
        (lambda: nn.Sequential(nn.LSTM(2, 3, returns="outputs"), Places(3)), r"\(concat\) has an operand \(N, 4, 3\) that tells"),
        (lambda: nn.Sequential(nn.Linear(2, 3), Added(3), nn.GRU(3, 3)), r"0 \(add\) has an operand \(N, 4, 3\) that tells"),
        (lambda: Of(lambda net, x: (y := net.rnn(x)) + y[:, -1:]), "getitem.* several steps"),
        (lambda: Of(lambda net, x: (y := net.all(x))[0] + ops.reshape(y[1], (-1, 1, 3))), "what only the last of them leaves"),
        (lambda: Of(lambda net, x: net.all(ops.reshape(net.all(x)[1], (-1, 1, 3))[..., :2])[0]), "none of the inputs'"),
    ],
)  # fmt: skip
def test_what_cannot_be_streamed_says_why(net: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"\[stream\] .*{message}"):
        net().freeze(input_shape=(4, 2)).stream()


class Places(nn.Module):
    """Puts a vector of each place beside what is there."""

    def __init__(self, size: int) -> None:
        self.table = nn.Parameter(qn.zeros((9, size)))

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return ops.concat([x, ops.broadcast_to(self.table[: x.shape[1]], x.shape)], -1)


def test_chunks_of_one_step_have_no_places_either() -> None:
    """A row of a table looks like a weight that all steps share, which goes on as before."""
    with pytest.raises(
        UnsupportedError, match=r"\[stream\] .* \(1, 2\) that may tell the steps of a sequence apart"
    ):
        nn.Sequential(nn.LearnedPositionalEncoding(2, 9), nn.LSTM(2, 3)).freeze(input_shape=(1, 2)).stream()
    for shape in ((1, 1, 3), (1, 3), (3,)):
        net = nn.Sequential(nn.LSTM(2, 3, returns="outputs"), Scaled(shape)).eval()
        x = np.random.default_rng(0).standard_normal((2, 5, 2)).astype("f4")
        stream = net.freeze(input_shape=(1, 2)).stream()
        chunks = [stream(x[:, t : t + 1]) for t in range(5)]
        np.testing.assert_array_equal(np.concatenate(chunks, 1), net(x).numpy())


TOKENS = {
    "places": lambda x: x + qn.arange(x.shape[1]) * 10,
    "a layer over time": lambda x: ops.cast(
        ops.linear(ops.cast(x, "float32"), np.ones((x.shape[1],) * 2, "f4")), "int64"
    ),
    "softmax over time": lambda x: ops.cast(ops.softmax(ops.cast(x, "float32")), "int64"),
}


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("change", TOKENS)
def test_tokens_have_no_places(change: str, steps: int) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.table, self.gru = nn.Embedding(50, 3), nn.GRU(3, 3, returns="outputs")

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return self.gru(self.table(TOKENS[change](x)))

    with pytest.raises(
        UnsupportedError, match=r"\[stream\] .*(tell the steps of|tells the steps of|several steps)"
    ):
        Net().freeze(input_shape=(steps,)).stream()


SUMS = {
    "tokens": (lambda net, x: net.table(ops.minimum(x * 2, 40) + net.registered), (), "int64"),
    "a residual": (lambda net, x: net.linear(x) + net.other(x), (2,), "float32"),
}


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", SUMS)
def test_sums_within_steps_are_streamed(name: str, steps: int) -> None:
    call, width, dtype = SUMS[name]

    class Net(nn.Module):
        registered: qn.Tensor

        def __init__(self) -> None:
            self.table, self.gru = nn.Embedding(50, 3), nn.GRU(3, 3)
            self.linear, self.other, self.head = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(8, 2)
            self.register_buffer("registered", qn.tensor(np.array([3])))

        def forward(self, x: qn.Tensor, known: qn.Tensor) -> Any:  # known of each row, such as who speaks
            y, h = self.gru(call(self, x))
            return y, self.head(ops.concat([ops.reshape(h, (-1, 3)), known * ops.softmax(known, -1)], -1))

    net, rng = Net().eval(), np.random.default_rng(0)
    x = rng.integers(0, 30, (2, 6)) if not width else rng.standard_normal((2, 6, *width)).astype("f4")
    known = rng.standard_normal((2, 5)).astype("f4")
    net(x, known)
    graphs = trace(net, [Input((steps, *width), dtype, "x"), Input((5,), "float32", "known")])
    stream = Frozen(graphs).stream()
    chunks = [stream(x[:, t : t + steps], known) for t in range(0, 6, steps)]
    whole = net(x, known)
    np.testing.assert_array_equal(np.concatenate([y for y, _ in chunks], 1), whole[0].numpy())
    np.testing.assert_array_equal(chunks[-1][1], whole[1].numpy())


HELD = {
    "an attribute of rank 2": lambda net, x: x - net.flat,
    "an attribute of rank 3": lambda net, x: x - net.whole,
    "an array": lambda _, x: x * np.array([[1, 2, 3]], "f4"),
    "softmax": lambda net, x: x * ops.softmax(net.weight, -1),
    "new axes": lambda net, x: x + net.vector[None, None, :],
    "a row of each": lambda net, x: x * ops.embedding(np.array([[2]]), net.table),
}
OF_PLACES = {
    "an array of steps": lambda _, x: x + np.arange(3 * x.shape[1], dtype="f4").reshape(-1, 3),
    "a slice of an attribute": lambda net, x: x + net.rows[: x.shape[1]],
    "a slice of a parameter": lambda net, x: x + net.table[: x.shape[1]],
    "an attribute made anew": lambda net, x: x + net.made_for(x.shape[1]),
    "an index": lambda net, x: x + ops.embedding(qn.arange(x.shape[1]), net.table),
    "a residual": lambda net, x: net.linear(x) + ops.broadcast_to(net.table[: x.shape[1]], x.shape),
}


class Held(nn.Module):
    def __init__(self, call: Any) -> None:
        self.call, self.gru, self.linear = call, nn.GRU(2, 3, returns="outputs"), nn.Linear(3, 3)
        self.vector, self.weight = nn.Parameter(qn.ones((3,))), nn.Parameter(qn.ones((1, 1, 3)))
        self.table = nn.Parameter(qn.tensor(np.arange(27, dtype="f4").reshape(9, 3)))
        self.flat, self.whole, self.rows = qn.ones((1, 3)), qn.ones((1, 1, 3)), qn.ones((9, 3))
        self.made: Any = None

    def made_for(self, steps: int) -> Any:
        if self.made is None or len(self.made) < steps:
            self.made = np.arange(3 * steps, dtype="f4").reshape(-1, 3)
        return self.made

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return self.call(self, self.gru(x))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("call", HELD.values(), ids=HELD)
def test_what_all_steps_share_is_streamed(call: Any, steps: int) -> None:
    net = Held(call).eval()
    x = np.random.default_rng(0).standard_normal((2, 6, 2)).astype("f4")
    run = net.freeze(input_shape=(steps, 2))
    for each in (run, pickle.loads(pickle.dumps(run))):
        stream = each.stream()
        chunks = [stream(x[:, t : t + steps]) for t in range(0, 6, steps)]
        np.testing.assert_array_equal(np.concatenate(chunks, 1), net(x).numpy())


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("call", OF_PLACES.values(), ids=OF_PLACES)
def test_what_steps_do_not_share_is_refused(call: Any, steps: int) -> None:
    message = "register it as a buffer, or drop its leading axes" if steps == 1 else "that tells the steps"
    with pytest.raises(UnsupportedError, match=rf"\[stream\] .* {message}"):
        Held(call).freeze(input_shape=(steps, 2)).stream()


class Of(nn.Module):
    """What a function makes of a recurrent layer."""

    def __init__(self, call: Any) -> None:
        self.call, self.rnn, self.all = call, nn.RNN(2, 3, returns="outputs"), nn.RNN(2, 3)

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return self.call(self, x)


class Added(Places):
    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x + ops.broadcast_to(self.table[: x.shape[1]], x.shape)


class Scaled(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.scale = nn.Parameter(qn.tensor(np.arange(3, dtype="f4").reshape(shape)))

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        return x * ops.reshape(self.scale, (1, 1, 3)) + self.scale


def test_a_stream_goes_on_after_what_it_refuses() -> None:
    net = nn.Sequential(nn.GRU(2, 3, returns="outputs")).eval()
    run, x = net.freeze(input_shape=(4, 2)), np.ones((2, 4, 2), "f4")
    stream = run.stream()
    for call, error, message in [
        (stream, ShapeError, r"\[stream\] expected 1 inputs \(input\), got 0"),
        (lambda: stream(x, x), ShapeError, r"\[stream\] expected 1 inputs \(input\), got 2"),
        (lambda: stream("x"), DTypeError, r"\[frozen\] input 'input' must hold numbers, got <U1"),
        (lambda: stream(1.0), ShapeError, r"\[frozen\] input 'input' must have shape \(N, 4, 2\), got \(\)"),
        (lambda: stream([[1], [1, 2]]), ShapeError, r"\[frozen\] input 'input' is no array"),
        (lambda: stream(x[:, :3]), ShapeError, r"must have shape \(N, 4, 2\), got \(2, 3, 2\)"),
        (lambda: run.stream(3), ArgumentError, r"\[stream\] state is a sequence of 1 arrays, got int"),
        (lambda: run.stream([None]), DTypeError, r"input '0:1\.h0' must hold numbers, got object"),
        (lambda: run.stream([0.0]), ShapeError, r"input '0:1\.h0' must have shape \(N, 3\), got \(\)"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    np.testing.assert_array_equal(stream(x), run(x))
