"""What is installed, and what `import quernel` costs: module lists, not clocks."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path
from typing import Any

import pytest

import quernel as qn

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIGHT = {"numpy", "quernel"}
# Standard modules that NumPy does not load and that would cost more than they give at import.
SLOW_STDLIB = {
    "asyncio",
    "multiprocessing",
    "unittest",
    "http",
    "email",
    "sqlite3",
    "xml",
    "argparse",
    "tomllib",
}


def fresh(code: str, **env: str) -> Any:
    """The JSON that `code` prints in a new interpreter."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def installed_files() -> list[importlib.metadata.PackagePath]:
    try:
        files = importlib.metadata.distribution("quernel").files
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("quernel is not installed: an in-place build")
    return files or []


def test_version() -> None:
    assert qn.__version__ == PROJECT["version"]


def test_import_loads_only_numpy_and_the_native_module() -> None:
    """The import-time budget (NumPy's time + 30 ms) is met by loading nothing: `python -m bench import` measures it."""
    loaded = set(
        fresh(
            "import sys, json, numpy; before = set(sys.modules); import quernel\n"
            "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
        )
    )
    foreign = {
        name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")
    } - LIGHT
    assert not foreign, f"import quernel loads {sorted(foreign)}"
    assert not loaded & SLOW_STDLIB, f"import quernel loads {sorted(loaded & SLOW_STDLIB)}"


def test_import_has_no_side_effects() -> None:
    """No thread, no flush-to-zero, no output, no handler on the root logger."""
    state = fresh(
        "import json, logging, os, numpy as np\n"
        "threads = len(os.listdir('/proc/self/task')); import quernel\n"
        "tiny = np.full(1, 1e-45, np.float32) * np.float32(2)\n"
        "print(json.dumps([len(os.listdir('/proc/self/task')) - threads, bool(tiny[0] > 0), len(logging.root.handlers)]))"
    )
    assert state == [0, True, 0]


def test_every_public_name_resolves() -> None:
    missing = [name for name in qn.__all__ if not hasattr(qn, name)]
    assert not missing
    assert set(qn.__all__) <= set(dir(qn))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = qn.no_such_name


def test_typed_and_with_a_stub() -> None:
    names = {str(f) for f in installed_files()}
    assert "quernel/py.typed" in names
    assert "quernel/_core.pyi" in names
    native = [n for n in names if n.startswith("quernel/_core") and n.endswith(".so")]
    assert len(native) == 1
    assert not [n for n in names if n.startswith(("tests/", "bench/", "csrc/"))]


def test_stub_names_every_native_function() -> None:
    stub = next((f for f in installed_files() if str(f) == "quernel/_core.pyi"), None)
    assert stub is not None
    text = stub.read_text()
    from quernel import _core

    missing = [
        n
        for n in dir(_core)
        if not n.startswith("_") and f"def {n}(" not in text and f"class {n}" not in text
    ]
    assert not missing


def test_wheel_stays_under_5_mb() -> None:
    """Deflated as a wheel is: all installed files together."""
    files = [f for f in installed_files() if str(f).startswith("quernel/") and "__pycache__" not in str(f)]
    size = sum(len(zlib.compress(Path(str(f.locate())).read_bytes(), 6)) for f in files)
    assert 50_000 < size < 5_000_000
