"""The emulation of CUDA itself: sound kernels are right under every schedule, and planted bugs are noticed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
from itertools import product
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORE = ROOT / "cuda" / "core"
CXX = os.environ.get("CXX") or shutil.which("g++")
SCHEDULES = [
    *product(("forward", "reverse", "random", "greedy", "greedy-reverse"), ("late", "early"), ("late",)),
    ("random", "late", "early"),
    ("greedy", "early", "early"),
]  # of threads, of asynchronous copies, and of products of warpgroups

# What is right or wrong by the schedule; some schedule must show each.
HIDING = [
    "no barrier after a write",
    "no barrier after a read",
    "no barrier of the warp",
    "no wait for copies",
    "no barrier around copies",
    "copies begun before the barrier",
    "no wait for tiles",
    "tiles waited for after the product",
    "no wait for a place",
    "a place given away before its products are done",
    "no wait for products",
    "no wait for the other block",
]

pytestmark = pytest.mark.skipif(
    CXX is None or platform.system() != "Linux" or not CORE.exists(),
    reason="needs a compiler and the sources",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs, compiled."""
    folder = tmp_path_factory.mktemp("emulation")
    emulation = [str(CORE / name) for name in ("emulated.cpp", "device_emulated.cpp")]
    includes = [f"-I{ROOT / 'cuda'}", f"-I{ROOT / 'csrc'}"]
    defined = ["-DQUERNEL_ISA=cuda", '-DQUERNEL_LAYOUT=""', '-DQUERNEL_VERSION=""']
    for name in ("sound", "planted", "guarded"):
        sources = [HERE / f"{name}.cu", *([CORE / "driver.cu"] if name == "guarded" else [])]
        source = [*defined, "-x", "c++", *map(str, sources), "-x", "none"]
        command = [str(CXX), "-std=c++20", "-O1", "-ffp-contract=off", *includes, *source, *emulation]
        done = subprocess.run(
            [*command, "-o", str(folder / name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder


def _run(program: Path, schedule: str, copies: str, products: str) -> subprocess.CompletedProcess[str]:
    names = ("QUERNEL_CUDA_SCHEDULE", "QUERNEL_CUDA_COPIES", "QUERNEL_CUDA_PRODUCTS")
    env = {**os.environ, **dict(zip(names, (schedule, copies, products), strict=True))}
    return subprocess.run([str(program)], env=env, capture_output=True, text=True, timeout=120, check=False)


def _reports(folder: Path, schedule: str, copies: str, products: str = "late") -> dict[str, str]:
    done = _run(folder / "planted", schedule, copies, products)
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize(("schedule", "copies", "products"), SCHEDULES)
def test_sound_kernels_are_right(folder: Path, schedule: str, copies: str, products: str) -> None:
    done = _run(folder / "sound", schedule, copies, products)
    assert done.returncode == 0, done.stdout[:2000] + done.stderr


@pytest.mark.parametrize("bug", HIDING)
def test_some_schedule_shows(folder: Path, bug: str) -> None:
    assert {_reports(folder, *schedule)[bug] for schedule in SCHEDULES} - {"right"}


def test_what_each_kind_of_schedule_is_for(folder: Path) -> None:
    """A copy that nobody waits for shows if copies land late; one begun too soon if they land early, on a warp ahead.

    Tiles that land after the product began show if products read at once; a place that is filled again too soon, if they read
    late.
    """
    late, early = _reports(folder, "greedy", "late"), _reports(folder, "greedy", "early")
    assert (late["no wait for copies"], early["no wait for copies"]) == ("wrong", "right")
    bug = "copies begun before the barrier"
    assert (late[bug], early[bug], _reports(folder, "forward", "early")[bug]) == ("right", "wrong", "right")
    bug = "tiles waited for after the product"
    assert (late[bug], _reports(folder, "greedy", "late", "early")[bug]) == ("right", "wrong")
    bug = "a place given away before its products are done"
    at_once = _reports(folder, "forward", "early", "early")[bug]
    assert (late[bug], _reports(folder, "forward", "early")[bug], at_once) == ("right", "wrong", "right")


@pytest.mark.parametrize(("schedule", "copies", "products"), SCHEDULES)
def test_errors_are_reported(folder: Path, schedule: str, copies: str, products: str) -> None:
    reports = _reports(folder, schedule, copies, products)
    assert "deadlock" in reports["barriers apart"]
    assert "deadlock" in reports["a phase that never ends"]
    assert "before begin()" in reports["products not begun"]
    assert re.fullmatch(
        r".* different barriers: .*planted.cu:\d+ and .*planted.cu:\d+", reports["two barriers"]
    )
    assert "48 KB" in reports["too much shared memory"]
    assert reports["unwritten shared memory"] == "wrong"
    assert "1024 threads" in reports["too many threads"]
    assert "not aligned" in reports["a copy not aligned"]
    assert reports["sound after a deadlock"] == "right"
    if copies == "late":
        assert "without waiting" in reports["copies never waited for"]


@pytest.mark.parametrize("wrong", ["overrun", "freed", "host"])
def test_guarded_memory_stops(folder: Path, wrong: str) -> None:
    """Beyond the end of a block, in one that was freed, and host code that follows a device pointer."""
    for guard, expected in (("1", -signal.SIGSEGV), ("", 0)):
        env = {k: v for k, v in os.environ.items() if k != "QUERNEL_CUDA_GUARD"}
        if guard:
            env["QUERNEL_CUDA_GUARD"] = guard
        done = subprocess.run(
            [str(folder / "guarded"), wrong], env=env, capture_output=True, text=True, check=False
        )
        if "no protection keys" in done.stdout:
            pytest.skip("the CPU has no protection keys")
        assert done.returncode == expected, done.stderr


def test_guarded_memory_is_nan_at_first(folder: Path) -> None:
    env = {**os.environ, "QUERNEL_CUDA_GUARD": "1"}
    done = subprocess.run(
        [str(folder / "guarded"), "unwritten"], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["nan", "nan"], (
        done.stderr
    )  # of a new block, and of one in a freed one's place
