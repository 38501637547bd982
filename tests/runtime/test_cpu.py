"""What the engine finds out about the machine: CPU features, and how many threads it may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quernel import _core

# /proc/cpuinfo's names for the features that levels ask for.
_FLAGS = {
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi2": "bmi2", "avx512f": "avx512f", "avx512bw": "avx512bw",
    "avx512vl": "avx512vl", "avx512dq": "avx512dq", "avx512cd": "avx512cd", "vnni": "avx512_vnni",
    "bf16": "avx512_bf16",
}  # fmt: skip


def _cpuinfo(key: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(key)), None)


@pytest.mark.skipif(_cpuinfo("flags") is None, reason="no flags in /proc/cpuinfo")
def test_features_agree_with_the_kernel() -> None:
    flags = set((_cpuinfo("flags") or "").split())
    found = set(_core.cpu_features().split())
    assert found - {"amx_tile", "amx_int8", "amx_bf16"} == {
        ours for ours, theirs in _FLAGS.items() if theirs in flags
    }
    assert {name for name in found if name.startswith("amx")} <= flags  # the system may refuse the tiles


def test_cpu_model() -> None:
    assert _core.cpu_model() == (_cpuinfo("model name") or "unknown")


def _threads(env: dict[str, str] | None = None, before: str = "") -> subprocess.CompletedProcess[str]:
    script = f"{before}\nfrom quernel import _core; print(_core.num_threads(), *_core.default_thread_count(), sep='|')"
    clean = {key: value for key, value in os.environ.items() if key != "QUERNEL_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**clean, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_variable_lowers_the_count() -> None:
    assert _threads({"QUERNEL_NUM_THREADS": "1"}).stdout.strip() in {
        "1|1|QUERNEL_NUM_THREADS",
        "1|1|CPUs of this process",
        "1|1|cgroup CPU quota",
    }
    most = _threads().stdout
    assert _threads({"QUERNEL_NUM_THREADS": "4096"}).stdout == most
    assert _threads({"QUERNEL_NUM_THREADS": ""}).stdout == most


@pytest.mark.parametrize("text", ["0", "-2", "two", "2x", "1.5"])
def test_a_senseless_variable_is_refused(text: str) -> None:
    done = _threads({"QUERNEL_NUM_THREADS": text})
    assert done.returncode != 0
    assert f'[threads] QUERNEL_NUM_THREADS expects an integer of at least 1, got "{text}"' in done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_limits_the_count() -> None:
    done = _threads(before="import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})")
    assert done.stdout.strip() == "1|1|CPUs of this process"


def _tree(root: Path, groups: str, mounts: str, files: dict[str, str]) -> int:
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return _core.cgroup_cpu_limit(str(root))


V2 = "26 23 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 31 0:30 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("own", "above", "limit"),
    [
        ("max 100000", "max 100000", 0),
        ("200000 100000", "max 100000", 2),
        ("150000 100000", "max 100000", 2),  # rounded up
        ("10000 100000", "max 100000", 1),
        ("800000 100000", "300000 100000", 3),  # the group above binds too
        ("garbage", "", 0),
    ],
)
def test_cgroup_v2(tmp_path: Path, own: str, above: str, limit: int) -> None:
    files = {"sys/fs/cgroup/a/b/cpu.max": own + "\n", "sys/fs/cgroup/a/cpu.max": above + "\n"}
    assert _tree(tmp_path, "0::/a/b\n", V2, files) == limit


def test_cgroup_v2_in_a_namespace(tmp_path: Path) -> None:
    # A container sees itself as the root, and its limits in the mount itself.
    assert _tree(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": "250000 100000\n"}) == 3


@pytest.mark.parametrize(
    ("root", "path", "folder"),
    [("/", "/docker/x", "docker/x/"), ("/docker/x", "/docker/x", ""), ("/docker/x", "/docker/x/y", "y/")],
)
@pytest.mark.parametrize(("quota", "limit"), [(-1, 0), (350_000, 4)])
def test_cgroup_v1(tmp_path: Path, root: str, path: str, folder: str, quota: int, limit: int) -> None:
    base = f"sys/fs/cgroup/cpu,cpuacct/{folder}"
    files = {base + "cpu.cfs_quota_us": f"{quota}\n", base + "cpu.cfs_period_us": "100000\n"}
    groups = f"5:memory:/elsewhere\n4:cpu,cpuacct:{path}\n0::/\n"
    assert _tree(tmp_path, groups, V1.format(root=root), files) == limit


def test_no_cgroups(tmp_path: Path) -> None:
    assert _core.cgroup_cpu_limit(str(tmp_path)) == 0
