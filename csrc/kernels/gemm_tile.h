// The one floating-point multiplication of the engine: a register tile of up to kTileRows x kPanel outputs.
// Matrix products, convolutions and their gradients differ only in the addresses they give it.
#pragma once
#include "kernels/args/matmul.h"

namespace quernel::QUERNEL_ISA {

// Rows of a full tile: enough accumulators to hide the FMA's latency, few enough to leave registers for B.
#if defined(__AVX2__)
inline constexpr int kTileRows = 6;
#else
inline constexpr int kTileRows = 4;  // 16 registers, and each product needs one
#endif

// c[i][j] (+)= sum over taps t, then over k < depth: a[t * rows + i][k * a_step] * b[t][k * ldb + j], for i < rows
// and j < cols <= 64: one chain of FMAs per output, in this order. Columns come in groups of w = kPackWidth<T>, column
// j at b[t][j / w * group + j % w]: group = w in plain rows, w times the rows of B in packed ones.
template <class T>
struct Tile {
  const T* const* a;  // [taps][rows]
  const T* const* b;  // [taps]
  T* const* c;        // [rows]
  int64_t taps;
  int64_t depth;
  int64_t a_step;
  int64_t ldb;
  int64_t group;
  int rows;
  int cols;
  bool accumulate;  // continue the chain from c
};

void multiply_tile(const Tile<float>& tile);
void multiply_tile(const Tile<double>& tile);

}  // namespace quernel::QUERNEL_ISA
