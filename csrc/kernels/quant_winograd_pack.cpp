// Weights for quant_winograd_dot.cpp, transformed once: G w Gᵗ of 3x3 taps, rows 0 and 5 of G taken 24 and 6 times and
// the others as in quant_winograd.cpp. Kept, they take eight times the memory of bytes. (Transformed by every item that
// needs them, into L2, they took 380 cycles per panel and four channels, the time of products with five tiles.)
#include "kernels/args/quant.h"
#include "kernels/quant_winograd_tiles.h"
#include "kernels/simd/tile_pairs_s16.h"

namespace quernel::QUERNEL_ISA {
namespace {

using S16Lanes [[gnu::vector_size(64)]] = int16_t;

// G w.
[[gnu::always_inline]] inline void transform_weight(const S16Lanes& w0, const S16Lanes& w1, const S16Lanes& w2,
                                                    S16Lanes (&t)[kTileIn]) {
  const S16Lanes ends = w0 + w2, far = w0 + 4 * w2, middle = w1 + w1;
  t[0] = 6 * w0;
  t[1] = ends + w1;
  t[2] = ends - w1;
  t[3] = far + middle;
  t[4] = far - middle;
  t[5] = 6 * w2;
}

// To points `pitch` apart.
[[gnu::always_inline]] inline void transform_taps(const S16Lanes (&w)[9], int16_t* to, int64_t pitch) {
  S16Lanes half[3][kTileIn];
#pragma GCC unroll 3
  for (int64_t x = 0; x < 3; ++x) transform_weight(w[x], w[3 + x], w[6 + x], half[x]);
#pragma GCC unroll 6
  for (int64_t y = 0; y < kTileIn; ++y) {
    S16Lanes out[kTileIn];
    transform_weight(half[0][y], half[1][y], half[2][y], out);
#pragma GCC unroll 6
    for (int64_t x = 0; x < kTileIn; ++x) __builtin_memcpy(to + (y * kTileIn + x) * pitch, &out[x], sizeof(out[x]));
  }
}

// Four channels from c on, of a panel that begins with a column: their even pairs and their odd ones.
[[gnu::noinline]] void pack_quad(const PackArgs& p, int64_t column, int64_t c, int16_t* to_even, int16_t* to_odd,
                                 int64_t pitch) {
  S16Lanes even[9], odd[9];
  for (int64_t tap = 0; tap < 9; ++tap) {
    alignas(64) int8_t bytes[kQPanel][4] = {};
    const int8_t* from = static_cast<const int8_t*>(p.src) + column * p.src_col + tap * p.src_tap + c * p.src_row;
    for (int64_t o = 0; o < kQPanel && column + o < p.n; ++o)
      for (int64_t i = 0; i < 4; ++i) bytes[o][i] = from[o * p.src_col + i * p.src_row];
    S16Lanes packed;
    __builtin_memcpy(&packed, bytes, sizeof(packed));
    even[tap] = packed << 8 >> 8;
    odd[tap] = packed >> 8;
  }
  transform_taps(even, to_even, pitch);
  transform_taps(odd, to_odd, pitch);
}

}  // namespace

// Weights (N, 9, K), K a multiple of four; item = up to two panels.
Status pack_winograd_s8(const PackArgs& p, Range range, const Ctx&) {
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t column = item * kPairColumns, panels = p.n - column > kQPanel ? 2 : 1, width = panels * 2 * kQPanel;
    int16_t* to = static_cast<int16_t*>(p.dst) + winograd_weights(p.k, column);
    for (int64_t c = 0, depth = winograd_depth(p.k); c < p.k; c += depth, to += (kTilePoints - 1) * depth / 2 * width) {
      depth = least(depth, p.k - c);
      for (int64_t k = 0; k < depth; k += kPairGroup) {
        const int64_t quads = least(depth - k, kPairGroup) / 4;
        for (int64_t i = 0; i < quads; ++i)
          for (int64_t v = 0; v < panels; ++v, to += 2 * kQPanel)
            pack_quad(p, column + v * kQPanel, c + k + 4 * i, to, to + quads * width, depth / 2 * width);
        to += quads * width;
      }
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
