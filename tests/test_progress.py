"""What `fit` writes to terminals of different widths, and where there is none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

termios = pytest.importorskip("termios")

TRAIN = """
import numpy as np
from quernel import nn
net = nn.Sequential(nn.Linear(4, 2))
net.compile(metrics=["accuracy"])
net.fit(np.ones((40, 4)), np.zeros(40, int), epochs=2, validation_split=0.5)
"""


@pytest.mark.parametrize("columns", [0, 40, 200])
def test_the_numbers_of_an_epoch_are_whole_on_any_terminal(columns: int) -> None:
    main, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    with os.fdopen(main, "rb", buffering=0) as screen:
        child = subprocess.Popen([sys.executable, "-c", TRAIN], stderr=terminal)
        os.close(terminal)
        text = b""
        try:
            while block := screen.read(1024):
                text += block
        except OSError:  # how Linux says that nobody writes to the terminal any more
            pass
        assert child.wait() == 0
    lines = text.decode().replace("\r", "\n").split("\n")
    numbers = [line for line in lines if "val_accuracy" in line]
    assert [line[:9] for line in numbers] == ["epoch 1/2", "epoch 2/2"]
    assert all("|" not in line and len(line.split()[-1]) == len("1.0000") for line in numbers)
    assert any("%|" in line for line in lines) == (columns > 0)


def test_there_is_a_line_for_each_epoch_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True)
    assert done.stdout == "" and [line[:9] for line in done.stderr.splitlines()] == ["epoch 1/2", "epoch 2/2"]
