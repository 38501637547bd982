"""Native conv2d and its gradients: exactness, error bounds, guard pages, adjoints, and bits that depend on no split."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_adjoint, check_contraction, check_equal, check_exact
from tests.convolutions import check_splits
from tests.strategies import arrays, conv_geometry, integer_fill, lay_out

DTYPES = ("float32", "float64")
ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "silu", "relu6", "hardswish")


def geometry(x: tuple[int, ...], weight: tuple[int, ...], **other: Any) -> dict[str, Any]:
    plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    return {"x_shape": x, "weight_shape": weight, **plain, **other}


# Beyond what random draws reach: several panels, blocks of taps, depthwise over panels, phases without taps, and
# kernels of which a large padding hides whole rows.
DEPTHWISE = [
    geometry((2, 7, 7, 80), (80, 5, 5, 1), padding=(2, 2), groups=80),
    geometry((1, 12, 19, 24), (24, 5, 5, 1), padding=(2, 2), groups=24, stride=(2, 2)),
    geometry((2, 9, 21, 5), (5, 7, 7, 1), padding=(3, 3), groups=5),
    geometry((1, 3, 18, 16), (16, 2, 4, 1), padding=(0, 1), groups=16, stride=(3, 1)),
    geometry((2, 6, 11, 35), (35, 3, 6, 1), padding=(2, 5), groups=35, dilation=(2, 1)),
    geometry((1, 9, 12, 20), (20, 3, 3, 1), padding=(2, 2), groups=20, dilation=(3, 2), stride=(1, 2)),
    geometry((1, 2, 3, 17), (17, 3, 3, 1), padding=(4, 5), groups=17, stride=(2, 3)),
    geometry((40, 7, 7, 6), (6, 3, 3, 1), padding=(1, 1), groups=6),  # pixels are split within rows
    geometry((1, 30, 31, 4), (4, 5, 3, 1), padding=(2, 1), groups=4, stride=(1, 2)),
    geometry((2, 6, 7, 9), (27, 3, 3, 1), padding=(1, 1), groups=9),  # three outputs per channel
    geometry((1, 5, 6, 3), (120, 3, 3, 1), padding=(1, 1), groups=3),
]
GEOMETRIES = [
    *DEPTHWISE,
    geometry((2, 9, 8, 70), (130, 3, 4, 70), padding=(1, 1)),
    geometry((1, 6, 6, 300), (40, 3, 3, 300), padding=(1, 1)),
    geometry((1, 5, 5, 600), (20, 3, 3, 600), padding=(1, 1), dilation=(1, 2), stride=(1, 2)),
    geometry((2, 9, 9, 150), (150, 3, 3, 1), padding=(1, 1), groups=150),
    geometry((1, 9, 9, 70), (70, 3, 3, 1), padding=(1, 1), groups=70, stride=(2, 2)),
    geometry((1, 8, 8, 20), (24, 1, 1, 20), stride=(3, 2)),
    geometry((1, 2, 3, 5), (7, 3, 3, 5), padding=(4, 5), stride=(2, 3)),
    geometry((2, 8, 8, 1), (16, 3, 3, 1), padding=(1, 1)),
    geometry((2, 17, 17, 3), (64, 7, 7, 3), padding=(3, 3), stride=(2, 2)),
    geometry((3, 40, 40, 4), (8, 3, 3, 4), padding=(1, 1)),  # weights so few that pixels are split
    geometry((2, 5, 6, 64), (20, 3, 3, 64), padding=(1, 1)),  # copied pixels are kept apart
    geometry((30, 4, 4, 9), (18, 3, 3, 9), padding=(1, 1)),  # several images in a block
    geometry((2, 1, 700, 3), (5, 1, 5, 3), padding=(0, 2)),  # rows in several blocks
    geometry((1, 60, 7, 5), (7, 3, 2, 5), dilation=(25, 1), padding=(1, 1)),  # rows of taps far apart
    geometry((2, 14, 33, 5), (6, 3, 3, 5), dilation=(2, 2), padding=(2, 2)),
    geometry((2, 6, 5, 40), (48, 1, 1, 20), groups=2),  # groups read in place
    geometry((1, 9, 9, 36), (40, 3, 3, 18), groups=2, padding=(1, 1), stride=(2, 2)),
    geometry((2, 10, 10, 8), (12, 4, 4, 8)),  # no padding: all is read in place
    geometry((2, 8, 9, 32), (33, 3, 3, 32), padding=(3, 4)),  # results that read no pixel are 0
    geometry((2, 26, 21, 128), (14, 3, 2, 64), groups=2, padding=(1, 0)),  # whole panels, pixels are split
    geometry((1, 5, 5, 192), (19, 3, 3, 192), padding=(1, 1), stride=(2, 1)),  # whole panels, one split
    geometry((3, 13, 17, 64), (100, 1, 1, 64)),  # pointwise, in several blocks: more outputs than channels,
    geometry((2, 19, 17, 128), (70, 1, 1, 128)),  # fewer,
    geometry((2, 19, 17, 20), (18, 1, 1, 20)),  # and no whole panels
    geometry((2, 3, 2, 600), (450, 1, 1, 600)),  # the gradient of the weights is a plain product
    geometry((2, 4, 23, 40), (20, 2, 6, 40), padding=(1, 5)),  # a row has eleven parts of other taps
]


def options(g: dict[str, Any]) -> dict[str, Any]:
    return {key: g[key] for key in ("stride", "padding", "dilation", "groups")}


def output_shape(g: dict[str, Any]) -> tuple[int, ...]:
    (n, h, w, _), (o, kh, kw, _) = g["x_shape"], g["weight_shape"]
    size = (
        reference.conv_out(a, k, g["stride"][d], g["padding"][d], g["dilation"][d])
        for d, (a, k) in enumerate(((h, kh), (w, kw)))
    )
    return (n, *size, o)


def is_direct(g: dict[str, Any], dtype: str) -> bool:
    """Whether all passes are surely computed as sums over taps; see test_conv_winograd.py for the others."""
    plain = g["dilation"] == (1, 1) and g["weight_shape"][1:3] == (3, 3) and g["groups"] == 1
    pixels = max(math.prod(shape[1:3]) for shape in (g["x_shape"], output_shape(g)))
    few = min(g["x_shape"][3], g["weight_shape"][0]) < 16 or (pixels < 49 and g["x_shape"][0] * pixels < 160)
    return dtype == "float64" or not plain or few


def terms(g: dict[str, Any]) -> int:
    """More than any of the three contractions sums."""
    n, oh, ow, o = output_shape(g)
    _, kh, kw, c = g["weight_shape"]
    return int(max(kh * kw * c, kh * kw * o // g["groups"], n * oh * ow, 1))


def integers(g: dict[str, Any], dtype: str, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    shapes = (g["x_shape"], g["weight_shape"], output_shape(g))
    values = (rng.integers(-5, 6, shape).astype(dtype) for shape in shapes)
    return tuple(lay_out(a, "guard_end") for a in values)  # type: ignore[return-value]


def check_all(g: dict[str, Any], x: Any, w: Any, gy: Any) -> None:
    """Forward and both gradients, exactly."""
    o, dtype = options(g), x.dtype
    check_exact(N(_core.conv2d(T(x), T(w), **o)[0]), reference.conv2d(x, w, **o), dtype)
    dx = _core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o)
    check_exact(N(dx), reference.conv2d_grad_input(gy, w, x.shape, **o), dtype)
    dw = _core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o)
    check_exact(N(dw), reference.conv2d_grad_weight(x, gy, w.shape, **o), dtype)


@pytest.mark.usefixtures("isa", "threads")
@given(st.data(), conv_geometry(), st.sampled_from(DTYPES))
def test_integers_convolve_exactly(data: st.DataObject, g: dict[str, Any], dtype: str) -> None:
    assume(is_direct(g, dtype))
    shapes = (g["x_shape"], g["weight_shape"], output_shape(g))
    check_all(g, *(data.draw(integer_fill(shape, terms(g), dtype)) for shape in shapes))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g['x_shape']}-{g['weight_shape']}")
def test_chosen_geometries_convolve_exactly(g: dict[str, Any], dtype: str) -> None:
    check_all(g, *integers(g, dtype))


@pytest.mark.usefixtures("isa")
@given(st.data(), conv_geometry(), st.sampled_from(DTYPES))
@example(None, GEOMETRIES[1], "float32")
@example(None, GEOMETRIES[-1], "float32")
def test_rounding_stays_within_the_bound(data: st.DataObject | None, g: dict[str, Any], dtype: str) -> None:
    assume(is_direct(g, dtype))
    shapes = (g["x_shape"], g["weight_shape"], output_shape(g))
    if data is None:
        rng = np.random.default_rng(0)
        x, w, gy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    else:
        x, w, gy = (data.draw(arrays(shape, dtype)) for shape in shapes)
    o = options(g)
    taps = w[0].size
    ax, aw, ag = abs(x), abs(w), abs(gy)
    y = N(_core.conv2d(T(x), T(w), **o)[0])
    check_contraction(y, reference.conv2d(x, w, **o), reference.conv2d(ax, aw, **o), 2 * taps, dtype)
    dx = N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o))
    count = 2 * taps // w.shape[3] * w.shape[0] // g["groups"] if w.shape[3] else 1
    expected = reference.conv2d_grad_input(gy, w, x.shape, **o)
    check_contraction(dx, expected, reference.conv2d_grad_input(ag, aw, x.shape, **o), count, dtype)
    dw = N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o))
    expected = reference.conv2d_grad_weight(x, gy, w.shape, **o)
    pixels = gy[..., 0].size
    check_contraction(dw, expected, reference.conv2d_grad_weight(ax, ag, w.shape, **o), 2 * pixels, dtype)


@pytest.mark.usefixtures("isa")
@given(st.data(), conv_geometry(most_channels=20, most_size=6))
def test_gradients_are_adjoint(data: st.DataObject, g: dict[str, Any]) -> None:
    shapes = (g["x_shape"], g["weight_shape"], output_shape(g))
    x, w, gy = (data.draw(integer_fill(shape, 64 * terms(g), "float64")) for shape in shapes)
    o = options(g)
    check_adjoint(
        lambda x: N(_core.conv2d(T(x), T(w), **o)[0]),
        lambda gy: N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o)),
        x,
        gy,
    )
    check_adjoint(
        lambda w: N(_core.conv2d(T(x), T(w), **o)[0]),
        lambda gy: N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o)),
        w,
        gy,
    )


@pytest.mark.usefixtures("isa", "threads")
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g['x_shape']}-{g['weight_shape']}")
def test_bits_depend_on_no_split(g: dict[str, Any]) -> None:
    """Images one by one, and one thread or more: the same bits."""
    rng = np.random.default_rng(1)
    shapes = (g["x_shape"], g["weight_shape"], output_shape(g))
    x, w, gy = (rng.standard_normal(shape).astype("f4") for shape in shapes)
    check_splits(x, w, gy, len(x), **options(g))


@pytest.mark.usefixtures("isa")
@given(st.data(), conv_geometry(most_channels=20, most_size=6), st.integers(0, 2), st.integers(0, 3))
def test_padding_may_differ_behind_the_image(
    data: st.DataObject, g: dict[str, Any], bottom: int, right: int
) -> None:
    """As of an image with so many zeros around it; behind it they may also be fewer than none: pixels left out."""
    o = options(g)
    (top, left), h, w = g["padding"], *g["x_shape"][1:3]
    bottom, right = bottom - min(1, top, h - 1), right - min(1, left, w - 1)
    x, weight = (data.draw(integer_fill(g[key], terms(g))) for key in ("x_shape", "weight_shape"))
    whole = np.pad(x, [(0, 0), (top, max(bottom, 0)), (left, max(right, 0)), (0, 0)])
    whole = whole[:, : top + h + bottom, : left + w + right]
    o["padding"] = (0, 0)
    reach = [d * (k - 1) + 1 for d, k in zip(o["dilation"], weight.shape[1:3], strict=True)]
    if whole.shape[1] < reach[0] or whole.shape[2] < reach[1]:
        return
    expected = reference.conv2d(whole, weight, **o)
    gy = data.draw(integer_fill(expected.shape, terms(g)))
    back = reference.conv2d_grad_input(gy, weight, whole.shape, **o)[:, top : top + h, left : left + w]
    back = np.pad(back, [(0, 0), (0, max(0, -bottom)), (0, max(0, -right)), (0, 0)])
    dw = reference.conv2d_grad_weight(whole, gy, weight.shape, **o)
    o |= {"padding": (top, left), "padding_end": (bottom, right)}
    check_exact(N(_core.conv2d(T(x), T(weight), **o)[0]), expected, "float32")
    check_exact(N(_core.conv2d_grad_input(T(gy), T(weight), list(x.shape), **o)), back, "float32")
    check_exact(N(_core.conv2d_grad_weight(T(x), T(gy), list(weight.shape), **o)), dw, "float32")


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(st.data(), conv_geometry(most_channels=40, most_size=6), st.booleans(), st.booleans(), st.booleans())
def test_a_fused_epilogue_equals_separate_ops(
    activation: str, data: st.DataObject, g: dict[str, Any], bias: bool, residual: bool, pre: bool
) -> None:
    o = options(g)
    x, w = (data.draw(arrays(g[key])) for key in ("x_shape", "weight_shape"))
    b = T(data.draw(arrays(g["weight_shape"][:1]))) if bias else None
    r = T(data.draw(arrays(output_shape(g)))) if residual else None
    y, y_pre = _core.conv2d(T(x), T(w), b, r, activation, pre, **o)
    expected, _ = _core.conv2d(T(x), T(w), **o)
    expected = expected if b is None else _core.add(expected, b)
    expected = expected if r is None else _core.add(expected, r)
    assert (y_pre is not None) == pre
    if y_pre is not None:
        check_equal(N(y_pre), N(expected))
    check_equal(N(y), N(expected if activation == "none" else getattr(_core, activation)(expected)))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("g", GEOMETRIES, ids=lambda g: f"{g['x_shape']}-{g['weight_shape']}")
def test_nan_reaches_what_reads_it_and_nothing_else(g: dict[str, Any]) -> None:
    x, w, _ = integers(g, "float32")
    x[0, x.shape[1] // 2, x.shape[2] // 2, -1] = np.nan
    with np.errstate(invalid="ignore"):
        expected = reference.conv2d(x, w, **options(g))
    y = N(_core.conv2d(T(x), T(w), activation="relu", **options(g))[0])
    check_equal(np.isnan(y), np.isnan(expected))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
def test_an_infinite_weight_stays_where_its_tap_reads(groups: int, stride: tuple[int, int]) -> None:
    """Gradients of pixels between those that the strides reach are sums without it, not with 0 times it."""
    w, gy = np.ones((6, 3, 3, 6 // groups), "f4"), np.ones((1, 4, 4, 6), "f4")
    w[1, 0, 1] = np.inf
    reached = [3 * s + 1 for s in stride]
    dx = N(
        _core.conv2d_grad_input(T(gy), T(w), [1, *(n + 2 for n in reached), 6], stride=stride, groups=groups)
    )
    at = (slice(0, reached[0], stride[0]), slice(1, reached[1] + 1, stride[1]))
    assert (dx[0][at][..., 1] == np.inf).all()
    rest = np.ones(dx.shape[1:3], bool)
    rest[:: stride[0], 1 :: stride[1]] = False
    assert np.isfinite(dx[0, rest]).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "inputs", "outputs"), [(5, 128, 7), (5, 7, 128), (5, 1, 6), (3, 16, 5)])
def test_where_an_infinite_weight_shows_depends_on_no_batch(
    kernel: int, inputs: int, outputs: int, stride: int
) -> None:
    """Whether a kernel leaves padding out, or adds zeros times weights, must be the same for one image as for many."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((outputs, kernel, kernel, inputs)).astype("f4")
    w[:, 0, -1, 0] = np.inf
    o = {"padding": (kernel // 2, kernel // 2), "stride": (stride, stride)}
    x = rng.standard_normal((40, 14, 14, inputs)).astype("f4")
    y = N(_core.conv2d(T(x), T(w), **o)[0])
    check_equal(N(_core.conv2d(T(x[:1]), T(w), **o)[0]), y[:1])
    gy = rng.standard_normal(y.shape).astype("f4")
    dx = N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o))
    check_equal(N(_core.conv2d_grad_input(T(gy[:1]), T(w), [1, *x.shape[1:]], **o)), dx[:1])


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("padding", "pixel", "tap"), [((0, 2**31 - 1), 0, 0), ((2**31 - 1, 0), 3, 2)])
def test_distances_may_exceed_32_bits(padding: tuple[int, int], pixel: int, tap: int) -> None:
    """One result, one tap of which lies in a column of four pixels."""
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-5, 6, shape).astype("f4") for shape in ((1, 4, 1, 3), (2, 3, 1, 3)))
    o = {"dilation": (2**30 + 1, 1), "padding": (padding[0], 0), "padding_end": (padding[1], 0)}
    y = w[:, tap, 0] @ x[0, pixel, 0]
    check_exact(N(_core.conv2d(T(x), T(w), **o)[0]), y.reshape(1, 1, 1, 2), "float32")
    gy = np.array([2, -3], "f4").reshape(1, 1, 1, 2)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    dx[0, pixel, 0] = gy.ravel() @ w[:, tap, 0]
    dw[:, tap, 0] = np.outer(gy, x[0, pixel, 0])
    check_exact(N(_core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o)), dx, "float32")
    check_exact(N(_core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o)), dw, "float32")


