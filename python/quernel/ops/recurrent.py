"""Recurrent layers: one direction of one layer, all its time steps in one call.

All steps are one native kernel, in which each row of the batch walks through time by itself, and backward through time
is another.

Sequences are (N, T, C). Weights lie as PyTorch's do: gates one below the other, i, f, g, o of an LSTM, r, z, n of a GRU.
Rows may differ in length; what lies behind a row's end is not read, and comes out as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, needs_grad, put_all_on_tape
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.compare import lt
from quernel.ops.create import arange, as_tensor
from quernel.ops.layout import unsqueeze
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast, native
from quernel.ops.shapes import (
    check_floating,
    check_lengths,
    check_precision,
    check_rank,
    check_same_dtype,
    spec_of,
    whole_number,
)
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
NONLINEARITIES = ("tanh", "relu")


def _specs(
    name: str, x: Any, weights: tuple[Any, Any], biases: tuple[Any, Any], states: dict[str, Any], lengths: Any,
    precision: str | None,
) -> tuple[Spec, Spec]:  # fmt: skip
    """Checks the operands; returns what the output and a state are."""
    a, ih, hh = spec_of(x), *map(spec_of, weights)
    check_rank(name, "x", a.shape, 3, "(N, T, C)")
    check_floating(name, "x", a.dtype)
    check_precision(name, precision, a.dtype)
    n, steps, features = a.shape
    if steps == 0:
        raise ShapeError(f"[{name}] x has no time steps (x: {a.shape}, (N, T, C))")
    check_rank(name, "weight_hh", hh.shape, 2, "(gates * hidden, hidden)")
    if hh.shape[1] == 0:
        raise ShapeError(
            f"[{name}] the state has no elements (weight_hh: {hh.shape}, (gates * hidden, hidden))"
        )
    hidden, rows = hh.shape[1], _GATES[name] * hh.shape[1]
    expected: dict[str, tuple[Any, tuple[int, ...]]] = {
        "weight_hh": (weights[1], (rows, hidden)),
        "weight_ih": (weights[0], (rows, features)),
        "bias_ih": (biases[0], (rows,)),
        "bias_hh": (biases[1], (rows,)),
        **{key: (state, (n, hidden)) for key, state in states.items()},
    }
    for key, (value, shape) in expected.items():
        if value is None:
            continue
        have = spec_of(value)
        if have.shape != shape:
            layout = "(N, hidden)" if key in states else "gates * hidden first"
            raise ShapeError(
                f"[{name}] {key} is {have.shape}, expected {shape}, {layout} (x: {a.shape}, weight_ih: {ih.shape}, "
                f"weight_hh: {hh.shape})"
            )
        check_same_dtype(name, "x", a.dtype, key, have.dtype)
    check_lengths(name, "lengths", lengths, n, f"x: {a.shape}")
    return Spec((n, steps, hidden), a.dtype), Spec((n, hidden), a.dtype)


def _maybe(x: TensorLike | None) -> Tensor | None:
    return None if x is None else as_tensor(x)


def _run(
    cell: str,
    reverse: bool,
    operands: tuple[Tensor | None, ...],
    lengths: TensorLike | None,
    precision: str | None,
) -> tuple[Tensor, ...]:
    """Runs the kernels on x, weight_ih, weight_hh, bias_ih, bias_hh, h0 and c0."""
    a, w_ih, w_hh, b_ih, b_hh, h, c = operands
    _specs(cell.partition("_")[0], a, (w_ih, w_hh), (b_ih, b_hh), {"h0": h, "c0": c}, lengths, precision)
    parts: list[Any] = [native(t) for t in operands]
    x, ih, hh, bias_ih, bias_hh, h0, c0 = parts
    ends = None if lengths is None else cast(as_tensor(lengths), "int64")._t
    save, in_bf16 = needs_grad(*operands), precision == "bf16"
    y, h_n, c_n, gates, cell_t = _core.recurrent(
        x, ih, hh, bias_ih, bias_hh, h0, c0, ends, cell, bool(reverse), save, in_bf16
    )
    results = (y, h_n) if c_n is None else (y, h_n, c_n)
    if not save:
        return tuple([Tensor(t) for t in results])
    want = [t is not None and bool(t._requires_grad) for t in operands]

    def backward(g: list[Tensor | None], *saved: Tensor | None) -> Gradients:
        kept: list[Any] = [native(t) for t in saved]
        x, ih, hh, h0, c0, ends, y, gates, cell_t = kept
        g_y, g_h, g_c = map(native, (*g, None)[:3])
        found = _core.recurrent_grad(
            x, ih, hh, h0, c0, ends, y, gates, cell_t, g_y, g_h, g_c, cell, bool(reverse), want[0], in_bf16
        )
        return [
            Tensor(t) if wanted and t is not None else None for wanted, t in zip(want, found, strict=True)
        ]

    return put_all_on_tape(results, operands, backward, (x, ih, hh, h0, c0, ends, y, gates, cell_t))


def _lstm_rule(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    h0: Any = None,
    c0: Any = None,
    lengths: Any = None,
    reverse: bool = False,  # noqa: ARG001
    precision: str | None = None,
) -> tuple[Spec, ...]:
    states = {"h0": h0, "c0": c0}
    y, state = _specs("lstm", x, (weight_ih, weight_hh), (bias_ih, bias_hh), states, lengths, precision)
    return y, state, state


@op(shape=_lstm_rule)
def lstm(
    x: TensorLike,
    weight_ih: TensorLike,
    weight_hh: TensorLike,
    bias_ih: TensorLike | None = None,
    bias_hh: TensorLike | None = None,
    h0: TensorLike | None = None,
    c0: TensorLike | None = None,
    lengths: TensorLike | None = None,
    reverse: bool = False,
    precision: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs a long short-term memory over sequences.

    With i, f, g, o = x_t·weight_ihᵀ + bias_ih + h·weight_hhᵀ + bias_hh, cut into four, a step makes
    ``c = sigmoid(f)·c + sigmoid(i)·tanh(g)`` and ``h = sigmoid(o)·tanh(c)``, which is output t. Hochreiter and
    Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, with the forget gate of Gers et al. 2000.

    Args:
        x: (N, T, C).
        weight_ih: (4 hidden, C).
        weight_hh: (4 hidden, hidden).
        bias_ih: (4 hidden,), 0 if None.
        bias_hh: Likewise.
        h0: The state to begin with, (N, hidden), 0 if None.
        c0: Likewise.
        lengths: Steps of each row, (N,) whole numbers from 1 to T; None: T. A row's outputs behind its end are 0, its last
            state is that at its end.
        reverse: Walks from each row's end to its beginning; outputs stay at the steps of their inputs.
        precision: "bf16" rounds the operands of both products (inputs and states with their weights), and of all those of
            the backward pass, to bfloat16; sums, states, gates and gradients stay float32. None multiplies in the dtype
            of the operands.

    Returns:
        The outputs (N, T, hidden) and the last h and c, (N, hidden).

    Raises:
        ShapeError: Shapes do not fit, or T is 0.
        DTypeError: The dtypes differ or are not floating, or not float32 with a `precision`, or lengths are no whole
            numbers.
        ArgumentError: A length is not in [1, T], or a precision that there cannot be.

    Example:
        >>> w = qn.ones((8, 2))
        >>> y, h, c = qn.ops.lstm(qn.zeros((1, 3, 2)), w, w)
        >>> y.shape, h.shape, c.tolist()
        ((1, 3, 2), (1, 2), [[0.0, 0.0]])
    """
    operands = tuple(map(_maybe, (x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0)))
    y, h_n, c_n = _run("lstm", reverse, operands, lengths, precision)
    return y, h_n, c_n


