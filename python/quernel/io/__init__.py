"""Files: models as safetensors with their architecture and a whole-file checksum."""

from __future__ import annotations

from quernel.io.checkpoint import load, save
from quernel.io.resume import load_optimizer

__all__ = ["load", "load_optimizer", "save"]
