"""Lists and dictionaries of modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import nn
from quernel.errors import ArgumentError


def kinds(modules: Any) -> list[str]:
    return [type(module).__name__ for module in modules]


@pytest.mark.parametrize("make", [nn.ModuleList, lambda modules: nn.Sequential(*modules)])
def test_lists_have_the_methods_of_a_list(make: Any) -> None:
    layers = [nn.ReLU(), nn.Tanh(), nn.Linear(2, 2)]
    net = make(layers)
    assert net.append(nn.Sigmoid()) is net and net.extend([nn.GELU(), nn.SiLU()]) is net
    assert kinds(net) == ["ReLU", "Tanh", "Linear", "Sigmoid", "GELU", "SiLU"]
    assert net.insert(1, nn.Flatten()) is net and net.insert(-1, nn.Identity()) is net
    assert kinds(net) == ["ReLU", "Flatten", "Tanh", "Linear", "Sigmoid", "GELU", "Identity", "SiLU"]
    assert [name for name, _ in net.named_children()] == [str(i) for i in range(8)]
    assert [name for name, _ in net.named_parameters()] == ["3.weight", "3.bias"]
    assert type(net.pop()).__name__ == "SiLU" and type(net.pop(0)).__name__ == "ReLU"
    del net[-1]
    del net[0:2]
    assert kinds(net) == ["Linear", "Sigmoid", "GELU"] and net[0] is layers[2]
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    net += [nn.ReLU()]
    longer = net + [nn.Tanh()]  # noqa: RUF005
    assert kinds(longer) == [*kinds(net), "Tanh"] and type(longer) is type(net) and len(net) == 4
    assert kinds(net[1:3]) == ["Sigmoid", "GELU"] and type(net[1:3]) is type(net)
    assert kinds(reversed(list(net)))[0] == "ReLU" and layers[2] in list(net)
    net[-1] = nn.Identity()
    assert kinds(net)[-1] == "Identity"
    for index in (4, -5):
        with pytest.raises(IndexError, match=f"index {index} of 4 modules"):
            net[index]
        with pytest.raises(IndexError, match="of 4 modules"):
            del net[index]
    with pytest.raises(TypeError, match="expects modules, got int"):
        net.insert(0, 3)
    assert len(net) == 4


def test_a_slice_of_a_sequential_can_grow() -> None:
    tail = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())[1:].append(nn.GELU()).append(nn.SiLU())
    assert kinds(tail) == ["Tanh", "Sigmoid", "GELU", "SiLU"]
    assert kinds(tail.insert(0, nn.Identity())) == ["Identity", "Tanh", "Sigmoid", "GELU", "SiLU"]
    named = nn.Sequential({"a": nn.ReLU(), "b": nn.Tanh(), "c": nn.Sigmoid()})
    del named[1]
    assert list(dict(named.named_children())) == ["a", "c"]
    with pytest.raises(ArgumentError, match=r"the modules have names \(a, c\), which numbers would replace"):
        named.insert(0, nn.ReLU())


def test_dictionaries_have_the_methods_of_a_dictionary() -> None:
    table = nn.ModuleDict([("a", nn.ReLU()), ("b", nn.Linear(2, 3))])
    linear = table["b"]
    table.update({"c": nn.Tanh(), "a": nn.Sigmoid()})
    assert list(table) == ["a", "b", "c"] == list(table.keys()) and kinds(table.values())[0] == "Sigmoid"
    assert table.pop("b") is linear and "b" not in table and not list(table.parameters())
    del table["a"]
    for missing in ("a", "x"):
        with pytest.raises(KeyError):
            del table[missing]
        with pytest.raises(KeyError):
            table.pop(missing)
    table.update(nn.ModuleDict({"z": nn.ReLU()}))
    assert list(table) == ["c", "z"]
    table.clear()
    assert len(table) == 0
    with pytest.raises(TypeError, match="expects modules, got int"):
        table.update({"a": nn.ReLU(), "b": 3})  # type: ignore[dict-item]
    assert len(table) == 0


@pytest.mark.parametrize("name", ["items", "forward", "training", "a.b", ""])
def test_names_that_would_hide_something_are_refused(name: str) -> None:
    table = nn.ModuleDict()
    with pytest.raises(ArgumentError, match=r"is there already, choose another name|a text without dots"):
        table[name] = nn.ReLU()
    assert len(table) == 0 and table.training


def test_plans_follow_lists_and_dictionaries() -> None:
    layers, table = nn.ModuleList([nn.ReLU()]), nn.ModuleDict({"a": nn.Tanh()})

    def plain(x: qn.Tensor) -> qn.Tensor:
        for layer in layers:
            x = layer(x)
        for layer in table.values():
            x = layer(x)
        return x

    run, x = qn.jit(plain), np.linspace(-2, 2, 7, dtype=np.float32)

    def check() -> None:
        for _ in range(3):
            assert np.array_equal(run(x).numpy(), plain(qn.tensor(x)).numpy())

    check()
    for change in (
        lambda: layers.insert(0, nn.Sigmoid()),
        lambda: layers.pop(1),
        lambda: table.update({"b": nn.GELU()}),
        lambda: table.pop("a"),
        table.clear,
    ):
        change()
        check()
