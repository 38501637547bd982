"""3 x 3 convolutions of stride 2 by Winograd's algorithm, which levels with wide registers take; the others sum over taps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import _core
from tests import convolutions, reference
from tests.checks import N, T, check_equal, check_exact
from tests.convolutions import check_splits, passes
from tests.ops.test_conv_winograd import check_error

Case = tuple[tuple[int, int, int, int], int, tuple[int, int], tuple[int, int]]

# Shape of x, outputs, padding before and behind: odd and even sizes, either parity of padding, a last row or column that
# no result reads, incomplete tiles, vectors and panels, several blocks of tiles.
CASES: list[Case] = [
    ((3, 16, 16, 64), 80, (1, 1), (1, 1)),
    ((2, 15, 61, 65), 72, (1, 1), (1, 1)),
    ((2, 28, 52, 64), 130, (0, 0), (1, 0)),
    ((1, 29, 60, 72), 68, (2, 2), (2, 1)),
    ((2, 32, 32, 67), 70, (0, 2), (1, 0)),
    ((1, 56, 56, 68), 65, (1, 1), (0, 0)),
    ((40, 16, 16, 64), 64, (1, 1), (1, 1)),
    ((2, 28, 28, 66), 64, (2, 1), (-1, 1)),
]
IDS = [f"{x}-{o}-{pad}" for x, o, pad, _ in CASES]


def output_shape(case: Case) -> tuple[int, int, int, int]:
    (n, h, w, _), o, (top, left), (bottom, right) = case
    return n, (h + top + bottom - 3) // 2 + 1, (w + left + right - 3) // 2 + 1, o


def options(case: Case) -> dict[str, Any]:
    return {"stride": (2, 2), "padding": case[2], "padding_end": case[3]}


def draw(case: Case, seed: int, integer: int = 0) -> tuple[Any, Any, Any]:
    x, o, _, _ = case
    return convolutions.draw(x, (o, 3, 3, x[3]), output_shape(case), seed, integer)


def expected(case: Case, x: Any, w: Any, gy: Any) -> tuple[Any, Any, Any]:
    """By the reference, of the image with zeros around it; negative padding leaves pixels out."""
    (n, h, v, c), _, (top, left), (bottom, right) = case
    whole = np.zeros((n, top + h + max(bottom, 0), left + v + max(right, 0), c), x.dtype)
    whole[:, top : top + h, left : left + v] = x
    whole = whole[:, : top + h + bottom, : left + v + right]
    back = np.zeros((n, top + h + 2, left + v + 2, c))
    back[:, : whole.shape[1], : whole.shape[2]] = reference.conv2d_grad_input(
        gy, w, whole.shape, stride=(2, 2)
    )
    return (
        reference.conv2d(whole, w, stride=(2, 2)),
        back[:, top : top + h, left : left + v],
        reference.conv2d_grad_weight(whole, gy, w.shape, stride=(2, 2)),
    )


@pytest.mark.skipif(_core.active_isa() in ("scalar", "avx2"), reason="needs wide registers")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_these_shapes_take_it(case: Case) -> None:
    x, w, gy = draw(case, 0)
    profile = qn.profile(lambda: passes(x, w, gy, **options(case)), repeats=1, warmup=0)
    kernels = {step.kernel for step in profile.steps}
    mixed = sum(case[2]) % 2 == 1  # then the adjoint is a sum over taps
    assert "winograd_f32" in kernels and "conv2d_f32" not in kernels
    assert ("conv2d_grad_input_f32" in kernels) == mixed


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_it_is_exact_on_integers(case: Case) -> None:
    x, w, gy = draw(case, 1, integer=5)
    for a, e in zip(passes(x, w, gy, **options(case)), expected(case, x, w, gy), strict=True):
        check_exact(a, e, "float32")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_errors_are_as_small_as_of_the_smaller_tiles_of_stride_one(case: Case) -> None:
    x, w, gy = draw(case, 2)
    sums = (w[0].size, w[..., 0].size, gy[..., 0].size)
    for a, e, terms in zip(passes(x, w, gy, **options(case)), expected(case, x, w, gy), sums, strict=True):
        check_error(a, e, terms, 2)


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_bits_depend_on_no_split(case: Case) -> None:
    check_splits(*draw(case, 3), 3, **options(case))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_pixels_that_are_not_read_have_no_gradient(case: Case) -> None:
    x, w, gy = draw(case, 4)
    unread = expected(case, x, np.ones_like(w), np.ones_like(gy))[1] == 0
    assert not passes(x, w, gy, **options(case))[1][unread].any()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_nan_reaches_what_reads_it(case: Case) -> None:
    x, w, gy = draw(case, 5)
    x[0, x.shape[1] // 2, x.shape[2] // 2, -1] = np.nan
    with np.errstate(invalid="ignore"):
        reads = np.isnan(expected(case, x, w, gy)[0])
    assert np.isnan(passes(x, w, gy, **options(case))[0])[reads].all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("adjoint", [False, True])
def test_a_fused_epilogue_equals_separate_ops(adjoint: bool) -> None:
    case = CASES[1]
    x, w, gy = draw(case, 6)
    bias = T(np.linspace(-1, 1, case[0][3] if adjoint else case[1], dtype="f4"))
    o = options(case)

    def run(*epilogue: Any) -> Any:
        if adjoint:
            return _core.conv_transpose2d(T(gy), T(w), list(x.shape), *epilogue, **o)[0]
        return _core.conv2d(T(x), T(w), *epilogue, **o)[0]

    other = T(x if adjoint else gy)
    check_equal(N(run(bias, other, "relu")), N(_core.relu(_core.add(_core.add(run(), bias), other))))
