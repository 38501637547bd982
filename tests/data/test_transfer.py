"""Transfer: plain digits are those of the training part, and each way trains what it says."""

from __future__ import annotations

import numpy as np
import pytest

from quernel.data import load_digits
from quernel.data.tasks import cluttered_digits
from quernel.data.tasks import transfer as task
from quernel.data.tasks.__main__ import main
from tests.test_training import state


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_CACHE", "off")
    monkeypatch.setattr(cluttered_digits, "_CHUNK", 100)


def test_plain_digits_repeat_and_hold_no_digit_of_the_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    digits, labels = load_digits()
    before = task.plain_digits(40, 0)
    assert before.shape == (40, 32, 32, 3) and not np.array_equal(before, task.plain_digits(40, 1))
    digits[cluttered_digits.sources(0)[1]] = 0.5
    monkeypatch.setattr(task, "load_digits", lambda: (digits, labels))
    np.testing.assert_array_equal(task.plain_digits(40, 0), before)


def test_plain_digits_are_plain() -> None:
    """One colour all around, one digit that is there."""
    images = task.plain_digits(100, 0).astype(int)
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == corners[:, :1]).all()
    assert ((images != corners[:, :1, None]).any(-1).mean((1, 2)) > 0.05).all()


def test_each_way_trains_what_it_says() -> None:
    data = task.load(100, 40, 20)
    source = state(task.source_net(data, 0, 0))
    assert list(data.bodies) == [0]
    for way, moves in [(task.SCRATCH, "both"), (task.FROZEN, "head"), (task.TUNED, "both")]:
        net, groups = task.prepared(data, way, 0)
        net.predict(data.target.x[:1])  # the head takes its size
        first = state(net)
        same = [name for name in first if name != "7.bias" and first[name] == source[name]]
        assert ("0.weight" in same) == (way != task.SCRATCH) and "7.weight" not in same
        optimizer, arguments = task.RECIPE.arguments(net, 40, 1, groups)
        net.compile(optimizer)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [0.05, 0.05 * task.BODY_RATE][: len(groups)]
        net.fit(data.target.x, data.target.y, verbose=0, **arguments)
        last = state(net)
        moved = {name for name in last if last[name] != first[name]}
        assert moved == ({"7.weight", "7.bias"} if moves == "head" else set(last))
        assert len({group["lr"] for group in optimizer.param_groups}) == len(groups)
    assert list(data.bodies) == [0]  # trained once


def test_the_command_compares(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transfer", "--quick"]) == 0
    rows = capsys.readouterr().out.splitlines()[-8:]
    for name in ("linear", "the net of plain digits as it is", *(f"net, {way}" for way in task.WAYS)):
        assert any(row.startswith(name) for row in rows)
