"""Files: models as safetensors with their architecture and a whole-file checksum."""

from __future__ import annotations

from quernel.io.checkpoint import load, save

__all__ = ["load", "save"]
