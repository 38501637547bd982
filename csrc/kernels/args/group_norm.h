// Normalization of groups of channels: group norm and instance norm.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// x is (samples, rows, channels); a group is channels / groups neighbouring channels of one sample. Sums over rows go
// over fixed blocks of kGroupNormRows; item = (sample, block, tile of kGroupNormTile channels), with partial results
// (samples, blocks, channels).
inline constexpr int64_t kGroupNormRows = 128;
inline constexpr int64_t kGroupNormTile = 64;
struct GroupNormSize {
  int64_t samples = 0, rows = 0, channels = 0, groups = 1;
};

// Of each block and channel: the mean, and the sum of squared distances from it.
struct GroupNormStatsArgs {
  const void* x = nullptr;
  void* mean = nullptr;
  void* squares = nullptr;
  DType dtype{};
  GroupNormSize size;
};

// From those, mean and biased variance of each group (samples, groups), in float64 within; item = sample.
struct GroupNormMergeArgs {
  const void* block_mean = nullptr;
  const void* block_squares = nullptr;
  void* mean = nullptr;
  void* var = nullptr;
  DType dtype{};
  GroupNormSize size;
};

// y = (x - mean) / sqrt(var + eps) * weight + bias, the latter two per channel or null; item = row of a sample.
struct GroupNormArgs {
  const void* x = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* y = nullptr;
  DType dtype{};
  double eps = 0;
  GroupNormSize size;
};

// Partial sums of g · (x - mean) / sqrt(var + eps) and of g; item as for the statistics.
struct GroupNormGradSumsArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  void* dot = nullptr;
  void* sum = nullptr;
  DType dtype{};
  double eps = 0;
  GroupNormSize size;
};

// dx, from the complete sums (samples, channels); item = row of a sample.
struct GroupNormGradArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  const void* weight = nullptr;
  const void* dot = nullptr;
  const void* sum = nullptr;
  void* dx = nullptr;
  DType dtype{};
  double eps = 0;
  GroupNormSize size;
};

}  // namespace quernel
