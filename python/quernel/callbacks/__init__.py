"""Callbacks: code that `fit` runs between batches and epochs.

They run in the order in which they are given. Epochs and batches count from 0.
"""

from quernel.callbacks.averaging import EMA
from quernel.callbacks.base import Callback, LambdaCallback, Logs
from quernel.callbacks.files import CSVLogger, ModelCheckpoint
from quernel.callbacks.monitor import EarlyStopping, ReduceLROnPlateau
from quernel.callbacks.rollback import LRRollback
from quernel.callbacks.schedule import BatchSizeScheduler, LRScheduler

__all__ = [
    "EMA",
    "BatchSizeScheduler",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LRRollback",
    "LRScheduler",
    "LambdaCallback",
    "Logs",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
]
