"""Arguments of sequence ops, layers, decoders and vocabularies that cannot be: what the messages say, and nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import quernel as qn
from quernel import models, nn, ops, text
from quernel.errors import ArgumentError, DTypeError, ShapeError

A, D, S = ArgumentError, DTypeError, ShapeError
Q = np.ones((2, 5, 4), np.float32)
TABLE = np.ones((5, 4), np.float32)
LOGS = np.log(np.full((2, 3, 4), 0.25))
CACHE, OTHER = nn.KeyValueCache, nn.DecoderCache


def sdpa(**options: Any) -> Any:
    return ops.scaled_dot_product_attention(Q, Q, Q, **options)


def mha(*args: Any, **options: Any) -> Any:
    return nn.MultiheadAttention(4, 2)(Q, *args, **options)


def decoder() -> nn.TransformerDecoder:
    return nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 1)


def beam(**options: Any) -> Any:
    return text.ctc_beam_search(LOGS, **options)


def chars(*args: Any, **options: Any) -> Any:
    return text.CharVocabulary.build("banana", *args, **options)


REFUSED: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "state of no elements": (
        S, r"\[lstm\] the state has no elements \(weight_hh: \(0, 0\)",
        lambda: ops.lstm(Q, np.ones((0, 4), "f4"), np.ones((0, 0), "f4")),
    ),
    "half a state": (D, r"\[lstm\] c0: tensors cannot hold NoneType", lambda: nn.LSTM(4, 3)(Q, (np.zeros((1, 2, 3)), None))),
    "x of a layer": (D, r"\[gru\] x: tensors cannot hold <U3", lambda: nn.GRU(4, 3)("abc")),
    "dropout True": (A, r"\[lstm\] dropout lies between 0 and 1, got True", lambda: nn.LSTM(4, 3, 2, dropout=True)),
    "padding 1.5": (A, r"\[embedding\] padding_idx is a whole number, got 1\.5", lambda: ops.embedding([1], TABLE, 1.5)),
    "padding a": (A, r"\[embedding_bag\] padding_idx is a whole number, got 'a'", lambda: nn.EmbeddingBag(5, 4, padding_idx="a")),
    "dropout_p": (A, r"dropout_p is a probability in \[0, 1\], got 'a'", lambda: sdpa(dropout_p="a")),
    "scale": (A, r"\[scaled_dot_product_attention\] scale must be finite, got 'a'", lambda: sdpa(scale="a")),
    "is_causal": (A, r"is_causal is True or False, got 'no'", lambda: sdpa(is_causal="no")),
    "past 1.5": (A, r"past counts the keys before .*, got 1\.5", lambda: sdpa(is_causal=True, past=1.5)),
    "past None": (A, r"past counts the keys before .*, got None", lambda: sdpa(is_causal=True, past=None)),
    "past too large": (A, r"past counts the keys before", lambda: sdpa(is_causal=True, past=2**63)),
    "rows of arrays": (D, r"\[append_rows_\] y is written in place and must be a tensor, got ndarray", lambda: ops.append_rows_(Q, np.zeros(1, int), Q)),
    "query": (D, r"\[multihead_attention\] query: tensors cannot hold NoneType", lambda: nn.MultiheadAttention(4, 2)(None)),
    "mask of texts": (D, r"\[multihead_attention\] attn_mask: tensors cannot hold <U6", lambda: mha(attn_mask="causal")),
    "cache": (A, r"\[multihead_attention\] cache is an nn\.KeyValueCache, got dict", lambda: nn.MultiheadAttention(4, 2).decode(Q, {})),
    "other cache": (A, r"\[transformer_decoder\] cache is an nn\.DecoderCache, got KeyValueCache", lambda: decoder().decode(Q, Q, CACHE())),
    "truncate": (A, r"length is a whole number, got 1\.5", lambda: CACHE().truncate(1.5)),
    "no memory": (D, r"\[transformer_decoder_layer\] memory: tensors cannot hold NoneType", lambda: decoder()(Q, None)),
    "a decoder's layer": (D, r"\[transformer_decoder_layer\] memory", lambda: nn.TransformerEncoder(decoder().layers[0], 1)(Q)),
    "eps": (A, r"\[layer_norm\] eps is positive, got 'a'", lambda: nn.TransformerEncoderLayer(4, 2, 8, layer_norm_eps="a")),
    "blank of a loss": (A, r"\[ctc_loss\] blank is one of the 4 classes, 0 to 3, got 1\.5", lambda: ops.ctc_loss(LOGS, [[1], [2]], blank=1.5)),
    "blank of a decoder": (A, r"\[ctc_greedy\] blank is a whole number, got 1\.5", lambda: text.ctc_greedy(LOGS, blank=1.5)),
    "log_probs of texts": (D, r"\[ctc_greedy\] log_probs holds <U1, expected numbers", lambda: text.ctc_greedy([[["a"]]])),
    "ragged log_probs": (S, r"\[ctc_greedy\] log_probs is no array", lambda: text.ctc_greedy([[1, 2], [1]])),
    "lengths 1.5": (D, r"\[ctc_greedy\] lengths holds float64, expected whole numbers", lambda: text.ctc_greedy(LOGS, [1.5, 2])),
    "lengths of None": (D, r"\[ctc_beam_search\] lengths holds object, expected whole numbers", lambda: beam(lengths=[None, 1])),
    "inf": (A, r"\[ctc_beam_search\] log_probs has inf in row 1", lambda: text.ctc_beam_search(LOGS + np.array([0, np.inf])[:, None, None])),
    "beam_width": (A, r"beam_width is a whole number, at least 1, got 1\.5", lambda: beam(beam_width=1.5)),
    "no language model": (A, r"language_model is a function f\(prefix, label\), got str", lambda: beam(language_model="a")),
    "NaN of a model": (A, r"gives the logarithm of a probability, got nan for label 1 after \(\)", lambda: beam(language_model=lambda *_: np.nan)),
    "None of a model": (A, r"the logarithm of a probability, got None", lambda: beam(language_model=lambda *_: None)),
    "weight": (A, r"\[ctc_beam_search\] weight is a finite number, got nan", lambda: beam(weight=np.nan)),
    "bonus": (A, r"\[ctc_beam_search\] bonus is a finite number, got 'x'", lambda: beam(bonus="x")),
    "alignment of rows": (A, r"\[ctc_collapse\] alignment is \(T,\) classes from 0 on, got \(1, 2\)", lambda: text.ctc_collapse([[1, 2]])),
    "alignment below 0": (A, r"from 0 on, got \(3,\) with -1", lambda: text.ctc_collapse([-1, -1, 2])),
    "alignment 1.5": (D, r"\[ctc_collapse\] alignment holds float64, expected whole numbers", lambda: text.ctc_collapse([1.5])),
    "distance": (A, r"\[edit_distance\] expects two sequences, got None", lambda: text.edit_distance(None, "a")),
    "tokens": (A, r"\[vocabulary\] tokens are a list of texts, got int", lambda: text.CharVocabulary(3)),
    "texts of numbers": (A, r"\[build\] expects texts, one of them is 1", lambda: text.WordVocabulary.build([1])),
    "texts None": (A, r"\[build\] expects texts, got NoneType", lambda: text.CharVocabulary.build(None)),
    "max_size": (A, r"\[vocabulary\] max_size is a whole number, got 3\.5", lambda: chars(max_size=3.5)),
    "number for a token": (A, r"\[encode_tokens\] expects texts, one of them is 1", lambda: chars()[1]),
    "batch of a number": (A, r"\[encode_batch\] expects texts, got int", lambda: chars().encode_batch(3)),
    "ragged codes": (S, r"\[decode\] codes is no array", lambda: chars().decode([[1], [1, 2]])),
    "no description": (A, r"\[vocabulary\] the description is a dictionary, got NoneType", lambda: text.Vocabulary.from_dict(None)),
    "type of a description": (A, r"\[vocabulary\] unknown type \[1\]", lambda: text.Vocabulary.from_dict({"type": [1]})),
    "scores": (D, r"\[sampler\] scores holds <U1, expected numbers", lambda: text.Sampler()(["a"])),
    "ragged prompt": (S, r"\[generate\] prompt is no array", lambda: models.LSTMLanguageModel(5).generate([[1], [1, 2]], 3)),
    "tokens without rows": (
        S, r"\[transformer_classifier\] x must have 2 dimensions \(N, T\), got shape \(3,\)",
        lambda: models.TransformerClassifier(5, 2)(np.ones(3, int)),
    ),
    "no tokens": (
        S, r"\[transformer_classifier\] x has no tokens, of which there is no mean \(x: \(2, 0\)",
        lambda: models.TransformerClassifier(5, 2)(np.ones((2, 0), int)),
    ),
    "labels": (A, r"\[acoustic_model\] labels is a positive integer, got 0", lambda: models.AcousticModel(0)),
    "front": (A, r"\[acoustic_model\] front is a layer of frames such as .*, got str", lambda: models.AcousticModel(3, front="mel")),
    "lengths of a front": (
        A, r"\[acoustic_model\] lengths need a front that tells how many frames .*; Embedding has none",
        lambda: models.AcousticModel(3, front=nn.Embedding(9, 4))(np.zeros((2, 8), int), np.array([8, 4])),
    ),
    "frames of texts": (D, r"\[spectrogram\] frames takes whole numbers of samples, got <U1", lambda: nn.Spectrogram(16).frames("a")),
    "frames of parts": (D, r"\[spectrogram\] frames takes whole numbers of samples, got float64", lambda: nn.Spectrogram(16).frames(5.5)),
    "f_min": (A, r"\[mel_spectrogram\] f_min is a number, got 'a'", lambda: nn.MelSpectrogram(f_min="a")),
    "top_db": (A, r"\[amplitude_to_db\] top_db is a number, got 'a'", lambda: nn.AmplitudeToDB(top_db="a")),
    "precision None": (A, r"\[compile\] unknown precision None", lambda: nn.LSTM(4, 3).compile(precision=None)),
    "precision of a list": (A, r"\[compile\] unknown precision \['bf16'\]", lambda: nn.LSTM(4, 3).compile(precision=["bf16"])),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_named(name: str) -> None:
    error, message, call = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


def test_a_front_without_lengths_is_any_layer() -> None:
    net = models.AcousticModel(3, front=nn.Embedding(9, 4))
    assert net(np.zeros((2, 8), int)).shape == (2, 8, 4)


def test_numbers_of_numpy_are_numbers() -> None:
    lengths = np.array([2, 3])
    assert ops.sequence_mask(lengths, lengths.max()).shape == (2, 3)
    assert ops.checked_lengths(lengths, np.int64(3), np.int8(1)).tolist() == [2, 3]
    layer, cache = nn.MultiheadAttention(4, 2, dropout=np.float32(0.5)).eval(), CACHE(np.int64(8))
    layer.decode(Q, cache)
    cache.truncate(np.int64(3))
    assert len(cache) == 3
    assert nn.Embedding(5, 4, padding_idx=np.int64(-1)).padding_idx == 4
    net = models.TransformerLanguageModel(5, 8, 2, 1, max_len=16)
    assert net.generate([1], np.int64(3), seed=0) == net.generate([1], 3, seed=0)


def test_lists_are_operands_where_a_layer_looks_at_shapes() -> None:
    layer = nn.MultiheadAttention(4, 2)
    padding, causal = np.arange(10).reshape(2, 5) % 5 > 2, ~np.tri(5, dtype=bool)
    want = layer(Q, key_padding_mask=padding, attn_mask=causal).numpy()
    got = layer(Q.tolist(), key_padding_mask=padding.tolist(), attn_mask=causal.tolist())
    np.testing.assert_array_equal(got.numpy(), want)
    net = models.TransformerLanguageModel(5, 8, 2, 1).eval()
    np.testing.assert_array_equal(net([[1, 2]]).numpy(), net(np.array([[1, 2]])).numpy())


def test_weights_of_no_keys() -> None:
    y, weights = nn.MultiheadAttention(4, 2)(Q, Q[:, :0], need_weights=True, average_attn_weights=False)
    assert y.shape == (2, 5, 4) and weights.shape == (2, 2, 5, 0)


def test_a_model_without_weight_is_not_asked() -> None:
    """Where it gives -inf, 0 times that would be NaN."""
    assert beam(language_model=lambda *_: -np.inf, weight=0.0) == beam()


def test_distances_are_plain_numbers() -> None:
    for found, wanted in ((np.array([1, 2]), np.array([1, 3])), (qn.tensor([1, 2]), [1, 3])):
        distance = text.edit_distance(found, wanted)
        assert type(distance) is int and distance == 1
    assert text.edit_distance(np.ones((2, 2)), np.zeros((2, 2))) == 2
