"""Handwritten digits that come with scikit-learn: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quernel.errors import UnsupportedError


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images and labels of 1797 handwritten digits (Alpaydin and Kaynak 1998).

    Returns:
        Images (1797, 8, 8, 1) with values from 0 to 1, and the digits (1797,).

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UnsupportedError('[load_digits] needs scikit-learn: pip install "quernel[sklearn]"') from error
    bunch: Any = datasets.load_digits()
    images = (bunch.images / 16.0).astype(np.float32)[..., np.newaxis]
    return np.ascontiguousarray(images), bunch.target.astype(np.int64)
