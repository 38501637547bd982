// From int32 sums to output, for every int8 kernel that multiplies: bit for bit what the CPU does.
#pragma once
#include "core/cuda.h"
#include "kernels/args/quant.h"
#include "kernels/pairs.h"

namespace quernel::cuda {

// rint_even(clamp(v, lo, hi)) for bounds below 2^22; NaN becomes lo.
__device__ inline int round_clamped(float v, float lo, float hi) {
  v = v > lo ? v : lo;
  v = v < hi ? v : hi;
  return static_cast<int>(rintf(v));
}

// What a sum stands for.
__device__ inline float dequantized(int sum, int bias, float scale) {
  return static_cast<float>(static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(bias))) *
         scale;  // wraps
}
__device__ inline uint8_t requantized(const Requantize& p, float v) {
  const float lo = static_cast<float>(p.lo - p.zero_point), hi = static_cast<float>(p.hi - p.zero_point);
  return static_cast<uint8_t>(round_clamped(v, lo, hi) + p.zero_point);
}

// Writes the sum of a column at element i of the output.
__device__ inline void put_quantized(const Requantize& p, bool as_float, int sum, int64_t column, void* y, int64_t i) {
  const float v = dequantized(sum, static_cast<const int*>(p.bias)[column], static_cast<const float*>(p.scale)[column]);
  if (as_float)
    static_cast<float*>(y)[i] = v;
  else
    static_cast<uint8_t*>(y)[i] = requantized(p, v);
}

// What a thread of warpgroup_tile.h remembers of two columns.
struct TwoQuantized {
  int bias[2];
  float scale[2];
  bool has_second;
};
__device__ inline TwoQuantized two_quantized(const Requantize& p, int64_t column, int64_t n) {
  const int64_t next = column + 1 < n ? column + 1 : column;
  const auto* bias = static_cast<const int*>(p.bias);
  const auto* scale = static_cast<const float*>(p.scale);
  return {{bias[column], bias[next]}, {scale[column], scale[next]}, next > column};
}
__device__ inline void put_two_quantized(const Requantize& p, bool as_float, const TwoQuantized& c, Pair<int> sums,
                                         void* y, int64_t i, bool in_pairs) {
  const Pair<float> v{dequantized(sums.first, c.bias[0], c.scale[0]), dequantized(sums.second, c.bias[1], c.scale[1])};
  if (as_float)
    put_two(static_cast<float*>(y) + i, v, in_pairs, c.has_second);
  else
    put_two(static_cast<uint8_t*>(y) + i, {requantized(p, v.first), requantized(p, v.second)}, in_pairs, c.has_second);
}

}  // namespace quernel::cuda
