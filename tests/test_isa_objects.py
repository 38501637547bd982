"""Kernel objects may not hurt older CPUs.

An object compiled for AVX-512 may define nothing that the linker could keep for everyone: no weak symbol (an inline function, a
template of the C++ library) and no global outside the namespace of its level. And it may run nothing at load: no static
initialisers. Checked at -O1, because higher levels happen to inline away what is wrong.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parent.parent / "csrc"
SOURCES = sorted((CSRC / "kernels").glob("*.cpp"))
LEVEL, FLAGS = "avx512", ["-march=x86-64-v4", "-mprefer-vector-width=512"]
DOT_FLAGS = [*FLAGS, "-mavx512vnni"]
BF16_FLAGS = [*DOT_FLAGS, "-mavx512bf16"]
AMX_FLAGS = [*BF16_FLAGS, "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
ABOVE = {  # sources that no level up to LEVEL has
    **dict.fromkeys(
        (
            *("table_vnni.cpp", "quant_gemm_runs.cpp", "quant_depthwise_dot.cpp", "quant_planar_dot.cpp"),
            *("quant_winograd_dot.cpp", "quant_winograd_pack.cpp"),
        ),
        ("vnni", DOT_FLAGS),
    ),
    "table_bf16.cpp": ("bf16", BF16_FLAGS),
    "table_amx.cpp": ("amx", AMX_FLAGS),
}
BF16_SOURCES = {
    *("gemm_bf16.cpp", "conv_bf16.cpp", "pack_bf16.cpp"),
    *("recurrent_bf16.cpp", "recurrent_grad_bf16.cpp"),
}

COMPILER = shutil.which("g++") or shutil.which("c++")
NM = shutil.which("nm")
pytestmark = pytest.mark.skipif(not COMPILER or not NM, reason="needs a C++ compiler and nm")


def compile_object(source: Path, level: str, flags: list[str], folder: Path) -> Path:
    out = folder / f"{source.stem}.{level}.o"
    command = [
        str(COMPILER), "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno",
        "-fno-exceptions", "-fno-rtti", f"-I{CSRC}", f"-DQUERNEL_ISA={level}", *flags, "-c", str(source), "-o", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{source.name} at {level}: {done.stderr[-2000:]}"
    return out


def faults(obj: Path, level: str) -> list[str]:
    """What is wrong with the symbols that an object defines."""
    listing = subprocess.run(
        [str(NM), "--defined-only", str(obj)], capture_output=True, text=True, check=True
    ).stdout
    wrong = []
    for line in listing.splitlines():
        kind, name = line.split()[-2:]
        if kind in "WVu":
            wrong.append(f"weak {name}")
        elif "_GLOBAL__sub_I" in name or "__static_initialization" in name:
            wrong.append(f"static initialiser {name}")
        elif kind.isupper() and not re.match(rf"_ZNK?7quernel{len(level)}{level}", name):
            wrong.append(f"global {name} outside quernel::{level}")
    return wrong


def jobs() -> list[tuple[Path, str, list[str]]]:
    found = [(s, *ABOVE.get(s.name, (LEVEL, FLAGS))) for s in SOURCES]
    return found + [(s, "bf16", BF16_FLAGS) for s in SOURCES if s.name in BF16_SOURCES]


def test_kernel_objects_are_self_contained(tmp_path: Path) -> None:
    assert SOURCES
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda job: (job, compile_object(*job, tmp_path)), jobs()))
    wrong = {obj.name: bad for (_, level, _), obj in objects if (bad := faults(obj, level))}
    assert not wrong, wrong


def test_the_check_sees_what_it_forbids(tmp_path: Path) -> None:
    bad = tmp_path / "bad.cpp"
    bad.write_text(
        "int roll(int);\n"
        "__attribute__((noinline)) inline int shared(int x) { return roll(x) + 1; }\n"
        "namespace quernel::avx512 { int state = roll(1); int kernel(int x) { return shared(x); } }\n"
        "int stray(int x) { return x; }\n"
    )
    kinds = {text.split()[0] for text in faults(compile_object(bad, LEVEL, [], tmp_path), LEVEL)}
    assert kinds == {"weak", "static", "global"}
