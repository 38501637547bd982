// A strip of bfloat16 rows times groups of 16 columns, in registers, one chain per output.
//
// With AVX512_BF16 an instruction adds both products of a pair, each with a rounding of its own, the odd k first: 32
// multiply-adds, twice FMA's pace (measured on Zen 4: one a cycle, latency 6). A tile of 6 x 64 columns takes 4 loads
// and 6 broadcasts for 24 of them; a single row's four chains wait for B in L2 rather than for each other. The
// instruction flushes denormals, operands and results, as tiles do.
//
// Without, pairs are widened to float and multiplied by FMA, the even k before the odd one: bfloat16 saves memory
// traffic, not arithmetic, since a pair of k costs two operations to widen each register of B and each element of A. A
// product of two bfloat16 is exact in float, so that levels with and without FMA agree bit for bit.
#pragma once
#include "kernels/args/bf16.h"
#include "kernels/simd/bf16.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Rows of a tile, and the groups of 16 columns that it takes for so many rows: as many sums as leave registers for the
// widened operands, and where possible the eight that hide the latency. With 16 registers, 6 rows spill.
constexpr int kBf16TileRows = VecF32::kWidth == 16 ? 6 : VecF32::kWidth == 8 ? 4 : 2;
constexpr int bf16_tile_groups(int rows) {
  if (VecF32::kWidth == 16) return 4;
  if (VecF32::kWidth == 8) return rows == 1 ? 4 : rows == 2 ? 2 : 1;
  return 1;
}

#ifndef __AVX512BF16__
inline VecF32 dot_pairs(VecI32 a, VecI32 b, VecF32 sum) { return fma(odd(a), odd(b), fma(even(a), even(b), sum)); }
#endif

template <int R, int G>
[[gnu::noinline]] void dot_bf16_tile(const uint16_t* a, int64_t lda, const uint16_t* b, int64_t k, float* acc) {
  constexpr int kWidth = VecF32::kWidth, kVecs = G * static_cast<int>(kBf16Group) / kWidth;
  const int64_t group = k * kBf16Group;
  VecF32 sum[R][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) sum[r][v] = VecF32::zero();
  const auto b_pairs = [&](int v) {
    const int64_t offset = v * kWidth / kBf16Group * group + v * kWidth % kBf16Group * 2;
    return VecI32::load(reinterpret_cast<const int32_t*>(b + offset));
  };
  const auto a_pairs = [&](int r) {
    int32_t pair;
    __builtin_memcpy(&pair, a + r * lda, sizeof(pair));
    return VecI32::set(pair);
  };
  for (int64_t at = 0; at < k; at += 2, a += 2, b += 2 * kBf16Group) {
    if constexpr (R <= 2) {  // the fewer of A's and B's registers are widened first: none spills
      VecI32 pairs[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) pairs[r] = a_pairs(r);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) {
        const VecI32 w = b_pairs(v);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r][v] = dot_pairs(pairs[r], w, sum[r][v]);
      }
    } else {
      VecI32 pairs[kVecs];
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; ++v) pairs[v] = b_pairs(v);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const VecI32 x = a_pairs(r);
#pragma GCC unroll 8
        for (int v = 0; v < kVecs; ++v) sum[r][v] = dot_pairs(x, pairs[v], sum[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; ++v) sum[r][v].store(acc + r * kBf16Columns + v * kWidth);
}

template <int R>
void dot_bf16_rows(const uint16_t* a, int64_t lda, int rows, const uint16_t* b, int64_t k, int groups, float* acc) {
  if constexpr (R > 1) {
    if (rows < R) return dot_bf16_rows<R - 1>(a, lda, rows, b, k, groups, acc);
  }
  constexpr int kMost = bf16_tile_groups(R);
  for (; groups >= kMost; groups -= kMost, b += kMost * kBf16Group * k, acc += kMost * kBf16Group)
    dot_bf16_tile<R, kMost>(a, lda, b, k, acc);
  for (; groups > 0; --groups, b += kBf16Group * k, acc += kBf16Group) dot_bf16_tile<R, 1>(a, lda, b, k, acc);
}

struct Bf16RegisterDot {
  explicit Bf16RegisterDot(const Ctx&) {}

  // acc[rows][64] = A[rows, k] · B in `groups` groups of 16 columns. Rows are shared out evenly over the tiles.
  void operator()(const uint16_t* a, int64_t lda, int rows, const uint16_t* b, int64_t k, int groups,
                  float* acc) const {
    for (int tiles = (rows + kBf16TileRows - 1) / kBf16TileRows; tiles > 0; --tiles) {
      const int here = (rows + tiles - 1) / tiles;
      dot_bf16_rows<kBf16TileRows>(a, lda, here, b, k, groups, acc);
      a += here * lda;
      acc += here * kBf16Columns;
      rows -= here;
    }
  }
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
