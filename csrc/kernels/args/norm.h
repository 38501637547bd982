// Normalization.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel {

// Statistics and gradient sums go over fixed blocks of rows; item = (block of kNormRows rows, tile of kNormTile
// channels). Their partial results have shape (blocks, channels).
inline constexpr int64_t kNormRows = 128;
inline constexpr int64_t kNormTile = 64;

// Of each block of x (rows, channels): the mean, and the sum of squared distances from it.
struct BatchNormStatsArgs {
  const void* x = nullptr;
  void* mean = nullptr;
  void* squares = nullptr;
  DType dtype{};
  int64_t rows = 0, channels = 0;
};

// From those, mean and biased variance of all rows, in float64 within; item = tile of channels.
struct BatchNormMergeArgs {
  const void* block_mean = nullptr;
  const void* block_squares = nullptr;
  void* mean = nullptr;
  void* var = nullptr;
  DType dtype{};
  int64_t rows = 0, channels = 0;
};

// y = (x - mean) / sqrt(var + eps) * weight + shift, and its epilogue but for `bias`; item = row. weight and shift may
// be null.
struct BatchNormArgs : Epilogue {
  const void* x = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  const void* weight = nullptr;
  const void* shift = nullptr;
  void* y = nullptr;
  DType dtype{};
  double eps = 0;
  int64_t rows = 0, channels = 0;
};

// running = (1 - momentum) * running + momentum * batch, the batch variance unbiased; one item.
struct BatchNormUpdateArgs {
  const void* mean = nullptr;
  const void* var = nullptr;
  void* running_mean = nullptr;
  void* running_var = nullptr;
  DType dtype{};
  double momentum = 0;
  int64_t rows = 0, channels = 0;
};

// Partial sums of dweight = g · (x - mean) / sqrt(var + eps) and dbias = g; item as above.
struct BatchNormGradParamsArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;
  DType dtype{};
  double eps = 0;
  int64_t rows = 0, channels = 0;
};

// dx of training mode, from the complete sums; item = row.
struct BatchNormGradInputArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  const void* weight = nullptr;
  const void* dweight = nullptr;
  const void* dbias = nullptr;
  void* dx = nullptr;
  DType dtype{};
  double eps = 0;
  int64_t rows = 0, channels = 0;
};

}  // namespace quernel
