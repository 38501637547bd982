"""The quantized model."""

from __future__ import annotations

from quernel.graph.ir import Graph
from quernel.graph.module import GraphModule


class QuantizedModel(GraphModule):
    """An int8 model, for inference: call it, ``evaluate``, ``predict``, ``freeze``, ``save``.

    Its state holds the int8 weights, int32 biases and scales that it computes with (``state_dict()``); zero points and
    the scales of activations are arguments of its graph's nodes (``print(model.graph)``). Ops that have no int8 form
    run in float32 between ``dequantize`` and ``quantize``; ``summary()`` shows which.

    Args:
        graph: An int8 graph, from `quernel.compress.quantize` or a file.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.eval()
        self.requires_grad_(False)

    @property
    def int8_ops(self) -> list[str]:
        """Names of the nodes that compute in int8."""
        return [
            node.name for node in self.graph.nodes if node.outputs[0].dtype == "uint8" or node.op in _SUMS
        ]


_SUMS = ("qlinear", "qconv2d")
