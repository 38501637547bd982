"""Trains an acoustic model on utterances whose words have no marked places, by quernel or by torch, from the same weights."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quernel.data.tasks.experiment import Recipe, precision_of, train_twin
from quernel.models.acoustic import AcousticModel
from quernel.text import ctc_greedy

if TYPE_CHECKING:
    from quernel.data.tasks.spoken_tokens import Speech, Utterances

Array = NDArray[Any]

RECIPE = Recipe(optimizer="adamw", lr=1e-2, weight_decay=1e-2, batch_size=64)


def _labels(part: Utterances) -> Array:
    """Words, filled up with -1."""
    return np.where(np.arange(part.y.shape[1]) < part.words[:, None], part.y, -1)


def train(net: AcousticModel, data: Speech, epochs: int, verbose: str | int, engine: str) -> list[list[int]]:
    """Trains by quernel; returns the words of the test utterances as the net heard them."""
    part, test = data.train, data.test
    optimizer, arguments = RECIPE.arguments(net, len(part.x), epochs)
    net.compile(optimizer, loss="ctc", precision=precision_of(engine))
    net.fit((part.x, part.frames), _labels(part), verbose=verbose, **arguments)
    return ctc_greedy(net.predict((test.x, test.frames)), test.frames)


def train_torch(
    net: AcousticModel, data: Speech, epochs: int, seed: int, verbose: str | int
) -> list[list[int]]:
    """The same by PyTorch."""
    torch: Any = importlib.import_module("torch")
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

    def scores(x: Any, frames: Any) -> Any:
        packed = pack(x, frames, batch_first=True, enforce_sorted=False)
        outputs, _ = pad(twin["lstm"](packed)[0], batch_first=True, total_length=x.shape[1])
        return twin["head"](outputs).log_softmax(-1)

    def loss(x: Any, frames: Any, y: Any, words: Any) -> Any:
        return torch.nn.functional.ctc_loss(scores(x, frames).transpose(0, 1), y, frames, words)

    part, test = data.train, data.test
    train_twin(twin, [part.x, part.frames, part.y, part.words], loss, RECIPE, epochs, seed, verbose)
    with torch.no_grad():
        return ctc_greedy(scores(*map(torch.from_numpy, (test.x, test.frames))).numpy(), test.frames)
