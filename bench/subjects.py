"""The subjects: every file of this folder that defines `cases` or `run`, found without importing it.

`cases(threads, quick)` yields what `bench.harness` measures; `run(threads, quick)` measures by itself and returns a text
and the figures behind it. The first line of the file's docstring is its help. Beside them may stand
  GOALS    what its cases ought to reach: {group: Goal}, see `bench.goals`
  REASONS  why one that does not is where it is: {case or group: sentence}, kept by hand
  EVERY_ISA = True  if a full run takes it at each instruction set of the CPU
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.goals import Goal

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Subject:
    """A file of this folder."""

    name: str
    module: str
    help: str
    has_cases: bool
    every_isa: bool = False

    def load(self) -> ModuleType:
        """Imports it."""
        return importlib.import_module(f"bench.{self.module}")

    def goals(self) -> dict[str, Goal]:
        """What its cases ought to reach, by group."""
        return getattr(self.load(), "GOALS", {})

    def reasons(self) -> dict[str, str]:
        """Why cases or groups miss their goals, as far as somebody has found out."""
        return getattr(self.load(), "REASONS", {})


def discover() -> dict[str, Subject]:
    """All subjects by name."""
    found = (_read(path) for path in sorted(FOLDER.glob("*.py")))
    return {subject.name: subject for subject in found if subject}


def _read(path: Path) -> Subject | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if not functions & {"cases", "run"}:
        return None
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    text = (ast.get_docstring(tree) or "").split("\n", 1)[0]
    return Subject(path.stem.rstrip("_"), path.stem, text, "cases" in functions, "EVERY_ISA" in names)
