"""Spoken tokens: the front end, the synthesis, CTC's targets, the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quernel as qn
from quernel.data.tasks import speech, transcription
from quernel.data.tasks import spoken_tokens as task
from quernel.data.tasks.common import stream
from quernel.data.tasks.task import QUERNEL
from quernel.models import AcousticModel
from quernel.text import ctc_collapse


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERNEL_CACHE", "off")


def test_utterances_repeat_and_begin_alike() -> None:
    data, longer = task.load(6, 4), task.load(9, 2)
    frames = data.train.x.shape[1]
    for name in ("frames", "y", "words"):
        np.testing.assert_array_equal(getattr(data.train, name), getattr(longer.train, name)[:6])
    np.testing.assert_array_equal(data.train.x, longer.train.x[:6, :frames])
    assert not np.array_equal(data.train.y[:4], data.test.y)  # parts have streams of their own
    assert not np.array_equal(data.train.y, task.load(6, 0, seed=1).train.y)


def test_targets_are_ctc_targets() -> None:
    part = task.load(200, 0).train
    assert part.x.shape[2] == 32 and part.x.dtype == np.float32 and np.isfinite(part.x).all()
    assert 45 < part.frames.mean() < 80
    for x, frames, y, words, aligned in zip(
        part.x, part.frames, part.y, part.words, part.aligned, strict=True
    ):
        assert 3 <= words <= 6 and (y[:words] >= 1).all() and (y[:words] <= 10).all() and not y[words:].any()
        assert not x[frames:].any() and not aligned[frames:].any()
        assert frames >= 2 * words + 1  # CTC needs a frame per word, and a blank between equal ones
        assert ctc_collapse(aligned[:frames]) == y[:words].tolist()
    share = np.bincount(part.y[part.y > 0], minlength=11)[1:] / (part.y > 0).sum()
    assert share.min() > 0.06 and share.max() < 0.14


def log_mel(wave: np.ndarray) -> np.ndarray:
    """The front end by NumPy's FFT in float64."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (60, 3900))
    edges = 700 * (10 ** (np.linspace(low, high, 34) / 2595) - 1)
    f = np.fft.rfftfreq(256, 1 / 8000)[:, None]
    rising, falling = (f - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - f) / np.diff(edges)[1:]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    windows = np.lib.stride_tricks.sliding_window_view(wave, 256)[::120] * hann
    bands = np.log(np.abs(np.fft.rfft(windows)) ** 2 @ np.maximum(0, np.minimum(rising, falling)) + 1e-8)
    return bands - bands.mean(0)


