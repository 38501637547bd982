"""Convolutions by Winograd's algorithm: error bounds, exactness where it is exact, bits that depend on no split, reach of NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quernel as qn
from quernel import _core
from quernel.jit import Jitted
from tests import convolutions, reference
from tests.checks import N, T, check_contraction, check_equal, check_exact
from tests.convolutions import check_splits, passes
from tests.runs import Step, both_ways, simple_step, state_of

Case = tuple[tuple[int, int, int, int], int, tuple[int, int], int]

# Shape of x, outputs, padding, edge of the tiles: sizes that leave tiles incomplete, channels that leave vectors so,
# several panels, several blocks of tiles.
CASES: list[Case] = [
    ((2, 9, 8, 33), 40, (1, 1), 4),
    ((1, 7, 7, 32), 32, (1, 1), 4),
    ((3, 14, 13, 35), 70, (2, 2), 4),
    ((2, 9, 11, 64), 130, (0, 0), 4),
    ((1, 50, 7, 36), 48, (1, 0), 4),
    ((2, 8, 9, 32), 33, (0, 2), 4),
    ((70, 8, 8, 40), 32, (1, 1), 4),
    ((2, 9, 9, 190), 194, (1, 1), 2),
    ((1, 16, 13, 256), 150, (1, 1), 2),
    ((3, 16, 15, 16), 21, (1, 1), 4),
]
# Other levels sum over taps where there are fewer than 32 channels.
WIDE = _core.active_isa() not in ("scalar", "avx2")
IDS = [f"{x}-{o}" for x, o, _, _ in CASES]
TRANSFORMS = 60  # roundings of an element's way through the three transforms, and more


def output_shape(case: Case) -> tuple[int, int, int, int]:
    (n, h, w, _), o, (ph, pw), _ = case
    return n, h + 2 * ph - 2, w + 2 * pw - 2, o


def tiles(case: Case) -> int:
    """Those of the forward pass. The gradient of the weights takes them where they are at least 24."""
    n, oh, ow, _ = output_shape(case)
    return n * -(-oh // case[3]) * -(-ow // case[3])


def draw(case: Case, seed: int, integer: int = 0) -> tuple[Any, Any, Any]:
    x, o, _, _ = case
    return convolutions.draw(x, (o, 3, 3, x[3]), output_shape(case), seed, integer)


def expected(case: Case, x: Any, w: Any, gy: Any) -> tuple[Any, Any, Any]:
    pad = case[2]
    return (
        reference.conv2d(x, w, padding=pad),
        reference.conv2d_grad_input(gy, w, x.shape, padding=pad),
        reference.conv2d_grad_weight(x, gy, w.shape, padding=pad),
    )


@pytest.mark.parametrize("case", [c for c in CASES if WIDE or min(c[0][3], c[1]) >= 32])
def test_these_shapes_take_it(case: Case) -> None:
    x, w, _ = (qn.tensor(a, requires_grad=True) for a in draw(case, 0))

    def step() -> None:
        qn.ops.conv2d(x, w, padding=case[2]).sum().backward()
        x.grad = w.grad = None

    kernels = {step.kernel for step in qn.profile(step, repeats=1, warmup=0).steps}
    assert {"winograd_f32", "winograd_pack_f32"} <= kernels
    assert not {"conv2d_f32", "conv2d_grad_input_f32"} & kernels
    many = tiles(case) >= 24
    assert ({"winograd_grad_weight_f32", "winograd_sum_f32"} <= kernels) == many
    assert ("conv2d_grad_weight_f32" in kernels) != many


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_rounding_stays_within_the_bound(case: Case) -> None:
    x, w, gy = draw(case, 1)
    _, _, pad, edge = case
    got, want = passes(x, w, gy, padding=case[2]), expected(case, x, w, gy)
    flipped = np.ascontiguousarray(w[:, ::-1, ::-1].transpose(3, 1, 2, 0))
    sizes = (
        reference.winograd_magnitude(x, w, pad, edge),
        reference.winograd_magnitude(gy, flipped, [2 - p for p in pad], edge),
        reference.winograd_grad_weight_magnitude(x, gy, pad, edge),
    )
    sums = (x.shape[3], w.shape[0], tiles(case) if tiles(case) >= 24 else gy[..., 0].size)
    for a, e, size, n in zip(got, want, sizes, sums, strict=True):
        check_contraction(a, e, size, n + TRANSFORMS, "float32")


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize(
    "case",
    [
        ((100, 2, 2, 64), 130, (1, 1), 2),
        ((30, 7, 7, 200), 256, (1, 1), 4),
        ((8, 14, 14, 190), 194, (1, 1), 4),
    ],
    ids=lambda c: f"{c[0]}-{c[1]}",
)
def test_the_gradient_of_weights_chooses_by_the_whole_batch(case: Case) -> None:
    x, _, gy = draw(case, 2)
    _, o, pad, edge = case

    def run() -> Any:
        return _core.conv2d_grad_weight(T(x), T(gy), [o, 3, 3, x.shape[3]], padding=pad)

    kernels = {step.kernel for step in qn.profile(run, repeats=1, warmup=0).steps}
    assert "winograd_grad_weight_f32" in kernels
    want = reference.conv2d_grad_weight(x, gy, (o, 3, 3, x.shape[3]), padding=pad)
    size = reference.winograd_grad_weight_magnitude(x, gy, pad, edge)
    check_contraction(N(run()), want, size, tiles(case) + TRANSFORMS, "float32")


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize(
    "case", [c for c in CASES if c[3] == 2], ids=[i for i, c in zip(IDS, CASES, strict=True) if c[3] == 2]
)
def test_small_tiles_are_exact_on_integers(case: Case) -> None:
    x, w, gy = draw(case, 3, integer=5)
    for a, e in zip(passes(x, w, gy, padding=case[2]), expected(case, x, w, gy), strict=True):
        check_exact(a, e, "float32")


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_bits_depend_on_no_split(case: Case) -> None:
    check_splits(*draw(case, 4), 3, padding=case[2])


@pytest.mark.usefixtures("isa")
@given(
    st.sampled_from(CASES),
    st.sampled_from(("none", "relu", "gelu")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_a_fused_epilogue_equals_separate_ops(
    case: Case, activation: str, bias: bool, residual: bool, pre: bool
) -> None:
    x, w, gy = draw(case, 5)
    b = T(np.linspace(-1, 1, case[1], dtype="f4")) if bias else None
    r = T(gy) if residual else None
    y, y_pre = _core.conv2d(T(x), T(w), b, r, activation, pre, padding=case[2])
    want, _ = _core.conv2d(T(x), T(w), padding=case[2])
    want = want if b is None else _core.add(want, b)
    want = want if r is None else _core.add(want, r)
    if y_pre is not None:
        check_equal(N(y_pre), N(want))
    check_equal(N(y), N(want if activation == "none" else getattr(_core, activation)(want)))


def check_error(actual: Any, expected: Any, terms: int, edge: int) -> None:
    """Root mean squares over whole results. In units of the bound for random signs the plain sum has 0.3, tiles of edge 4 have
    0.5 to 0.65, where the points ±1, ±2 would have 1.05 to 1.6, and tiles of edge 2, whose chains are shorter, 0.2 to 0.3."""
    limit = {2: 0.4, 4: 0.8}[edge] * 2.0**-24 * np.sqrt(terms)
    assert np.sqrt(np.mean((actual - expected) ** 2)) <= limit * np.sqrt(np.mean(expected**2))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_errors_are_as_small_as_the_points_promise(case: Case) -> None:
    x, w, gy = draw(case, 2)
    sums = (w[0].size, w[..., 0].size, gy[..., 0].size)
    for a, e, terms in zip(passes(x, w, gy, padding=case[2]), expected(case, x, w, gy), sums, strict=True):
        check_error(a, e, terms, case[3])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("end", [(0, 2), (2, 0), (-1, 1)])
def test_padding_may_differ_behind_the_image(end: tuple[int, int]) -> None:
    """As of an image with so many zeros around it, bit for bit: tiles begin at the same results. Where pixels are left out, it is
    a sum over taps: their gradient is 0, to which a tile would add its rounding."""
    x, w, _ = draw(((3, 11, 12, 40), 36, (1, 1), 4), 8)
    bottom, right = end
    whole = np.pad(x, [(0, 0), (1, max(bottom, 0)), (1, max(right, 0)), (0, 0)])
    whole = np.ascontiguousarray(whole[:, : 12 + bottom, : 13 + right])
    want = reference.conv2d(whole, w)
    gy = np.random.default_rng(9).standard_normal(want.shape).astype("f4")
    o: dict[str, Any] = {"padding": (1, 1), "padding_end": end}
    y = N(_core.conv2d(T(x), T(w), **o)[0])
    dx = N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o))
    dw = N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o))
    back = reference.conv2d_grad_input(gy, w, whole.shape)[:, 1:12, 1:13]
    check_error(y, want, w[0].size, 4)
    check_error(dx[:, : back.shape[1]], back, w[..., 0].size, 4)
    check_error(dw, reference.conv2d_grad_weight(whole, gy, w.shape), gy[..., 0].size, 4)
    assert not dx[:, back.shape[1] :].any()
    if bottom >= 0:
        check_equal(y, N(_core.conv2d(T(whole), T(w))[0]))
        check_equal(dw, N(_core.conv2d_grad_weight(T(whole), T(gy), list(w.shape))))


@pytest.mark.usefixtures("isa")
def test_a_transposed_convolution_has_its_epilogue_too() -> None:
    case: Case = ((2, 9, 10, 35), 44, (1, 1), 4)
    x, w, gy = draw(case, 10)
    plain, _ = _core.conv_transpose2d(T(gy), T(w), list(x.shape), padding=(1, 1))
    check_equal(N(plain), N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), padding=(1, 1))))
    bias = T(np.linspace(-1, 1, 35, dtype="f4"))
    y, _ = _core.conv_transpose2d(T(gy), T(w), list(x.shape), bias, T(x), "relu", padding=(1, 1))
    check_equal(N(y), N(_core.relu(_core.add(_core.add(plain, bias), T(x)))))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_nan_reaches_what_reads_it_and_no_other_tile(case: Case) -> None:
    x, w, _ = draw(case, 6)
    _, _, pad, edge = case
    x[0, x.shape[1] // 2, x.shape[2] // 2, -1] = np.nan
    with np.errstate(invalid="ignore"):
        reads = np.isnan(reference.conv2d(x, w, padding=pad))
    got = np.isnan(N(_core.conv2d(T(x), T(w), padding=pad)[0]))
    assert (got | ~reads).all(), "a NaN got lost"
    _, rows, cols, _ = np.nonzero(reads)
    tiles = set(zip(rows // edge, cols // edge, strict=True))
    # A tile reads a pixel more on each side than its results do.
    near = {(r + i, c + j) for r, c in tiles for i in (-1, 0, 1) for j in (-1, 0, 1)}
    image, rows, cols, _ = np.nonzero(got)
    assert set(zip(rows // edge, cols // edge, strict=True)) <= near
    assert not image.any()


def test_a_frozen_net_and_a_plan_give_the_bits_of_the_ops() -> None:
    net = qn.nn.Sequential(
        qn.nn.Conv2d(32, 40, 3, padding=1), qn.nn.ReLU(), qn.nn.Conv2d(40, 32, 3, padding=1)
    )
    x = np.random.default_rng(7).standard_normal((3, 9, 9, 32)).astype("f4")
    want = np.asarray(net(qn.tensor(x)).numpy())
    check_equal(net.freeze(input_shape=(9, 9, 32))(x), want)
    check_equal(np.asarray(qn.jit(net)(qn.tensor(x)).numpy()), want)


def test_a_plan_trains_to_the_bits_of_eager_steps() -> None:
    """ReLU, its gradient and residuals are then parts of the convolutions, forward and adjoint."""
    kernels: list[str] = []

    def train(wrap: Callable[[Step], Step]) -> object:
        net = qn.nn.Sequential(
            qn.nn.Conv2d(32, 32, 3, padding=1),
            qn.nn.ReLU(),
            qn.nn.Residual(qn.nn.Conv2d(32, 32, 3, padding=1)),
            qn.nn.ReLU(),
            qn.nn.Conv2d(32, 40, 3, padding=1),
            qn.nn.Flatten(),
            qn.nn.Linear(40 * 64, 10),
        )
        step = wrap(simple_step(net, qn.optim.SGD(net.parameters(), lr=0.01)))
        rng = np.random.default_rng(11)
        for n in (7, 7, 7, 2):
            step(rng.standard_normal((n, 8, 8, 32), dtype=np.float32), rng.integers(0, 10, n))
        if isinstance(step, Jitted):
            kernels.extend(name for plan in step.plans() for name in plan.steps)
        return state_of(net)

    both_ways(train)
    assert "relu" not in kernels and "relu_grad" not in kernels, kernels
