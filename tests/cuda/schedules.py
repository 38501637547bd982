"""Other orders in which the emulation runs a kernel's threads and its copies, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import quernel as qn

ROOT = Path(__file__).resolve().parent.parent.parent


def other_schedules(test: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """A test of (schedule, copies), left out on a GPU, which has its own."""
    reason = "a GPU has its own schedule"
    test = pytest.mark.skipif("emulated" not in qn.runtime.config()["cuda"], reason=reason)(test)
    pairs = [("reverse", "late"), ("random", "early"), ("greedy", "early"), ("greedy-reverse", "late")]
    return pytest.mark.parametrize(("schedule", "copies"), pairs)(test)


def run_under(schedule: str, copies: str, module: str, function: str) -> None:
    """Runs a function of a test module of this folder under a schedule."""
    env = {**os.environ, "QUERNEL_CUDA_SCHEDULE": schedule, "QUERNEL_CUDA_COPIES": copies}
    code = f"from tests.cuda.{module} import {function}; {function}()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
