// CUDA, or its emulation on the CPU: kernels include this and nothing else of the two.
#pragma once
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "core/emulated.h"
#endif
