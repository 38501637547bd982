"""Attention over what a cache holds: one query, a past that lies in memory, rows appended in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import ops
from quernel.errors import DTypeError, OutOfRangeError, ShapeError
from tests.checks import N, T, check_equal
from tests.ops.test_attention import dtypes, how_to, run, run_grad, sizes
from tests.strategies import arrays, guarded, near


@pytest.mark.usefixtures("isa")
@given(data=st.data())
def test_one_query_has_the_bits_of_that_query_among_others(data: Any) -> None:
    """A single query goes a way of its own, with keys in the lanes."""
    dtype, keys = data.draw(dtypes), data.draw(sizes.filter(bool))
    n, h, depth, values = 2, 2, data.draw(near(40)), data.draw(near(70))
    special = (0.0, -0.0, 1e-30, 1e4)
    q = data.draw(arrays((n, h, 9, depth), dtype, specials=special))
    k, v = (data.draw(arrays((n, h, keys, columns), dtype, specials=special)) for columns in (depth, values))
    past = data.draw(st.integers(0, 160))
    for how in (how_to(False, 0.3), how_to(True, 0.3, past)):
        y, lse, _ = run((q, k, v), None, how)
        for i in (0, 4, 8):
            one = how | {"past": how["past"] + i if how["causal"] else 0}
            alone, lse_alone, _ = run((q[:, :, i : i + 1], k, v), None, one)
            check_equal(N(alone), N(y)[:, :, i : i + 1])
            check_equal(N(lse_alone), N(lse)[:, :, i : i + 1])


@pytest.mark.parametrize("queries", [1, 3, 70])
@pytest.mark.usefixtures("isa")
def test_past_may_be_a_tensor(queries: int) -> None:
    rng = np.random.default_rng(4)
    shapes = (2, 2, queries, 8), (2, 2, 150, 8), (2, 2, 150, 8)
    operands = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    g = rng.standard_normal(shapes[0]).astype("f4")
    largest = np.iinfo(np.int64).max
    for past, like in ((0, 0), (17, 17), (80, 80), (149, 149), (150, 150), (largest, 150)):
        told = how_to(True, 0.3, T(np.array([past])))  # type: ignore[arg-type]
        check_equal(N(run(operands, None, told)[0]), N(run(operands, None, how_to(True, 0.3, like))[0]))
        for one, two in zip(
            run_grad(operands, None, told, g),
            run_grad(operands, None, how_to(True, 0.3, like), g),
            strict=True,
        ):
            check_equal(N(one), N(two))
    for nowhere in (-queries, -largest):  # before every key
        y, lse, _ = run(operands, None, how_to(True, 0.3, T(np.array([nowhere]))))  # type: ignore[arg-type]
        assert not N(y).any() and (N(lse) == np.inf).all()


def test_a_replay_reads_past_anew() -> None:
    rng = np.random.default_rng(5)
    q, k = (rng.standard_normal((1, t, 8)).astype("f4") for t in (2, 40))
    attend = qn.jit(lambda past: ops.multi_head_attention(q_, k_, k_, 2, is_causal=True, past=past))
    q_, k_ = qn.tensor(q), qn.tensor(k)
    for past in (3, 7, 0, 38):
        check_equal(
            attend(qn.tensor([past])).numpy(),
            ops.multi_head_attention(q, k, k, 2, is_causal=True, past=past).numpy(),
        )
    assert len(attend.plans()) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("isa")
def test_appended_rows(dtype: str) -> None:
    rng = np.random.default_rng(6)
    y, length, expected = qn.zeros((2, 9, 5), dtype), qn.tensor([0]), np.zeros((2, 9, 5), dtype)
    end = 0
    for count, columns in ((3, 5), (1, 7), (0, 5), (4, 15), (1, 5)):
        rows = guarded((2, count, columns), dtype)
        rows[...] = rng.standard_normal(rows.shape)
        before = ops.append_rows_(y, length, rows)
        expected[:, end : end + count] = rows[:, :, columns - 5 :]
        assert before.tolist() == [end] and length.tolist() == [end + count]
        end += count
        check_equal(y.numpy(), expected)
    version = y._t.version
    for wrong in (9, -1, 2**62):
        length[...] = wrong
        with pytest.raises(
            OutOfRangeError,
            match=rf"^\[append_rows_\] index {wrong} is out of range for 9 places where these rows fit",
        ):
            ops.append_rows_(y, length, np.ones((2, 1, 5), dtype))
        assert length.tolist() == [wrong]
    check_equal(y.numpy(), expected)
    assert y._t.version == version


def test_rows_that_do_not_fit_a_cache() -> None:
    y, length = qn.zeros((2, 4, 5)), qn.tensor([0])
    for rows, error, message in (
        (
            np.ones((1, 1, 5), "f4"),
            ShapeError,
            r"rows of shape \(1, 1, 5\) do not fit a cache of shape \(2, 4, 5\)",
        ),
        (np.ones((2, 1, 4), "f4"), ShapeError, r"rows of shape \(2, 1, 4\) do not fit"),
        (np.ones((2, 1, 5)), DTypeError, "the cache is float32, rows are float64"),
        (
            np.ones((2, 5, 5), "f4"),
            OutOfRangeError,
            "index 0 is out of range for 0 places where these rows fit",
        ),
    ):
        with pytest.raises(error, match=rf"^\[append_rows_\] {message}"):
            ops.append_rows_(y, length, rows)
    with pytest.raises(ShapeError, match=r"^\[append_rows_\] length expects shape \(1,\), is \(2,\)"):
        ops.append_rows_(y, qn.tensor([0, 0]), np.ones((2, 1, 5), "f4"))
    assert not y.numpy().any() and length.item() == 0


def test_queries_before_keys_and_values_of_their_own() -> None:
    """Beside k the columns behind those of q do not count; their gradient is 0."""
    rng = np.random.default_rng(8)
    rows, k = (rng.standard_normal((2, t, columns)).astype("f4") for t, columns in ((5, 36), (7, 24)))
    packed, alone = (qn.tensor(a, requires_grad=True) for a in (rows, rows[..., :12]))
    y, expected = (ops.multi_head_attention(q, k, None, 3, is_causal=True) for q in (packed, alone))
    check_equal(y.detach().numpy(), expected.detach().numpy())
    with qn.no_grad():
        check_equal(ops.multi_head_attention(packed, k, None, 3, is_causal=True).numpy(), y.detach().numpy())
    for result in (y, expected):
        result.sum().backward()
    assert packed.grad is not None and alone.grad is not None
    check_equal(packed.grad.numpy()[..., :12], alone.grad.numpy())
    assert not packed.grad.numpy()[..., 12:].any()
