// A strip of up to 32 bfloat16 rows times groups of 16 columns, on tiles: 2 x 2 tiles for more than 16 rows (4 loads
// for 4 products, compute-bound), 1 x 4 below. The second row tile ends with the last row, so 17 to 31 rows overlap and
// recompute; fewer than 16 rows come through a buffer.
//
// Tiles serve every M. Each product adds the sum of 32 k to an output, its even and its odd terms apart, which
// registers would have to imitate at several times the cost: else bits would depend on M. One row costs 16 cycles for 1
// KB of B, so small M run at the pace of L2 all the same. The unit flushes denormals, operands and results.
#pragma once
#include "kernels/amx/tile_unit.h"
#include "kernels/args/bf16.h"

namespace quernel::QUERNEL_ISA {
namespace {

class Bf16TileDot {
 public:
  explicit Bf16TileDot(const Ctx& ctx) : tiles_(/*keep=*/ctx.thread != 0) {}

  // acc[rows][64] = A[rows, k] · B in `groups` groups of 16 columns; rows <= 32, acc has 32 rows.
  void operator()(const uint16_t* a, int64_t lda, int rows, const uint16_t* b, int64_t k, int groups, float* acc) {
    tiles_.configure();
    const int64_t group = k * kBf16Group;
    for (int done = 0; done < groups;) {
      const uint16_t* from = b + done * group;
      float* to = acc + done * kBf16Group;
      const int left = groups - done;
      if (rows > 16) {
        left >= 2 ? multiply<2, 2>(a, lda, rows, from, k, to) : multiply<2, 1>(a, lda, rows, from, k, to);
        done += left >= 2 ? 2 : 1;
      } else {
        left >= 4 ? multiply<1, 4>(a, lda, rows, from, k, to) : multiply<1, 1>(a, lda, rows, from, k, to);
        done += left >= 4 ? 4 : 1;
      }
    }
  }

 private:
  static constexpr int64_t kRowBytes = 64;                            // of a tile
  static constexpr int64_t kAccBytes = kBf16Columns * sizeof(float);  // of a row of acc

  // Tiles 0 to 3 hold the sums, row tiles outermost; 4 and 5 rows of A; 6 and 7 groups of B.
  template <int R, int G>
  void multiply(const uint16_t* a, int64_t lda, int rows, const uint16_t* b, int64_t k, float* acc) {
    const int64_t lower = rows - 16, group = k * kBf16Group;  // `lower`: first row of the second row tile
    alignas(64) uint16_t few[16 * kBf16Block] = {};
    zero<R * G>();
    for (int64_t at = 0; at < k; at += kBf16Block, a += kBf16Block, b += kBf16Block * kBf16Group) {
      if (rows >= 16) {
        tiles_.load<4>(a, 2 * lda);
      } else {
        for (int r = 0; r < rows; ++r) __builtin_memcpy(few + r * kBf16Block, a + r * lda, kRowBytes);
        tiles_.load<4>(few, kRowBytes);
      }
      if constexpr (R == 2) tiles_.load<5>(a + lower * lda, 2 * lda);
      step<R, G, 0>(b, group);
    }
    store<R, G, 0>(acc, lower);
  }

  template <int N>
  void zero() {
    if constexpr (N > 1) zero<N - 1>();
    tiles_.zero<N - 1>();
  }

  template <int R, int G, int I>
  void step(const uint16_t* b, int64_t group) {
    constexpr int kTile = 6 + I % 2;
    tiles_.load<kTile>(b + I * group, kRowBytes);
    tiles_.dot_bf16<I, 4, kTile>();
    if constexpr (R == 2) tiles_.dot_bf16<G + I, 5, kTile>();
    if constexpr (I + 1 < G) step<R, G, I + 1>(b, group);
  }

  template <int R, int G, int I>
  void store(float* acc, int64_t lower) {
    tiles_.store<I>(acc + I * kBf16Group, kAccBytes);
    if constexpr (R == 2) tiles_.store<G + I>(acc + lower * kBf16Columns + I * kBf16Group, kAccBytes);
    if constexpr (I + 1 < G) store<R, G, I + 1>(acc, lower);
  }

  TileUnit tiles_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
