"""The PyTorch counterpart of a net, weights included, for comparisons."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from quernel import models, nn
from quernel.errors import UnsupportedError
from quernel.nn.module import Module


def torch_twin(net: Module, nhwc: bool = True) -> Any:
    """A ``torch.nn.Module`` that computes what `net` computes and starts from the same weights.

    Args:
        net: a net of layers, `Sequential` and `Residual`, or a model of texts, all sizes known.
        nhwc: whether the twin takes images as quernel lays them out (it then permutes them); else (N, C, H, W).

    Raises:
        UnsupportedError: there is a layer that has no counterpart here.
    """
    torch: Any = importlib.import_module("torch")
    twin = _converted(torch, net)
    if not nhwc:
        return twin

    class Channels(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    return torch.nn.Sequential(Channels(), twin)


def _converted(torch: Any, layer: Module) -> Any:
    t = torch.nn
    match layer:
        case nn.Sequential():
            return t.Sequential(*_chain(torch, layer))
        case nn.Residual():
            return _residual(torch, layer)
        case nn.Linear():
            return _loaded(
                torch, layer, t.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            )
        case nn.LSTM() | nn.GRU():
            return _recurrent(torch, layer)
        case nn.LayerNorm():
            return _loaded(
                torch, layer, t.LayerNorm(layer.normalized_shape, layer.eps, layer.weight is not None)
            )
        case nn.TransformerEncoderLayer():
            return _transformer_layer(torch, layer)
        case models.LSTMLanguageModel():
            return t.Sequential(*_all(torch, layer.embed, layer.lstm, layer.drop, layer.head))
        case models.LSTMClassifier() if layer.pooling == "max":
            parts = _all(torch, layer.embed, layer.drop, layer.lstm)
            return t.Sequential(*parts, _over_time(torch, "amax"), *_all(torch, layer.drop, layer.head))
        case models.TransformerClassifier() | models.TransformerLanguageModel():
            return _transformer(torch, layer)
        case nn.Conv2d():
            twin = t.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                layer.dilation, layer.groups, layer.bias is not None,
            )  # fmt: skip
            return _loaded(torch, layer, twin)
        case nn.Embedding():
            return _loaded(
                torch, layer, t.Embedding(layer.num_embeddings, layer.embedding_dim, layer.padding_idx)
            )
        case nn.BatchNorm2d():
            return _loaded(torch, layer, t.BatchNorm2d(layer.num_features, layer.eps, layer.momentum))
        case nn.MaxPool2d():
            return t.MaxPool2d(
                layer.kernel_size, layer.stride, layer.padding, layer.dilation, ceil_mode=layer.ceil_mode
            )
        case nn.AvgPool2d():
            return t.AvgPool2d(
                layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad
            )
        case nn.AdaptiveAvgPool1d() if layer.output_size in (1, (1,)):
            return _over_time(torch, "mean", keepdim=True)
        case nn.GlobalAvgPool2d():
            return t.Sequential(t.AdaptiveAvgPool2d(1), t.Flatten())
        case nn.Flatten():
            return _flatten(torch)
        case nn.Dropout():
            return t.Dropout(layer.p)
        case nn.ReLU() | nn.ReLU6() | nn.GELU() | nn.SiLU() | nn.Tanh() | nn.Sigmoid() | nn.Identity():
            return getattr(t, type(layer).__name__)()
    raise UnsupportedError(f"[torch_twin] no PyTorch counterpart is known for {layer!r}")


def _chain(torch: Any, layers: Iterable[Module]) -> list[Any]:
    """Twins of layers that follow each other. After a `Flatten` the columns of a `Linear` stand in torch's order."""
    twins: list[Any] = []
    channels, flat = 0, False  # of the last convolution; whether its images have been flattened
    for layer in layers:
        if isinstance(layer, nn.Flatten) and channels:
            twins.append(torch.nn.Flatten(layer.start_dim))
            flat = True
            continue
        twins.append(_converted(torch, layer))
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        if isinstance(layer, nn.Linear) and flat:
            weight = twins[-1].weight
            with torch.no_grad():
                pixels = weight.reshape(len(weight), -1, channels)
                weight.copy_(pixels.transpose(1, 2).reshape(weight.shape).clone())
            channels, flat = 0, False
    return twins


