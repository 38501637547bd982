"""Text from small language models, token by token, beside torch eager with the same weights and a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel import models

GOALS = {"": Goal({1: 1.3, 2: 1.3}, floor=1.0)}
TOKENS, PROMPT, LENGTH = 96, 16, 64
WIDTH, HEADS, LAYERS = 128, 4, 2


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """The likeliest 64 tokens after a prompt of 16, of a Transformer and of an LSTM."""
    torch = peers.find("torch")
    length = 4 if quick else LENGTH
    prompt = np.random.default_rng(0).integers(0, TOKENS, PROMPT)
    qn.seed(0)
    for name, net in (
        (
            "transformer",
            models.TransformerLanguageModel(TOKENS, WIDTH, HEADS, LAYERS, PROMPT + LENGTH, dropout=0.0),
        ),
        ("lstm", models.LSTMLanguageModel(TOKENS, 32, WIDTH, LAYERS)),
    ):
        net.eval()
        contenders = {"quernel": lambda net=net: net.generate(prompt, length, temperature=0)}
        if torch:
            step = (_Transformer if name == "transformer" else _Lstm)(torch, net).step
            contenders["torch"] = lambda step=step: _generate(torch, step, prompt, length)
        yield Case(f"{name} {length} tokens", contenders)


def _generate(torch: Any, step: Any, prompt: np.ndarray, length: int) -> list[int]:
    codes: list[int] = []
    with torch.inference_mode():
        state, x = None, torch.from_numpy(prompt)[None]
        for _ in range(length):
            scores, state = step(x, state)
            codes.append(int(scores[0, -1].argmax()))
            x = torch.tensor([codes[-1:]])
    return codes


def _weights(torch: Any, net: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(value.numpy().copy()) for name, value in net.state_dict().items()}


class _Transformer:
    """What `models.TransformerLanguageModel` computes, in torch's functions."""

    def __init__(self, torch: Any, net: Any) -> None:
        self._torch, self._w = torch, _weights(torch, net)
        self._tail = PROMPT + LENGTH

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        w, f = self._w, self._torch.nn.functional
        buffers, past = state or ([self._torch.zeros(1, self._tail, 2 * WIDTH) for _ in range(LAYERS)], 0)
        end = past + x.shape[1]
        y = w["embed.weight"][x] + w["positions.weight"][past:end]
        for i, buffer in enumerate(buffers):
            y = y + self._attend(f"blocks.{i}.", self._norm(f"blocks.{i}.norm1", y), buffer, past, end)
            hidden = self._linear(f"blocks.{i}.linear1", self._norm(f"blocks.{i}.norm2", y))
            y = y + self._linear(f"blocks.{i}.linear2", f.gelu(hidden))
        return self._linear("head", self._norm("norm", y)), (buffers, end)

    def _attend(self, block: str, x: Any, buffer: Any, past: int, end: int) -> Any:
        w, f = self._w, self._torch.nn.functional
        rows = f.linear(x, w[block + "self_attn.in_proj_weight"], w[block + "self_attn.in_proj_bias"])
        buffer[:, past:end] = rows[:, :, WIDTH:]
        q = rows[:, :, :WIDTH].view(1, end - past, HEADS, -1).transpose(1, 2)
        k, v = buffer[:, :end].view(1, end, 2, HEADS, -1).permute(2, 0, 3, 1, 4)
        y = f.scaled_dot_product_attention(q, k, v, is_causal=past == 0)
        return self._linear(block + "self_attn.out_proj", y.transpose(1, 2).reshape(1, end - past, WIDTH))

    def _norm(self, name: str, x: Any) -> Any:
        return self._torch.nn.functional.layer_norm(
            x, (WIDTH,), self._w[name + ".weight"], self._w[name + ".bias"]
        )

    def _linear(self, name: str, x: Any) -> Any:
        return self._torch.nn.functional.linear(x, self._w[name + ".weight"], self._w[name + ".bias"])


class _Lstm:
    """What `models.LSTMLanguageModel` computes, in torch's layers."""

    def __init__(self, torch: Any, net: Any) -> None:
        layers = torch.nn
        self._embed = layers.Embedding(TOKENS, 32)
        self._lstm = layers.LSTM(32, WIDTH, LAYERS, batch_first=True)
        self._head = layers.Linear(WIDTH, TOKENS)
        twin = layers.ModuleDict({"embed": self._embed, "lstm": self._lstm, "head": self._head})
        twin.load_state_dict(_weights(torch, net))

    def step(self, x: Any, state: Any) -> tuple[Any, Any]:
        y, state = self._lstm(self._embed(x), state)
        return self._head(y), state
