"""The int8 pass: a calibrated float graph becomes one whose ops of `quernel.quant.regions` run in int8.

With s_x, s_y the scales of input and output and, per output channel, s_w = max|w| / 127:

    weight = rint(w / s_w)     bias = rint(b / (s_x · s_w)) - zp_x · sum(weight)     scale = s_x · s_w / s_y

computed in float32 in this order (the bias in float64, rounded once). A channel whose bias dwarfs its weights gets a
larger s_w, with which the bias fits. Where an op has no int8 form, its inputs are
dequantized and its result is quantized again if int8 work follows; both show in ``summary()``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quernel.graph.interpret import call
from quernel.graph.ir import Arg, Extent, Graph, Node, Ref, Value, Weight, transform
from quernel.graph.passes import drop_dead
from quernel.ops.conv import conv_geometry
from quernel.ops.create import tensor
from quernel.ops.op import Spec
from quernel.ops.shapes import pair
from quernel.quant.observers import MinMax, Scale
from quernel.quant.regions import Clamp, Groups, Regions, absorb_clamps, bounds, even_window, find
from quernel.tensor import Tensor

_Link = tuple[str, dict[str, Arg]]  # an op, and its arguments but for x
_LARGEST_BIAS = 2**29  # in steps of the int32 sum, so that products still fit beside it


def convert(graph: Graph, ranges: Mapping[Ref, MinMax]) -> Graph:
    """`graph` in int8, given the range of each of its values.

    The graph should have BatchNorm folded, and relu and relu6 fused into its contractions; `ranges` are those of this
    very graph.
    """
    regions = find(graph)
    graph, clamped = absorb_clamps(graph, regions)
    ranges = {**ranges, **{Ref(name): ranges[clamp.ref] for name, clamp in clamped.items()}}
    emitter = _Emitter(graph, regions, _scales(graph, regions, ranges), clamped)
    for node in graph.nodes:
        emitter.emit(node)
    return emitter.result()


def _scales(graph: Graph, regions: Regions, ranges: Mapping[Ref, MinMax]) -> dict[Ref, Scale]:
    """One scale per value that is uint8 somewhere, equal within a group."""
    groups = Groups(graph, regions)
    wanted = set(regions.stored)
    for node in graph.nodes:
        if node.name in regions.kinds:
            wanted.update(node.refs)
    members: dict[Ref, list[Ref]] = {}
    for ref in wanted:
        members.setdefault(groups.root(ref), []).append(ref)
    scales = {}
    for refs in members.values():
        lo, hi = min(ranges[r].lo for r in refs), max(ranges[r].hi for r in refs)
        scales.update(dict.fromkeys(refs, Scale.covering(lo, hi)))
    return scales


class _Emitter:
    """Builds the int8 graph node by node."""

    def __init__(
        self, graph: Graph, regions: Regions, scales: Mapping[Ref, Scale], clamped: Mapping[str, Clamp]
    ) -> None:
        self._graph = graph
        self._regions = regions
        self._scales = scales
        self._clamped = clamped
        self._nodes: list[Node] = []
        self._weights: dict[str, Tensor] = dict(graph.weights)
        self._buffers = set(graph.buffers)
        self._other: dict[Ref, Ref] = {}  # a value in the form that it is not stored in

    def emit(self, node: Node) -> None:
        match self._regions.kinds.get(node.name):
            case "contraction":
                self._contraction(node)
            case "addition":
                self._addition(node)
            case "unary":
                self._unary(node)
            case "move":
                self._move(node)
            case _:
                args = {key: transform(arg, self._as_float) for key, arg in node.args.items()}
                self._nodes.append(replace(node, args=args))

    def result(self) -> Graph:
        outputs = transform(self._graph.outputs, self._as_float)
        built = Graph(
            self._graph.inputs, tuple(self._nodes), outputs, self._weights, frozenset(self._buffers)
        )
        return drop_dead(built)

    # ---- values ------------------------------------------------------------------------------------------------------

    def _as_float(self, arg: Arg) -> Arg:
        """The float32 form of a value; anything else stays."""
        if not isinstance(arg, Ref) or arg not in self._regions.stored:
            return arg
        return self._converted(arg, "dequantize", {"q": arg}, "float32")

    def _as_uint8(self, ref: Ref) -> Ref:
        if ref in self._regions.stored:
            return ref
        return self._converted(ref, "quantize", {"x": ref}, "uint8")

    def _converted(self, ref: Ref, op: str, args: dict[str, Arg], dtype: str) -> Ref:
        if ref not in self._other:
            scale = self._scales[ref]
            args |= {"scale": scale.scale, "zero_point": scale.zero_point}
            name = f"{ref.node}:{op}"
            value = Value(self._graph.value(ref).shape, dtype)
            self._nodes.append(Node(name, op, args, (value,)))
            self._other[ref] = Ref(name)
        return self._other[ref]

    def _add_weight(self, name: str, array: npt.NDArray[Any]) -> Weight:
        self._weights[name] = tensor(array)
        self._buffers.add(name)
        return Weight(name)

    def _append(self, node: Node, op: str, args: dict[str, Arg], dtype: str = "uint8") -> None:
        value = Value(node.outputs[0].shape, dtype)
        self._nodes.append(replace(node, op=op, args=args, outputs=(value,)))

    # ---- nodes -------------------------------------------------------------------------------------------------------

    def _contraction(self, node: Node) -> None:
        x = node.refs[0]
        s_x = self._scales[x]
        out_float = Ref(node.name) not in self._regions.stored
        s_y = Scale(1.0, 0) if out_float else self._scales[Ref(node.name)]
        args: dict[str, Arg] = {"x": self._as_uint8(x), **self._quantized_weights(node, s_x, s_y)}
        activation = node.args["activation"]
        args |= {"zero_point": s_y.zero_point, **self._bounds(node, s_y)}
        if node.op != "linear":
            args |= self._convolution(node, args, s_x.zero_point)
        links: list[_Link] = [
            ("qlinear" if node.op == "linear" else "qconv2d", args | {"out_float": out_float})
        ]
        if out_float and activation:  # the int32 sums leave as float32, which no bound clamps
            links.append((str(activation), {}))
        if node.op == "conv1d":
            links.append(("reshape", {"shape": node.outputs[0].shape}))
        self._chain(node, links, "float32" if out_float else "uint8")

    def _chain(self, node: Node, links: list[_Link], dtype: str) -> None:
        """Ops one after the other in place of `node`; the last one has its name."""
        shape = node.outputs[0].shape
        image = (shape[0], 1, *shape[1:]) if node.op == "conv1d" else shape
        for i, (op, args) in enumerate(links):
            last = i == len(links) - 1
            name = node.name if last else f"{node.name}:{('sum', op)[i > 0]}"
            x = {"x": Ref(self._nodes[-1].name)} if i > 0 else {}
            value = Value(shape if last else image, dtype)
            self._nodes.append(Node(name, op, {**x, **args}, (value,), node.layer))

    def _bounds(self, node: Node, scale: Scale) -> dict[str, Arg]:
        """The uint8 bounds of what the node stores, from its activation or from the clamp that it took in."""
        clamp = self._clamped.get(node.name)
        limits = (clamp.lo, clamp.hi) if clamp else bounds(str(node.args.get("activation")), {})
        lo, hi = limits or (-math.inf, math.inf)
        return {"lo": scale.nearest(lo), "hi": scale.nearest(hi)}

    def _quantized_weights(self, node: Node, s_x: Scale, s_y: Scale) -> dict[str, Arg]:
        weight, bias = (self._array(node.args[key]) for key in ("weight", "bias"))
        assert weight is not None
        rows = weight.reshape(len(weight), -1)
        b = np.zeros(len(rows)) if bias is None else bias.astype(np.float64)
        s_w = np.abs(rows).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
        s_w = np.maximum(s_w, (np.abs(b) / (s_x.scale * _LARGEST_BIAS)).astype(np.float32))
        s_w[s_x.scale * s_w.astype(np.float64) < np.finfo(np.float32).tiny] = 1  # nothing to scale
        q = np.clip(np.rint(rows / s_w[:, None]), -127, 127).astype(np.int8)
        s_acc = np.float32(s_x.scale) * s_w
        b = np.rint(b / s_acc) - float(s_x.zero_point) * q.sum(axis=1, dtype=np.int64)
        return {
            "weight": self._add_weight(f"{node.name}.weight_int8", q.reshape(weight.shape)),
            "bias": self._add_weight(f"{node.name}.bias_int32", b.astype(np.int32)),
            "scale": self._add_weight(f"{node.name}.scale", s_acc / np.float32(s_y.scale)),
        }

    def _convolution(self, node: Node, args: dict[str, Arg], zero_point: int) -> dict[str, Arg]:
        """Further arguments of qconv2d, for x as an image whose padding is the same on both sides."""
        weight = self._array(node.args["weight"])
        assert weight is not None
        value = self._graph.value(node.refs[0])
        rank = weight.ndim - 2
        options: Any = {key: node.args[key] for key in ("stride", "padding", "dilation", "groups")}
        image, kernel = Spec(value.at(1), "float32"), Spec(weight.shape, "float32")
        geometry = conv_geometry(node.op, image, kernel, **options, rank=rank)
        x = args["x"]
        shape = value.shape
        if rank == 1:
            shape = (shape[0], 1, *shape[1:])
            x = self._prepared(node, "reshape", {"x": x, "shape": shape}, shape)
        sides = list(zip(geometry.before, geometry.after, strict=True))
        both = tuple(min(side) for side in sides)
        extra = ((0, 0), *((lo - b, hi - b) for (lo, hi), b in zip(sides, both, strict=True)), (0, 0))
        if any(any(e) for e in extra):
            shape = tuple(
                n + lo + hi if isinstance(n, int) else n for n, (lo, hi) in zip(shape, extra, strict=True)
            )
            x = self._prepared(
                node, "pad", {"x": x, "padding": extra, "mode": "constant", "value": zero_point}, shape
            )
        images: dict[str, Arg] = {"x": x, "x_zero_point": zero_point}
        if rank == 1:
            images["weight"] = self._lift(args["weight"])
        return images | {
            "stride": geometry.stride,
            "padding": both,
            "dilation": geometry.dilation,
            "groups": geometry.groups,
        }

    def _prepared(self, node: Node, op: str, args: dict[str, Arg], shape: tuple[Extent, ...]) -> Ref:
        """The input of `node`, which is uint8, by way of `op`."""
        name = f"{node.name}:{op}"
        self._nodes.append(Node(name, op, args, (Value(shape, "uint8"),), node.layer))
        return Ref(name)

    def _lift(self, arg: Arg) -> Weight:
        """An int8 weight (O, K, I) as (O, 1, K, I)."""
        assert isinstance(arg, Weight)
        array = self._weights[arg.name].numpy()
        return self._add_weight(arg.name, array[:, None])

    def _array(self, arg: Arg) -> npt.NDArray[Any] | None:
        return self._graph.weights[arg.name].numpy() if isinstance(arg, Weight) else None

    def _addition(self, node: Node) -> None:
        a, b = (self._as_uint8(ref) for ref in node.refs)
        s_a, s_b = (self._scales[ref] for ref in node.refs)
        s_y = self._scales[Ref(node.name)]
        args: dict[str, Arg] = {"a": a, "a_scale": s_a.scale, "a_zero_point": s_a.zero_point}
        args |= {"b": b, "b_scale": s_b.scale, "b_zero_point": s_b.zero_point}
        args |= {"scale": s_y.scale, "zero_point": s_y.zero_point}
        args |= self._bounds(node, s_y)
        self._append(node, "qadd", args)

    def _unary(self, node: Node) -> None:
        s_x, s_y = self._scales[node.refs[0]], self._scales[Ref(node.name)]
        every = s_x.dequantize(np.arange(256, dtype=np.uint8))
        value = call(
            node, {key: tensor(every) if isinstance(arg, Ref) else arg for key, arg in node.args.items()}
        )
        table = self._add_weight(f"{node.name}.table", s_y.quantize(value.numpy()))
        self._append(node, "qlookup", {"x": self._as_uint8(node.refs[0]), "table": table})

    def _move(self, node: Node) -> None:
        args = {
            key: transform(arg, lambda a: self._as_uint8(a) if isinstance(a, Ref) else a)
            for key, arg in node.args.items()
        }
        if node.op in ("global_avg_pool2d", "mean"):
            self._append(node, "qmean_hw", {"x": args["x"]})
        elif node.op == "global_max_pool2d":
            self._global_max(node, args["x"])
        elif node.op.startswith("adaptive_"):
            window = even_window(self._graph, node)
            tiles: dict[str, Arg] = {
                "x": args["x"],
                "kernel_size": window,
                "stride": window,
                "padding": (0, 0),
            }
            if node.op == "adaptive_max_pool2d":
                self._append(node, "qmax_pool2d", tiles)
            else:
                self._append(node, "qavg_pool2d", {**tiles, "zero_point": 0, "count_include_pad": False})
        elif node.op == "max_pool2d":
            self._append(node, "qmax_pool2d", {"x": args["x"], **_window(node)})
        elif node.op == "avg_pool2d":
            zero_point = self._scales[node.refs[0]].zero_point
            pad = {"zero_point": zero_point, "count_include_pad": node.args["count_include_pad"]}
            self._append(node, "qavg_pool2d", {"x": args["x"], **_window(node), **pad})
        elif node.op == "pad" and node.args["mode"] == "constant":
            self._append(node, "pad", {**args, "value": self._scales[node.refs[0]].zero_point})
        else:
            self._append(node, node.op, dict(args))

    def _global_max(self, node: Node, x: Arg) -> None:
        n, h, w, c = self._graph.value(node.refs[0]).shape
        assert isinstance(h, int)
        assert isinstance(w, int)
        value = Value((n, 1, 1, c), "uint8")
        args: dict[str, Arg] = {"x": x, "kernel_size": (h, w), "stride": (h, w), "padding": (0, 0)}
        self._nodes.append(Node(f"{node.name}:max", "qmax_pool2d", args, (value,), node.layer))
        self._append(node, "flatten", {"x": Ref(f"{node.name}:max"), "start_dim": 1, "end_dim": -1})


def _window(node: Node) -> dict[str, Arg]:
    """Arguments that int8 pooling shares with `node`, all of them pairs."""
    size, stride, padding = (node.args[key] for key in ("kernel_size", "stride", "padding"))
    kernel = pair(node.op, "kernel_size", size, 1)  # type: ignore[arg-type]
    return {
        "kernel_size": kernel,
        "stride": kernel if stride is None else pair(node.op, "stride", stride, 1),  # type: ignore[arg-type]
        "padding": pair(node.op, "padding", padding, 0),  # type: ignore[arg-type]
    }
