"""The shape rule of every op says what the op returns, from shapes and dtypes alone; and the op hook itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import ops
from quernel.ops import OPS, Op, Spec

F = np.float32


def f(*shape: int, dtype: Any = F) -> qn.Tensor:
    return qn.tensor(np.linspace(0.1, 1, int(np.prod(shape))).reshape(shape).astype(dtype))


def i(*shape: int) -> qn.Tensor:
    return qn.tensor(np.arange(int(np.prod(shape))).reshape(shape) % 3)


SPARSE = qn.sparse.csr(f(4, 3))
SPARSE_INT8 = qn.sparse.block(np.ones((4, 3), np.int8), (16, 4))

# Several argument lists for each op; tensors anywhere in them are replaced by traced stand-ins.
CASES: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    **{
        name: [((f(2, 3), f(3)), {}), ((f(2, 1), 2), {}), ((i(3), 0.5), {}), ((True, i(2)), {}), ((f(2), i(2)), {})]
        for name in ("add", "sub", "mul", "div", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge")
    },
    "pow": [((f(2, 3), 2), {}), ((2.0, f(3)), {}), ((i(2), 3), {})],
    "logical_and": [((i(2, 3), f(3)), {})],
    "logical_or": [((i(2, 3), f(3) > 0.5), {})],
    "logical_not": [((i(2, 3),), {})],
    "to_device": [((f(2, 3), "cpu"), {})],
    **{name: [((f(2, 3),), {}), ((i(4),), {})] for name in ("neg", "abs", "square", "relu", "clone", "sign")},
    **{name: [((f(2, 3),), {}), ((i(4),), {})] for name in ("floor", "ceil", "round", "isnan", "isinf", "isfinite")},
    **{
        name: [((f(2, 3),), {}), ((i(4),), {}), ((f(2, dtype="f8"),), {})]
        for name in (
            *("sqrt", "exp", "log", "tanh", "sigmoid", "gelu", "silu", "rsqrt", "reciprocal", "expm1", "log1p", "sin"),
            *("cos", "erf", "relu6", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "selu", "celu"),
            *("softplus", "mish", "logsigmoid", "softsign"),
        )
    },
    **{
        name: [((f(2, 3), f(3)), {}), ((i(2, 1), 2), {}), ((i(3), 0.5), {}), ((f(2), i(2)), {})]
        for name in ("floor_divide", "remainder")
    },
    "logical_xor": [((i(2, 3), f(3)), {})],
    **{
        name: [((f(2, 3),), {}), ((f(2, 3, 4), (0, -1)), {}), ((f(2, 3, 4), 1), {"keepdim": True})]
        for name in ("var", "std", "logsumexp", "prod", "any", "all")
    },
    "norm": [((f(2, 3),), {}), ((f(2, 3, 4), 1, (0, -1)), {}), ((f(2, 3), np.inf, 0, True), {})],
    "cumsum": [((f(2, 3), 0), {}), ((i(2, 3), -1), {}), ((f(), 0), {})],
    **{
        name: [((f(2, 3),), {}), ((i(2, 3, 4), 1), {}), ((f(2, 3), -1, True), {}), ((f(2, 3), None, True), {})]
        for name in ("argmax", "argmin")
    },
    "topk": [((f(2, 3), 2), {}), ((i(2, 3, 4), 1, 1, False), {}), ((f(), 1), {})],
    "sort": [((f(2, 3),), {}), ((i(2, 3, 4), 1, True), {}), ((f(),), {})],
    "where": [((f(2, 3) > 0.5, f(3), 1), {}), ((i(2, 1) > 0, 0.0, i(3)), {}), ((i(2) > 0, 1.0, 0.0), {})],
    "clip": [((f(2, 3), 0.2, 0.5), {}), ((f(2, 3),), {"max": f(4, 1, 3)}), ((i(3), 0.5), {}), ((f(2), None, 1), {})],
    "cast": [((f(2, 3), "int32"), {}), ((i(2), np.float64), {}), ((f(2), "float32"), {})],
    "matmul": [((f(2, 3), f(3, 4)), {}), ((f(3), f(3)), {}), ((f(3), f(5, 3, 2)), {}), ((f(2, 1, 2, 3), f(4, 3, 1)), {})],
    "linear": [((f(2, 3), f(4, 3), f(4)), {}), ((f(3), f(4, 3)), {}), ((f(2, 5, 3), f(4, 3)), {"activation": "gelu"})],
    "conv2d": [
        ((f(1, 5, 6, 4), f(2, 3, 3, 4), f(2)), {"stride": 2, "padding": (1, 0), "activation": "relu"}),
        ((f(1, 5, 6, 4), f(6, 2, 3, 2)), {"padding": "same", "groups": 2, "dilation": (1, 2)}),
        ((f(1, 5, 6, 4), f(2, 3, 3, 4)), {"residual": f(1, 3, 4, 2), "padding": "valid"}),
    ],
    "conv1d": [
        ((f(2, 5, 4), f(6, 3, 2), f(6)), {"stride": 2, "padding": "same", "groups": 2, "activation": "gelu"}),
        ((f(2, 5, 4), f(6, 2, 4)), {"padding": "causal", "dilation": 2, "residual": f(2, 5, 6)}),
    ],
    "conv_transpose2d": [
        ((f(1, 3, 2, 4), f(4, 3, 2, 3), f(6)), {"stride": 2, "padding": 1, "output_padding": (1, 0), "groups": 2}),
        ((f(1, 3, 2, 4), f(4, 2, 2, 3)), {"residual": f(1, 5, 4, 3), "dilation": 2, "activation": "silu"}),
    ],
    "conv_transpose1d": [((f(2, 3, 4), f(4, 3, 5), f(5)), {"stride": (2,), "padding": 1, "output_padding": 1})],
    "max_pool2d": [((f(2, 5, 6, 3), 2), {}), ((f(2, 5, 6, 3), (3, 2), 1, 1), {}), ((f(2, 5, 6, 3), 3, 2), {"dilation": (1, 2), "ceil_mode": True})],
    "avg_pool2d": [((f(2, 5, 6, 3), 2), {}), ((f(2, 5, 6, 3), 3, (1, 2), 1, True, False), {})],
    **{f"adaptive_{k}_pool2d": [((f(2, 5, 6, 3), 4), {}), ((f(2, 5, 6, 3), (None, 8)), {})] for k in ("avg", "max")},
    "global_avg_pool2d": [((f(2, 5, 6, 3),), {})],
    "global_max_pool2d": [((f(2, 5, 6, 3),), {})],
    "interpolate": [
        ((f(2, 5, 6, 3), 4), {}), ((i(2, 5, 3), None, 1.5), {}), ((f(2, 5, 3), 7, None, "linear", True), {}),
        ((f(2, 5, 6, 3), None, (0.5, 2)), {"mode": "bilinear"}),
    ],
    "lstm": [
        ((f(2, 3, 4), f(20, 4), f(20, 5)), {}),
        ((f(2, 3, 4), f(20, 4), f(20, 5), f(20), None, f(2, 5), f(2, 5), i(2) + 1, True), {}),
    ],
    "checked_lengths": [((np.array([2, 1, 4]), 4), {}), ((np.array([0, 9], np.uint8), 9, 0, "samples", "x"), {})],
    "sequence_mask": [((np.array([2, 1, 4]), 4), {})],
    "gru": [((f(2, 3, 4), f(15, 4), f(15, 5)), {}), ((f(2, 3, 4), f(15, 4), f(15, 5), f(15), f(15), f(2, 5)), {})],
    "rnn": [((f(2, 3, 4, dtype="f8"), f(5, 4, dtype="f8"), f(5, 5, dtype="f8")), {"nonlinearity": "relu"})],
    "layer_norm": [((f(4, 3), 3), {}), ((f(2, 3, 4), (3, 4), f(3, 4), f(3, 4)), {})],
    "rms_norm": [((f(4, 3), 3), {}), ((f(2, 3, 4), [3, 4], f(3, 4), 1e-3), {})],
    "group_norm": [((f(4, 6), 3), {}), ((f(2, 3, 3, 4), 2, f(4), f(4)), {})],
    "instance_norm": [((f(2, 3, 4),), {}), ((f(2, 3, 3, 4), f(4), f(4), f(4), f(4), False), {})],
    **{name: [((f(2, 3, 4),), {}), ((f(2, 3, 4), (0, -1)), {}), ((f(2, 3, 4), 1, True), {})] for name in ("mean", "max", "min")},
    "sum": [((f(2, 3), 0), {}), ((i(2, 3),), {}), ((i(2) > 0,), {}), ((f(2, 3), (0, 1)), {"keepdim": True})],
    "softmax": [((f(2, 3),), {}), ((f(),), {}), ((f(2, 3, 4), 0), {})],
    "log_softmax": [((f(2, 3), 1), {}), ((f(3, dtype="f8"),), {})],
    "ctc_loss": [((f(2, 5, 4), i(2, 3) % 3 + 1), {"reduction": r, "zero_infinity": True}) for r in ("mean", "sum", "none")],
    "cross_entropy": [((f(4, 3), i(4)), {}), ((f(3), i(1).reshape(())), {}), ((f(2, 2, 3), i(2, 2), "none"), {}), ((f(4, 3), i(4)), {"reduction": "sum"}), ((f(4, 3), f(4, 3)), {"weight": f(3)})],
    "nll_loss": [((f(4, 3), i(4)), {}), ((f(4, 3), i(4), "none"), {"weight": f(3)})],
    "focal_loss": [((f(4, 3), i(4)), {}), ((f(4, 3), i(4), "none"), {"alpha": f(3), "gamma": 1.0})],
    **{
        name: [((f(4, 3), f(4, 3)), {}), ((f(4, 3), f(4, 3), "none"), {}), ((f(2), f(2)), {"reduction": "sum"})]
        for name in (
            "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
            "sigmoid_focal_loss", "kl_div",
        )
    },
    "reshape": [((f(2, 6), (3, -1)), {}), ((f(2, 6), 12), {}), ((f(), (1, 1)), {})],
    "flatten": [((f(2, 3, 4),), {}), ((f(2, 3, 4), 1), {}), ((f(2, 3, 4), 0, 1), {}), ((f(),), {})],
    "permute": [((f(2, 3, 4), (2, 1, 0)), {}), ((f(2, 3, 4), (1, 0, -1)), {})],
    "concat": [(([f(2, 3), f(1, 3)],), {}), (([f(2, 3), i(2, 1)], -1), {})],
    "pad": [((f(2, 3), [(1, 0), (0, 2)]), {"value": 5.0}), *(((f(2, 3), [(1, 0), (0, 2)], m), {}) for m in ("reflect", "edge", "wrap"))],
    "broadcast_to": [((f(3, 1), (2, 3, 4)), {})],
    "spmm": [((SPARSE, f(3, 2)), {}), ((SPARSE, f(3)), {}), ((SPARSE.parts, f(3, 2)), {})],
    "sparse_linear": [((f(2, 3), SPARSE), {}), ((f(2, 5, 3), SPARSE.parts, f(4)), {"activation": "gelu"})],
    "qsparse_linear": [((f(2, 3).astype("uint8"), SPARSE_INT8, i(4).astype("int32"), f(4)), {"out_float": value}) for value in (True, False)],
    "getitem": [((f(4, 5), (slice(None, None, -2), None, 1)), {}), ((f(4, 5), ...), {}), ((f(4, 5), (..., slice(9, 2))), {}),
                ((f(4, 5), (i(3, 1), i(2))), {}), ((f(4, 5, 6), (0, slice(2), i(2))), {}), ((f(4, 5), (slice(2), None, i(3))), {})],
    "embedding": [((i(2, 3), f(4, 5)), {}), ((i(), f(4, 5), 1), {})],
    "embedding_bag": [((i(2, 3), f(4, 5)), {}), ((i(6), f(4, 5), i(1) * 0, "sum"), {"per_sample_weights": f(6)}),
                      ((i(2, 3), f(4, 5)), {"mode": "max"})],
    "index_select": [((f(2, 3, 4), 1, i(5)), {})],
    "index_add": [((f(2, 3, 4), -1, i(3), f(2, 3, 3)), {"alpha": 2.0})],
    "gather": [((f(3, 4), 1, i(3, 9)), {}), ((f(3, 4), 0, i(5, 2)), {}), ((f(), 0, i() * 0), {})],
    "scatter_add": [((f(3, 4), 1, i(3, 9), f(3, 9)), {}), ((f(3, 4), 0, i(5, 2), f(6, 3)), {})],
    "take_along_dim": [((f(3, 4), i(3, 1), 1), {}), ((f(1, 4), i(2, 4) * 0, 0), {}), ((f(3, 4), i(2, 2)), {})],
    "one_hot": [((i(2, 3), 4), {})],
    "scaled_dot_product_attention": [
        ((f(2, 3, 5, 4), f(2, 3, 6, 4), f(2, 3, 6, 7)), {}), ((f(5, 4), f(6, 4), f(6, 7), f(5, 6)), {"is_causal": True}),
        ((f(2, 5, 4), f(2, 6, 4), f(2, 6, 4), f(2, 1, 6) > 0.5), {"scale": 1.0}),
        ((f(2, 5, 4), f(2, 6, 4), f(2, 6, 4), f(5, 1), 0.5), {}),
    ],
    "multi_head_attention": [
        ((f(2, 5, 24),), {"num_heads": 2}), ((f(2, 5, 8), f(2, 6, 16), None, 4), {}),
        ((f(2, 5, 24), f(2, 6, 16), None, 4), {"is_causal": True, "past": i(1)}),
        ((f(2, 5, 8), f(2, 6, 8), f(2, 6, 4), 2), {"attn_mask": f(2, 1, 1, 6) > 0.5}),
        *(((f(2, 5, 24),), {"num_heads": 2, "dropout_p": 0.5, "training": value}) for value in (True, False)),
    ],
    "batch_norm": [
        ((f(4, 3), f(3), f(3), f(3), f(3)), {}),
        ((f(2, 3, 3, 2), None, None), {"training": True}),
    ],
    "dropout": [((f(2, 3), 0.5), {}), ((f(2, 3), 0.5, False), {}), ((f(2, 3), 1.0), {})],
}  # fmt: skip


def traced(value: Any) -> Any:
    """The same arguments without values."""
    if isinstance(value, qn.Tensor):
        return qn.Tensor.traced(Spec(value.shape, value.dtype))
    if isinstance(value, list) and value and isinstance(value[0], qn.Tensor):
        return [traced(v) for v in value]
    return value


# The int8 ops have tests of their own.
@pytest.mark.parametrize(
    "name", [n for n, op in OPS.items() if op.function.__module__ != "quernel.ops.quant"]
)
def test_rule_agrees_with_the_op(name: str) -> None:
    op = OPS[name]
    for args, kwargs in CASES[name]:
        result = op(*args, **kwargs)
        arguments = op.bind(args, kwargs)
        several = isinstance(result, tuple)
        expected: Any = tuple(Spec(t.shape, t.dtype) for t in (result if several else (result,)))
        expected = expected if several else expected[0]
        assert op.specs(arguments) == expected
        assert op.specs({k: traced(v) for k, v in arguments.items()}) == expected


class Recorder:
    """A tracer that only looks."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, op: Op, arguments: dict[str, Any]) -> Any:
        self.calls.append((op.name, arguments))
        spec = op.specs(arguments)
        assert isinstance(spec, Spec)
        return qn.Tensor.traced(spec)