def _loaded(torch: Any, layer: Module, twin: Any) -> Any:
    """`twin` with the parameters and buffers of `layer`; convolution weights are (O, I/groups, KH, KW) there."""
    state = twin.state_dict()
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            array = np.array(value)
            if array.ndim == 4:
                array = array.transpose(0, 3, 1, 2).copy()
            state[name].copy_(torch.from_numpy(array))
    return twin


def _recurrent(torch: Any, layer: nn.LSTM | nn.GRU) -> Any:
    """Of what it returns, the outputs or the last ones; an initial state it has none."""
    made = getattr(torch.nn, type(layer).__name__)(
        layer.input_size, layer.hidden_size, layer.num_layers, layer.bias,
        batch_first=True, dropout=layer.dropout if layer.num_layers > 1 else 0.0, bidirectional=layer.bidirectional,
    )  # fmt: skip

    class Recurrent(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = _loaded(torch, layer, made)

        def forward(self, x: Any) -> Any:
            outputs, state = self.recurrent(x)
            if layer.returns != "last":
                return outputs
            hidden = state[0] if isinstance(state, tuple) else state
            return torch.cat(list(hidden[-2 if layer.bidirectional else -1 :]), 1)

    return Recurrent()


def _all(torch: Any, *layers: Module) -> list[Any]:
    return [_converted(torch, layer) for layer in layers]


def _over_time(torch: Any, pooling: str, keepdim: bool = False) -> Any:
    class OverTime(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return getattr(x, pooling)(1, keepdim)

    return OverTime()


def _transformer_layer(torch: Any, layer: nn.TransformerEncoderLayer) -> Any:
    attention, norm = layer.self_attn, layer.norm1
    twin = torch.nn.TransformerEncoderLayer(
        attention.embed_dim, attention.num_heads, layer.linear1.out_features, layer.dropout.p,
        layer.activation, norm.eps, batch_first=True, norm_first=layer.norm_first, bias=norm.bias is not None,
    )  # fmt: skip
    return _loaded(torch, layer, twin)


def _transformer(torch: Any, net: models.TransformerClassifier | models.TransformerLanguageModel) -> Any:
    causal = isinstance(net, models.TransformerLanguageModel)

    class Transformer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            parts = (net.embed, net.positions, net.drop, net.norm, net.head)
            self.embed, self.positions, self.drop, self.norm, self.head = _all(torch, *parts)
            self.blocks = torch.nn.ModuleList(_all(torch, *net.blocks))

        def forward(self, x: Any) -> Any:
            y = self.drop(self.embed(x) + self.positions(torch.arange(x.shape[1])))
            mask = torch.nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if causal else None
            for block in self.blocks:
                y = block(y, mask, is_causal=causal)
            y = self.norm(y)
            return self.head(y if causal else y.mean(1))

    return Transformer()


def _residual(torch: Any, layer: nn.Residual) -> Any:
    class Residual(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = _converted(torch, layer.body)
            self.shortcut = _converted(torch, layer.shortcut)
            self.activation = _converted(torch, layer.activation or nn.Identity())

        def forward(self, x: Any) -> Any:
            return self.activation(self.body(x) + self.shortcut(x))

    return Residual()


def _flatten(torch: Any) -> Any:
    class Flatten(torch.nn.Module):  # type: ignore[misc]
        """Of images that no convolution has seen: in the order of (N, H, W, C), so that the next layer's weights fit."""

        def forward(self, x: Any) -> Any:
            return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).flatten(1)

    return Flatten()
