// Normalization of rows: layer norm and RMS norm.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// y = (x - mean) / sqrt(var + eps) * weight + bias over each row; `rms`: mean is 0 and var the mean square. weight and
// bias may be null. `mean` and `rstd`, one number per row for the gradient, may be null; rms has no mean. Item = row.
struct LayerNormArgs {
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* y = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
  DType dtype{};
  bool rms = false;
  double eps = 0;
  int64_t rows = 0, cols = 0;
};

// Gradients of x and, summed over each block of rows, of weight and bias: (blocks, cols) each, or null where nobody
// wants them. Item = block of kLayerNormRows rows.
inline constexpr int64_t kLayerNormRows = 32;
struct LayerNormGradArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* weight = nullptr;
  const void* mean = nullptr;
  const void* rstd = nullptr;
  void* dx = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;
  DType dtype{};
  bool rms = false;
  int64_t rows = 0, cols = 0;
};

}  // namespace quernel
