// From int32 sums to output, for every int8 kernel that multiplies.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/quant_gather.h"
#include "kernels/simd/dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Bias and scale of one panel's columns, padded so that the epilogue may read whole vectors.
struct Columns {
  alignas(64) int32_t bias[kPanel] = {};
  alignas(64) float scale[kPanel] = {};
  int count;

  Columns(const Requantize& p, int64_t first, int64_t n) : count(static_cast<int>(n < kPanel ? n : kPanel)) {
    __builtin_memcpy(bias, static_cast<const int32_t*>(p.bias) + first, static_cast<size_t>(count) * 4);
    __builtin_memcpy(scale, static_cast<const float*>(p.scale) + first, static_cast<size_t>(count) * 4);
  }
};

inline void requantize_row(const Requantizer& requantize, const Columns& cols, const int32_t* acc, uint8_t* y) {
  constexpr int kWidth = Requantizer::kWidth;
  int j = 0;
  for (; j + kWidth <= cols.count; j += kWidth) requantize(acc + j, cols.bias + j, cols.scale + j, y + j);
  if (j < cols.count) {
    uint8_t last[kPanel];
    requantize(acc + j, cols.bias + j, cols.scale + j, last);
    copy_bytes(y + j, last, cols.count - j);
  }
}

inline void dequantize_row(const Columns& cols, const int32_t* acc, float* y) {
  for (int j = 0; j < cols.count; ++j) {
    const uint32_t sum = static_cast<uint32_t>(acc[j]) + static_cast<uint32_t>(cols.bias[j]);  // wraps
    y[j] = static_cast<float>(static_cast<int32_t>(sum)) * cols.scale[j];
  }
}

// Writes a strip of sums to rows of ldc elements from element `first` of the output on.
void epilogue(const Requantize& p, bool y_float, const Columns& cols, const int32_t* acc, int rows, void* c,
              int64_t first, int64_t ldc) {
  const Requantizer requantize(p);
  for (int r = 0; r < rows; ++r, acc += kPanel, first += ldc) {
    if (y_float)
      dequantize_row(cols, acc, static_cast<float*>(c) + first);
    else
      requantize_row(requantize, cols, acc, static_cast<uint8_t*>(c) + first);
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
