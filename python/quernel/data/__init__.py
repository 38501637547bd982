"""Data sets, splits and batches, as NumPy arrays."""

from __future__ import annotations

from quernel.data.batching import batches, k_folds, train_test_split
from quernel.data.digits import load_digits

__all__ = ["batches", "k_folds", "load_digits", "train_test_split"]
