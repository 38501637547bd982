"""Recurrent layers: stacked, in one direction or both, over sequences (N, T, C)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from quernel import ops
from quernel.errors import ArgumentError, ShapeError
from quernel.nn import init
from quernel.nn.checks import in_unit_interval, operand, positive
from quernel.nn.parameter import Parameter
from quernel.nn.sized import SizedByInput, fill
from quernel.ops.recurrent import NONLINEARITIES
from quernel.tensor import Tensor

_RETURNS = ("all", "outputs", "last")


class _Recurrent(SizedByInput):
    """What RNN, LSTM and GRU share: parameters, and the walk over layers and directions."""

    takes_integers = True  # lengths
    _has_precision = True
    _size_name = "input_size"
    _op: ClassVar[Callable[..., tuple[Tensor, ...]]]
    _name: ClassVar[str]
    _gates: ClassVar[int]
    _states: ClassVar[tuple[str, ...]] = ("h0",)
    weight_ih_l0: Parameter

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        returns: str = "all",
        precision: str | None = None,
    ) -> None:
        if returns not in _RETURNS:
            raise ArgumentError(f"[{self._name}] returns is one of {_RETURNS}, got {returns!r}")
        self.input_size = None if input_size is None else positive(self._name, "input_size", input_size)
        self.hidden_size = positive(self._name, "hidden_size", hidden_size)
        self.num_layers = positive(self._name, "num_layers", num_layers)
        self.bias = bool(bias)
        self.dropout = in_unit_interval(self._name, "dropout", dropout)
        self.bidirectional = bool(bidirectional)
        self.returns = returns
        self.precision = precision
        for suffix in self._suffixes():
            for name in self._parameter_names(suffix):
                setattr(self, name, Parameter())
        self._size(input_size)

    @property
    def _directions(self) -> tuple[str, ...]:
        return ("", "_reverse") if self.bidirectional else ("",)

    def _suffixes(self) -> list[str]:
        return [f"_l{layer}{direction}" for layer in range(self.num_layers) for direction in self._directions]

    def _parameter_names(self, suffix: str) -> list[str]:
        kinds = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if self.bias else ()))
        return [kind + suffix for kind in kinds]

    def _build(self, channels: int) -> None:
        bound = 1 / math.sqrt(self.hidden_size)
        rows = self._gates * self.hidden_size
        for layer in range(self.num_layers):
            inputs = channels if layer == 0 else len(self._directions) * self.hidden_size
            shapes = ((rows, inputs), (rows, self.hidden_size), (rows,), (rows,))
            for direction in self._directions:
                for name, shape in zip(self._parameter_names(f"_l{layer}{direction}"), shapes, strict=False):
                    fill(getattr(self, name), shape, lambda p: init.uniform_(p, -bound, bound))

    def _channels_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        return shapes["weight_ih_l0"][-1]

    def _options(self) -> dict[str, Any]:
        """Further arguments of the op."""
        return {}

    def forward(self, x: Tensor, state: Any = None, lengths: Any = None) -> Any:
        """Runs the layers.

        Args:
            x: (N, T, input_size).
            state: What the layers begin with, 0 if None: h0, of an LSTM the pair (h0, c0), each (num_layers · directions,
                N, hidden_size), layer by layer, of each the forward direction first.
            lengths: Steps of each row, (N,) whole numbers; None: all.
        """
        x = ops.cast(operand(self._name, "x", x), self.weight_ih_l0.dtype)
        if lengths is not None:
            lengths = ops.as_tensor(lengths)
        begins = self._split_state(x, state)
        ends: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            if layer > 0 and self.dropout:
                x = ops.dropout(x, self.dropout, self.training)
            outputs = []
            for direction in self._directions:
                names = (
                    f"{kind}_l{layer}{direction}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                weights = [getattr(self, name, None) for name in names]
                options = {"reverse": direction != "", "precision": self.precision, **self._options()}
                y, *last = self._op(x, *weights, *begins[len(ends)], lengths, **options)
                outputs.append(y)
                ends.append(tuple(last))
            x = outputs[0] if len(outputs) == 1 else ops.concat(outputs, -1)
        if self.returns == "outputs":
            return x
        if self.returns == "last":
            final = [last[0] for last in ends[-len(self._directions) :]]
            return final[0] if len(final) == 1 else ops.concat(final, -1)
        stacked = tuple(ops.stack(list(states), 0) for states in zip(*ends, strict=True))
        return x, stacked if len(stacked) > 1 else stacked[0]

    def _split_state(self, x: Tensor, state: Any) -> list[list[Tensor | None]]:
        """The initial states of each layer and direction."""
        count = self.num_layers * len(self._directions)
        if state is None:
            return [[None] * len(self._states)] * count
        given = (state,) if len(self._states) == 1 else state
        if not isinstance(given, tuple | list) or len(given) != len(self._states):
            raise ArgumentError(
                f"[{self._name}] state is a pair ({', '.join(self._states)}), got {type(state).__name__}"
            )
        tensors = [
            ops.cast(operand(self._name, name, t), x.dtype)
            for name, t in zip(self._states, given, strict=True)
        ]
        expected = (count, x.shape[0], self.hidden_size)
        for name, t in zip(self._states, tensors, strict=True):
            if t.shape != expected:
                raise ShapeError(
                    f"[{self._name}] {name} is {t.shape}, expected (layers * directions, N, hidden) = {expected}"
                )
        return [[t[i] for t in tensors] for i in range(count)]

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.num_layers > 1:
            parts.append(f"num_layers={self.num_layers}")
        defaults = (
            ("bias", True),
            ("dropout", 0.0),
            ("bidirectional", False),
            ("returns", "all"),
            ("precision", None),
        )
        parts += [f"{k}={getattr(self, k)!r}" for k, default in defaults if getattr(self, k) != default]
        return ", ".join(parts)


class LSTM(_Recurrent):
    """Layers of long short-term memory, see `ops.lstm`.

    Parameters have PyTorch's names, order of gates and initial values (uniform in ±1/sqrt(hidden_size)): weight_ih_l0,
    weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, …, weight_ih_l1, … .

    Args:
        input_size: C; None takes it from the first input.
        hidden_size: size of the state.
        num_layers: how many; each takes the outputs of the one before.
        bias: whether there are biases.
        dropout: probability, in training, with which outputs of a layer that another one follows are zeroed.
        bidirectional: whether each layer has a second set of weights that walks from the end; outputs of both lie side by
            side.
        returns: "all", PyTorch's (outputs, last state); in an `nn.Sequential`, "outputs" alone, or "last", the last h of
            the last layer (N, directions · hidden_size), which lengths make that at each row's end.
        precision: "bf16" multiplies in bfloat16 with float32 sums, see `ops.lstm`; None in the dtype of the weights.

    Shapes:
        x (N, T, C), always batch first -> outputs (N, T, directions · hidden_size) and (h_n, c_n), each (num_layers ·
        directions, N, hidden_size).

    Example:
        >>> outputs, (h, c) = nn.LSTM(5, 8, num_layers=2)(np.ones((3, 7, 5)))
        >>> outputs.shape, h.shape
        ((3, 7, 8), (2, 3, 8))
        >>> nn.Sequential(nn.LSTM(None, 8, returns="last"), nn.Linear(8, 2))(np.ones((3, 7, 5))).shape
        (3, 2)
    """

    _op = staticmethod(ops.lstm)
    _name = "lstm"
    _gates = 4
    _states = ("h0", "c0")


class GRU(_Recurrent):
    """Layers of gated recurrent units, see `ops.gru`.

    Arguments, parameters and shapes are those of `LSTM`, but for the state, which is h_n alone.

    Example:
        >>> outputs, h = nn.GRU(5, 8, bidirectional=True)(np.ones((3, 7, 5)), lengths=np.array([7, 2, 4]))
        >>> outputs.shape, h.shape
        ((3, 7, 16), (2, 3, 8))
    """

    _op = staticmethod(ops.gru)
    _name = "gru"
    _gates = 3


class RNN(_Recurrent):
    """Layers of plain recurrent nets, see `ops.rnn`.

    Arguments, parameters and shapes are those of `LSTM`, but for the state, which is h_n alone.

    Args:
        nonlinearity: "tanh" or "relu".

    Example:
        >>> nn.RNN(5, 8, nonlinearity="relu", returns="outputs")(np.ones((3, 7, 5))).shape
        (3, 7, 8)
    """

    _op = staticmethod(ops.rnn)
    _name = "rnn"
    _gates = 1

    def __init__(
        self,
        input_size: int | None,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        returns: str = "all",
        precision: str | None = None,
    ) -> None:
        if nonlinearity not in NONLINEARITIES:
            raise ArgumentError(f"[rnn] nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size, hidden_size, num_layers,
            bias=bias, dropout=dropout, bidirectional=bidirectional, returns=returns, precision=precision,
        )  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {"nonlinearity": self.nonlinearity}

    def extra_repr(self) -> str:
        kind = f", nonlinearity={self.nonlinearity!r}" if self.nonlinearity != "tanh" else ""
        return super().extra_repr() + kind
