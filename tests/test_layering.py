"""The tree's rules: who may include or import whom, where intrinsics and pybind11 may appear, how long a file may be."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PYTHON = ROOT / "python" / "quernel"
MAX_LINES = 440  # the budget is "about 400"
LONGER = re.compile(
    r"longer than 400 lines", re.IGNORECASE
)  # a longer file says so in its head, with the reason

CPP = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cpp")])
PY = sorted(PYTHON.rglob("*.py"))

# What each layer may include: folders, or single headers.
TABLE = ["kernels/args/", "kernels/table.h", "kernels/isa.h"]
INCLUDES = {
    "core": ["core/"],
    "kernels": ["kernels/", "core/dtype.h"],
    "runtime": ["core/", "runtime/", *TABLE],
    "ops": ["core/", "runtime/", "ops/", *TABLE],
    "bindings": ["core/", "runtime/", "ops/", "bindings/", *TABLE],
}
# Kernel objects are compiled per ISA: a template of the C++ library instantiated there could be kept for everyone.
# Headers of constants and compile-time templates are harmless; test_isa_objects.py has the last word.
KERNEL_STD = {
    "array", "bit", "cfloat", "climits", "cmath", "cstddef", "cstdint", "cstdlib", "cstring", "limits", "type_traits",
    "utility",
}  # fmt: skip
INTRINSICS = re.compile(r"\b(immintrin|x86intrin|arm_neon|amxintrin)\.h|\b_mm\d*_\w+\(|\b__m(128|256|512)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# Python: what each part of the package may import from it. `_core` is the native module.
FOUNDATION = {"errors", "recording", "runtime", "tensor", "autograd", "signature", "jit", "ops", "random"}
# Its users are what Python sees of the engine's own objects. Six of them beside the tensors and ops: the arguments of jit; the tape and the
# recording, which native code takes part in (accumulating gradients, transactions); the default random stream, which
# is a native object; the error classes, which native code raises; and the profiler, whose clock is native.
CORE_USERS = {
    "tensor", "autograd", "runtime", "signature", "jit", "ops", "recording", "random", "errors", "profiler",
}  # fmt: skip


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def id_of(path: object) -> str:
    return relative(path) if isinstance(path, Path) else str(path)


def head(text: str) -> str:
    return "\n".join(text.splitlines()[:30])


@pytest.mark.parametrize("path", CPP, ids=id_of)
def test_includes_follow_the_layers(path: Path) -> None:
    text = path.read_text()
    layer = path.relative_to(CSRC).parts[0]
    wrong = []
    for kind, name in INCLUDE.findall(text):
        if kind == '"' and not any(
            name == a or (a.endswith("/") and name.startswith(a)) for a in INCLUDES[layer]
        ):
            wrong.append(f'"{name}" from {layer}')
        if kind == "<" and layer == "kernels" and not name.endswith(".h") and name not in KERNEL_STD:
            wrong.append(f"<{name}> in a kernel")
        if name.startswith("pybind11") and layer != "bindings":
            wrong.append(f"<{name}> outside bindings")
        if kind == "<" and "cuda" in name:
            wrong.append(f"<{name}> outside cuda/")
    if layer != "kernels" and (found := INTRINSICS.search(text)):
        wrong.append(f"{found.group()} outside kernels/")
    assert not wrong, f"{relative(path)}: {', '.join(wrong)}"


@pytest.mark.parametrize("path", sorted(CSRC.rglob("*.h")), ids=id_of)
def test_headers_are_included_once(path: Path) -> None:
    assert "#pragma once" in path.read_text()


def test_file_lengths() -> None:
    sources = [*CPP, *PY, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    long = []
    for path in sources:
        text = path.read_text()
        if (lines := text.count("\n")) > MAX_LINES and not LONGER.search(head(text)):
            long.append(f"{relative(path)}: {lines}")
    assert not long, f"over {MAX_LINES} lines without a reason in the head: {long}"


def part_of(path: Path) -> str:
    """`ops` for ops/conv.py, `tensor` for tensor.py."""
    first = path.relative_to(PYTHON).parts[0]
    return first.removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of quernel that a module imports, at its top or inside functions; not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    package = ["quernel", *path.relative_to(PYTHON).parts[:-1]]
    parts: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "quernel" else [stem]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("quernel.")}
    return parts


@pytest.mark.parametrize("path", PY, ids=id_of)
def test_imports_follow_the_layers(path: Path) -> None:
    part, parts = part_of(path), imported_parts(path)
    if part in ("__init__", "__main__", "cli"):
        return
    if "_core" in parts:
        assert part in CORE_USERS, f"{relative(path)} imports the native module"
    if part in FOUNDATION:
        upward = parts - FOUNDATION - {"_core"}
        assert not upward, f"{relative(path)} imports {sorted(upward)}, which lie above it"
    if part == "nn":
        upward = parts & {"training", "quant", "compress", "sparse", "data", "callbacks", "metrics", "cli"}
        assert not upward, f"{relative(path)} imports {sorted(upward)}, which lie above nn"


def test_nets_do_not_need_the_tasks_that_need_them() -> None:
    for path in sorted((PYTHON / "models").glob("*.py")):
        for node in ast.parse(path.read_text()).body:  # a command may import what it likes when it runs
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong = [
                name for name in names if name.startswith(("quernel.data.tasks", "quernel.models.command"))
            ]
            assert not wrong, f"{relative(path)} imports {wrong[0]}"
