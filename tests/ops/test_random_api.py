"""The seed, the default stream, and the ops that draw from it."""

from __future__ import annotations

import numpy as np
import pytest

import quernel as qn
from quernel import _core, ops
from tests.checks import check_equal


def draws() -> list[np.ndarray]:
    x = qn.ones((37, 5))
    return [
        ops.uniform(19).numpy(),
        ops.dropout(x, 0.3).numpy(),
        ops.normal((3, 7)).numpy(),
        ops.uniform(19).numpy(),
    ]


def test_the_seed_decides(isa: str, threads: int) -> None:  # noqa: ARG001
    qn.seed(11)
    first = draws()
    qn.seed(11)
    for a, b in zip(first, draws(), strict=True):
        check_equal(a, b)
    assert (first[0] != first[3]).any()
    qn.seed(12)
    assert (draws()[0] != first[0]).any()


def test_the_stream_does_not_depend_on_the_level() -> None:
    results = []
    for level in qn.runtime.supported_isas():
        with qn.runtime.isa(level):
            qn.seed(3)
            results.append(draws()[:2])
    for other in results[1:]:
        check_equal(other[0], results[0][0])
        check_equal(other[1], results[0][1])


def test_own_generators_leave_the_default_alone() -> None:
    qn.seed(5)
    expected = ops.uniform(4).numpy().copy()
    qn.seed(5)
    own = _core.Generator(9)
    a = ops.uniform(4, generator=own)
    check_equal(ops.uniform(4).numpy(), expected)
    check_equal(ops.uniform(4, generator=_core.Generator(9)).numpy(), a.numpy())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranges_and_moments(dtype: str) -> None:
    qn.seed(0)
    n = 40_000
    u, z = ops.uniform(n, -2, 3, dtype).numpy(), ops.normal(n, 1, 2, dtype).numpy()
    assert u.dtype == z.dtype == dtype
    assert u.min() >= -2 and u.max() < 3
    # Six standard errors of the mean: one run in 10^9 would fail, and the seed is fixed.
    assert abs(u.mean() - 0.5) < 6 * (5 / np.sqrt(12)) / np.sqrt(n)
    assert abs(z.mean() - 1) < 6 * 2 / np.sqrt(n)
    assert abs(z.std() - 2) < 6 * 2 / np.sqrt(2 * n)


def test_dropout() -> None:
    qn.seed(0)
    n = 40_000
    y = ops.dropout(qn.full(n, 3.0), 0.25).numpy()
    kept = y != 0
    np.testing.assert_array_equal(y[kept], np.float32(3.0) / np.float32(0.75))
    assert abs(kept.mean() - 0.75) < 6 * np.sqrt(0.25 * 0.75 / n)
    x = qn.ones(5)
    assert ops.dropout(x, 0.5, training=False) is x
    assert ops.dropout(x, 0.0) is x
    assert ops.dropout(x, 1.0).tolist() == [0] * 5