def test_the_front_end_is_the_plain_formula() -> None:
    layer = speech.front_end()
    wave, _ = speech.speak(stream("test", 0), [[0, 6], [2, 8, 3]])
    frames = layer(wave[None]).numpy()[0]
    assert frames.shape == ((len(wave) - 256) // 120 + 1, 32)
    np.testing.assert_allclose(frames, log_mel(wave), atol=1e-4)


def test_a_net_with_the_front_end_hears_waves(tmp_path: Path) -> None:
    waves = [speech.speak(stream("test", i), [[0, 6], [2, 8, 3]])[0] for i in range(3)]
    lengths = np.array(list(map(len, waves)))
    x = np.stack([np.pad(w, (0, lengths.max() - len(w))) for w in waves]).astype(np.float32)
    net = task.TASK.net()
    whole = AcousticModel(len(task.WORDS), speech.BANDS, front=speech.front_end())
    whole.load_state_dict(net.state_dict())
    heard = whole.predict((x, lengths))
    for row, wave in zip(heard, waves, strict=True):
        alone = log_mel(wave).astype(np.float32)
        np.testing.assert_allclose(row[: len(alone)], net(alone[None]).numpy()[0], atol=1e-4)
        assert (row[len(alone) :, 0] == 0).all()
    whole.save(tmp_path / "hears.safetensors")
    loaded = qn.load(tmp_path / "hears.safetensors")
    np.testing.assert_array_equal(loaded.predict((x, lengths)), heard)
    np.testing.assert_array_equal(loaded.freeze()(x, lengths), heard)


def test_vowels_have_their_formants() -> None:
    """The spectrum of a vowel at 100 Hz is strongest at a harmonic next to its first formant."""
    for name in ("i", "e", "a", "u"):
        first = speech.PHONEMES[name][0]
        tracks = np.tile(speech.PHONEMES[name][:3], (300, 1))
        pulses = np.zeros(300 * 64)
        pulses[::80] = 1  # 100 Hz
        wave = speech._filtered(pulses, tracks, np.ones(300))[2048:-2048]
        spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
        hertz = np.fft.rfftfreq(len(wave), 1 / 8000)
        assert abs(hertz[spectrum.argmax()] - first) < 90


def test_a_filter_that_passes_all_changes_nothing() -> None:
    """Windows add up to 1: with no resonance and no slope the source comes back."""
    random = np.random.RandomState(0)
    source = random.normal(size=64 * 40)
    passed = speech._filtered(source, np.full((40, 3), 1e9), np.ones(40))
    spectrum = np.fft.rfft(source) / (1 + np.fft.rfftfreq(len(source), 1 / 8000) / 500)
    sloped = np.fft.irfft(spectrum, n=len(source))
    middle = slice(256, -256)
    assert np.corrcoef(passed[middle], sloped[middle])[0, 1] > 0.99


def test_noise_has_its_level() -> None:
    quiet, loud = [], []
    for seed in range(20):
        frames, _, owner = task.utterance(stream("test", seed))
        quiet.append(frames[owner == 0].mean())
        loud.append(frames[owner > 0].mean())
    assert np.mean(loud) > np.mean(quiet) + 0.2


def test_scores() -> None:
    assert ctc_collapse(np.array([1, 1, 0, 1, 2, 2])) == [1, 1, 2]
    assert ctc_collapse(np.array([1, 1, 0, 1, 2, 2]), shortest=2) == [1, 2]
    assert ctc_collapse(np.zeros(0, int)) == []
    part = task.load(0, 5).test
    wanted = [y[:n].tolist() for y, n in zip(part.y, part.words, strict=True)]
    assert task.word_errors(wanted, part) == 0
    assert task.word_errors([[0, *words] for words in wanted], part) == 5 / part.words.sum()
    places = iter(range(5))

    def told(x: np.ndarray) -> np.ndarray:
        i = next(places)
        assert len(x) == part.frames[i]
        return part.aligned[i, : part.frames[i]]

    assert task.token_error(part, told, shortest=1) == 0
    assert task.token_error(part, lambda x: np.zeros(len(x), int)) == 1


def test_the_net_learns_and_is_sure_of_the_blank_behind_the_end() -> None:
    data = task.load(64, 20)
    part = data.train
    qn.seed(0)
    net = task.TASK.net()
    labels = np.where(np.arange(6) < part.words[:, None], part.y, -1)
    before = qn.losses.ctc(net(part.x, part.frames), labels).item()
    transcription.train(net, data, 25, 0, QUERNEL)
    log_probs = net(part.x, part.frames).numpy()
    assert qn.losses.ctc(log_probs, labels).item() < 0.15 * before
    for row, frames in zip(log_probs, part.frames, strict=True):
        np.testing.assert_allclose(np.exp(row[:frames]).sum(-1), 1, rtol=1e-5)
        assert (row[frames:, 0] == 0).all() and np.isneginf(row[frames:, 1:]).all()


def test_torch_hears_the_same() -> None:
    pytest.importorskip("torch")
    data = task.load(64, 20)
    heard = []
    for engine in ("quernel", "torch"):
        qn.seed(0)
        net = task.TASK.net()
        if engine == "quernel":
            heard.append(transcription.ctc_greedy(net(data.test.x, data.test.frames), data.test.frames))
        else:
            heard.append(transcription.train_torch(net, data, 0, 0, 0))
    assert heard[0] == heard[1] and any(heard[0])
