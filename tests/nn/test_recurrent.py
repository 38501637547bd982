"""Recurrent layers: PyTorch's results on PyTorch's state, training, saving, freezing, and their place in a Sequential."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn, optim
from quernel.errors import ArgumentError, ShapeError

LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "LSTM": (nn.LSTM, {}),
    "GRU": (nn.GRU, {}),
    "RNN": (nn.RNN, {}),
    "RNN relu": (nn.RNN, {"nonlinearity": "relu"}),
}


def flat(result: Any) -> list[Any]:
    return [result] if not isinstance(result, tuple) else [t for part in result for t in flat(part)]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_torch_agrees(name: str, bias: bool, bidirectional: bool) -> None:
    torch = pytest.importorskip("torch")
    make, options = LAYERS[name]
    options = {**options, "num_layers": 2, "bias": bias, "bidirectional": bidirectional}
    theirs = getattr(torch.nn, name.split(maxsplit=1)[0])(
        4, 6, batch_first=True, dtype=torch.float64, **options
    )
    ours = make(None, 6, **options).to("float64")
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    n, lengths = 5, np.array([3, 7, 1, 7, 5])
    x = rng.standard_normal((n, 7, 4))
    count = 4 if bidirectional else 2
    states = [rng.standard_normal((count, n, 6)) for _ in range(2 if name == "LSTM" else 1)]
    given = tuple(states) if name == "LSTM" else states[0]
    told = tuple(map(torch.tensor, states)) if name == "LSTM" else torch.tensor(states[0])
    rnn = torch.nn.utils.rnn

    def packed(x: Any) -> Any:
        return rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)

    for state, their_state in ((None, None), (given, told)):
        for a, b in zip(flat(ours(x, state)), flat(theirs(torch.tensor(x), their_state)), strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
        tx = torch.tensor(x, requires_grad=True)
        y, last = theirs(packed(tx), their_state)
        expected = [rnn.pad_packed_sequence(y, batch_first=True)[0], *flat((last,))]
        qx = qn.tensor(x, requires_grad=True)
        found = flat(ours(qx, state, lengths))
        ours.zero_grad()
        theirs.zero_grad()
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-12)
        sum((a * a * (k + 1)).sum() for k, a in enumerate(found)).backward()
        sum((b * b * (k + 1)).sum() for k, b in enumerate(expected)).backward()
        assert qx.grad is not None
        np.testing.assert_allclose(qx.grad.numpy(), tx.grad.numpy(), rtol=1e-9, atol=1e-11)
        for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert p.grad is not None
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=key)


def test_initial_values_sizes_and_repr() -> None:
    qn.seed(0)
    net = nn.LSTM(None, 64, 2, bidirectional=True, dropout=0.5)
    assert repr(net) == "LSTM(None, 64, num_layers=2, dropout=0.5, bidirectional=True)"
    net(np.ones((2, 3, 10), np.float32))
    assert net.input_size == 10 and net.weight_ih_l0.shape == (256, 10)
    assert net.weight_ih_l1_reverse.shape == (256, 128) and net.weight_hh_l1.shape == (256, 64)
    for name, p in net.named_parameters():  # uniform in ±1/8: variance 1/192, its own standard error known
        values = p.numpy().astype("f8")
        assert np.abs(values).max() <= 1 / 8, name
        assert abs(values.var() * 192 - 1) < 5 * np.sqrt(0.8 / values.size), name
    assert repr(nn.RNN(3, 4, nonlinearity="relu", bias=False)) == "RNN(3, 4, bias=False, nonlinearity='relu')"


def test_dropout_lies_between_the_layers_in_training_alone() -> None:
    qn.seed(0)
    net = nn.GRU(3, 5, 2, dropout=0.5)
    x = np.random.default_rng(0).standard_normal((4, 6, 3)).astype("f4")
    net.eval()
    calm = net(x)[0].numpy()
    np.testing.assert_array_equal(net(x)[0].numpy(), calm)
    net.train()
    one = net(x)
    assert (one[0].numpy() != calm).any()
    lower = one[1].numpy()[0]  # the state of the layer below the dropout
    np.testing.assert_array_equal(lower, net.eval()(x)[1].numpy()[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_what_returns_says(name: str, bidirectional: bool) -> None:
    qn.seed(0)
    make, options = LAYERS[name]
    options = {**options, "num_layers": 2, "bidirectional": bidirectional}
    whole = make(3, 4, **options)
    x, lengths = np.random.default_rng(0).standard_normal((5, 6, 3)).astype("f4"), np.array([6, 2, 1, 4, 6])
    outputs, state = whole(x, lengths=lengths)
    h = state[0] if name == "LSTM" else state
    for returns, expected in (
        ("outputs", outputs.numpy()),
        ("last", np.concatenate(list(h.numpy()[-2:] if bidirectional else h.numpy()[-1:]), -1)),
    ):
        other = make(3, 4, **options, returns=returns)
        other.load_state_dict(whole.state_dict())
        np.testing.assert_array_equal(other(x, lengths=lengths).numpy(), expected)


def majority(n: int = 300) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sequences of signs; the label is the sign that the first step has."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (n, 8, 1)).astype("f4")
    return x, (x[:, 0, 0] > 0).astype(np.int64)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_classifier_trains_freezes_and_is_saved(name: str, tmp_path: Path) -> None:
    qn.seed(1)
    x, y = majority()
    net = nn.Sequential(
        LAYERS[name][0](None, 12, 2, bidirectional=True, dropout=0.1, returns="last"), nn.Linear(None, 2)
    )
    net.compile(optim.Adam(net.parameters(), lr=0.02), loss="cross_entropy", metrics=["accuracy"])
    history = net.fit(x, y, epochs=12, batch_size=50, verbose=0)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    scores = net.predict(x)
    assert (scores.argmax(-1) == y).mean() > 0.95

    rows = 8 * (12 * (1 + 12) + 12 * (24 + 12)) * 2 * {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
    assert net.summary(input_shape=(8, 1), show=False).macs == rows + 24 * 2
    frozen = net.freeze(max_batch=16)
    np.testing.assert_array_equal(frozen(x), scores)
    np.testing.assert_array_equal(frozen(x[:5]), scores[:5])
    assert frozen._costs is not None  # a batch of 5 ran in a plan for 6
    net.save(tmp_path / "model.safetensors")
    again = qn.load(tmp_path / "model.safetensors")
    assert isinstance(again, nn.Sequential) and repr(again) == repr(net)
    np.testing.assert_array_equal(again.predict(x), scores)


class Tagger(nn.Module):
    """A class of the user's with lengths, saved as its graph."""

    takes_integers = True

    def __init__(self) -> None:
        self.rnn = nn.GRU(2, 5, bidirectional=True, bias=False)
        self.head = nn.Linear(10, 3)

    def forward(self, x: qn.Tensor, lengths: qn.Tensor) -> Any:
        y, h = self.rnn(x, lengths=lengths)
        return self.head(y), h


