"""`compile`, `fit`, `evaluate`, `predict` and the verbs of one batch: what `nn.Module` forwards to.

- ``compiling``: names and options become a `Trainer`.
- ``objective``: losses and metrics, one of each per output.
- ``trainer``: the step (forward, losses, backward, update) is a plain function; `qn.jit` makes it one native call, and
  ``run_eagerly`` calls it as it is, to the same bits.
- ``samples``, ``checks``, ``weights``: data are checked before the first step, against what the model makes of one
  sample: a call that raises leaves model, optimizer and random stream as they were.
- ``sources``: batches, from arrays or from the user's loader.
- ``loop``, ``evaluation``: the verbs.
"""

from quernel.training.compiling import compile
from quernel.training.evaluation import evaluate, predict, predict_on_batch, test_on_batch, train_on_batch
from quernel.training.loop import fit
from quernel.training.trainer import Trainer

__all__ = [
    "Trainer",
    "compile",
    "evaluate",
    "fit",
    "predict",
    "predict_on_batch",
    "test_on_batch",
    "train_on_batch",
]
