"""The demo: its accuracy over every image and several seeds, and what one run writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import cli, demo

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_over_all_images(seed: int) -> None:
    """5 folds: each of the 1797 images is tested once. fp32 >= 98 %, int8 within 0.3 points of it."""
    right = {"fp32": 0, "int8": 0}
    images = 0
    for fold in range(demo.FOLDS):
        digits = demo.split(fold, seed)
        net, _ = demo.train(digits, seed=seed)
        models = {"fp32": net, "int8": demo.quantize(net, digits)}
        for name, model in models.items():
            right[name] += int(np.sum(model.freeze()(digits.x_test).argmax(1) == digits.y_test))
        images += len(digits.x_test)
    assert images == 1797
    assert right["fp32"] / images >= 0.98
    assert abs(right["fp32"] - right["int8"]) / images <= 0.003


def test_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["demo", "--out", str(out), "--epochs", "1", "--seed", "3"]) == 0
    text = capsys.readouterr().out
    rows = {
        line[:10]: line[10:].split()
        for line in text.splitlines()
        if line[:10] in ("fp32 eager", "fp32 plan ", "int8 plan ")
    }
    assert len(rows) == 3
    assert rows["fp32 eager"][0] == rows["fp32 plan "][0]  # the same accuracy
    assert sorted(p.name for p in out.iterdir()) == [
        "digits-fp32.safetensors",
        "digits-int8.safetensors",
        "training.png",
    ]
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    digits = demo.split(seed=3)
    for kind in ("fp32", "int8"):
        model = qn.load(out / f"digits-{kind}.safetensors")
        share = demo.accuracy(model.freeze(), digits)
        assert f"{share:.2%}" == rows[f"{kind} plan "][0]
    sizes = [(out / f"digits-{kind}.safetensors").stat().st_size for kind in ("fp32", "int8")]
    assert sizes[1] < sizes[0] / 2.5
