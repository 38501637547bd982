"""Hypothesis strategies: sizes around the SIMD widths, memory layouts, fills with special values, guard pages.

Drawing a seed and filling by a seeded generator, plus a few drawn specials, is some five times faster than drawing
elements, and still shrinks in what matters: shape, layout and which special value lies where.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]

WIDTHS = (4, 8, 16, 32, 64)

# Layouts of a NumPy array that a user may hand over. `offset` starts one item into its buffer, `unaligned` one byte.
LAYOUTS = (
    "C", "F", "reversed", "strided", "offset", "unaligned", "broadcast", "readonly", "byteswapped", "guard_end",
    "guard_start",
)  # fmt: skip
# Those that `_core.from_numpy(a, copy=False)` borrows as they are: C-contiguous, items naturally aligned.
NATIVE_LAYOUTS = ("C", "offset", "readonly", "guard_end", "guard_start")

F32_SPECIALS = (0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38)
F64_SPECIALS = (0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, -5e-324, 2.225073858507201e-308, 1.7e308)
FINITE_SPECIALS = (0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38)
I8_SPECIALS = (-128, -127, -1, 0, 1, 127)
U8_SPECIALS = (0, 1, 127, 128, 254, 255)

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)

seeds = st.integers(0, 2**32 - 1)


def near(most: int = 193, least: int = 0) -> st.SearchStrategy[int]:
    """Sizes from `least` to `most`: tiny ones, and those at, just below and just above multiples of SIMD widths."""
    around = {w * m + d for w in WIDTHS for m in (1, 2, 3) for d in (-1, 0, 1)}
    return st.sampled_from(sorted(n for n in {0, 1, 2, 3} | around if least <= n <= most))


def shapes(
    min_rank: int = 0, max_rank: int = 4, most: int = 67, least: int = 0, volume: int = 20_000
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes whose last dimension is near a SIMD width and whose others are small; zero sizes included if `least` is 0."""

    @st.composite
    def draw_shape(draw: st.DrawFn) -> tuple[int, ...]:
        rank = draw(st.integers(min_rank, max_rank))
        if rank == 0:
            return ()
        outer = tuple(draw(st.integers(least, 5)) for _ in range(rank - 1))
        return (*outer, draw(near(most, least)))

    return draw_shape().filter(lambda s: math.prod(s) <= volume)


@st.composite
def broadcastable(draw: st.DrawFn, shape: Sequence[int]) -> tuple[int, ...]:
    """Shapes that broadcast to `shape`: some dimensions become 1, leading ones may be missing."""
    keep = [n if draw(st.booleans()) else 1 for n in shape]
    return tuple(keep[draw(st.integers(0, len(keep))) :])


def guarded(shape: Sequence[int], dtype: npt.DTypeLike, end: bool = True) -> Array:
    """An uninitialised array against an unreadable page: any access past its end (or before its start) is a SIGSEGV."""
    dtype = np.dtype(dtype)
    count = math.prod(shape)
    nbytes = count * dtype.itemsize
    body = -(-max(nbytes, 1) // PAGE) * PAGE
    m = mmap.mmap(-1, body + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(m))
    for page in (base, base + PAGE + body):
        if _libc.mprotect(ctypes.c_void_p(page), PAGE, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    if count == 0:
        return np.frombuffer(m, np.uint8, body, PAGE)[body if end else 0 :][:0].view(dtype).reshape(shape)
    return np.frombuffer(m, dtype, count, PAGE + (body - nbytes if end else 0)).reshape(shape)


def lay_out(a: Array, layout: str) -> Array:
    """The values of `a` in memory of the given layout. `broadcast` keeps the first slice of axis 0 only."""
    if layout in ("guard_end", "guard_start"):
        out = guarded(a.shape, a.dtype, layout == "guard_end")
        out[...] = a
    elif layout in ("offset", "unaligned"):
        skip = a.itemsize if layout == "offset" else 1
        out = np.zeros(a.nbytes + skip, np.uint8)[skip:].view(a.dtype).reshape(a.shape)
        out[...] = a
    elif layout == "F":
        out = np.array(a, order="F")
    elif layout == "reversed":
        flip = (slice(None, None, -1),) * a.ndim
        out = np.array(a[flip], order="C")[flip]
    elif layout == "strided":
        wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1] + 1) if a.ndim else (), a.dtype)
        out = wide[..., 1::2] if a.ndim else wide
        out[...] = a
    elif layout == "broadcast" and a.ndim and a.shape[0]:
        out = np.broadcast_to(a[:1], a.shape)
    elif layout == "byteswapped":
        out = a.astype(a.dtype.newbyteorder())
    else:
        out = np.array(a, order="C")
        out.flags.writeable = layout != "readonly"
    return out