def test_a_class_with_lengths_freezes_and_is_saved(tmp_path: Path) -> None:
    qn.seed(2)
    net = Tagger()
    x, lengths = np.random.default_rng(0).standard_normal((5, 6, 2)).astype("f4"), np.array([6, 2, 1, 4, 6])
    y, h = (t.numpy() for t in net(x, lengths))
    frozen = net.freeze(max_batch=4)
    net.save(tmp_path / "model.safetensors")
    for run in (frozen, lambda *a: [t.numpy() for t in qn.load(tmp_path / "model.safetensors")(*a)]):
        for got, want in zip(run(x, lengths), (y, h), strict=True):
            np.testing.assert_array_equal(got, want)
    with pytest.raises(ArgumentError, match=r"\[gru\] length 7 of row 1 is out of range, expected 1 to 6"):
        frozen(x, lengths + np.array([0, 5, 0, 0, 0]))


def test_a_jitted_step_is_the_eager_one() -> None:
    x, y = majority(32)
    results = []
    for wrap in (lambda f: f, qn.jit):
        qn.seed(3)
        net = nn.Sequential(nn.LSTM(1, 9, 2, returns="last"), nn.Linear(9, 2))
        optimizer = optim.Adam(net.parameters(), lr=0.01)

        def step(x: Any, y: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            loss = qn.losses.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        run = wrap(step)
        results.append([run(x, y).item() for _ in range(6)] + [p.numpy().copy() for p in net.parameters()])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_integers_are_numbers_and_states_may_be_arrays() -> None:
    qn.seed(0)
    net = nn.LSTM(3, 4)
    x = np.arange(30, dtype=np.uint8).reshape(2, 5, 3) % 3
    np.testing.assert_array_equal(net(x)[0].numpy(), net(x.astype("f4"))[0].numpy())
    h, c = np.ones((1, 2, 4)), np.zeros((1, 2, 4))
    y, _ = net(x, (h, c), [5, 2])
    np.testing.assert_array_equal(
        y.numpy(), net(x, (qn.tensor(h.astype("f4")), c), np.array([5, 2], "i4"))[0].numpy()
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda net, x: net(x, np.zeros((1, 3, 4))), ArgumentError, r"\[lstm\] state is a pair \(h0, c0\), got Tensor"),
        (
            lambda net, x: net(x, (np.zeros((1, 3, 4)), np.zeros((2, 3, 4)))),
            ShapeError,
            r"\[lstm\] h0 is \(1, 3, 4\), expected \(layers \* directions, N, hidden\) = \(2, 3, 4\)",
        ),
        (lambda net, x: net(x[..., :1]), ShapeError, r"\[lstm\] weight_ih is \(16, 2\), expected \(16, 1\)"),
        (lambda net, x: net(x, lengths=[5, 5]), ShapeError, r"lengths is \(2,\), expected one per row, \(3,\)"),
        (lambda net, x: net(x, lengths=[5, 0, 5]), ArgumentError, "length 0 of row 1 is out of range, expected 1 to 5"),
        (lambda *_: nn.LSTM(2, 4, returns="y"), ArgumentError, r"\[lstm\] returns is one of"),
        (lambda *_: nn.LSTM(2, 0), ArgumentError, r"\[lstm\] hidden_size is a positive integer, got 0"),
        (lambda *_: nn.RNN(2, 3, nonlinearity="gelu"), ArgumentError, r"\[rnn\] nonlinearity is 'tanh' or 'relu'"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, message: str) -> None:
    net = nn.LSTM(2, 4, 2)
    with pytest.raises(error, match=message):
        call(net, np.zeros((3, 5, 2), np.float32))
