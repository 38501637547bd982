"""Kernels round to nearest and keep denormals, whatever the program has set, and leave its setting alone."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from quernel import _core

FTZ_DAZ = 0x8040
UP = 0x4000  # round towards +infinity
CONTROL = 0xFFC0  # of MXCSR, without the flags

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="reads glibc's fenv_t of x86-64",
)
_MXCSR = 28  # its offset there


def mxcsr() -> int:
    env = ctypes.create_string_buffer(64)
    assert _libm.fegetenv(env) == 0
    return int(struct.unpack_from("<I", env, _MXCSR)[0])


@contextmanager
def control(bits: int) -> Iterator[None]:
    saved, env = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    assert _libm.fegetenv(saved) == _libm.fegetenv(env) == 0
    struct.pack_into("<I", env, _MXCSR, mxcsr() | bits)
    assert _libm.fesetenv(env) == 0
    try:
        yield
    finally:
        assert _libm.fesetenv(saved) == 0


@pytest.mark.parametrize("size", [5, 600_000], ids=["small", "shared"])
@pytest.mark.parametrize("bits", [FTZ_DAZ, UP], ids=["flush", "upward"])
def test_results_do_not_depend_on_the_programs_setting(threads: int, size: int, bits: int) -> None:
    rng = np.random.default_rng(0)
    tiny = (rng.standard_normal(size) * 1e-38).astype(np.float32)
    x, y = _core.from_numpy(tiny), _core.from_numpy(np.full(size, 0.1, np.float32))
    expected = _core.mul(x, y).numpy()
    assert 0 < np.abs(expected[expected != 0]).min() < np.finfo(np.float32).tiny  # there are denormals
    with control(bits):
        before = mxcsr() & CONTROL
        actual = _core.mul(x, y).numpy()
        assert mxcsr() & CONTROL == before
    np.testing.assert_array_equal(actual.view(np.int32), expected.view(np.int32))
    assert mxcsr() & CONTROL == 0x1F80
    assert threads == _core.num_threads()


def test_the_setting_survives_a_refused_call() -> None:
    logits, labels = _core.full([4, 3], 0.5, "float32"), _core.from_numpy(np.array([0, 1, 9, 2]))
    with control(FTZ_DAZ):
        before = mxcsr() & CONTROL
        with pytest.raises(ValueError, match="label 9"):
            _core.cross_entropy(logits, labels)
        assert mxcsr() & CONTROL == before
