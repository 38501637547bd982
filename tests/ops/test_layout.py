"""Native layout ops against NumPy: bit for bit, at every ISA level and thread count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel import _core
from tests.checks import N, T, check_equal
from tests.strategies import arrays, broadcastable, near, shapes

DTYPES = ("float32", "float64", "int8", "uint8", "int32", "int64", "bool")
dtypes = st.sampled_from(DTYPES)


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes)
def test_transpose(data: Any, dtype: str) -> None:
    x = data.draw(arrays(data.draw(shapes(max_rank=5)), dtype, specials=None))
    axes = data.draw(st.permutations(range(x.ndim)))
    check_equal(N(_core.transpose(T(x), axes)), np.transpose(x, axes))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), rows=near(130, 1), columns=near(130, 1), dtype=dtypes)
def test_transposed_matrices_and_images(data: Any, rows: int, columns: int, dtype: str) -> None:
    x = data.draw(arrays((2, rows, columns), dtype, specials=None))
    check_equal(N(_core.transpose(T(x), [0, 2, 1])), np.transpose(x, (0, 2, 1)))
    check_equal(N(_core.transpose(T(x), [-1, -2, -3])), x.T)
    image = x.reshape(1, 2, rows, columns)
    check_equal(N(_core.transpose(T(image), [0, 2, 3, 1])), np.transpose(image, (0, 2, 3, 1)))


@pytest.mark.usefixtures("isa", "threads")
def test_threads_do_not_change_copies() -> None:
    x = np.arange(700 * 900, dtype="f4").reshape(700, 900)
    check_equal(N(_core.transpose(T(x), [1, 0])), x.T)
    check_equal(N(_core.slice(T(x), [699, 1], [-1, 2], [700, 449])), x[::-1, 1:899:2])
    check_equal(N(_core.concat([T(x), T(x[:3])], 0)), np.concatenate([x, x[:3]]))


@st.composite
def slices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[slice, ...]:
    out = []
    for n in shape:
        ends = st.one_of(st.none(), st.integers(-n - 1, n + 1))
        out.append(slice(draw(ends), draw(ends), draw(st.sampled_from([1, 1, 2, 3, -1, -2]))))
    return tuple(out)


def parts(key: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
    ranges = [range(n)[s] for s, n in zip(key, shape, strict=True)]
    return [r.start for r in ranges], [r.step for r in ranges], [len(r) for r in ranges]


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes)
def test_slice_and_assign(data: Any, dtype: str) -> None:
    x = data.draw(arrays(data.draw(shapes()), dtype, specials=None))
    key = data.draw(slices(x.shape))
    check_equal(N(_core.slice(T(x), *parts(key, x.shape))), x[key])
    value = data.draw(arrays(data.draw(broadcastable(x[key].shape)), dtype))
    expected = x.copy()
    expected[key] = value
    dst = _core.from_numpy(x)
    _core.assign_slice_(dst, *parts(key, x.shape), T(value))
    check_equal(N(dst), expected)


def test_overlapping_assignment_moves_the_old_values() -> None:
    x = np.arange(10.0, dtype="f4")
    dst = _core.from_numpy(x)
    _core.assign_slice_(dst, [1], [1], [9], _core.flat_view(dst, 0, 9))
    check_equal(N(dst), np.concatenate([x[:1], x[:9]]))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes, count=st.integers(1, 4))
def test_concat(data: Any, dtype: str, count: int) -> None:
    shape = data.draw(shapes(min_rank=1))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    inputs = []
    for _ in range(count):
        own = list(shape)
        own[axis] = data.draw(st.integers(0, 9))
        inputs.append(data.draw(arrays(own, dtype, specials=None)))
    check_equal(N(_core.concat([T(a) for a in inputs], axis)), np.concatenate(inputs, axis))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes)
def test_pad(data: Any, dtype: str) -> None:
    x = data.draw(arrays(data.draw(shapes(min_rank=1)), dtype, specials=None))
    widths = [(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in x.shape]
    check_equal(N(_core.pad(T(x), widths, 1.0)), np.pad(x, widths, constant_values=1))


@pytest.mark.usefixtures("isa")
@given(data=st.data(), dtype=dtypes)
def test_broadcast_to(data: Any, dtype: str) -> None:
    shape = data.draw(shapes())
    x = data.draw(arrays(data.draw(broadcastable(shape)), dtype, specials=None))
    check_equal(N(_core.broadcast_to(T(x), list(shape))), np.broadcast_to(x, shape))


def test_sizes_do_not_wrap_around() -> None:
    x, most = T(np.zeros(3, "f4")), 2**63 - 1
    for widths in ((most, most), (most, 0), (0, most), (2**62, 2**62)):
        with pytest.raises(ValueError, match=r"\[pad\] the widths .* and dimension 0 of size 3 add up to"):
            _core.pad(x, [widths], 0.0)
    empty = _core.full([2**59, 0], 0.0, "float32")
    with pytest.raises(ValueError, match=r"\[concat\] the sizes along axis 0 add up to"):
        _core.concat([empty] * 32, 0)  # 2**64


def test_errors_name_both_sides() -> None:
    x, y = T(np.zeros((3, 4), "f4")), T(np.zeros((3, 5), "f8"))
    with pytest.raises(ValueError, match=r"\[transpose\] got 1 axes for rank 2"):
        _core.transpose(x, [0])
    with pytest.raises(ValueError, match=r"\[transpose\] axes must be a permutation.*axis 1"):
        _core.transpose(x, [1, 1])
    for bounds in ([3, 1, 1], [0, 1, 4], [2, -1, 4], [-1, 1, 1], [0, 2**62, 3]):
        with pytest.raises(ValueError, match=r"\[slice\].*exceed dimension 0 of size 3"):
            _core.slice(x, [bounds[0], 0], [bounds[1], 1], [bounds[2], 4])
    with pytest.raises(ValueError, match=r"\[slice\] negative size -1"):
        _core.slice(x, [0, 0], [1, 1], [-1, 4])
    with pytest.raises(TypeError, match=r"\[concat\] tensor 0 is float32, tensor 1 is float64"):
        _core.concat([x, y], 0)
    with pytest.raises(ValueError, match=r"\[concat\].*\(3, 4\).*\(4, 3\).*only axis 0"):
        _core.concat([x, T(np.zeros((4, 3), "f4"))], 0)
    with pytest.raises(ValueError, match=r"\[concat\] axis 2 is out of range for rank 2"):
        _core.concat([x], 2)
    with pytest.raises(ValueError, match=r"\[pad\] negative width"):
        _core.pad(x, [(0, 0), (-1, 0)], 0.0)
    with pytest.raises(ValueError, match=r"\[broadcast_to\]"):
        _core.broadcast_to(x, [4])
    with pytest.raises(TypeError, match=r"\[assign_slice\] cannot assign float64 to float32"):
        _core.assign_slice_(_core.full([3, 5], 0.0, "float32"), [0, 0], [1, 1], [3, 5], y)
