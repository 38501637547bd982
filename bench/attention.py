"""Attention of 4 heads of 32 columns and an encoder layer, forward and steps, beside torch eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import quernel as qn
from bench import peers
from bench.goals import Goal
from bench.harness import Case
from quernel import nn, ops, optim

GOALS = {"": Goal({1: 1.3, 2: 1.3}, floor=1.0)}
_LONG = "nothing but arithmetic: two products of short sums are 60 % of a profile, the softmax 25 %"
REASONS = dict.fromkeys(("attention 16x256", "attention 1x1024", "attention 4x1024"), _LONG)
WIDTH, HEADS = 128, 4
SIZES = ((1, 64), (16, 64), (1, 256), (16, 256), (1, 1024), (4, 1024))
RATE = 1e-9  # see train.py

Contenders = dict[str, Callable[[], object]]


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Attention alone, from one projection's rows, and the layer, at each length; the shortest also causal."""
    torch = peers.find("torch")
    for n, t in SIZES[:1] if quick else SIZES:
        macs = n * t * t * WIDTH
        for causal in (False, True):
            both = _attention(torch, n, t, causal)
            mask = " causal" if causal else ""
            share = 0.5 if causal else 1.0
            yield Case(f"attention{mask} {n}x{t}", both[0], 4.0 * macs * share)
            yield Case(f"attention{mask} {n}x{t} step", both[1], 14.0 * macs * share)
        yield Case(f"encoder layer {n}x{t}", _layer(torch, n, t))
        yield Case(f"encoder layer {n}x{t} step", _layer_step(torch, n, t))


def _rows(n: int, t: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, t, columns), dtype=np.float32)


def _attention(torch: Any, n: int, t: int, causal: bool) -> tuple[Contenders, Contenders]:
    """Forward, and forward with backward."""
    rows, slope = _rows(n, t, 3 * WIDTH), _rows(n, t, WIDTH)
    x, g = qn.tensor(rows, requires_grad=True), qn.tensor(slope)

    def step() -> object:
        x.grad = None
        ops.multi_head_attention(x, num_heads=HEADS, is_causal=causal).backward(g)
        return x.grad

    infer = qn.no_grad()(lambda: ops.multi_head_attention(x, num_heads=HEADS, is_causal=causal))
    forward: Contenders = {"quernel": infer}
    both: Contenders = {"quernel": step}
    if torch:
        tx, tg = torch.from_numpy(rows).requires_grad_(), torch.from_numpy(slope)

        def attend() -> Any:
            q, k, v = tx.view(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            return y.transpose(1, 2).reshape(n, t, WIDTH)

        def torch_step() -> object:
            tx.grad = None
            attend().backward(tg)
            return tx.grad

        forward["torch"], both["torch"] = torch.inference_mode()(attend), torch_step
    return forward, both


def _layers(torch: Any) -> tuple[nn.Module, Any]:
    """The same layer twice, without dropout."""
    mine = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0)
    if not torch:
        return mine, None
    theirs = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, batch_first=True)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy().copy()) for k, v in mine.state_dict().items()})
    return mine, theirs


def _layer(torch: Any, n: int, t: int) -> Contenders:
    mine, theirs = _layers(torch)
    x = _rows(n, t, WIDTH)
    run = mine.eval().freeze(max_batch=n, input_shape=(t, WIDTH))
    contenders: Contenders = {"quernel": lambda: run(x)}
    if torch:
        theirs.eval()
        tx = torch.from_numpy(x)
        contenders["torch"] = torch.inference_mode()(lambda: theirs(tx))
    return contenders


def _layer_step(torch: Any, n: int, t: int) -> Contenders:
    """Mean square of the output, backward, Adam."""
    mine, theirs = _layers(torch)
    x = _rows(n, t, WIDTH)
    optimizer = optim.Adam(mine.parameters(), lr=RATE)

    @qn.jit
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = ops.square(mine(x)).mean()
        loss.backward()
        optimizer.step()
        return loss

    contenders: Contenders = {"quernel": lambda: step(x)}
    if torch:
        tx = torch.from_numpy(x)
        adam = torch.optim.Adam(theirs.parameters(), lr=RATE, fused=True)

        def torch_step() -> object:
            adam.zero_grad(set_to_none=True)
            loss = theirs(tx).square().mean()
            loss.backward()
            adam.step()
            return loss

        contenders["torch"] = torch_step
    return contenders
