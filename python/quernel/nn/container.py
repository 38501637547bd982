"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from quernel import recording
from quernel.errors import ArgumentError, ShapeError
from quernel.nn.activation import activation as make_activation
from quernel.nn.linear import Identity
from quernel.nn.module import Module
from quernel.tensor import Tensor


def _members(module: Module) -> dict[str, Module]:
    """The modules in a container; a plan that they steer is tied to them."""
    recording.guard(module, "_version", module._version)
    return module._modules


def _checked(owner: str, module: Any) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"[{owner}] expects modules, got {type(module).__name__}: {module!r}")
    return module


class _Numbered(Module):
    """What `ModuleList` and `Sequential` share: modules in an order, with indices, slices and the methods of a list."""

    _owner = "module_list"

    def append(self, module: Module) -> Self:
        """Adds a module at the end; returns self."""
        number = len(self)
        while str(number) in self._modules:  # of a slice, which keeps its names
            number += 1
        self.add_module(str(number), _checked(self._owner, module))
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Adds modules at the end; returns self."""
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Puts a module before the one at `index`; returns self."""
        modules = list(self)
        modules.insert(index, _checked(self._owner, module))
        return self._replace(modules)

    def pop(self, index: int = -1) -> Module:
        """Takes a module out, and returns it."""
        module = self[index]
        del self[index]
        return module

    def __len__(self) -> int:
        return len(_members(self))

    def __iter__(self) -> Iterator[Module]:
        return iter(_members(self).values())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return self._slice(dict(list(_members(self).items())[index]))
        return _members(self)[self._name(index)]

    def _slice(self, named: dict[str, Module]) -> Self:
        """A container of the same kind with some of the modules."""
        raise NotImplementedError

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(self._name(index), _checked(self._owner, module))

    def __delitem__(self, index: int | slice) -> None:
        names = list(_members(self))
        gone = names[index] if isinstance(index, slice) else [self._name(index)]
        modules = [self._modules[name] for name in names if name not in gone]
        if all(map(str.isdecimal, names)):
            self._replace(modules)
        else:  # names of the user's stay
            for name in gone:
                delattr(self, name)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, modules: Iterable[Module]) -> Self:
        return self[:].extend(modules)

    def _name(self, index: int) -> str:
        names = list(_members(self))
        try:
            return names[index]
        except IndexError:
            raise IndexError(f"[{self._owner}] index {index} of {len(names)} modules") from None

    def _replace(self, modules: list[Module]) -> Self:
        """Has these modules, numbered anew, in place of those it has."""
        names = list(self._modules)
        if not all(map(str.isdecimal, names)):
            raise ArgumentError(
                f"[{self._owner}] the modules have names ({', '.join(names)}), which numbers would replace; build a new "
                "container"
            )
        for name in names:
            delattr(self, name)
        for i, module in enumerate(modules):
            self.add_module(str(i), module)
        return self


class ModuleList(_Numbered):
    """A list whose modules are registered under their positions; it has no forward of its own.

    Example:
        >>> layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        >>> len(list(layers.parameters()))
        6
        >>> layers.insert(1, nn.ReLU()).pop()
        Linear(2, 2)
        >>> [type(layer).__name__ for layer in layers[1:]]
        ['ReLU', 'Linear']
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def _slice(self, named: dict[str, Module]) -> Self:
        return type(self)(named.values())


class ModuleDict(Module):
    """A dictionary whose modules are registered under their keys; it has no forward of its own.

    Example:
        >>> table = nn.ModuleDict({"relu": nn.ReLU()})
        >>> table.update({"tanh": nn.Tanh(), "linear": nn.Linear(2, 2)})
        >>> table.pop("tanh")
        Tanh()
        >>> list(table)
        ['relu', 'linear']
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        self.update(modules or {})

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, _checked("module_dict", module))

    def __getitem__(self, name: str) -> Module:
        return _members(self)[name]

    def __delitem__(self, name: str) -> None:
        if name not in self._modules:
            raise KeyError(name)
        delattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in _members(self)

    def __len__(self) -> int:
        return len(_members(self))

    def __iter__(self) -> Iterator[str]:
        return iter(_members(self))

    def keys(self) -> Iterable[str]:
        """Names."""
        return _members(self).keys()

    def values(self) -> Iterable[Module]:
        """Modules."""
        return _members(self).values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return _members(self).items()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds modules, or replaces those of the same names."""
        given = dict(modules.items() if isinstance(modules, Mapping | ModuleDict) else modules)
        for module in given.values():
            _checked("module_dict", module)
        for name, module in given.items():
            self[name] = module

    def pop(self, name: str) -> Module:
        """Takes a module out, and returns it."""
        module = self[name]
        del self[name]
        return module

    def clear(self) -> None:
        """Takes all modules out."""
        for name in list(self._modules):
            del self[name]


class Sequential(_Numbered):
    """Modules one after the other, named by position, or by the keys of a dictionary.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net(np.ones((1, 4))).shape
        (1, 2)
        >>> net[-1]
        Linear(8, 2)
    """

    _owner = "sequential"

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        named: Iterable[tuple[str, Any]]
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = modules[0].items()
        else:
            named = ((str(i), module) for i, module in enumerate(modules))
        for name, module in named:
            self.add_module(name, _checked("sequential", module))

    def forward(self, x: Any) -> Any:
        """Applies the modules in order."""
        for module in self._modules.values():
            x = module(x)
        return x

    def _slice(self, named: dict[str, Module]) -> Any:
        return Sequential(named)


class Residual(Module):
    """y = activation(body(x) + shortcut(x)) (He et al. 2016).

    Args:
        body: the layers that are bypassed.
        shortcut: what brings x to the shape of the body's output, such as a 1x1 convolution; None is the identity.
        activation: "relu" or another activation's name, a module, or None.

    Example:
        >>> block = nn.Residual(nn.Conv2d(8, 8, 3, padding="same"), activation="relu")
        >>> block(np.ones((1, 5, 5, 8))).shape
        (1, 5, 5, 8)
    """

    def __init__(
        self, body: Module, shortcut: Module | None = None, activation: str | Module | None = None
    ) -> None:
        self.body = _checked("residual", body)
        self.shortcut = Identity() if shortcut is None else _checked("residual", shortcut)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Any:
        """Applies the block."""
        y, bypass = self.body(x), self.shortcut(x)
        if y.shape != bypass.shape:
            raise ShapeError(
                f"[residual] the body gives {y.shape}, the shortcut {bypass.shape}; "
                "pass shortcut= a module that brings x to the body's shape"
            )
        y = y + bypass
        return y if self.activation is None else self.activation(y)
