"""CTC against all alignments one by one, against torch on long rows, and what it does with rows that nothing spells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quernel as qn
from quernel import _core, losses, nn, ops
from quernel.errors import ArgumentError, DTypeError, ShapeError
from tests import reference
from tests.checks import Array, N, T, check_equal, gradcheck
from tests.strategies import lay_out

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def log_probs(seed: int, *shape: int, dtype: str = "float64", scale: float = 1.0) -> Array:
    x = np.random.default_rng(seed).standard_normal(shape) * scale
    return (x - np.log(np.exp(x).sum(-1, keepdims=True))).astype(dtype)


def run(
    x: Array, targets: Array, lengths: Any = None, counts: Any = None, blank: int = 0
) -> tuple[Array, Array]:
    laid = [
        None if a is None else T(lay_out(np.asarray(a, np.int64), "guard_end"))
        for a in (targets, lengths, counts)
    ]
    loss, grad = _core.ctc_loss(T(lay_out(x, "guard_end")), *laid, blank, True)
    alone, none = _core.ctc_loss(T(x), *laid, blank, False)
    check_equal(N(alone), N(loss))
    assert none is None
    return N(loss), N(grad)


@pytest.mark.usefixtures("isa", "threads")
@given(st.data(), st.sampled_from(("float32", "float64")), st.integers(0, 2**31))
@settings(max_examples=25)
def test_all_alignments(data: st.DataObject, dtype: str, seed: int) -> None:
    rows, steps, classes, labels = (data.draw(st.integers(a, b)) for a, b in ((1, 5), (1, 6), (2, 4), (0, 4)))
    rng = np.random.default_rng(seed)
    blank = data.draw(st.integers(0, classes - 1))
    x = log_probs(seed, rows, steps, classes, dtype=dtype, scale=data.draw(st.sampled_from((0.1, 1.0, 5.0))))
    others = [c for c in range(classes) if c != blank]
    targets = rng.choice(others, (rows, labels)).astype(np.int64)
    lengths, counts = rng.integers(1, steps + 1, rows), rng.integers(0, labels + 1, rows)
    loss, grad = run(x, targets, lengths, counts, blank)
    for i in range(rows):
        want, slope = reference.ctc_loss(x[i, : lengths[i]], targets[i, : counts[i]].tolist(), blank)
        assert loss[i] == want or abs(loss[i] - want) <= TOLERANCE[dtype] * max(1, abs(want))
        np.testing.assert_allclose(grad[i, : lengths[i]], slope, rtol=0, atol=TOLERANCE[dtype])
        assert not grad[i, lengths[i] :].any()


@pytest.mark.usefixtures("isa")
def test_rows_do_not_depend_on_their_batch(threads: int) -> None:  # noqa: ARG001
    x = log_probs(1, 40, 30, 7, dtype="float32")
    targets = np.random.default_rng(2).integers(1, 7, (40, 9))
    loss, grad = run(x, targets)
    for i in range(0, 40, 13):
        one, slope = run(x[i : i + 1], targets[i : i + 1])
        check_equal(one, loss[i : i + 1])
        check_equal(slope, grad[i : i + 1])


def test_impossible_rows_have_infinite_losses_and_no_gradient() -> None:
    x = log_probs(3, 3, 3, 4)
    targets = np.array([[1, 1, 2], [1, 2, 3], [1, 1, 0]])
    t = qn.tensor(x, requires_grad=True)
    each = ops.ctc_loss(t, targets, target_lengths=[3, 3, 2], reduction="none")
    assert np.isinf(each.numpy()).tolist() == [True, False, False]
    finite = ops.ctc_loss(t, targets, target_lengths=[3, 3, 2], zero_infinity=True, reduction="sum")
    np.testing.assert_allclose(finite.item(), each.numpy()[1:].sum())
    finite.backward()
    assert t.grad is not None and np.isfinite(t.grad.numpy()).all()
    assert not t.grad.numpy()[0].any() and t.grad.numpy()[1].any()


def test_probabilities_of_zero() -> None:
    """A sure alignment costs nothing; what has probability 0 gets no gradient but that of its own visits."""
    with np.errstate(divide="ignore"):
        x = np.log(np.eye(3)[[1, 0, 2, 2]])[None]
    loss, grad = run(x, np.array([[1, 2]]))
    check_equal(loss, np.zeros(1))
    np.testing.assert_array_equal(grad[0], -np.eye(3)[[1, 0, 2, 2]])
    assert np.isinf(run(x, np.array([[2, 1]]))[0]).all()


def test_long_rows_keep_their_digits() -> None:
    """Float32 within a few units of float64 over thousands of steps, whose logarithm is large."""
    x = log_probs(4, 2, 3000, 30, scale=3.0)
    targets = np.random.default_rng(5).integers(1, 30, (2, 300))
    exact, slope = run(x, targets)
    loss, grad = run(x.astype(np.float32), targets)
    np.testing.assert_allclose(loss, exact, rtol=1e-6)
    np.testing.assert_allclose(grad, slope, atol=1e-3)
    np.testing.assert_allclose(grad.sum(-1), -1, atol=1e-5)  # a row is somewhere at each step


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_agrees(reduction: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((5, 40, 8))
    targets, lengths, counts = rng.integers(1, 8, (5, 10)), rng.integers(25, 41, 5), rng.integers(0, 11, 5)
    ours = qn.tensor(logits, requires_grad=True)
    loss = ops.ctc_loss(ops.log_softmax(ours), targets, lengths, counts, reduction=reduction)
    theirs = torch.tensor(logits, requires_grad=True)
    want = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1),
        *map(torch.tensor, (targets, lengths, counts)),
        reduction=reduction,
    )
    np.testing.assert_allclose(loss.numpy(), want.detach().numpy(), rtol=1e-10)
    loss.sum().backward()
    want.sum().backward()
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-10)


def test_gradients() -> None:
    targets = np.array([[1, 2, 2], [3, -1, -1]])
    gradcheck(lambda x: ops.ctc_loss(ops.log_softmax(x), targets, [6, 4]), log_probs(7, 2, 6, 4))


def test_minus_one_fills_rows_up_and_losses_agree() -> None:
    x = log_probs(8, 2, 6, 4)
    filled, counts = np.array([[1, 2, 2], [3, -1, -1]]), [3, 1]
    want = ops.ctc_loss(x, np.maximum(filled, 0), None, counts).item()
    assert (
        ops.ctc_loss(x, filled).item()
        == want
        == losses.ctc(x, filled).item()
        == nn.CTCLoss()(qn.tensor(x), filled).item()
    )
    each = losses.ctc(x, filled, "none").numpy()
    assert losses.ctc(x, filled, "sum", sample_weight=[1.0, 0.0]).item() == each[0]


def test_a_recorded_step_checks_and_repeats() -> None:
    @qn.jit
    def step(x: qn.Tensor, targets: qn.Tensor) -> qn.Tensor:
        return ops.ctc_loss(ops.log_softmax(x), targets)

    for seed in range(4):
        x, targets = (
            log_probs(seed, 3, 8, 5, dtype="float32"),
            np.array([[1, 2, -1], [3, 3, 4], [-1, -1, -1]]),
        )
        check_equal(
            step(qn.tensor(x), qn.tensor(targets)).numpy(), ops.ctc_loss(ops.log_softmax(x), targets).numpy()
        )
    with pytest.raises(ArgumentError, match="label 5 at row 1 is out of range for 5 classes"):
        step(qn.tensor(x), qn.tensor(np.array([[1, 2, -1], [3, 5, 4], [-1, -1, -1]])))


def test_refusals_name_what_is_wrong() -> None:
    x, y = log_probs(9, 2, 5, 4), np.array([[1, 2], [3, 1]])
    for arguments, error, message in [
        ((x[0], y), ShapeError, r"\[ctc_loss\] log_probs .*\(N, T, classes\)"),
        ((x, y[:1]), ShapeError, r"targets has shape \(1, 2\), expected \(N, labels\) = \(2, labels\)"),
        ((x, y, [5]), ShapeError, r"input_lengths is \(1,\), expected one per row, \(2,\) \(log_probs: \(2, 5, 4\)\)"),
        ((x, y * 1.0), DTypeError, "targets are whole numbers, got float64"),
        ((x, y, [5, 6]), ArgumentError, "length 6 of row 1 is out of range, expected 1 to 5, the number of time steps"),
        ((x, y, [0, 5]), ArgumentError, "length 0 of row 0"),
        ((x, y, None, [1, 3]), ArgumentError, "length 3 of row 1 is out of range, expected 0 to 2, the number of labels"),
        ((x, np.array([[1, 0], [1, 1]])), ArgumentError, "label 0 in row 0 is the blank"),
        ((x, np.array([[1, 4], [1, 1]])), ArgumentError, "label 4 at row 0 is out of range for 4 classes"),
        ((x, y, None, None, 4), ArgumentError, "blank is one of the 4 classes, 0 to 3, got 4"),
        ((x, y, None, None, 0, "max"), ArgumentError, r"\[ctc_loss\] reduction must be .* got 'max'"),
        ((x[:0], y[:0]), ArgumentError, "an empty batch has no mean loss"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            ops.ctc_loss(*arguments)
    assert ops.ctc_loss(x[:0], y[:0], reduction="none").shape == (0,)
