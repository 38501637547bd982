// From int32 sums to output, for every int8 kernel that multiplies.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/simd/dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Bias and scale of the columns of a row, readable up to whole vectors.
struct ColumnSpan {
  const int32_t* bias;
  const float* scale;
  int count;
};

// Those of a block of columns, copied to where they are padded.
struct Columns {
  alignas(64) int32_t bias[kQColumns] = {};
  alignas(64) float scale[kQColumns] = {};
  int count;

  Columns(const Requantize& p, int64_t first, int64_t n) : count(static_cast<int>(n < kQColumns ? n : kQColumns)) {
    __builtin_memcpy(bias, static_cast<const int32_t*>(p.bias) + first, static_cast<size_t>(count) * 4);
    __builtin_memcpy(scale, static_cast<const float*>(p.scale) + first, static_cast<size_t>(count) * 4);
  }
  ColumnSpan span() const { return {bias, scale, count}; }
};

inline void requantize_row(const Requantizer& requantize, const ColumnSpan& cols, const int32_t* acc, uint8_t* y) {
  constexpr int kWidth = Requantizer::kWidth;
  int j = 0;
  for (; j + kWidth <= cols.count; j += kWidth) requantize(acc + j, cols.bias + j, cols.scale + j, y + j);
  if (j < cols.count) {
    uint8_t last[kWidth];
    requantize(acc + j, cols.bias + j, cols.scale + j, last);
    for (int i = 0; i < kWidth && j + i < cols.count; ++i) y[j + i] = last[i];
  }
}

inline void dequantize_row(const ColumnSpan& cols, const int32_t* acc, float* y) {
  for (int j = 0; j < cols.count; ++j) {
    const uint32_t sum = static_cast<uint32_t>(acc[j]) + static_cast<uint32_t>(cols.bias[j]);  // wraps
    y[j] = static_cast<float>(static_cast<int32_t>(sum)) * cols.scale[j];
  }
}

// Writes one row of sums from element `first` of the output on.
inline void write_row(const Requantizer& requantize, bool y_float, const ColumnSpan& cols, const int32_t* acc, void* y,
                      int64_t first) {
  if (y_float)
    dequantize_row(cols, acc, static_cast<float*>(y) + first);
  else
    requantize_row(requantize, cols, acc, static_cast<uint8_t*>(y) + first);
}

// Writes a strip of sums to rows of ldc elements from element `first` of the output on.
inline void epilogue(const Requantize& p, bool y_float, const Columns& cols, const int32_t* acc, int rows, void* c,
                     int64_t first, int64_t ldc) {
  const Requantizer requantize(p);
  for (int r = 0; r < rows; ++r, acc += kQColumns, first += ldc)
    write_row(requantize, y_float, cols.span(), acc, c, first);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
