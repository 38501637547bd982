"""Fixtures and hypothesis profiles of the whole suite.

Profiles (HYPOTHESIS_PROFILE): `ci` (default) draws the same examples in every run; `dev` draws others each time; `nightly` many.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from quernel import _core, runtime
from quernel.errors import DeviceError

# A fixture that selects an ISA level or thread count holds for all examples of a test, as meant.
_QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile(
    "ci", max_examples=25, deadline=None, derandomize=True, suppress_health_check=_QUIET
)
settings.register_profile(
    "dev", max_examples=50, deadline=None, print_blob=True, suppress_health_check=_QUIET
)
settings.register_profile(
    "nightly", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_QUIET
)
settings.register_profile(  # of kernels on the CPU's emulation of CUDA
    "emulated", max_examples=8, deadline=None, derandomize=True, suppress_health_check=_QUIET
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

EMULATED = (
    "amx_emulated"  # the AMX kernels on emulated tiles, for CPUs without AMX; tests choose it, dispatch never
)
# With QUERNEL_TEST_DEVICE=cuda the tests run there: tensors are made on the device, and levels of the CPU mean nothing.
# `python -m tests.gpu` sets it; a test of an op that has no CUDA kernel yet is skipped by name.
DEVICE = os.environ.get("QUERNEL_TEST_DEVICE", "cpu")
_ISAS = [name for name in _core.supported_isas() if name != EMULATED]
_QUANT_ISAS = _ISAS + [name for name in _core.compiled_isas() if name == EMULATED and "avx2" in _ISAS]


if DEVICE != "cpu":
    runtime.check_device(DEVICE)
    _core.set_default_device(DEVICE)
    _ISAS = _QUANT_ISAS = [_core.active_isa()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skips what CUDA has no kernel for."""
    try:
        return (yield)
    except DeviceError as error:
        if "has no CUDA kernel" not in str(error):
            raise
        pytest.skip(str(error))


def _at_level(name: str) -> Iterator[str]:
    before = _core.active_isa()
    _core.set_isa(name)
    try:
        yield name
    finally:
        _core.set_isa(before)


@pytest.fixture(params=_ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per ISA level that this CPU supports."""
    yield from _at_level(request.param)


@pytest.fixture(params=_QUANT_ISAS)
def quant_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Like `isa`, and the AMX kernels on emulated tiles: for int8 and bfloat16."""
    yield from _at_level(request.param)


@pytest.fixture(params=[1, 2] if DEVICE == "cpu" else [1])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with one and with two threads."""
    before = _core.num_threads()
    _core.set_num_threads(request.param)
    try:
        yield request.param
    finally:
        _core.set_num_threads(before)


_TINY = np.full(1, 1e-45, np.float32)
_ONE = np.ones(1, np.float64)


def floating_point_is_default() -> bool:
    """Denormals count as operands (no DAZ) and as results (no FTZ), and rounding is to nearest even."""
    denormals = bool(
        (_TINY * np.float32(2) > 0)[0] and (np.float32(2e-38) * np.full(1, 0.25, np.float32) > 0)[0]
    )
    return denormals and bool((_ONE + 2.0**-53 == 1)[0] and (_ONE - 2.0**-54 == 1)[0])


@pytest.fixture(autouse=True)
def _floating_point_state() -> Iterator[None]:
    """No kernel may leave its MXCSR behind."""
    yield
    assert floating_point_is_default(), "the test left flush-to-zero or another rounding mode behind"
