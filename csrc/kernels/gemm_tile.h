// The one floating-point multiplication of the engine: a register tile of up to kTileRows x kPanel outputs.
// Matrix products, convolutions and their gradients differ only in the addresses they give it.
#pragma once
#include "kernels/args/matmul.h"
#include "kernels/epilogue.h"

namespace quernel::QUERNEL_ISA {

// Rows of a full tile: enough accumulators to hide the FMA's latency, few enough to leave registers for B.
#if defined(__AVX2__)
inline constexpr int kTileRows = 6;
#else
inline constexpr int kTileRows = 4;  // 16 registers, and each product needs one
#endif

// Columns that one pass over A serves, where there are several rows: what its registers hold.
#if defined(__AVX512F__)
inline constexpr int64_t kTileCols = 64;
#else
inline constexpr int64_t kTileCols = 16;
#endif

// A stretch of the sum: where it starts in each row of A and in B, in elements, and its length.
struct Run {
  int64_t a;
  int64_t b;
  int64_t depth;
};

// What a tile does to finished sums while they are in registers: activation(c + bias + residual), or less, the
// activation being none, ReLU or ReLU6. The residual is laid out as the output, which starts at `base`; bias starts at
// column 0 of the tile.
template <class T>
struct TileFinish {
  const T* bias;
  const T* residual;
  const T* base;
  Activation activation;
};

// c[i][j] (+)= sum over runs r, then over k < r.depth: a[i][r.a + k * a_step] * b[r.b + k * ldb + j], for i < rows and
// j < cols <= 64: one chain of FMAs per output, in this order. Columns come in groups of w = kPackWidth<T>, column j at
// j / w * group + j % w: group = w in plain rows, w times the rows of B in packed ones.
template <class T>
struct Tile {
  const T* const* a;  // [rows]
  const T* b;
  T* const* c;  // [rows]
  const Run* runs;
  int64_t count;
  bool single;  // all runs have depth 1: to begin a longer one takes as long as ten products
  int64_t a_step;
  int64_t ldb;
  int64_t group;
  int rows;
  int cols;
  bool accumulate;  // continue the chain from c
  const TileFinish<T>* finish = nullptr;
  int64_t ahead = 0;  // elements from each row of B to what comes into L2 meanwhile, 0: nothing; tiles of several rows
  int64_t tiles = 1;  // of so many rows each, one after the other in a and c
  int first = 0;      // the columns are [first, first + cols); a multiple of kPackWidth<T>
};

namespace {

// Whether a tile can do all that the epilogue asks for. The rest is done in a pass of its own, see epilogue.cpp.
inline bool finishes_in_tile(const Epilogue& e) {
  return !e.gate && !e.pre && is_in_registers(e.activation) && !is_trivial(e);
}

// For a tile whose column 0 is output channel `first`.
template <class T>
inline TileFinish<T> tile_finish(const Epilogue& e, const void* base, int64_t first) {
  const T* bias = static_cast<const T*>(e.bias);
  return {bias ? bias + first : nullptr, static_cast<const T*>(e.residual), static_cast<const T*>(base), e.activation};
}

}  // namespace

void multiply_tile(const Tile<float>& tile);
void multiply_tile(const Tile<double>& tile);

}  // namespace quernel::QUERNEL_ISA
