"""Native softmax and cross-entropy: accuracy, infinities, labels, tails, bits independent of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_equal, smallest, unit_roundoff
from tests.strategies import arrays, guarded, near

dtypes = st.sampled_from(("float32", "float64"))


def check_close(actual: Any, expected: Any, dtype: str, columns: int, size: Any = 1.0) -> None:
    """Within the rounding of `columns` additions and about ten operations, relative to `size`."""
    assert actual.dtype == dtype and actual.shape == expected.shape
    limit = (columns + 10) * unit_roundoff(dtype) * size + smallest(dtype)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        assert (same | (np.abs(actual - expected) <= limit)).all(), np.nanmax(
            np.abs(actual - expected) / limit
        )


@pytest.mark.usefixtures("isa")
@given(data=st.data(), rows=st.integers(0, 5), columns=near(200, 1), dtype=dtypes)
def test_softmax(data: Any, rows: int, columns: int, dtype: str) -> None:
    x = data.draw(arrays((rows, columns), dtype, scale=8, specials=(-np.inf, 0.0, 300.0, -300.0)))
    y = reference.softmax(x)
    # e^(x - top): the subtraction is rounded in units of x and top.
    spread = 1 + np.abs(np.nan_to_num(x.astype("f8"), neginf=0)).max(-1, keepdims=True, initial=0)
    check_close(N(_core.softmax(T(x))), y, dtype, columns, y * spread)
    check_close(N(_core.log_softmax(T(x))), reference.log_softmax(x), dtype, columns, spread)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), columns=near(130, 1), dtype=dtypes)
def test_softmax_grads(data: Any, columns: int, dtype: str) -> None:
    y = reference.softmax(data.draw(arrays((2, 3, columns), dtype))).astype(dtype)
    g = data.draw(arrays((2, 3, columns), dtype))
    most = np.abs(g).astype("f8").max()
    check_close(N(_core.softmax_grad(T(y), T(g))), reference.softmax_grad(y, g), dtype, columns, 2 * most)
    logs = np.log(y)
    check_close(
        N(_core.log_softmax_grad(T(logs), T(g))), reference.log_softmax_grad(logs, g), dtype, columns,
        (1 + columns) * most,
    )  # fmt: skip


@pytest.mark.usefixtures("isa")
def test_infinities_follow_pytorch() -> None:
    inf = np.inf
    x = np.array([[-inf, 0, -inf], [-inf] * 3, [inf, 0, 0], [np.nan, 0, 0]], "f4")
    y = N(_core.softmax(T(x)))
    check_equal(y[0], np.array([0, 1, 0], "f4"))
    assert np.isnan(y[1:]).all()
    check_equal(N(_core.log_softmax(T(x)))[0], np.array([-inf, 0, -inf], "f4"))
    labels = np.array([1, 0, 1, 0])
    losses = N(_core.cross_entropy(T(x), T(labels)))
    assert losses[0] == 0 and np.isnan(losses[1:]).all()
    assert N(_core.cross_entropy(T(x[:1]), T(labels[1:2])))[0] == inf
    huge = np.array([[1e30, -1e30], [3e38, 3e38]], "f4")
    check_equal(
        N(_core.cross_entropy(T(huge), T(np.array([0, 1])))), np.array([0, np.float32(np.log(2))], "f4")
    )


@pytest.mark.usefixtures("isa")
@given(data=st.data(), rows=st.integers(0, 5), columns=near(130, 1), dtype=dtypes)
def test_cross_entropy(data: Any, rows: int, columns: int, dtype: str) -> None:
    x = data.draw(arrays((rows, columns), dtype, scale=5))
    labels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, columns, rows)
    g = data.draw(arrays((rows,), dtype))
    spread = 1 + np.abs(x.astype("f8")).max(-1, initial=0)
    check_close(
        N(_core.cross_entropy(T(x), T(labels))), reference.cross_entropy(x, labels), dtype, columns, spread
    )
    check_close(
        N(_core.cross_entropy_grad(T(x), T(labels), T(g))), reference.cross_entropy_grad(x, labels, g), dtype,
        columns, (spread * np.abs(g))[:, None],
    )  # fmt: skip


def test_cross_entropy_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((64, 10)), rng.integers(0, 10, 64)
    logits = torch.tensor(x, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(N(_core.cross_entropy(T(x), T(labels))), losses.detach().numpy(), rtol=1e-13)
    grad = N(_core.cross_entropy_grad(T(x), T(labels), T(np.ones(64))))
    np.testing.assert_allclose(grad, logits.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("isa", "threads")
def test_rows_do_not_depend_on_threads_or_batch() -> None:
    x = np.random.default_rng(2).standard_normal((3000, 37)).astype("f4")
    labels = np.arange(3000) % 37
    whole, losses = N(_core.softmax(T(x))), N(_core.cross_entropy(T(x), T(labels)))
    for i in (0, 1, 1499, 2999):
        check_equal(N(_core.softmax(T(x[i : i + 1].copy()))), whole[i : i + 1])
        check_equal(
            N(_core.cross_entropy(T(x[i : i + 1].copy()), T(labels[i : i + 1].copy()))), losses[i : i + 1]
        )


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 70):
        for end in (True, False):
            x, g, labels = guarded((2, n), "f4", end), guarded((2,), "f4", end), guarded((2,), "i8", end)
            x[...], g[...], labels[...] = np.linspace(-1, 1, 2 * n).reshape(2, n), 1, [0, n - 1]
            check_close(N(_core.softmax(T(x))), reference.softmax(x), "float32", n)
            check_close(N(_core.softmax_grad(T(x), T(x))), reference.softmax_grad(x, x), "float32", n, n)
            grad = N(_core.cross_entropy_grad(T(x), T(labels), T(g)))
            check_close(grad, reference.cross_entropy_grad(x, labels, g), "float32", n)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize(("bad", "row"), [(-1, 3), (10, 7), (2**40, 0)])
def test_bad_labels_are_refused_by_row(bad: int, row: int) -> None:
    x, labels = np.zeros((20_000, 10), "f4"), np.zeros(20_000, "i8")
    labels[row], labels[-1] = bad, 77
    with pytest.raises(
        ValueError, match=rf"\[cross_entropy\] label {bad} at row {row} is out of range for 10"
    ):
        _core.cross_entropy(T(x), T(labels))
    # The backward pass sees labels that were checked; given others, it stays inside its operands.
    grad = N(_core.cross_entropy_grad(T(x), T(labels), T(np.ones(20_000, "f4"))))
    assert not grad[row].any()


def test_zero_sizes() -> None:
    for shape in ((0, 3), (3, 0), (0,)):
        x = np.zeros(shape, "f4")
        check_equal(N(_core.softmax(T(x))), x)
        check_equal(N(_core.softmax_grad(T(x), T(x))), x)


def test_errors_name_both_sides() -> None:
    x = T(np.zeros((3, 4), "f4"))
    with pytest.raises(ValueError, match=r"\[cross_entropy\] labels must have shape \(3,\).*is \(4,\)"):
        _core.cross_entropy(x, T(np.zeros(4, "i8")))
    with pytest.raises(TypeError, match=r"\[cross_entropy\] labels must be int64, is int32"):
        _core.cross_entropy(x, T(np.zeros(3, "i4")))
    with pytest.raises(ValueError, match=r"\[cross_entropy\] logits must have shape \(N, C\)"):
        _core.cross_entropy(T(np.zeros((3, 0), "f4")), T(np.zeros(3, "i8")))
    with pytest.raises(TypeError, match=r"\[softmax\] x must be float32 or float64, is int64"):
        _core.softmax(T(np.zeros(3, "i8")))
    with pytest.raises(ValueError, match=r"\[softmax\] g expects shape \(3, 4\), is \(3,\)"):
        _core.softmax_grad(x, T(np.zeros(3, "f4")))
