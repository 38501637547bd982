// A strip of up to 32 u8 rows times packed s8 panels, on tiles. A panel [K/4][16][4] feeds tiles as it is: 16 k-groups
// are a tile of 16 rows of 64 bytes, one after another. Rows of A feed tiles as they lie, too.
//
// More than 16 rows: 2 x 2 tiles (32 x 32 sums, 4 loads for 4 dot products, compute-bound), twice for 64 columns. The
// second pair of row tiles ends with the last row, so 17 to 31 rows overlap and recompute instead of needing padding.
// Up to 16 rows: 1 x 4 tiles. Where fewer panels are left, the last one stands in for those missing, and its sums go
// nowhere. Rows missing from the 16, and the last k below 64, come through buffers, A's padded with zeros. Few rows or
// a short K are faster in registers (a tile instruction costs 16 rows whatever they hold).
#pragma once
#include "kernels/amx/tile_unit.h"
#include "kernels/simd/panel_dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

class TileDot {
 public:
  static int64_t scratch(int64_t k) { return RegisterDot::scratch(k); }

  TileDot(const Ctx& ctx, void* scratch) : registers_(ctx, scratch), tiles_(/*keep=*/ctx.thread != 0) {}

  // The strip that the next products read: up to 32 rows.
  void set_rows(const uint8_t* a, int64_t lda, int rows, int64_t k) {
    a_ = a, lda_ = lda, rows_ = rows, k_ = k;
    if (in_registers()) return registers_.set_rows(a, lda, rows, k);
    tiles_.configure();
    const int64_t body = k / kTileK * kTileK;
    if (body == k) return;
    // Rows get zeros up to 64 k, which also blank what b_last_ holds beyond the panel's end.
    __builtin_memset(a_last_, 0, sizeof(a_last_));
    for (int r = 0; r < rows; ++r)
      __builtin_memcpy(a_last_ + r * kTileK, a + r * lda + body, static_cast<size_t>(k - body));
  }

  // acc[rows][64] = strip · the panels from b on, in at least the first `columns` columns; acc has 32 rows.
  void operator()(const int8_t* b, int columns, int32_t* acc) {
    if (in_registers()) return registers_(b, columns, acc);
    const int panels = (columns + 15) / 16;
    const int64_t body = k_ / kTileK * kTileK, panel = strip_panel_bytes(k_);
    const int8_t* panel_of[4];
    for (int i = 0; i < 4; ++i) {
      panel_of[i] = b + (i < panels ? i : panels - 1) * panel;
      if (body < k_)
        __builtin_memcpy(b_last_[i], panel_of[i] + body * kQPanel, static_cast<size_t>(panel - body * kQPanel));
    }
    if (rows_ > 16) {
      for (int column = 0; column < columns; column += 32) dot_2x2(panel_of, column / 16, acc + column);
    } else {
      dot_1x4(panel_of, acc);
    }
  }

 private:
  static constexpr int kFewestRows = 8;
  static constexpr int64_t kTileK = 64;              // bytes of a tile row
  static constexpr int64_t kAccRow = 4 * kQColumns;  // bytes of a row of acc

  bool in_registers() const { return rows_ < kFewestRows || k_ < kTileK; }

  void dot_2x2(const int8_t* const* panels, int panel, int32_t* acc) {
    const int lower = rows_ - 16;  // first row of the second row tile
    tiles_.zero<0>();
    tiles_.zero<1>();
    tiles_.zero<2>();
    tiles_.zero<3>();
    const auto step = [&](const uint8_t* x, int64_t ldx, const int8_t* left, const int8_t* right) {
      tiles_.load<4>(x, ldx);
      tiles_.load<6>(left, 64);
      tiles_.load<7>(right, 64);
      tiles_.dot_u8s8<0, 4, 6>();
      tiles_.dot_u8s8<1, 4, 7>();
      tiles_.load<5>(x + lower * ldx, ldx);
      tiles_.dot_u8s8<2, 5, 6>();
      tiles_.dot_u8s8<3, 5, 7>();
    };
    int64_t k = 0;
    for (; k + kTileK <= k_; k += kTileK)
      step(a_ + k, lda_, panels[panel] + k * kQPanel, panels[panel + 1] + k * kQPanel);
    if (k < k_) step(a_last_, kTileK, b_last_[panel], b_last_[panel + 1]);
    tiles_.store<0>(acc, kAccRow);
    tiles_.store<1>(acc + 16, kAccRow);
    tiles_.store<2>(acc + lower * kQColumns, kAccRow);
    tiles_.store<3>(acc + lower * kQColumns + 16, kAccRow);
  }

  void dot_1x4(const int8_t* const* panels, int32_t* acc) {
    tiles_.zero<0>();
    tiles_.zero<1>();
    tiles_.zero<2>();
    tiles_.zero<3>();
    const auto step = [&](const uint8_t* x, int64_t ldx, const int8_t* b0, const int8_t* b1, const int8_t* b2,
                          const int8_t* b3) {
      tiles_.load<4>(x, ldx);
      tiles_.load<5>(b0, 64);
      tiles_.dot_u8s8<0, 4, 5>();
      tiles_.load<6>(b1, 64);
      tiles_.dot_u8s8<1, 4, 6>();
      tiles_.load<7>(b2, 64);
      tiles_.dot_u8s8<2, 4, 7>();
      tiles_.load<5>(b3, 64);
      tiles_.dot_u8s8<3, 4, 5>();
    };
    alignas(64) uint8_t full[16 * kTileK] = {};
    int64_t k = 0;
    for (; k + kTileK <= k_; k += kTileK) {
      const uint8_t* x = a_ + k;
      int64_t ldx = lda_;
      if (rows_ < 16) {
        for (int r = 0; r < rows_; ++r) __builtin_memcpy(full + r * kTileK, a_ + k + r * lda_, kTileK);
        x = full, ldx = kTileK;
      }
      const int64_t at = k * kQPanel;
      step(x, ldx, panels[0] + at, panels[1] + at, panels[2] + at, panels[3] + at);
    }
    if (k < k_) step(a_last_, kTileK, b_last_[0], b_last_[1], b_last_[2], b_last_[3]);
    tiles_.store<0>(acc, kAccRow);
    tiles_.store<1>(acc + 16, kAccRow);
    tiles_.store<2>(acc + 32, kAccRow);
    tiles_.store<3>(acc + 48, kAccRow);
  }

  RegisterDot registers_;
  TileUnit tiles_;
  const uint8_t* a_ = nullptr;
  int64_t lda_ = 0, k_ = 0;
  int rows_ = 0;
  alignas(64) uint8_t a_last_[32 * kTileK];  // the last k of each row, padded with zeros to 64
  alignas(64) int8_t b_last_[4][16 * kTileK];
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