def test_a_tracer_sees_ops_instead_of_their_running() -> None:
    recorder = Recorder()
    before = ops.set_tracer(recorder)
    try:
        x = qn.Tensor.traced(Spec((2, 8, 8, 3), "float32"))
        y = ops.conv2d(x, f(4, 3, 3, 3), padding="same")
        z = (ops.relu(y) + 1.0)[:, ::2].flatten(1)
    finally:
        ops.set_tracer(before)
    assert before is None and ops.current_tracer() is None
    assert [name for name, _ in recorder.calls] == ["conv2d", "relu", "add", "getitem", "flatten"]
    first = recorder.calls[0][1]
    assert (
        list(first)[:4] == ["x", "weight", "bias", "stride"]
        and first["padding"] == "same"
        and first["groups"] == 1
    )
    assert z.shape == (2, 4 * 8 * 4) and z.is_traced and not z.requires_grad
    assert repr(z) == "tensor(<traced>, shape=(2, 128), dtype=float32)"
    for look in (z.numpy, z.item, z.tolist, lambda: np.asarray(z), lambda: bool(y.sum() > 0)):
        ops.set_tracer(recorder)
        try:
            with pytest.raises((qn.errors.StateError, ValueError)):
                look()
        finally:
            ops.set_tracer(None)
    with pytest.raises(qn.errors.StateError, match="cannot be written to"):
        z[0] = 1


def test_rules_raise_the_ops_errors() -> None:
    x = qn.Tensor.traced(Spec((1, 8, 8, 3), "float32"))
    weight = qn.Tensor.traced(Spec((4, 3, 3, 5), "float32"))
    message = r"\[conv2d\] weight expects 5 input channels, x has 3"
    arguments = OPS["conv2d"].bind((x, weight), {})
    with pytest.raises(qn.errors.ShapeError, match=message):
        OPS["conv2d"].specs(arguments)
    with pytest.raises(qn.errors.ShapeError, match=message):
        ops.conv2d(np.zeros((1, 8, 8, 3), F), np.zeros((4, 3, 3, 5), F))
