// From int32 sums to output, for every int8 kernel that multiplies: bit for bit what the CPU does.
#pragma once
#include "core/cuda.h"
#include "kernels/args/quant.h"

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

}  // namespace quernel::cuda
