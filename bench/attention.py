"""Attention of 4 heads of 32 columns, decoding and an encoder layer, forward and steps, beside torch eager."""

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
_LONG = "the two products, near the peak, are most of it; torch has the same ones"
REASONS = dict.fromkeys(("attention 16x256", "attention 1x1024", "attention 4x1024"), _LONG)
WIDTH, HEADS = 128, 4
KINDS = ("", "causal", "bias", "dropout")  # a learned bias of the scores; dropout of a tenth of the weights
PASTS = (64, 1024)
POSITIONS = 16  # decoded one by one
SIZES = ((1, 64), (16, 64), (1, 256), (16, 256), (1, 1024), (4, 1024))
RATE = 1e-9  # see train.py

Contenders = dict[str, Callable[[], object]]


def cases(_threads: int, quick: bool) -> Iterator[Case]:
    """Attention alone, from one projection's rows, and the layer, at each length."""
    torch = peers.find("torch")
    for n, t in SIZES[:1] if quick else SIZES:
        macs = n * t * t * WIDTH
        for kind in KINDS:
            both = _attention(torch, n, t, kind)
            name, share = f"attention{' ' * bool(kind)}{kind} {n}x{t}", 0.5 if kind == "causal" else 1.0
            yield Case(name, both[0], 4.0 * macs * share)
            yield Case(f"{name} step", both[1], 14.0 * macs * share)
        yield Case(f"encoder layer {n}x{t}", _layer(torch, n, t))
        yield Case(f"encoder layer {n}x{t} step", _layer_step(torch, n, t))
    for t in PASTS[:1] if quick else PASTS:
        for how in ("", "jitted "):
            yield Case(f"{how}decode {POSITIONS} after {t}", _decode(torch, t, bool(how)))


def _rows(n: int, t: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, t, columns), dtype=np.float32)


def _attention(torch: Any, n: int, t: int, kind: str) -> tuple[Contenders, Contenders]:
    """Forward, and forward with backward."""
    rows, slope = _rows(n, t, 3 * WIDTH), _rows(n, t, WIDTH)
    bias = (
        np.random.default_rng(1).standard_normal((HEADS, t, t), dtype=np.float32) if kind == "bias" else None
    )
    x, g = qn.tensor(rows, requires_grad=True), qn.tensor(slope)
    mask = None if bias is None else qn.tensor(bias, requires_grad=True)
    how = {"is_causal": kind == "causal", "dropout_p": 0.1 * (kind == "dropout")}

    def attend() -> Any:
        return ops.multi_head_attention(x, num_heads=HEADS, attn_mask=mask, **how)

    def step() -> object:
        x.grad = None
        if mask is not None:
            mask.grad = None
        attend().backward(g)
        return x.grad

    forward: Contenders = {"quernel": qn.no_grad()(attend)}
    both: Contenders = {"quernel": step}
    if torch:
        tx, tg = torch.from_numpy(rows).requires_grad_(), torch.from_numpy(slope)
        summand = None if bias is None else torch.from_numpy(bias).requires_grad_()

        def torch_attend() -> Any:
            q, k, v = tx.view(n, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=summand, **how)
            return y.transpose(1, 2).reshape(n, t, WIDTH)

        def torch_step() -> object:
            tx.grad = None
            if summand is not None:
                summand.grad = None
            torch_attend().backward(tg)
            return tx.grad

        forward["torch"], both["torch"] = torch.inference_mode()(torch_attend), torch_step
    return forward, both


def _decode(torch: Any, t: int, jitted: bool) -> Contenders:
    """The next positions of causal self-attention with its projections, one by one, after t others."""
    net, cache = nn.MultiheadAttention(WIDTH, HEADS).eval(), nn.KeyValueCache()
    past, x = _rows(1, t, WIDTH), _rows(1, 1, WIDTH)
    net.decode(past, cache)
    step = qn.jit(net.decode) if jitted else net.decode

    def decode() -> object:
        for _ in range(POSITIONS):
            y = step(x, cache)
        cache.truncate(t)
        return y

    contenders: Contenders = {"quernel": decode}
    if torch:
        w, b, u, c = (torch.from_numpy(p.numpy().copy()) for p in net.parameters())
        held = torch.nn.functional.linear(torch.from_numpy(past), w[WIDTH:], b[WIDTH:])
        buffer = torch.cat([held, torch.zeros(1, POSITIONS, 2 * WIDTH)], 1)
        tx = torch.from_numpy(x)

        def torch_step(at: int) -> object:
            rows = torch.nn.functional.linear(tx, w, b)
            buffer[:, at] = rows[:, 0, WIDTH:]
            q = rows[:, :, :WIDTH].view(1, 1, HEADS, -1).transpose(1, 2)
            k, v = buffer[:, : at + 1].view(1, at + 1, 2, HEADS, -1).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return torch.nn.functional.linear(y.transpose(1, 2).reshape(1, 1, WIDTH), u, c)

        def torch_decode() -> object:
            for at in range(t, t + POSITIONS):
                y = torch_step(at)
            return y

        contenders["torch"] = torch.inference_mode()(torch_decode)
    return contenders


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
