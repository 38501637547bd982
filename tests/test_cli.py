"""The command line, run in this process; one test runs the installed command's entry point in another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import cli, nn


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small classifier of points in a plane, and data for it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
    np.save(tmp_path / "x.npy", x[:7])
    qn.seed(0)
    nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)).save(tmp_path / "net.safetensors")
    return tmp_path


def run(*args: object) -> int:
    return cli.main([str(a) for a in args])


def test_info_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", "--kernels") == 0
    out = capsys.readouterr().out
    for word in (qn.__version__, qn.runtime.active_isa(), "threads:", "cuda:", "numpy", "kernels:"):
        assert word in out
    for kernel, level in qn.runtime.kernel_coverage().items():
        assert any(line.split() == [kernel, level] for line in out.splitlines())


def test_info_of_a_model_says_what_it_needs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", folder / "net.safetensors", "--input-shape", "2") == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["parameters"].strip() == "82"
    assert lines["weights"].split() == ["0.3", "KiB"]
    assert float(lines["packed"].split()[0]) > 0
    assert lines["batch 64"].split()[:2] == ["4.0", "KiB"]  # one hidden layer of 16


@pytest.mark.parametrize("name", ["LSTMLanguageModel", "TransformerLanguageModel"])
def test_info_names_the_vocabulary(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = getattr(qn.models, name)(5, 8)
    net.vocabulary = qn.text.CharVocabulary("abc")
    net.save(tmp_path / "net.safetensors", input_shape=(7,))
    assert run("info", tmp_path / "net.safetensors") == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["vocabulary"].strip() == "CharVocabulary(5 tokens, <pad> 0, <unk> 1)"
    assert lines["parameters"].strip() == f"{sum(p.size for p in net.parameters()):,}"


def test_train_eval_predict_and_compress(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, out = folder / "net.safetensors", folder / "trained.safetensors"
    assert run("train", net, folder / "data.npz", "--out", out, "--epochs", 15, "--batch-size", 16) == 0
    capsys.readouterr()
    assert run("eval", out, folder / "data.npz") == 0
    lines = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert float(lines["accuracy"]) > 0.9
    assert run("compress", out, folder / "data.npz", "--out", folder / "small.safetensors") == 0
    for model in (out, folder / "small.safetensors"):
        assert run("predict", model, folder / "x.npy", "--out", folder / "y.npy") == 0
        y = np.load(folder / "y.npy")
        np.testing.assert_array_equal(y, qn.load(model).predict(np.load(folder / "x.npy")))
    capsys.readouterr()
    assert run("eval", folder / "small.safetensors", folder / "data.npz") == 0
    assert "accuracy" in capsys.readouterr().out
    assert run("summary", out) == 0
    assert "82 parameters" in capsys.readouterr().out


def test_training_repeats(folder: Path) -> None:
    for name in ("a", "b"):
        run("train", folder / "net.safetensors", folder / "data.npz", "--out", folder / name, "--epochs", 2)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


def test_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, data = folder / "net.safetensors", folder / "data.npz"
    (folder / "bad.safetensors").write_bytes(net.read_bytes()[:-3])
    np.savez(folder / "unnamed.npz", np.zeros(3))
    for args, part in [
        (("eval", folder / "none.safetensors", data), "none.safetensors"),
        (("eval", folder / "bad.safetensors", data), "checksum"),
        (("eval", net, folder / "unnamed.npz"), "has no array x and y"),
        (("eval", net, folder / "x.npy"), "x.npy: holds a single array; needed is an .npz file with x and y"),
        (("eval", net, data, "--loss", "hinge"), "hinge"),
        (("train", net, data, "--epochs", 1, "--out", folder / "none" / "a.safetensors"), "no folder"),
        (
            ("predict", net, folder / "bad.safetensors", "--out", folder / "y.npy"),
            "bad.safetensors: is no .npy or .npz",
        ),
        (("summary", net), "pass input_shape="),
    ]:
        assert run(*args) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert part in captured.err
        assert captured.err.startswith(f"quernel {args[0]}: ")
        assert captured.err.count("\n") == 1


def test_a_missing_extra_gives_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    assert run("demo") == 1
    assert (
        capsys.readouterr().err
        == "quernel demo: needs matplotlib; install with: pip install 'quernel[demo]'\n"
    )


@pytest.mark.parametrize(
    "command", [[], ["train"], ["demo"], ["predict"], ["compress"], ["eval"], ["summary"], ["info"]]
)
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(*command, "--help")
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: quernel")
    assert "SUPPRESS" not in text and "None" not in text


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (
        [],
        ["frobnicate"],
        ["train", "a", "b", "--out", "c", "--epochs", "0"],
        ["summary", "a", "--input-shape", "x"],
    ):
        with pytest.raises(SystemExit) as exit_:
            run(*args)
        assert exit_.value.code == 2
        assert "usage: quernel" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1", "abc", "1.5"])
def test_counts_are_whole_and_positive(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("profile", "net.safetensors", f"--batch-size={count}")
    assert (
        f"argument --batch-size: must be a whole number of at least 1, got {count}" in capsys.readouterr().err
    )


def test_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quernel", "info"], capture_output=True, text=True, check=True
    )
    assert "isa:" in done.stdout
    assert done.stderr == ""


def test_a_bad_environment_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "quernel", "info"],
        capture_output=True,
        text=True,
        env={**os.environ, "QUERNEL_ISA": "foo"},
        check=False,
    )
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("quernel: [isa] unknown level 'foo'") and result.stderr.count("\n") == 1
