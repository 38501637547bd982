"""The benchmarks on CUDA run through, without peers; nothing is judged by time."""

from __future__ import annotations

from pathlib import Path

import pytest

import quernel as qn
from bench import peers
from bench.cuda import __main__ as command
from bench.cuda import timing
from tests.conftest import DEVICE


def test_operands_rotate_through_more_than_the_cache() -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    operands = timing.rotating(make, timing.L2_BYTES / 2)
    drawn = [operands() for _ in range(7)]
    assert len(made) == 3
    assert all(x is made[i % 3] for i, x in enumerate(drawn))
    assert timing.rotating(lambda: 1, 1.0)() == 1  # many copies at most


def test_without_cuda_it_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qn.runtime, "cuda_unavailable_reason", lambda: "there is no driver")
    assert command.main([]) == 1
    assert capsys.readouterr().err == "bench.cuda: there is no driver\n"


@pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA; python -m tests.gpu runs this")
def test_the_page_has_every_subject(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find", lambda _: None)
    page = tmp_path / "page.md"
    assert command.main(["--quick", "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert qn.runtime.config()["cuda"].split(";")[0] in text
    for line in (
        "## products",
        "| int8 33x48x40 |",
        "## convolutions",
        "| tf32 5x5x16 1x1->16 batch 2 |",
        "| mlp 8 batch 4 |",
        "## inference",
        "| mlp 8x4 batch 4 |",
    ):
        assert line in text
    assert "wrote" in capsys.readouterr().out
    assert not qn.runtime.allow_tf32()