def _gru_rule(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    h0: Any = None,
    lengths: Any = None,
    reverse: bool = False,  # noqa: ARG001
    precision: str | None = None,
) -> tuple[Spec, ...]:
    return _specs("gru", x, (weight_ih, weight_hh), (bias_ih, bias_hh), {"h0": h0}, lengths, precision)


@op(shape=_gru_rule)
def gru(
    x: TensorLike,
    weight_ih: TensorLike,
    weight_hh: TensorLike,
    bias_ih: TensorLike | None = None,
    bias_hh: TensorLike | None = None,
    h0: TensorLike | None = None,
    lengths: TensorLike | None = None,
    reverse: bool = False,
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs a gated recurrent unit over sequences, as PyTorch and cuDNN define it.

    With a = x_t·weight_ihᵀ + bias_ih and b = h·weight_hhᵀ + bias_hh, each cut into three, a step makes
    ``r = sigmoid(a_r + b_r)``, ``z = sigmoid(a_z + b_z)``, ``n = tanh(a_n + r·b_n)`` and ``h = (1 - z)·n + z·h``, which
    is output t. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", arXiv 1406.1078, whose reset
    gate multiplies h before the product.

    Args:
        x: (N, T, C).
        weight_ih: (3 hidden, C).
        weight_hh: (3 hidden, hidden).
        bias_ih: (3 hidden,), 0 if None.
        bias_hh: Likewise.
        h0: The state to begin with, (N, hidden), 0 if None.
        lengths: As in `lstm`.
        reverse: As in `lstm`.
        precision: As in `lstm`.

    Returns:
        The outputs (N, T, hidden) and the last h, (N, hidden).

    Raises:
        ShapeError, DTypeError, ArgumentError: As `lstm`.

    Example:
        >>> w = qn.zeros((6, 2))
        >>> qn.ops.gru(qn.ones((1, 1, 2)), w, w, h0=qn.ones((1, 2)))[1].tolist()
        [[0.5, 0.5]]
    """
    operands = tuple(map(_maybe, (x, weight_ih, weight_hh, bias_ih, bias_hh, h0)))
    y, h_n = _run("gru", reverse, (*operands, None), lengths, precision)
    return y, h_n


def _check_nonlinearity(nonlinearity: str) -> None:
    if nonlinearity not in NONLINEARITIES:
        raise ArgumentError(f"[rnn] nonlinearity is 'tanh' or 'relu', got {nonlinearity!r}")


def _rnn_rule(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    h0: Any = None,
    lengths: Any = None,
    reverse: bool = False,  # noqa: ARG001
    nonlinearity: str = "tanh",
    precision: str | None = None,
) -> tuple[Spec, ...]:
    _check_nonlinearity(nonlinearity)
    return _specs("rnn", x, (weight_ih, weight_hh), (bias_ih, bias_hh), {"h0": h0}, lengths, precision)


@op(shape=_rnn_rule)
def rnn(
    x: TensorLike,
    weight_ih: TensorLike,
    weight_hh: TensorLike,
    bias_ih: TensorLike | None = None,
    bias_hh: TensorLike | None = None,
    h0: TensorLike | None = None,
    lengths: TensorLike | None = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs a plain recurrent net over sequences: ``h = tanh(x_t·weight_ihᵀ + bias_ih + h·weight_hhᵀ + bias_hh)``.

    Elman, "Finding Structure in Time", Cognitive Science 14(2), 1990.

    Args:
        x: (N, T, C).
        weight_ih: (hidden, C).
        weight_hh: (hidden, hidden).
        bias_ih: (hidden,), 0 if None.
        bias_hh: Likewise.
        h0: The state to begin with, (N, hidden), 0 if None.
        lengths: As in `lstm`.
        reverse: As in `lstm`.
        nonlinearity: "tanh" or "relu".
        precision: As in `lstm`.

    Returns:
        The outputs (N, T, hidden) and the last h, (N, hidden).

    Raises:
        ShapeError, DTypeError, ArgumentError: As `lstm`; also of another nonlinearity.

    Example:
        >>> one = qn.ones((1, 1))
        >>> qn.ops.rnn(qn.ones((1, 3, 1)), one, one, nonlinearity="relu")[0].tolist()
        [[[1.0], [2.0], [3.0]]]
    """
    operands = tuple(map(_maybe, (x, weight_ih, weight_hh, bias_ih, bias_hh, h0)))
    _check_nonlinearity(nonlinearity)
    y, h_n = _run(f"rnn_{nonlinearity}", reverse, (*operands, None), lengths, precision)
    return y, h_n


def _checked_lengths_rule(
    lengths: Any,
    most: int,
    least: int = 1,
    unit: str = "time steps",  # noqa: ARG001
    owner: str = "checked_lengths",
) -> Spec:
    for name, value in (("most", most), ("least", least)):
        whole_number(owner, name, value)
    have = spec_of(lengths)
    check_rank(owner, "lengths", have.shape, 1, "(N,)")
    check_lengths(owner, "lengths", lengths, have.shape[0], f"lengths: {have.shape}")
    return Spec(have.shape, "int64")


@op(shape=_checked_lengths_rule)
def checked_lengths(
    lengths: TensorLike, most: int, least: int = 1, unit: str = "time steps", owner: str = "checked_lengths"
) -> Tensor:
    """Returns lengths of rows as they are, in int64, and refuses those that no row can have.

    A plan and a frozen model check them anew at each call.

    Args:
        lengths: (N,), whole numbers.
        most: The largest that there may be.
        least: The smallest.
        unit: What they count, for the message.
        owner: Whose lengths they are, for the message.

    Returns:
        (N,), int64.

    Raises:
        ArgumentError: A length is below `least` or above `most`.

    Example:
        >>> qn.ops.checked_lengths([2, 3], 3)
        tensor([2, 3], dtype=int64)
    """
    lengths = as_tensor(lengths)
    _checked_lengths_rule(lengths, most, least, unit, owner)
    return _checked(lengths, int(most), int(least), unit, owner)


def _checked(lengths: Tensor, most: int, least: int, unit: str, owner: str) -> Tensor:
    ends = cast(lengths, "int64")
    _core.check_lengths(owner, ends._t, least, most, unit)
    return ends


def _sequence_mask_rule(lengths: Any, steps: int) -> Spec:
    steps = whole_number("sequence_mask", "steps", steps)
    (rows,) = _checked_lengths_rule(lengths, steps, owner="sequence_mask").shape
    return Spec((rows, steps), "bool")


@op(shape=_sequence_mask_rule)
def sequence_mask(lengths: TensorLike, steps: int) -> Tensor:
    """Returns whether a time step lies before the end of its row: ``y[n, t] = t < lengths[n]``.

    Args:
        lengths: (N,), whole numbers from 1 to steps.
        steps: T.

    Returns:
        (N, T), bool.

    Raises:
        ArgumentError: A length is below 1 or above T.

    Example:
        >>> qn.ops.sequence_mask([2, 3], 3)
        tensor([[ True,  True, False],
                [ True,  True,  True]], dtype=bool)
    """
    lengths = as_tensor(lengths)
    _, steps = _sequence_mask_rule(lengths, steps).shape
    ends = _checked(lengths, steps, 1, "time steps", "sequence_mask")
    return lt(arange(steps, device=ends.device), unsqueeze(ends, 1))
