"""Text: labels out of the steps of a sequence."""

from __future__ import annotations

from quernel.text.ctc import ctc_beam_search, ctc_collapse, ctc_greedy, edit_distance

__all__ = ["ctc_beam_search", "ctc_collapse", "ctc_greedy", "edit_distance"]