@pytest.mark.parametrize("channels", [1, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_sum_is_zero_plus_bias(dtype: str, channels: int) -> None:
    x, w, bias = np.zeros((2, 4, 4, 0), dtype), np.zeros((5, 3, 3, 0), dtype), np.arange(5).astype(dtype)
    y, _ = _core.conv2d(T(x), T(w), T(bias))
    check_equal(N(y), np.broadcast_to(bias, (2, 2, 2, 5)))
    dw = _core.conv2d_grad_weight(
        T(np.ones((0, 4, 4, channels), dtype)), T(np.ones((0, 2, 2, 5), dtype)), [5, 3, 3, channels]
    )
    check_equal(N(dw), np.zeros((5, 3, 3, channels), dtype))


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch")
    for g in GEOMETRIES:
        x, w, gy = integers(g, "float64", seed=3)
        tx = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        tw = torch.tensor(w.transpose(0, 3, 1, 2), requires_grad=True)
        ty = torch.nn.functional.conv2d(tx, tw, **options(g))
        ty.backward(torch.tensor(gy.transpose(0, 3, 1, 2)))
        o = options(g)
        check_exact(N(_core.conv2d(T(x), T(w), **o)[0]), ty.detach().numpy().transpose(0, 2, 3, 1))
        dx = _core.conv2d_grad_input(T(gy), T(w), list(x.shape), **o)
        check_exact(N(dx), tx.grad.numpy().transpose(0, 2, 3, 1))
        dw = _core.conv2d_grad_weight(T(x), T(gy), list(w.shape), **o)
        check_exact(N(dw), tw.grad.numpy().transpose(0, 2, 3, 1))


X, W = (8, 28, 28, 16), (8, 3, 3, 16)


@pytest.mark.parametrize(
    ("x", "weight", "other", "message"),
    [
        (
            X,
            (8, 3, 3, 32),
            {},
            r"\[conv2d\] weight expects 32 input channels, x has 16 \(x: \(8, 28, 28, 16\), NHWC",
        ),
        (X[1:], W, {}, r"\[conv2d\] x must be \(N, H, W, C\), got \(28, 28, 16\)"),
        (X, W[1:], {}, r"\[conv2d\] weight must be \(O, KH, KW, C/groups\), got \(3, 3, 16\)"),
        (X, W, {"groups": 2}, r"\[conv2d\] weight expects 16 input channels per group, x has 16 .*groups: 2"),
        (
            X,
            (9, 3, 3, 8),
            {"groups": 2},
            r"\[conv2d\] weight has 9 output channels, not a multiple of 2 groups",
        ),
        (X, W, {"groups": 0}, r"\[conv2d\] groups must be at least 1, got 0"),
        (X, W, {"stride": (0, 1)}, r"\[conv2d\] stride must be positive, got \(0, 1\)"),
        (X, W, {"stride": (1, -2)}, r"\[conv2d\] stride must be positive, got \(1, -2\)"),
        (X, W, {"dilation": (1, 0)}, r"\[conv2d\] dilation must be positive"),
        (X, W, {"padding": (-1, 0)}, r"\[conv2d\] padding must not be negative"),
        ((1, 2, 9, 16), W, {}, r"\[conv2d\] kernel reaches over 3 pixels of height, the padded input has 2"),
        ((1, 9, 4, 16), W, {"dilation": (1, 2)}, r"\[conv2d\] kernel reaches over 5 pixels of width"),
    ],
)
def test_what_does_not_fit_is_named(
    x: tuple[int, ...], weight: tuple[int, ...], other: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.conv2d(T(np.zeros(x, "f4")), T(np.zeros(weight, "f4")), **other)


def test_gradients_check_their_shapes_too() -> None:
    x, w, g = (T(np.zeros(shape, "f4")) for shape in ((1, 5, 5, 2), (3, 3, 3, 2), (1, 3, 3, 3)))
    with pytest.raises(
        ValueError, match=r"\[conv2d_grad_input\] g has shape \(1, 3, 3, 3\), the output .*\(1, 4, 4, 3\)"
    ):
        _core.conv2d_grad_input(g, w, [1, 6, 6, 2])
    with pytest.raises(ValueError, match=r"\[conv2d_grad_weight\] g has shape \(1, 3, 3, 3\)"):
        _core.conv2d_grad_weight(x, g, [3, 2, 3, 2])
    with pytest.raises(TypeError, match=r"\[conv2d\] x is float32, weight is float64"):
        _core.conv2d(x, T(np.zeros((3, 3, 3, 2))))
