"""Files: models as safetensors with their architecture and a whole-file checksum."""
