"""The CUDA engine of quernel, a shared library beside this file; `quernel` loads it when a device is asked for."""