def _specials(dtype: np.dtype[Any]) -> Sequence[float]:
    table = {"f4": F32_SPECIALS, "f8": F64_SPECIALS, "i1": I8_SPECIALS, "u1": U8_SPECIALS}
    return table.get(dtype.str[1:], (0, 1, -1))


@st.composite
def arrays(
    draw: st.DrawFn,
    shape: Sequence[int],
    dtype: npt.DTypeLike = np.float32,
    layouts: Sequence[str] = NATIVE_LAYOUTS,
    specials: Sequence[float] | None = (),
    scale: float = 1.0,
) -> Array:
    """Arrays of a shape: normal values (full-range integers, fair booleans), up to 8 specials, one of `layouts`.

    `specials=None` means those of the dtype (NaN, infinities, denormals, extremes); an empty sequence means none.
    """
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(draw(seeds))
    if dtype.kind == "f":
        a = (rng.standard_normal(shape) * scale).astype(dtype)
    elif dtype.kind == "b":
        a = rng.integers(0, 2, shape).astype(bool)
    else:
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if dtype.itemsize == 1 else (-1000, 1000)
        a = rng.integers(low, high, shape, dtype, endpoint=True)
    a = np.asarray(a)
    values = _specials(dtype) if specials is None else specials
    if values and a.size:
        for _ in range(draw(st.integers(0, 8))):
            a.reshape(-1)[draw(st.integers(0, a.size - 1))] = draw(st.sampled_from(tuple(values)))
    return lay_out(a, draw(st.sampled_from(tuple(layouts))))


@st.composite
def integer_fill(
    draw: st.DrawFn,
    shape: Sequence[int],
    terms: int,
    dtype: npt.DTypeLike = np.float32,
    layouts: Sequence[str] = NATIVE_LAYOUTS,
) -> Array:
    """Small integers of which every sum of `terms` products is exact in `dtype`, in any order (check A)."""
    dtype = np.dtype(dtype)
    limit = 2.0**24 if dtype == np.float32 else 2.0**53
    bound = int(min(16, math.sqrt(limit / 2 / max(terms, 1))))
    if bound < 1:
        raise ValueError(f"no exact integer fill for {terms} terms in {dtype}")
    rng = np.random.default_rng(draw(seeds))
    a = np.asarray(rng.integers(-bound, bound, shape, endpoint=True), dtype)
    return lay_out(a, draw(st.sampled_from(tuple(layouts))))


@st.composite
def conv_geometry(draw: st.DrawFn, most_channels: int = 67, most_size: int = 12) -> dict[str, Any]:
    """A valid 2-D convolution: x and weight shapes, stride, padding, dilation, groups (output at least 1 x 1)."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    channels = draw(near(max(1, most_channels // groups), 1)) if groups < 8 else 1
    outputs = draw(near(max(1, most_channels // groups), 1)) if groups < 8 else draw(st.integers(1, 2))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), max(1, d * (k - 1) + 1 - 2 * p) + most_size))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    return {
        "x_shape": (draw(st.integers(0, 3)), *size, channels * groups),
        "weight_shape": (outputs * groups, *kernel, channels),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
