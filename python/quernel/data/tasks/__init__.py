"""Tasks: workloads made on the spot, hard enough to tell a good net from a bad one.

Nothing is downloaded. Every task splits its sources (digits, files, speakers' words) into a training and a test part
before it makes a single sample, and is the same whenever it is made. ``python -m quernel.data.tasks NAME`` makes one,
prints a baseline, trains a net beside it, and with ``--compare torch`` that library's net too.
"""

from __future__ import annotations

import importlib

from quernel.data.tasks.task import Task
from quernel.errors import ArgumentError
from quernel.suggest import suggestion

NAMES = ("char_lm", "cluttered_digits", "spoken_tokens", "tabular", "text_class", "transfer")

__all__ = ["NAMES", "Task", "task"]


def task(name: str) -> Task:
    """The task called `name`.

    Example:
        >>> from quernel.data import tasks
        >>> tasks.task("cluttered_digits").score
        'accuracy'
    """
    if name not in NAMES:
        raise ArgumentError(f"[task] unknown task {name!r}{suggestion(name, NAMES)}")
    found: Task = importlib.import_module(f"quernel.data.tasks.{name}").TASK
    return found
