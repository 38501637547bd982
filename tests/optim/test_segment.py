"""Tensors that were moved into a segment: shared memory, and versions that count every write."""

from __future__ import annotations

import numpy as np
import pytest

from quernel import _core


def native(values: list[float]) -> _core.Tensor:
    return _core.from_numpy(np.array(values, np.float32), True)


def test_rehoming_moves_the_values() -> None:
    segment, a, b = native([0, 0, 0, 0, 0]), native([1, 2]), native([3])
    a.rehome(segment, 0)
    b.rehome(segment, 4)
    assert segment.numpy().tolist() == [1, 2, 0, 0, 3]
    _core.copy_into_(segment, native([5, 6, 7, 8, 9]))
    assert (a.numpy().tolist(), b.numpy().tolist()) == ([5, 6], [9])


def test_a_write_to_the_segment_counts_for_its_tensors_and_not_the_other_way_round() -> None:
    segment, a, b = native([0, 0, 0]), native([1, 2]), native([3])
    a.rehome(segment, 0)
    b.rehome(segment, 2)
    versions = a.version, b.version, segment.version
    _core.copy_into_(a, native([7, 7]))
    assert a.version > versions[0]
    assert (b.version, segment.version) == versions[1:]
    versions = a.version, b.version, segment.version
    _core.copy_into_(_core.flat_view(segment, 1, 2), native([8, 8]))
    assert a.version > versions[0] and b.version > versions[1] and segment.version > versions[2]
    assert a.reshape([1, 2]).version == a.version


def test_versions_never_repeat_when_a_tensor_moves_on() -> None:
    busy, fresh, a = native([0, 0]), native([0, 0]), native([1, 2])
    a.rehome(busy, 0)
    for _ in range(5):
        _core.copy_into_(busy, native([3, 4]))
    before = a.version
    a.rehome(fresh, 0)
    assert a.version > before
    _core.copy_into_(busy, native([9, 9]))
    assert a.numpy().tolist() == [3, 4]


def test_views_outside_the_segment_are_refused() -> None:
    segment = native([0, 0, 0])
    for begin, size in [(-1, 1), (0, 4), (3, 1), (1, -1)]:
        with pytest.raises(ValueError, match=r"\[flat_view\].*exceeds 3 elements"):
            _core.flat_view(segment, begin, size)
    with pytest.raises(ValueError, match=r"\[rehome\]"):
        native([1, 2]).rehome(segment, 2)
    with pytest.raises(ValueError, match=r"\[rehome\]"):
        _core.from_numpy(np.zeros(1), True).rehome(segment, 0)
