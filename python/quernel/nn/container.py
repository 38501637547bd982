"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

from quernel import recording
from quernel.errors import ShapeError
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


class ModuleList(Module):
    """A list whose modules are registered under their positions; it has no forward of its own.

    Example:
        >>> layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
        >>> len(list(layers.parameters()))
        6
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def append(self, module: Module) -> None:
        """Adds a module at the end."""
        self.add_module(str(len(self)), _checked("module_list", module))

    def extend(self, modules: Iterable[Module]) -> None:
        """Adds modules at the end."""
        for module in modules:
            self.append(module)

    def __len__(self) -> int:
        return len(_members(self))

    def __iter__(self) -> Iterator[Module]:
        return iter(_members(self).values())

    def __getitem__(self, index: int) -> Module:
        return list(_members(self).values())[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(_members(self))[index], _checked("module_list", module))


class ModuleDict(Module):
    """A dictionary whose modules are registered under their keys; it has no forward of its own."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, _checked("module_dict", module))

    def __getitem__(self, name: str) -> Module:
        return _members(self)[name]

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


class Sequential(Module):
    """Modules one after the other, named by position, or by the keys of a dictionary.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> net(np.ones((1, 4))).shape
        (1, 2)
        >>> net[-1]
        Linear(8, 2)
    """

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

    def append(self, module: Module) -> Sequential:
        """Adds a module at the end; returns self."""
        self.add_module(str(len(_members(self))), _checked("sequential", module))
        return self

    def __len__(self) -> int:
        return len(_members(self))

    def __iter__(self) -> Iterator[Module]:
        return iter(_members(self).values())

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return Sequential(dict(list(_members(self).items())[index]))
        return list(_members(self).values())[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(list(_members(self))[index], _checked("sequential", module))


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
