"""What users get wrong: each a clear error with the way out, and nothing changed."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import losses, models, nn, ops
from quernel.errors import ArgumentError, DTypeError, OutOfRangeError, ShapeError, StateError
from tests.test_training import blobs, mlp, state

X, Y = blobs(30)


def spoilt(array: np.ndarray, *places: tuple[int, ...], value: float = np.nan) -> np.ndarray:
    array = array.copy()
    for place in places:
        array[place] = value
    return array


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            spoilt(X, (7, 2), (9, 0), (9, 1)),
            (
                r"x is nan in row 7, column 2 \(2 of 30 rows have NaN or infinite values\); fill them, or keep the others: "
                r"np\.isfinite\(x\)\.all\(axis=1\)$"
            ),
        ),
        (spoilt(X, (29, 3), value=-np.inf), r"x is -inf in row 29, column 3 \(1 of 30 rows"),
        (spoilt(X.astype(np.float64), (0, 0), value=1e300), r"x is inf in row 0, column 0"),
        (
            spoilt(X.reshape(30, 2, 2, 1), (4, 1, 0, 0)),
            r"x is nan in row 4, position \(1, 0, 0\).*np\.isfinite\(x\)\.all\(axis=\(1, 2, 3\)\)",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_data_that_are_not_finite_are_named(x: np.ndarray, message: str, verb: str) -> None:
    net = nn.Sequential(nn.Flatten(), *mlp())
    net.compile()
    with pytest.raises(ArgumentError, match=rf"\[{verb}\] {message}"):
        getattr(net, verb)(x, Y)
    assert net[1].weight.is_unsized


def test_targets_that_are_not_finite_are_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    net.compile("sgd", loss="mse")
    with pytest.raises(ArgumentError, match=r"\[fit\] y is inf in row 3, column 1 \(1 of 30 rows"):
        net.fit(X, spoilt(X, (3, 1), value=np.inf), verbose=0)
    with pytest.raises(ArgumentError, match=r"\[fit: validation_data\] y is nan in row 3, column 1"):
        net.fit(X, X, validation_data=(X, spoilt(X, (3, 1))), verbose=0)


def test_large_finite_data_are_fine() -> None:
    """Their sum overflows; that must not count as infinite data."""
    net = nn.Sequential(nn.Linear(4, 3))
    net.compile("sgd")
    net.evaluate(np.full((10, 4), 3e38, np.float32), np.zeros(10, int))


def test_bad_data_in_the_middle_of_training_change_nothing() -> None:
    net = mlp()
    net.compile("adam")
    net.fit(X, Y, epochs=2, verbose=0)
    before, stream = state(net), qn.random.default_generator().base
    for x, y in [(spoilt(X, (0, 0)), Y), (X, Y + 1), (X[1:], Y)]:
        with pytest.raises((ArgumentError, ShapeError)):
            net.fit(x, y, verbose=0)
        with pytest.raises((ArgumentError, ShapeError)):
            net.train_on_batch(x, y)
    assert state(net) == before and qn.random.default_generator().base == stream


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0, 2.0], [3.0]], r"\[fit\] x is no array, its items have different shapes"),
        (np.array([["a"]] * 30), r"\[fit\] x holds <U1, expected numbers"),
        (np.array([None] * 30), r"\[fit\] x holds object, expected numbers"),
        (X + 1j, r"\[fit\] x holds complex"),
    ],
)
def test_what_is_no_array_of_numbers(x: Any, message: str) -> None:
    net = mlp()
    net.compile()
    with pytest.raises((DTypeError, ShapeError), match=message):
        net.fit(x, Y, verbose=0)


def test_gradients_are_of_floating_tensors() -> None:
    with pytest.raises(DTypeError, match="only floating tensors have gradients, this one is int64"):
        qn.tensor([1, 2]).requires_grad_()
    with pytest.raises(DTypeError, match="only floating tensors have gradients, this one is int32"):
        qn.tensor(np.arange(3, dtype=np.int32), requires_grad=True)
    with pytest.raises(StateError, match="does not depend on any tensor with requires_grad=True"):
        qn.tensor([1, 2]).sum().backward()


@pytest.mark.parametrize(
    "call", [ops.add, ops.mul, ops.div, ops.maximum, ops.lt, lambda a, b: ops.where(a > 0, a, b)]
)
def test_shapes_that_cannot_be_broadcast_are_both_named(call: Any) -> None:
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 4\)|\(2, 4\).*\(2, 3\)"):
        call(qn.ones((2, 3)), qn.ones((2, 4)))


def test_edits_of_what_a_gradient_needs_are_refused() -> None:
    x = qn.tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    with qn.no_grad():
        y[0] = 5.0
    with pytest.raises(
        StateError, match=r"that exp needs was changed in place after the forward pass .*backward\(\)"
    ):
        y.sum().backward()
    with pytest.raises(
        StateError, match=r"a leaf that requires grad cannot be updated in place; do it under"
    ):
        x += 1
    layer = nn.Linear(2, 2)
    z = layer(layer(np.ones((1, 2))))
    with qn.no_grad():
        layer.weight[...] = 0.0
    with pytest.raises(StateError, match="was changed in place after the forward pass"):
        z.sum().backward()


def test_a_broadcasting_mistake_in_a_loss_is_caught() -> None:
    """(N, 1) against (N,) would silently become (N, N)."""
    net = nn.Sequential(nn.Linear(4, 1))
    net.compile("sgd", loss="mse")
    with pytest.raises(
        ShapeError, match=r"output is \(N, 1\), y has shape \(30,\); use y\.reshape\(\(-1, 1\)\)"
    ):
        net.fit(X, X[:, 0], verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_accumulation": 0}, "gradient_accumulation is a positive integer, got 0"),
        ({"batch_size": True}, "batch_size is a positive integer, got True"),
        ({"validation_split": -0.1}, r"validation_split lies in \[0, 1\), got -0\.1"),
        ({"validation_split": 0.001}, r"validation_split=0\.001 of \d+ samples is none"),
        ({"validation_data": (X, Y, None, None)}, r"validation_data is \(x, y\), .*got tuple of 4"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    net = mlp()
    net.compile()
    with pytest.raises(ArgumentError, match=message):
        net.fit(X, Y, verbose=0, **options)
    assert net[0].weight.is_unsized
    for size in (0, -1, True):
        with pytest.raises(ArgumentError, match=r"\[predict\] batch_size is a positive integer or None"):
            net.predict(X, batch_size=size)


# ---- sequences ------------------------------------------------------------------------------------------------------

WAVES = np.random.default_rng(3).standard_normal((6, 5, 4)).astype(np.float32)
WORDS = np.array([[1, 2], [1, -1], [2, -1], [1, 1], [2, 1], [-1, -1]])
FULL = np.full(6, 5)


def hearing() -> nn.Module:
    qn.seed(0)
    net = models.AcousticModel(3, 4, hidden=6, layers=1)
    net.compile("adam", loss="ctc")
    return net


def every_way(net: nn.Module, x: Any, y: np.ndarray) -> dict[str, Any]:
    """Calls of a net on whole inputs, however it runs; y is for those that train."""
    run, jitted = net.freeze(), qn.jit(net)
    good = tuple(np.full_like(a, a.dtype.kind == "i") for a in x)
    with qn.no_grad():
        for _ in range(3):
            jitted(*good)
    run(*good)
    given: Any = x if len(x) > 1 else x[0]
    return {
        "call": lambda: net(*x),
        "predict": lambda: net.predict(given),
        "fit": lambda: net.fit(given, y, verbose=0, shuffle=False),
        "train_on_batch": lambda: net.train_on_batch(given, y),
        "evaluate": lambda: net.evaluate(given, y),
        "frozen": lambda: run(*x),
        "jit": lambda: jitted(*x),
    }


@pytest.mark.parametrize("length", [0, 6, -1])
def test_lengths_out_of_range_are_named_however_the_net_runs(length: int) -> None:
    net, lengths = hearing(), FULL.copy()
    lengths[3] = length
    for way, call in every_way(net, (WAVES, lengths), WORDS).items():
        before = state(net)
        with pytest.raises(
            ArgumentError,
            match=rf"\[lstm\] length {length} of row 3 is out of range, expected 1 to 5, the number of time steps",
        ):
            call()
        assert state(net) == before, way


@pytest.mark.parametrize(("center", "least"), [(True, 1), (False, 64)])
@pytest.mark.parametrize("normalize", [None, "mean"])
def test_lengths_of_waves_are_named_in_samples_however_the_net_runs(
    center: bool, least: int, normalize: Any
) -> None:
    qn.seed(0)
    front = nn.LogMelSpectrogram(
        8000, 64, hop_length=20, n_mels=4, f_max=2000, center=center, normalize=normalize
    )
    net = models.AcousticModel(3, 4, hidden=6, layers=1, front=front)
    net.compile("adam", loss="ctc")
    waves = np.random.default_rng(3).standard_normal((6, 200)).astype(np.float32)
    good = np.full(6, 200)
    want, frozen, jitted = net.predict((waves, good)), net.freeze(), qn.jit(net)
    np.testing.assert_array_equal(net.predict((waves, good.astype(np.uint8))), want)
    np.testing.assert_array_equal(frozen(waves, good), want)
    with qn.no_grad():
        for _ in range(3):
            jitted(waves, good)
    for length in (300, 201, least - 1, -5):
        bad = np.where(np.arange(6) == 3, length, good)
        for call in (
            lambda bad=bad: net(waves, bad),
            lambda bad=bad: net.predict((waves, bad)),
            lambda bad=bad: net.fit((waves, bad), WORDS, verbose=0, shuffle=False),
            lambda bad=bad: jitted(waves, bad),
            lambda bad=bad: frozen(waves, bad),
        ):
            with pytest.raises(
                ArgumentError,
                match=rf"^\[acoustic_model\] length {length} of row 3 is out of range, expected {least} to 200, the number of samples",
            ):
                call()


@pytest.mark.parametrize("token", [5, -1])
def test_tokens_out_of_range_are_named_however_the_net_runs(token: int) -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(None, 2))
    tokens = np.arange(18).reshape(6, 3) % 5
    net(tokens)
    net.compile("adam")
    tokens[3, 1] = token
    for way, call in every_way(net, (tokens,), np.arange(6) % 2).items():
        before = state(net)
        with pytest.raises(
            OutOfRangeError,
            match=rf"\[embedding\] index {token} at position \(3, 1\) is out of range for 5 rows",
        ):
            call()
        assert state(net) == before, way


def test_fit_says_that_rows_count_within_a_batch() -> None:
    net, lengths = hearing(), FULL.copy()
    lengths[5] = 9
    for shuffle, batch, note in [
        (False, 2, r"rows count within batch 2 of the epoch, from 0 on$"),
        (
            True,
            6,
            r"batch 0 of the epoch, from 0 on, which are shuffled \(shuffle=False keeps their order\)$",
        ),
    ]:
        with pytest.raises(ArgumentError, match=r"length 9 of row \d is out of range") as caught:
            net.fit((WAVES, lengths), WORDS, batch_size=batch, shuffle=shuffle, verbose=0)
        assert re.search(note, caught.value.__notes__[-1])


class Picky(nn.Module):
    def __init__(self, message: str) -> None:
        self.linear, self.message = nn.Linear(2, 2), message

    def forward(self, x: qn.Tensor) -> qn.Tensor:
        if self.training:
            raise ArgumentError(self.message)
        return self.linear(x)


@pytest.mark.parametrize(
    ("message", "has_note"),
    [
        ("[a] length 9 of row 0 is out of range", True),
        ("[a] index 9 at position (3, 1) is out of range", True),
        ("[a] unknown padding 'row'", False),
        ("[a] a rate is positive, got -1", False),
    ],
)
def test_fit_says_so_of_rows_alone(message: str, has_note: bool) -> None:
    net = Picky(message)
    net.compile("sgd", "mse")
    with pytest.raises(ArgumentError) as caught:
        net.fit(np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32), verbose=0)
    assert any("rows count within" in note for note in getattr(caught.value, "__notes__", [])) is has_note


class Masked(nn.Module):
    def __init__(self) -> None:
        self.attention, self.head = nn.MultiheadAttention(4, 2), nn.Linear(4, 3)

    def forward(self, x: qn.Tensor, mask: qn.Tensor) -> qn.Tensor:
        return self.head(ops.sum(self.attention(x, key_padding_mask=mask), dim=1))


def test_masks_of_another_shape_are_named_however_the_net_runs() -> None:
    net = Masked()
    net.compile("sgd")
    y = np.arange(6) % 3
    ways = every_way(net, (WAVES, np.zeros((6, 5), bool)), y)
    for call in ways.values():
        call()
    run = net.freeze()
    with pytest.raises(ShapeError, match=r"\[graph\] input 'input1' must have shape \(N, 5\), got \(6, 4\)"):
        run(WAVES, np.zeros((6, 4), bool))
    for verb, rows in (("fit", 1), ("predict", 6)):
        with pytest.raises(
            ShapeError,
            match=rf"\[multihead_attention\] key_padding_mask must be \({rows}, 5\), got \({rows}, 4\)",
        ):
            getattr(net, verb)((WAVES, np.zeros((6, 4), bool)), *([y] if verb == "fit" else []))
    x = qn.tensor(WAVES)
    layer = net.attention
    for masks, error, message in [
        ({"key_padding_mask": np.zeros((6, 5), int)}, DTypeError, r"key_padding_mask is bool .*, got int64; compare it"),
        ({"attn_mask": np.zeros((5, 5), int)}, DTypeError, r"attn_mask is bool \(True = left out\) or .*, got int64; compare"),
        (
            {"attn_mask": np.zeros((6, 5, 5), bool)},
            ShapeError,
            r"attn_mask of three dimensions must be \(N·num_heads, Tq, Tk\) = \(12, 5, 5\), got \(6, 5, 5\); of two it is \(Tq, Tk\)",
        ),
        ({"attn_mask": np.zeros((4, 5), bool)}, ShapeError, r"attn_mask of shape \(4, 5\) does not broadcast to \(N, H, Tq, Tk\)"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            layer(x, **masks)


def test_empty_sequences() -> None:
    """No rows give no rows; no steps are refused where there would be nothing to return."""
    none, hollow = WAVES[:0], WAVES[:, :0]
    for layer in (
        nn.LSTM(4, 3, returns="outputs"),
        nn.GRU(4, 3, returns="outputs"),
        nn.RNN(4, 3, returns="outputs"),
    ):
        assert layer(none).shape == (0, 5, 3)
        with pytest.raises(
            ShapeError, match=rf"\[{type(layer).__name__.lower()}\] x has no time steps \(x: \(6, 0, 4\)"
        ):
            layer(hollow)
    attention = nn.MultiheadAttention(4, 2)
    assert attention(none).shape == (0, 5, 4) and attention(hollow).shape == (6, 0, 4)
    bias = attention.out_proj(np.zeros((6, 5, 4), np.float32)).numpy()
    np.testing.assert_array_equal(attention(WAVES, hollow).numpy(), bias)  # nothing answers
    np.testing.assert_array_equal(attention(WAVES, key_padding_mask=np.ones((6, 5), bool)).numpy(), bias)
    assert nn.Embedding(5, 4)(np.zeros((6, 0), int)).shape == (6, 0, 4)
    with pytest.raises(ShapeError, match=r"\[ctc_loss\] log_probs has no time steps"):
        ops.ctc_loss(hollow, WORDS)
    assert ops.ctc_loss(none, WORDS[:0], reduction="none").shape == (0,)
    with pytest.raises(ArgumentError, match=r"\[ctc_loss\] an empty batch has no mean loss"):
        ops.ctc_loss(none, WORDS[:0])
    net = hearing()
    with pytest.raises(ShapeError, match=r"\[lstm\] x has no time steps"):
        net.fit((hollow, FULL), WORDS, verbose=0)
    with pytest.raises(ArgumentError, match=r"\[fit\] there are no samples"):
        net.fit((none, FULL[:0]), WORDS[:0], verbose=0)


def test_targets_that_no_alignment_spells() -> None:
    """An op's loss is infinite; in training that would be all that the mean tells."""
    log_probs = ops.log_softmax(WAVES[:, :3])
    each = ops.ctc_loss(
        log_probs,
        np.array([[1, 1, 2], [1, 2, 1], [1, 1, -1], [1, 2, -1], [1, -1, -1], [-1, -1, -1]]),
        reduction="none",
    )
    assert np.isinf(each.numpy()).tolist() == [True, False, False, False, False, False]
    net = hearing()
    long = np.full((6, 6), -1)
    long[:, 0], long[2, :6], long[4, :4] = 1, [1, 2, 3, 1, 2, 3], 2
    before = state(net)
    for verb in ("fit", "evaluate", "train_on_batch"):
        with pytest.raises(
            ArgumentError,
            match=rf"\[{verb}\] row 2 of y has 6 labels, which take 6 steps .*; the model gives 5 \(2 of 6 rows\): drop such rows, or "
            r"compile with nn\.CTCLoss\(zero_infinity=True\)",
        ):
            getattr(net, verb)((WAVES, FULL), long)
        with pytest.raises(ArgumentError, match=r"row 4 of y has 4 labels, which take 7 steps"):
            getattr(net, verb)((WAVES, FULL), np.where(np.arange(6)[:, None] == 2, -1, long))
    assert state(net) == before
    for loss in (nn.CTCLoss(zero_infinity=True), partial(losses.ctc, zero_infinity=True)):
        net.compile("adam", loss=loss)
        assert np.isfinite(net.fit((WAVES, FULL), long, verbose=0)["loss"]).all()
    with pytest.raises(ArgumentError, match=r"\[ctc_loss\] label 4 at row 1 is out of range for 4 classes"):
        net.evaluate((WAVES, FULL), np.where(np.arange(6)[:, None] == 1, 4, long[:, :2]))
    with pytest.raises(ArgumentError, match=r"\[ctc_loss\] label 0 in row 1 is the blank"):
        net.evaluate((WAVES, FULL), np.where(np.arange(6)[:, None] == 1, 0, long[:, :2]))
