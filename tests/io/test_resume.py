"""Stopping and going on: a run that was saved and loaded is the run that never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel import losses, nn, optim
from quernel.errors import ArgumentError, CorruptFileError
from quernel.io import load_optimizer
from tests.models import images, make

MAKERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: optim.Adam(p, lr=0.01, betas=(0.8, 0.99)),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def steps(net: nn.Module, opt: optim.Optimizer, begin: int, end: int) -> None:
    net.train()
    for step in range(begin, end):
        opt.zero_grad()
        losses.cross_entropy(net(images(6, seed=step)), np.arange(6) % 5).backward()
        opt.step()


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["plain", "branches"])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, name: str, tmp_path: Path) -> None:
    whole = make(name)
    qn.seed(2)
    opt = MAKERS[kind](whole.parameters())
    steps(whole, opt, 0, 3)
    whole.save(tmp_path / "run", optimizer=opt)
    steps(whole, opt, 3, 6)

    qn.seed(99)
    net = qn.load(tmp_path / "run")
    again = MAKERS[kind](net.parameters())
    again.lr = 7.0
    load_optimizer(tmp_path / "run", again)
    steps(net, again, 3, 6)
    expected = whole.state_dict()
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), expected[key].numpy(), err_msg=key)


def test_refusals(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    opt = optim.Adam(net.parameters(), lr=0.5)
    net.save(tmp_path / "plain")
    net.save(tmp_path / "adam", optimizer=opt)
    with pytest.raises(ArgumentError, match="holds no optimizer"):
        load_optimizer(tmp_path / "plain", opt)
    sgd = optim.SGD(net.parameters(), lr=0.25)
    with pytest.raises(ArgumentError, match="the state of Adam, not of SGD"):
        load_optimizer(tmp_path / "adam", sgd)
    assert sgd.lr == 0.25
    other = optim.Adam(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).parameters())
    with pytest.raises(ArgumentError, match="parameters"):
        load_optimizer(tmp_path / "adam", other)
    blob = bytearray((tmp_path / "adam").read_bytes())
    blob[-5] ^= 1
    (tmp_path / "adam").write_bytes(blob)
    with pytest.raises(CorruptFileError):
        load_optimizer(tmp_path / "adam", opt)
