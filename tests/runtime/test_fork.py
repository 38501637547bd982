"""A child process starts with a pool of its own, whatever the parent's was doing."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROLOGUE = """
import os, signal, sys, threading, time
import numpy as np
from quernel import _core

_core.set_num_threads(2)
a = _core.from_numpy(np.random.default_rng(0).standard_normal((200, 210)).astype(np.float32))
b = _core.from_numpy(np.random.default_rng(1).standard_normal((210, 220)).astype(np.float32))
expected = a.numpy().astype(np.float64) @ b.numpy().astype(np.float64)

def works():
    for _ in range(20):
        _core.pool_calls(1, 16, 5_000)
        assert np.abs(_core.matmul(a, b).numpy() - expected).max() < 1e-3

def child(ending=os._exit):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(20)
    assert _core.num_threads() == 2
    works()
    ending(7)

def check(pid):
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7, hex(status)
"""

CASES = {
    "before use": "check(child()); works()",
    "after use": "works(); check(child()); works()",
    "after use, the child exits as Python does": "works(); check(child(sys.exit))",
    "child of a child": """
works()
pid = os.fork()
if not pid:
    signal.alarm(30)
    works()
    check(child())
    os._exit(7)
check(pid)
""",
    "while another thread works": """
stop = False
def work():
    while not stop:
        _core.pool_calls(3, 64, 5_000)
worker = threading.Thread(target=work, daemon=True)
worker.start()
for _ in range(15):
    check(child())
    time.sleep(0.003)
stop = True
worker.join()
works()
""",
    "in a signal handler that runs inside a call": """
children = []
signal.signal(signal.SIGALRM, lambda *_: children.append(child()))
signal.setitimer(signal.ITIMER_REAL, 0.1)
while not children:
    _core.pool_calls(1, 50_000, 20_000)
check(children[0])
works()
""",
}


@pytest.mark.parametrize("script", CASES.values(), ids=CASES.keys())
def test_fork(script: str) -> None:
    # From Python 3.12 on, forking beside threads warns: this is about what happens to those who do it nevertheless.
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _PROLOGUE + script],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
