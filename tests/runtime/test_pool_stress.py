"""The pool's sources alone, compiled on the spot: under ThreadSanitizer, and with forks (which it does not follow)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [
    ROOT / "csrc" / "runtime" / f"{name}.cpp"
    for name in ("thread_pool", "thread_count", "os_thread", "interrupt")
]
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")

pytestmark = pytest.mark.skipif(
    CXX is None or platform.system() != "Linux" or not SOURCES[0].exists(),
    reason="needs a compiler and the sources",
)


def _build(folder: Path, *flags: str) -> Path:
    program = folder / "pool_stress"
    stress = Path(__file__).with_name("pool_stress.cpp")
    command = [str(CXX), "-std=c++20", "-g", *flags, f"-I{ROOT / 'csrc'}", *map(str, SOURCES), str(stress)]
    done = subprocess.run(
        [*command, "-pthread", "-o", str(program)], capture_output=True, text=True, check=False
    )
    if done.returncode and "-fsanitize=thread" in flags and "tsan" in done.stderr:
        pytest.skip("the compiler has no ThreadSanitizer")
    assert done.returncode == 0, done.stderr
    return program


def test_under_thread_sanitizer(tmp_path: Path) -> None:
    program = _build(tmp_path, "-O1", "-fsanitize=thread")
    # Older runtimes of the sanitizer cannot map their memory under strong address randomization.
    fixed = [shutil.which("setarch") or "", "-R"] if shutil.which("setarch") else []
    done = subprocess.run(
        [*fixed, str(program), "600"], capture_output=True, text=True, timeout=300, check=False
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not start here")
    assert done.returncode == 0, done.stderr[-4000:]


def test_with_forks(tmp_path: Path) -> None:
    program = _build(tmp_path, "-O2")
    done = subprocess.run(
        [str(program), "3000", "fork"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
