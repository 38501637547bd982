"""What the documents say is run: README snippets, paths and excerpts, and the examples of docstrings."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quernel as qn

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)

MODULES = sorted(m.name for m in pkgutil.walk_packages(qn.__path__, "quernel.") if "._" not in m.name)


def test_readme_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ```python block that names no file, in order and in one namespace."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    snippets = [code for language, source, code in BLOCKS if language == "python" and not source]
    assert len(snippets) >= 3
    for code in snippets:
        exec(compile(code, "README.md", "exec"), names)  # noqa: S102


def test_readme_excerpts_are_from_the_sources() -> None:
    """A block like ```cpp csrc/ops/pool.cpp holds lines of that file; `…` stands for what is left out."""
    excerpts = [(source, code) for _, source, code in BLOCKS if source]
    assert len(excerpts) >= 5
    for source, code in excerpts:
        lines = {line.strip() for line in (ROOT / source).read_text().splitlines()}
        missing = [line for line in code.splitlines() if line.strip() not in lines | {"…", ""}]
        assert not missing, f"{source} no longer has {missing}"


def test_readme_names_existing_paths() -> None:
    paths = set(re.findall(r"`((?:csrc|python|tests|bench|docs|\.ci)/[\w./-]*)`", README))
    assert paths
    assert not [p for p in sorted(paths) if not (ROOT / p).exists()]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    names = {name: getattr(qn, name) for name in ("callbacks", "data", "losses", "nn", "optim")}
    result = doctest.testmod(module, extraglobs={"np": np, "qn": qn, **names}, optionflags=flags)
    assert result.failed == 0


@pytest.mark.parametrize("name", ["quernel", *MODULES])
def test_public_names_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    own = [
        (key, value)
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
    ]
    assert not [key for key, value in own if not value.__doc__], "public names without a docstring"
