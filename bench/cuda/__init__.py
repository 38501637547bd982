"""Measurements on a GPU, beside torch's cuBLAS, cuDNN and CUDA graphs; `python -m bench.cuda`."""
