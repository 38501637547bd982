// A strip of up to 32 u8 rows times one packed s8 panel, on tiles. The packed panel [K/4][64][4] feeds tiles as it is:
// 16 k-groups x 16 columns are 16 rows of 64 bytes, 256 bytes apart. Rows of A feed tiles as they lie, too.
//
// More than 16 rows: 2 x 2 tiles (32 x 32 sums, 4 loads for 4 dot products, compute-bound), twice per panel. The second
// pair of row tiles ends with the last row, so 17 to 31 rows overlap and recompute instead of needing padding.
// Up to 16 rows: 1 x 4 tiles. Rows missing from the 16, and the last k below 64, come through buffers, A's padded
// with zeros. Few rows or a short K are faster in registers (a tile instruction costs 16 rows whatever they hold).
#pragma once
#include "kernels/amx/tile_unit.h"
#include "kernels/simd/panel_dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

class TileDot {
 public:
  explicit TileDot(const Ctx& ctx) : registers_(ctx), tiles_(/*keep=*/ctx.thread != 0) {}

  // acc[rows][64] = A[rows, K] · panel in at least the first `columns` columns; rows <= 32, acc has 32 rows.
  void operator()(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k, int columns, int32_t* acc) {
    if (rows < kFewestRows || k < kTileK) return registers_(a, lda, rows, b, k, columns, acc);
    tiles_.configure();
    const int64_t body = k / kTileK * kTileK;
    if (body < k) pad_last_k(a + body, lda, rows, b + body * kPanel, k - body);
    if (rows > 16) {
      for (int column = 0; column < columns; column += 32) dot_2x2(a, lda, rows, b, k, column, acc + column);
    } else {
      dot_1x4(a, lda, rows, b, k, acc);
    }
  }

 private:
  static constexpr int kFewestRows = 8;
  static constexpr int64_t kTileK = 64;             // bytes of a tile row
  static constexpr int64_t kPanelRow = 4 * kPanel;  // bytes of a k-group of a packed panel, or of a row of acc

  // Rows of A get zeros up to 64 k, which also blank what b_last_ holds beyond the panel's end.
  void pad_last_k(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k) {
    __builtin_memset(a_last_, 0, sizeof(a_last_));
    for (int r = 0; r < rows; ++r) __builtin_memcpy(a_last_ + r * kTileK, a + r * lda, static_cast<size_t>(k));
    __builtin_memcpy(b_last_, b, static_cast<size_t>((k + 3) / 4 * kPanelRow));
  }

  void dot_2x2(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k, int column, int32_t* acc) {
    const int lower = rows - 16;  // first row of the second row tile
    tiles_.zero<0>();
    tiles_.zero<1>();
    tiles_.zero<2>();
    tiles_.zero<3>();
    const auto step = [&](const uint8_t* x, int64_t ldx, const int8_t* w) {
      tiles_.load<4>(x, ldx);
      tiles_.load<6>(w + 4 * column, kPanelRow);
      tiles_.load<7>(w + 4 * column + 64, kPanelRow);
      tiles_.dot_u8s8<0, 4, 6>();
      tiles_.dot_u8s8<1, 4, 7>();
      tiles_.load<5>(x + lower * ldx, ldx);
      tiles_.dot_u8s8<2, 5, 6>();
      tiles_.dot_u8s8<3, 5, 7>();
    };
    for (; k >= kTileK; k -= kTileK, a += kTileK, b += kTileK * kPanel) step(a, lda, b);
    if (k > 0) step(a_last_, kTileK, b_last_);
    tiles_.store<0>(acc, kPanelRow);
    tiles_.store<1>(acc + 16, kPanelRow);
    tiles_.store<2>(acc + lower * kPanel, kPanelRow);
    tiles_.store<3>(acc + lower * kPanel + 16, kPanelRow);
  }

  void dot_1x4(const uint8_t* a, int64_t lda, int rows, const int8_t* b, int64_t k, int32_t* acc) {
    tiles_.zero<0>();
    tiles_.zero<1>();
    tiles_.zero<2>();
    tiles_.zero<3>();
    const auto step = [&](const uint8_t* x, int64_t ldx, const int8_t* w) {
      tiles_.load<4>(x, ldx);
      tiles_.load<5>(w, kPanelRow);
      tiles_.dot_u8s8<0, 4, 5>();
      tiles_.load<6>(w + 64, kPanelRow);
      tiles_.dot_u8s8<1, 4, 6>();
      tiles_.load<7>(w + 128, kPanelRow);
      tiles_.dot_u8s8<2, 4, 7>();
      tiles_.load<5>(w + 192, kPanelRow);
      tiles_.dot_u8s8<3, 4, 5>();
    };
    alignas(64) uint8_t full[16 * kTileK] = {};
    for (; k >= kTileK; k -= kTileK, a += kTileK, b += kTileK * kPanel) {
      if (rows == 16) {
        step(a, lda, b);
      } else {
        for (int r = 0; r < rows; ++r) __builtin_memcpy(full + r * kTileK, a + r * lda, kTileK);
        step(full, kTileK, b);
      }
    }
    if (k > 0) step(a_last_, kTileK, b_last_);
    tiles_.store<0>(acc, kPanelRow);
    tiles_.store<1>(acc + 16, kPanelRow);
    tiles_.store<2>(acc + 32, kPanelRow);
    tiles_.store<3>(acc + 48, kPanelRow);
  }

  RegisterDot registers_;
  TileUnit tiles_;
  alignas(64) uint8_t a_last_[32 * kTileK];  // the last k of each row, padded with zeros to 64
  alignas(64) int8_t b_last_[16 * kPanelRow];
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
