"""Philox against its published vectors; dropout and fills against the reference stream; one stream at every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests import reference
from tests.checks import N, T, check_equal
from tests.strategies import arrays, guarded, shapes

u64 = st.integers(0, 2**64 - 1)


def draws(seed: int, base: int, count: int) -> Any:
    """The first `count` 32-bit numbers of the stream at `base`."""
    blocks = [(base + i) % 2**64 for i in range(-(-count // 4))]
    counter = np.array([[b & 0xFFFFFFFF, b >> 32, 0, 0] for b in blocks], np.uint32).reshape(-1, 4)
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    return reference.philox4x32(counter, key).reshape(-1)[:count]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_reference_philox_gives_the_published_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    actual = reference.philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    check_equal(actual, np.array(expected, np.uint32))


@pytest.mark.usefixtures("isa")
def test_kernel_gives_the_published_answer_to_the_last_bit() -> None:
    x = T(np.ones(4, "f4"))
    for i, draw in enumerate([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]):
        kept = N(_core.dropout(x, draw / 2**32, _core.Generator(0))[1])[i]
        lost = N(_core.dropout(x, (draw + 1) / 2**32, _core.Generator(0))[1])[i]
        assert (kept, lost) == (1, 0)


@pytest.mark.usefixtures("isa", "threads")
@given(seed=u64, base=u64, size=st.integers(0, 300))
def test_uniform_is_the_stream(seed: int, base: int, size: int) -> None:
    g = _core.Generator(seed)
    g.set(seed, base)
    y = N(_core.uniform([size], 0.0, 1.0, "float32", g))
    check_equal(y, ((draws(seed, base, size) >> 8) * np.float64(2.0**-24)).astype("f4"))
    assert g.base == (base + -(-size // 4)) % 2**64 and g.seed == seed
    g.set(seed, base)
    raw = draws(seed, base, 2 * size).astype("u8")
    y = N(_core.uniform([size], 0.0, 1.0, "float64", g))
    check_equal(y, ((raw[::2] >> 5) * 2.0**26 + (raw[1::2] >> 6)) * 2.0**-53)
    assert g.base == (base + -(-size // 2)) % 2**64


@pytest.mark.usefixtures("isa")
@given(
    data=st.data(),
    p=st.sampled_from([0.0, 0.1, 0.5, 0.999, 1.0]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_dropout(data: Any, p: float, dtype: str) -> None:
    x = data.draw(arrays(data.draw(shapes()), dtype, specials=(0.0, np.nan, np.inf)))
    seed = data.draw(u64)
    kept = (draws(seed, 0, x.size) >= p * 2.0**32).reshape(x.shape)
    scale = np.dtype(dtype).type(1 / (1 - p)) if p < 1 else np.dtype(dtype).type(np.inf)
    y, mask = _core.dropout(T(x), p, _core.Generator(seed))
    check_equal(N(mask), kept.astype("u1"))
    with np.errstate(invalid="ignore"):
        expected = np.where(kept, x * scale, np.dtype(dtype).type(0))
        np.testing.assert_array_equal(N(y), expected, strict=True)
        np.testing.assert_array_equal(N(_core.dropout_grad(T(x), mask, p)), expected, strict=True)


def test_levels_and_threads_draw_the_same_numbers() -> None:
    level, threads = _core.active_isa(), _core.num_threads()
    results = []
    try:
        for name in _core.supported_isas():
            if name == "amx_emulated":
                continue
            _core.set_isa(name)
            for count in (1, 2):
                _core.set_num_threads(count)
                g = _core.Generator(5)
                x = T(np.ones(70_001, "f4"))
                outputs = [_core.dropout(x, 0.3, g)[0], _core.uniform([70_001], -2.0, 3.0, "float32", g)]
                outputs += [_core.normal([70_001], 0.5, 2.0, dtype, g) for dtype in ("float32", "float64")]
                results.append(b"".join(N(t).tobytes() for t in outputs))
    finally:
        _core.set_isa(level)
        _core.set_num_threads(threads)
    assert len(results) >= 2 and len(set(results)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_distributions(dtype: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    n, g = 100_000, _core.Generator(1)
    u = N(_core.uniform([n], -1.0, 3.0, dtype, g))
    assert u.min() >= -1 and u.max() < 3
    assert stats.kstest(u, stats.uniform(-1, 4).cdf).pvalue > 1e-4
    z = N(_core.normal([n], 2.0, 0.5, dtype, g))
    assert np.isfinite(z).all()
    assert stats.kstest(z, stats.norm(2, 0.5).cdf).pvalue > 1e-4
    pairs = (z.astype("f8") - 2) * 2
    assert abs(np.corrcoef(pairs[::2], pairs[1::2])[0, 1]) < 5 / np.sqrt(n / 2)
    kept = N(_core.dropout(T(np.ones(n, dtype)), 0.3, g)[1])
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / n)


def test_excluded_end_of_a_narrow_range() -> None:
    y = N(
        _core.uniform(
            [100_000], 1.0, float(np.nextafter(np.float32(1), np.float32(2))), "float32", _core.Generator(0)
        )
    )
    check_equal(y, np.ones(100_000, "f4"))


def test_ops_draw_disjoint_parts() -> None:
    g, h = _core.Generator(3), _core.Generator(3)
    parts = [N(_core.uniform([8], 0.0, 1.0, "float32", g)) for _ in range(3)]
    check_equal(np.concatenate(parts), N(_core.uniform([24], 0.0, 1.0, "float32", h)))


@pytest.mark.usefixtures("isa")
def test_every_tail_against_guard_pages() -> None:
    for n in range(1, 140):
        x = guarded((n,), "f4")
        x[...] = 1
        y, mask = _core.dropout(T(x), 0.5, _core.Generator(n))
        check_equal(N(y), N(mask) * np.float32(2))


def test_errors() -> None:
    g, x = _core.Generator(0), T(np.zeros(3, "f4"))
    with pytest.raises(ValueError, match=r"\[dropout\] p must be a probability in \[0, 1\], is 1.5"):
        _core.dropout(x, 1.5, g)
    with pytest.raises(ValueError, match=r"\[dropout\] p must be a probability"):
        _core.dropout(x, float("nan"), g)
    with pytest.raises(TypeError, match=r"\[dropout\] x must be float32 or float64, is int32"):
        _core.dropout(T(np.zeros(3, "i4")), 0.5, g)
    with pytest.raises(ValueError, match=r"\[dropout\] mask has shape \(2,\), g has \(3,\)"):
        _core.dropout_grad(x, T(np.zeros(2, "u1")), 0.5)
    with pytest.raises(ValueError, match=r"\[uniform\] the range \[1, 1\) is empty"):
        _core.uniform([2], 1.0, 1.0, "float32", g)
    with pytest.raises(ValueError, match=r"\[normal\] mean 0 and std -1"):
        _core.normal([2], 0.0, -1.0, "float32", g)
    with pytest.raises(TypeError, match=r"\[uniform\] dtype must be float32 or float64, is int64"):
        _core.uniform([2], 0.0, 1.0, "int64", g)
    assert g.base == 0  # a refused op draws nothing
