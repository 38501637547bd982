"""summary(): the numbers, the table, and who prints."""

from __future__ import annotations

import pytest

import quernel as qn
from quernel import compress, nn
from quernel.errors import ArgumentError
from quernel.graph import Summary
from tests.models import MODELS, SHAPE, images, make


def test_numbers_of_a_chain(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding="same"), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(None, 10)),
    )
    summary = net.summary(input_shape=(28, 28, 1))
    assert capsys.readouterr().out == f"{summary}\n"
    assert [row.kind for row in summary.rows] == [type(m).__name__ for m in net]
    rows = {row.name: row for row in summary.rows}
    assert rows["0"].output == "(N, 28, 28, 32)"
    assert rows["0"].parameters == 9 * 32 + 32
    assert rows["0"].macs == 28 * 28 * 9 * 32
    assert rows["1"].parameters == 64
    assert rows["1"].nbytes == 4 * 32 * 4
    assert rows["6"].parameters == 14 * 14 * 32 * 10 + 10
    assert rows["6"].macs == 14 * 14 * 32 * 10
    assert summary.parameters == sum(p.size for p in net.parameters())
    assert summary.macs == rows["0"].macs + rows["6"].macs
    assert summary.nbytes == 4 * (summary.parameters + 64)
    assert net[6].in_features == 14 * 14 * 32
    text = str(summary)
    assert f"{summary.parameters:,} parameters" in text
    assert len({len(line) for line in text.splitlines()[2:3] + text.splitlines()[-2:-1]}) == 1


def test_every_layer_goes_by_its_name() -> None:
    layers = (
        *(
            nn.Conv2d(3, 6, 3),
            nn.ReflectionPad2d(1),
            nn.ConstantPad2d(1, 2),
            nn.InstanceNorm2d(6),
            nn.GroupNorm(2),
        ),
        *(
            nn.Upsample(scale_factor=2),
            nn.AdaptiveAvgPool2d(4),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveMaxPool2d(2),
        ),
        *(nn.Flatten(), nn.LayerNorm(), nn.Linear(24, 5), nn.BatchNorm1d(), nn.RMSNorm()),
    )
    summary = nn.Sequential(*layers).summary(input_shape=(8, 8, 3), show=False)
    assert [row.kind for row in summary.rows] == [type(m).__name__ for m in layers]
    assert {row.name: row.parameters for row in summary.rows if row.parameters} == {
        "0": 9 * 3 * 6 + 6, "4": 12, "10": 48, "11": 24 * 5 + 5, "12": 10, "13": 5,
    }  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_any_graph(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    net = make(name)
    summary = net.summary(show=False)
    assert capsys.readouterr().out == ""
    assert isinstance(summary, Summary)
    assert summary.parameters == sum(p.size for p in net.parameters())
    assert summary.nbytes == 4 * sum(
        t.size for t in {id(t): t for t in (*net.parameters(), *net.buffers())}.values()
    )


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(4, 4)
    summary = nn.Sequential(layer, nn.ReLU(), layer).summary(4, show=False)
    assert [row.parameters for row in summary.rows] == [20, 0, 0]
    assert [row.macs for row in summary.rows] == [16, 0, 16]


def test_a_quantized_model_shows_what_runs_in_float() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: qn.Tensor) -> qn.Tensor:
            return self.b(qn.ops.exp(self.a(x)))

    summary = compress.quantize(Mixed(), calibration=images(8)).summary(show=False)
    kinds = [row.kind for row in summary.rows]
    assert kinds == ["quantize", "qconv2d", "exp", "quantize", "qconv2d"]
    assert [row.dtype for row in summary.rows] == ["uint8", "float32", "float32", "uint8", "float32"]
    assert summary.parameters == 0
    assert summary.macs == 8 * 8 * (27 * 4 + 4 * 2)
    assert summary.nbytes == (27 * 4 + 4 * 2) + 2 * 4 * (4 + 2)


def test_an_unknown_shape_is_asked_for() -> None:
    with pytest.raises(ArgumentError, match="input_shape"):
        nn.Sequential(nn.Conv2d(3, 4, 3)).summary()
    assert nn.Sequential(nn.Conv2d(3, 4, 3)).summary(SHAPE, show=False).parameters == 112
