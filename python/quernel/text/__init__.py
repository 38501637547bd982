"""Text: vocabularies, sampling of tokens, and labels out of the steps of a sequence."""

from __future__ import annotations

from quernel.text.ctc import ctc_beam_search, ctc_collapse, ctc_greedy, edit_distance
from quernel.text.sampling import Sampler
from quernel.text.vocabulary import CharVocabulary, Vocabulary, WordVocabulary

__all__ = [
    "CharVocabulary",
    "Sampler",
    "Vocabulary",
    "WordVocabulary",
    "ctc_beam_search",
    "ctc_collapse",
    "ctc_greedy",
    "edit_distance",
]
