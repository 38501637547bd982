"""Recurrent ops: gradients, plans, PyTorch's results, absent rows, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests import reference
from tests.checks import check_equal, gradcheck

CELLS = tuple(reference.GATES)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_in_float64(cell: str) -> None:
    """Central differences; the weights keep a ReLU's inputs positive, off its kink."""
    rng = np.random.default_rng(0)
    hidden = 3
    rows = reference.GATES[cell] * hidden
    draw = (
        (lambda *s: rng.uniform(0.1, 0.5, s))
        if cell == "rnn_relu"
        else (lambda *s: rng.standard_normal(s) * 0.7)
    )
    inputs = [draw(4, 5, 2), draw(rows, 2), draw(rows, hidden), draw(rows), draw(rows), draw(4, hidden)]
    name, options = cell, {}
    if cell.startswith("rnn"):
        name, options = "rnn", {"nonlinearity": cell[4:]}
    if cell == "lstm":
        inputs.append(draw(4, hidden))
    for lengths, reverse in ((None, False), ([5, 1, 3, 5], True), ([2, 5, 4, 1], False)):

        def whole(*args: Any, lengths: Any = lengths, reverse: bool = reverse) -> qn.Tensor:
            results = getattr(ops, name)(*args, lengths=lengths, reverse=reverse, **options)
            return ops.concat([r.reshape(-1) for r in results], 0)

        gradcheck(whole, *inputs)
        for k in range(
            3 if cell == "lstm" else 2
        ):  # one result alone: the gradients of the others are absent
            gradcheck(
                lambda *args, k=k, r=reverse: getattr(ops, name)(*args, reverse=r, **options)[k], *inputs
            )


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_plan_has_the_same_bits(cell: str, precision: str | None) -> None:
    rng = np.random.default_rng(2)
    rows = reference.GATES[cell] * 8
    name, options = ("rnn", {"nonlinearity": cell[4:]}) if cell.startswith("rnn") else (cell, {})
    params = [
        qn.tensor(rng.standard_normal(s).astype("f4"), requires_grad=True)
        for s in ((rows, 5), (rows, 8), (rows,))
    ]

    def step(x: Any, lengths: Any) -> Any:
        for p in params:
            p.grad = None
        w, r, b = params
        y, h = getattr(ops, name)(
            x, w, r, b, b, lengths=lengths, reverse=True, precision=precision, **options
        )[:2]
        loss = (y * y).sum() + h.sum()
        loss.backward()
        return loss, y, *[p.grad for p in params]

    planned = qn.jit(step)
    for _ in range(4):
        x, lengths = rng.standard_normal((6, 7, 5)).astype("f4"), rng.integers(1, 8, 6)
        for a, b in zip(step(x, lengths), planned(x, lengths), strict=True):
            check_equal(a.numpy(), b.numpy())
    with pytest.raises(
        ArgumentError, match=rf"\[{name}\] length 8 of row 2 is out of range, expected 1 to 7"
    ):
        planned(x, np.array([1, 1, 8, 1, 1, 1]))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_against_torch(cell: str, reverse: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    n, steps, inputs, hidden = 5, 6, 4, 7
    rows = reference.GATES[cell] * hidden
    arrays = [
        rng.standard_normal(s) for s in ((n, steps, inputs), (rows, inputs), (rows, hidden), (rows,), (rows,))
    ]
    h0, c0, lengths = (
        rng.standard_normal((n, hidden)),
        rng.standard_normal((n, hidden)),
        np.array([6, 1, 4, 6, 2]),
    )
    name, options = ("rnn", {"nonlinearity": cell[4:]}) if cell.startswith("rnn") else (cell, {})
    layer = getattr(torch.nn, name.upper())(
        inputs, hidden, batch_first=True, bidirectional=True, dtype=torch.float64, **options
    )
    mine = [qn.tensor(a, requires_grad=True) for a in (*arrays, h0, *([c0] if cell == "lstm" else []))]
    results = getattr(ops, name)(*mine, lengths=lengths, reverse=reverse, **options)
    theirs = [
        torch.tensor(np.stack([a, a]), requires_grad=True) for a in (h0, *([c0] if cell == "lstm" else []))
    ]
    with torch.no_grad():
        for suffix in ("", "_reverse"):
            for kind, a in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), arrays[1:], strict=True):
                getattr(layer, f"{kind}_l0{suffix}").copy_(torch.tensor(a))
    tx = torch.tensor(arrays[0], requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        tx, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    out, state = layer(packed, tuple(theirs) if cell == "lstm" else theirs[0])
    side = slice(hidden, None) if reverse else slice(None, hidden)
    y = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0][..., side]
    expected = [y, *(s[int(reverse)] for s in (state if cell == "lstm" else (state,)))]
    g = [rng.standard_normal(tuple(e.shape)) for e in expected]
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-11, atol=1e-12)
    sum((a * qn.tensor(v)).sum() for a, v in zip(results, g, strict=True)).backward()
    sum((b * torch.tensor(v)).sum() for b, v in zip(expected, g, strict=True)).backward()
    suffix = "_reverse" if reverse else ""
    wanted = [
        tx.grad,
        *(getattr(layer, f"{k}_l0{suffix}").grad for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    ]
    wanted += [t.grad[int(reverse)] for t in theirs]
    for t, want in zip(mine, wanted, strict=True):
        np.testing.assert_allclose(t.grad.numpy(), want.numpy(), rtol=1e-9, atol=1e-11)


def test_rows_may_be_absent_and_nan_stays_in_its_row() -> None:
    w, r = np.ones((12, 2), "f4"), np.ones((12, 3), "f4")
    y, h, c = ops.lstm(np.zeros((0, 4, 2), "f4"), qn.tensor(w, requires_grad=True), r)
    assert y.shape == (0, 4, 3) and h.shape == c.shape == (0, 3)
    y.sum().backward()
    x = np.zeros((3, 4, 2), "f4")
    x[1, 2] = np.nan
    y = ops.lstm(x, w, r)[0].numpy()
    assert np.isfinite(y[[0, 2]]).all() and np.isfinite(y[1, :2]).all() and np.isnan(y[1, 2:]).all()


@pytest.mark.parametrize("precision", [None, "bf16"])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_lies_behind_a_rows_end_is_not_read(reverse: bool, precision: str | None) -> None:
    rng = np.random.default_rng(0)
    x, w, r = (rng.standard_normal(s).astype("f4") for s in ((3, 5, 4), (18, 4), (18, 6)))
    lengths, results = np.array([2, 5, 3]), []
    for behind in (0.0, np.nan):
        for row, length in enumerate(lengths):
            x[row, length:] = behind
        operands = [qn.tensor(a, requires_grad=True) for a in (x, w, r)]
        y, h = ops.gru(*operands, lengths=lengths, reverse=reverse, precision=precision)
        (y * y).sum().backward()
        results.append([t.numpy().copy() for t in (y, h, *(o.grad for o in operands))])
    for zeros, nans in zip(*results, strict=True):
        check_equal(nans, zeros)
    for row, length in enumerate(lengths):
        assert not results[0][0][row, length:].any() and not results[0][2][row, length:].any()


X, W, R = np.zeros((3, 5, 2), "f4"), np.zeros((16, 2), "f4"), np.zeros((16, 4), "f4")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.lstm(X[0], W, R), ShapeError, r"\[lstm\] x must have 3 dimensions \(N, T, C\), got shape \(5, 2\)"),
        (lambda: ops.lstm(X[:, :0], W, R), ShapeError, r"\[lstm\] x has no time steps \(x: \(3, 0, 2\)"),
        (lambda: ops.lstm(X, W, R[:, :3]), ShapeError, r"\[lstm\] weight_hh is \(16, 3\), expected \(12, 3\)"),
        (lambda: ops.gru(X, W, R), ShapeError, r"\[gru\] weight_hh is \(16, 4\), expected \(12, 4\)"),
        (lambda: ops.lstm(X, W[:, :1], R), ShapeError, r"\[lstm\] weight_ih is \(16, 1\), expected \(16, 2\)"),
        (lambda: ops.lstm(X, W, R, np.zeros(4, "f4")), ShapeError, r"\[lstm\] bias_ih is \(4,\), expected \(16,\)"),
        (lambda: ops.lstm(X, W, R, h0=np.zeros((3, 5), "f4")), ShapeError, r"h0 is \(3, 5\), expected \(3, 4\)"),
        (lambda: ops.lstm(X, W, R, c0=np.zeros((3, 4))), DTypeError, r"c0 is float64, x is float32; cast one"),
        (lambda: ops.lstm(X.astype("i4"), W, R), DTypeError, r"\[lstm\] x must be floating, got int32"),
        (lambda: ops.lstm(X, W, R, lengths=[1, 2]), ShapeError, r"lengths is \(2,\), expected one per row, \(3,\)"),
        (lambda: ops.lstm(X, W, R, lengths=[1.0, 2.0, 3.0]), DTypeError, "lengths are whole numbers, got float"),
        (lambda: ops.lstm(X, W, R, lengths=[1, 0, 3]), ArgumentError, "length 0 of row 1 is out of range, expected 1 to 5"),
        (lambda: ops.lstm(X, W, R, lengths=[1, 2, 6]), ArgumentError, "length 6 of row 2 is out of range, expected 1 to 5"),
        (lambda: ops.gru(X, W, R, precision="fp8"), ArgumentError, r"\[gru\] precision is 'bf16' or None, got 'fp8'"),
        (lambda: ops.lstm(X.astype("f8"), W, R, precision="bf16"), DTypeError, r"\[lstm\] precision 'bf16' takes float32"),
        (lambda: ops.rnn(X, W[:4], R[:4], nonlinearity="elu"), ArgumentError, r"\[rnn\] nonlinearity is 'tanh' or 'relu'"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_sequence_mask_is_the_comparison_and_looks_at_lengths() -> None:
    lengths = np.array([3, 1, 5], np.int32)
    check_equal(ops.sequence_mask(lengths, 5).numpy(), np.arange(5) < lengths[:, None])
    jitted = qn.jit(lambda n: ops.sequence_mask(n, 5))
    for _ in range(3):
        check_equal(jitted(qn.tensor(lengths)).numpy(), np.arange(5) < lengths[:, None])
    for wrong, row in (([1, 6, 2], 1), ([0, 1, 2], 0)):
        for call in (lambda n: ops.sequence_mask(n, 5), jitted):
            with pytest.raises(
                ArgumentError,
                match=rf"^\[sequence_mask\] length {wrong[row]} of row {row} is out of range, expected 1 to 5, the number of",
            ):
                call(qn.tensor(np.array(wrong, np.int32)))
    with pytest.raises(ArgumentError, match=r"^\[sequence_mask\] steps is a whole number, got 2\.5"):
        ops.sequence_mask(lengths, 2.5)  # type: ignore[arg-type]
    with pytest.raises(DTypeError, match=r"^\[sequence_mask\] lengths are whole numbers, got float32"):
        ops.sequence_mask(np.ones(3, np.float32), 5)
