"""Trains an acoustic model on utterances whose words have no marked places, by quernel or by torch, from the same weights."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import quernel as qn
from quernel import optim
from quernel.callbacks import LRScheduler
from quernel.data.batching import batches
from quernel.data.tasks.experiment import Recipe
from quernel.models.acoustic import AcousticModel
from quernel.progress import progress
from quernel.text import ctc_greedy

if TYPE_CHECKING:
    from quernel.data.tasks.spoken_tokens import Speech, Utterances

Array = NDArray[Any]

RECIPE = Recipe(optimizer="adamw", lr=1e-2, weight_decay=1e-2, batch_size=64)


def _labels(part: Utterances) -> Array:
    """Words, filled up with -1."""
    return np.where(np.arange(part.y.shape[1]) < part.words[:, None], part.y, -1)


def train(net: AcousticModel, data: Speech, epochs: int, verbose: str | int) -> list[list[int]]:
    """Trains by quernel; returns the words of the test utterances as the net heard them."""
    part, test = data.train, data.test
    steps = epochs * math.ceil(len(part.x) / RECIPE.batch_size)
    net.compile(optim.AdamW(net.parameters(), RECIPE.lr, weight_decay=RECIPE.weight_decay), loss="ctc")
    net.fit(
        (part.x, part.frames),
        _labels(part),
        batch_size=RECIPE.batch_size,
        epochs=epochs,
        callbacks=[LRScheduler(lambda step: RECIPE.rate(step / steps), per="batch")],
        verbose=verbose,
    )
    return ctc_greedy(net.predict((test.x, test.frames)), test.frames)


def train_torch(
    net: AcousticModel, data: Speech, epochs: int, seed: int, verbose: str | int
) -> list[list[int]]:
    """The same by PyTorch."""
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(qn.runtime.num_threads())
    torch.manual_seed(seed)
    lstm, head = net.lstm, net.head
    twin = torch.nn.ModuleDict(
        {
            "lstm": torch.nn.LSTM(
                lstm.input_size, lstm.hidden_size, lstm.num_layers, batch_first=True, bidirectional=True
            ),
            "head": torch.nn.Linear(head.in_features, head.out_features),
        }
    )
    weights = {name: torch.tensor(np.array(value)) for name, value in net.state_dict().items()}
    twin.load_state_dict({name: w for name, w in weights.items() if name != "silence"})
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence

    def scores(x: Array, frames: Array) -> Any:
        packed = pack(torch.from_numpy(x), torch.from_numpy(frames), batch_first=True, enforce_sorted=False)
        outputs, _ = pad(twin["lstm"](packed)[0], batch_first=True, total_length=x.shape[1])
        return twin["head"](outputs).log_softmax(-1)

    part, order, step = data.train, np.random.default_rng(seed), 0
    optimizer = torch.optim.AdamW(twin.parameters(), RECIPE.lr, weight_decay=RECIPE.weight_decay)
    steps = epochs * math.ceil(len(part.x) / RECIPE.batch_size)
    display = progress(verbose, epochs)
    try:
        for epoch in range(epochs):
            display.begin_epoch(epoch, len(part.x))
            total = 0.0
            columns = [part.x, part.frames, part.y, part.words]
            for x, frames, y, words in batches(columns, RECIPE.batch_size, order.permutation(len(part.x))):
                for group in optimizer.param_groups:
                    group["lr"] = RECIPE.rate(step / steps)
                optimizer.zero_grad()
                loss = torch.nn.functional.ctc_loss(
                    scores(x, frames).transpose(0, 1), *map(torch.from_numpy, (y, frames, words))
                )
                loss.backward()
                optimizer.step()
                step += 1
                total += loss.item() * len(x)
                display.advance(len(x), loss.item())
            display.end_epoch(epoch, {"loss": total / len(part.x)})
    finally:
        display.close()
    with torch.no_grad():
        return ctc_greedy(scores(data.test.x, data.test.frames).numpy(), data.test.frames)
