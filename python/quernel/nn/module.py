"""The base class of layers and models.

Attributes live where Python puts them, in the instance's ``__dict__``, so reading one costs what it always costs;
``__setattr__`` keeps three registries (parameters, buffers, submodules) beside it. Every change of an attribute counts
``_version`` up: a plan recorded from a module remembers the counts of it and of all below it, and records anew after a
change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from quernel import ops, recording
from quernel.errors import ArgumentError, DTypeError
from quernel.nn.hooks import Hookable
from quernel.nn.parameter import Parameter
from quernel.nn.verbs import Verbs
from quernel.ops.create import from_cuda
from quernel.ops.dtypes import FLOATING, INTEGER
from quernel.ops.op import current_tracer
from quernel.runtime import default_device
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.text import Vocabulary

_Member = TypeVar("_Member")


class Module(Verbs, Hookable):
    """A piece of a network: parameters, buffers, submodules, and a ``forward`` that uses them.

    Assigning a `Parameter` or a module to an attribute registers it. Calling the module casts numbers (tensors and
    arrays, integers too, such as images of uint8; not bool) to the dtype of its parameters and runs ``forward``. A call
    that fails leaves parameters, buffers and sizes as they were.

    Attributes:
        takes_integers: set it on a class whose ``forward`` wants integers, such as labels; they then reach it, and
            every module that contains it, as they are.
        vocabulary: of a model of texts, if it is given one; `save` writes it into the model's file.

    Example:
        >>> class Twice(nn.Module):
        ...     def __init__(self, features):
        ...         self.linear = nn.Linear(features, features)
        ...     def forward(self, x):
        ...         return self.linear(self.linear(x))
        >>> sorted(name for name, _ in Twice(3).named_parameters())
        ['linear.bias', 'linear.weight']
    """

    _parameters: dict[str, Parameter]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module]
    _version: int
    _unsaved: set[str]
    _session: dict[str, Any]  # what compile and predict have made; no part of the model
    takes_integers: bool = False
    vocabulary: Vocabulary | None = None
    _has_precision: bool = False  # whether `compile` sets the attribute `precision`
    _float: str = "float32"  # dtype of buffers made later

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ARG004
        # Here rather than in __init__, so that a subclass need not call super().__init__().
        self = super().__new__(cls)
        self.__dict__.update(
            _parameters={}, _buffers={}, _modules={}, _unsaved=set(), _version=0, _training=True, _session={}
        )
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the output; every subclass defines it."""
        raise NotImplementedError(f"[module] {type(self).__name__} defines no forward(self, x)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recording.in_transaction():  # inside another module's call
            return self._call(args, kwargs)
        with recording.transaction():  # a call that fails leaves statistics and sizes as they were
            return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recording.guard_structure(self)
        args = tuple([self._as_input(arg) for arg in args])
        if kwargs:
            kwargs = {name: self._as_input(value) for name, value in kwargs.items()}
        run = self.forward if self._hooks is None else functools.partial(self._hooks.run, self)
        tracer = current_tracer()
        if tracer is None:
            result = run(*args, **kwargs)
        else:
            with tracer.scope(self):
                result = run(*args, **kwargs)
        if "_first_inputs" not in self.__dict__:  # now, that they are known to fit
            self._note_inputs(args)
        return result

    @property
    def _structure(self) -> tuple[int, ...]:
        """Changes with every attribute set here or below."""
        return tuple([module._version for module in self.modules()])

    def _note_inputs(self, args: tuple[Any, ...]) -> None:
        """Remembers the first inputs, from which `summary`, `freeze` and `save` take shapes when not given any."""
        if args and all(isinstance(arg, Tensor) and not arg.is_traced for arg in args):
            self.__dict__["_first_inputs"] = [(arg.shape, arg.dtype) for arg in args]
            recording.on_rollback(lambda: self.__dict__.pop("_first_inputs", None))

    def _as_input(self, value: Any) -> Any:
        """Arrays become tensors; numbers get the dtype of the parameters."""
        if not isinstance(value, Tensor):
            if (shared := from_cuda(value)) is not None:
                value = Tensor(shared).to(self.device)
            elif isinstance(value, np.ndarray) or hasattr(value, "__array__"):
                value = ops.as_tensor(self._as_array(value)).to(self.device)
            else:
                return value
        dtype, wanted = value.dtype, self.dtype
        if dtype in (wanted, "bool") or (dtype not in FLOATING and self._has_integers()):
            return value
        return value.astype(wanted) if wanted in FLOATING else value

    def _as_array(self, value: Any) -> Any:
        """An array of a dtype that layers compute in: float16 as the parameters' dtype, other integers in a wider one."""
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        if array.dtype == np.float16:
            return array.astype(self._input_dtype() or "float32")
        if array.dtype.kind in "iu" and array.dtype.name not in INTEGER:
            return array.astype(np.int64)
        return array

    def _input_dtype(self) -> str | None:
        """The floating-point dtype that inputs are cast to; None leaves them as they are."""
        dtype = self.dtype
        return dtype if dtype in FLOATING else None

    def _has_integers(self) -> bool:
        """Whether integers are meant as such here or somewhere below."""
        return any(module.takes_integers for module in self.modules())

    # ---- attributes -------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training":
            object.__setattr__(self, name, value)
            return
        self._check_kind(name, value)
        registry: dict[str, Any] | None = None
        if isinstance(value, Parameter):
            registry = self._parameters
        elif isinstance(value, Module):
            registry = self._modules
        elif name in self._buffers and (value is None or isinstance(value, Tensor)):
            registry = self._buffers
        for other in (self._parameters, self._buffers, self._modules):
            if other is not registry:
                other.pop(name, None)
        if registry is not None:
            registry[name] = value
        object.__setattr__(self, name, value)
        self._changed(name)

    def _check_kind(self, name: str, value: Any) -> None:
        """Refuses what would silently take a parameter, a buffer or a submodule out of the model."""
        if value is None or isinstance(value, Parameter | Module):
            return
        place = f"[module] {type(self).__name__}.{name}"
        if name in self._parameters:
            raise DTypeError(
                f"{place} is a parameter, got {type(value).__name__}; write values with module.{name}[...] = values "
                f"(under qn.no_grad()), or assign nn.Parameter(values)"
            )
        if name in self._modules:
            raise DTypeError(f"{place} is a module, got {type(value).__name__}; assign a module or None")
        if name in self._buffers and not isinstance(value, Tensor):
            raise DTypeError(f"{place} is a buffer, got {type(value).__name__}; assign a tensor or None")

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            registry.pop(name, None)
        object.__delattr__(self, name)
        self._changed(name)

    def _changed(self, name: str) -> None:
        # After the change: whoever looks at guards again, because of it, must see the new state.
        self.__dict__["_version"] += 1
        recording.host_write(f"{type(self).__name__}.{name}")

    def register_buffer(self, name: str, value: Tensor | None, persistent: bool = True) -> None:
        """Adds a tensor that belongs to the module's state but is not trained (BatchNorm's running mean).

        Args:
            name: attribute under which it is read.
            value: the tensor, or None until its size is known.
            persistent: whether ``state_dict`` contains it.
        """
        self._buffers[name] = value
        if not persistent:
            self.__dict__["_unsaved"].add(name)
        setattr(self, name, value)

    def _exact(self, name: str) -> Tensor:
        """What `to` makes a floating buffer of another dtype of: tables that follow from arguments are worked out anew in float64."""
        return getattr(self, name).detach()  # type: ignore[no-any-return]

    def register_parameter(self, name: str, value: Parameter | None) -> None:
        """Same as assigning to the attribute `name`."""
        setattr(self, name, value)

    def add_module(self, name: str, module: Module) -> None:
        """Same as assigning to the attribute `name`; a container's names need not be identifiers.

        Raises:
            ArgumentError: the name has a dot in it, is empty, or is already that of a method or another attribute.
        """
        if not name or "." in name:
            raise ArgumentError(f"[module] a module's name is a text without dots, got {name!r}")
        if name not in self._modules and hasattr(self, name) and getattr(self, name) is not None:
            raise ArgumentError(
                f"[module] {type(self).__name__}.{name} is there already, choose another name"
            )
        setattr(self, name, module)

    # ---- traversal --------------------------------------------------------------------------------------------------

    def children(self) -> Iterator[Module]:
        """Direct submodules."""
        return iter(self._modules.values())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Direct submodules with their attribute names."""
        return iter(self._modules.items())

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """This module (named `prefix`) and all below it, parents first, with dotted names."""
        return self._walk(prefix, set() if remove_duplicate else None)

    def _walk(self, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, Module]]:
        if seen is not None:
            if id(self) in seen:
                return
            seen.add(id(self))
        yield prefix, self
        for name, child in self._modules.items():
            yield from child._walk(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _members(
        self,
        registry: Callable[[Module], Mapping[str, _Member | None]],
        prefix: str,
        recurse: bool,
        unique: bool,
    ) -> Iterator[tuple[str, _Member]]:
        seen: set[int] = set()
        for path, module in self._walk(prefix, set() if unique else None) if recurse else [(prefix, self)]:
            for name, member in registry(module).items():
                if member is None or (unique and id(member) in seen):
                    continue
                seen.add(id(member))
                yield f"{path}.{name}" if path else name, member

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Parameters with dotted names; a shared one appears once, under its first name."""
        return self._members(lambda module: module._parameters, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Parameters of this module and of all below it, each once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Buffers with dotted names."""
        return self._members(lambda module: module._buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Buffers of this module and of all below it, each once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def get_submodule(self, path: str) -> Module:
        """The module with a dotted name; ``""`` is this one."""
        module = self
        for name in path.split(".") if path else []:
            if name not in module._modules:
                raise AttributeError(
                    f"[module] {type(module).__name__} has no submodule {name!r} (of {path!r})"
                )
            module = module._modules[name]
        return module

    def get_parameter(self, path: str) -> Parameter:
        """The parameter with a dotted name."""
        parent, _, name = path.rpartition(".")
        module = self.get_submodule(parent)
        if name not in module._parameters:
            raise AttributeError(f"[module] {type(module).__name__} has no parameter {name!r} (of {path!r})")
        return module._parameters[name]

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Calls `function` on every module below this one, children first, then on this one; returns self."""
        for child in self._modules.values():
            child.apply(function)
        function(self)
        return self

    # ---- state ------------------------------------------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether BatchNorm, Dropout and the like behave as in training; set by ``train`` and ``eval``."""
        value: bool = self.__dict__["_training"]
        recording.guard(self, "training", value)
        return value

    @training.setter
    def training(self, value: bool) -> None:
        self.__dict__["_training"] = bool(value)
        recording.host_write(f"{type(self).__name__}.training")

    def train(self, mode: bool = True) -> Self:
        """Sets training mode here and below; returns self."""
        for module in self.modules():
            if module.__dict__["_training"] != mode:
                module.training = mode
        return self

    def eval(self) -> Self:
        """Sets evaluation mode here and below; returns self."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freezes (False) or unfreezes every parameter here and below; returns self.

        What is frozen costs no backward pass and is no business of optimizers. ``fit`` also keeps the running statistics of
        a frozen BatchNorm, and normalizes by them; in loops by hand that takes ``.eval()``, as in PyTorch.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters; the next backward stores instead of adding."""
        for parameter in self.parameters():
            if not parameter.is_unsized:
                parameter.grad = None

    @property
    def dtype(self) -> str | None:
        """Element type of the first parameter; None without parameters."""
        for parameter in self._parameters.values():
            return parameter.dtype
        for child in self._modules.values():
            if (dtype := child.dtype) is not None:
                return dtype
        return None

    @property
    def device(self) -> str:
        """Where the first parameter lives; without parameters the first buffer; without either, where new tensors are made."""
        for parameter in self._parameters.values():
            return parameter.device
        for child in self._modules.values():
            if child.dtype is not None:
                return child.device
        for buffer in self.buffers():
            return buffer.device
        return default_device()

    def to(self, *args: str, device: str | None = None, dtype: str | None = None) -> Self:
        """Moves parameters and buffers to a device or a floating-point dtype, in place; returns self.

        Args:
            args: a device (``"cpu"``, ``"cuda"``, ``"auto"``) or a dtype (``"float64"``), in any order.
            device: ``"cuda"`` raises with the reason if there is none.
            dtype: ``"float32"`` or ``"float64"``.

        Example:
            >>> nn.Linear(2, 3).to("float64").weight.dtype
            'float64'
        """
        from quernel.nn import state

        state.move(self, args, device, dtype)
        return self

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, sharing their memory (copy with ``.numpy().copy()``).

        A shared parameter appears under each of its names.
        """
        from quernel.nn import state

        return state.state_dict(self, prefix)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True
    ) -> tuple[list[str], list[str]]:
        """Copies values into parameters and buffers; sizes left ``None`` are taken from the values.

        Args:
            state_dict: tensors or arrays by dotted name.
            strict: whether missing or unexpected names are an error.

        Returns:
            The missing and the unexpected names.

        Raises:
            ArgumentError: names differ and `strict`. Nothing has been written.
            ShapeError: shapes differ. Nothing has been written.
        """
        from quernel.nn import state

        return state.load_state_dict(self, state_dict, strict)

    # ---- copies and text --------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": {}}  # compiled steps belong to this object alone

    def extra_repr(self) -> str:
        """What stands between the parentheses of ``repr``."""
        return ""

    def __repr__(self) -> str:
        name, extra = type(self).__name__, self.extra_repr()
        if not self._modules:
            return f"{name}({extra})"
        lines = [extra] if extra else []
        lines += [f"({key}): {child!r}".replace("\n", "\n  ") for key, child in self._modules.items()]
        return f"{name}(\n" + "\n".join(f"  {line}" for line in lines) + "\n)"
