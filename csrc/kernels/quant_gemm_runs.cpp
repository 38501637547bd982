// int8 GEMM and convolution with VNNI: quant_gemm.cpp's weights, items and results, without its buffers. Rows are read
// where they lie (quant_runs.h) and sums are requantized in registers (simd/run_dot_s8.h).
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/quant_epilogue.h"
#include "kernels/quant_planar.h"
#include "kernels/quant_runs.h"
#include "kernels/simd/run_dot_s8.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Rows of a matrix, `lda` apart: one run, and one of a last group copied from the row's end, which may be the buffer's.
class MatrixRuns {
 public:
  explicit MatrixRuns(int64_t k) : k_(k) {}

  Runs find(const uint8_t* a, int64_t lda, int rows) {
    const int64_t whole = k_ / 4, rest = k_ % 4;
    const uint8_t** last = whole > 0 ? rows_ + kRunPitch : rows_;
    for (int r = 0; r < rows; ++r) rows_[r] = a + r * lda;
    if (rest == 0) return {rows_, 1, whole, whole};
    for (int r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < rest; ++i) last_[4 * r + i] = a[r * lda + 4 * whole + i];
      last[r] = last_ + 4 * r;
    }
    return {rows_, whole > 0 ? 2 : 1, whole, 1};
  }

 private:
  int64_t k_;
  const uint8_t* rows_[2 * kRunPitch];
  uint8_t last_[4 * kQStrip] = {};
};

}  // namespace

int64_t gemm_u8s8_scratch(const QGemmArgs&) { return 0; }

Status gemm_u8s8(const QGemmArgs& p, Range range, const Ctx&) {
  const int64_t strips = ceil_div(p.m, kQStrip), panel = column_bytes(p.k) * kQPanel;
  const RowWriter writer(p, p.y_float, p.c, p.ldc);
  MatrixRuns matrix(p.k);
  for (int64_t item = range.begin; item < range.end;) {
    const int64_t block = item / strips, column = block * kQColumns;
    const int8_t* b = static_cast<const int8_t*>(p.b) + block * kQColumns / kQPanel * panel;
    const Columns cols(p, column, p.n - column);
    const int64_t end = (block + 1) * strips < range.end ? (block + 1) * strips : range.end;
    for (; item < end; ++item) {
      const int64_t row = (item - block * strips) * kQStrip;
      const int rows = static_cast<int>(p.m - row < kQStrip ? p.m - row : kQStrip);
      const Runs runs = matrix.find(static_cast<const uint8_t*>(p.a) + row * p.lda, p.lda, rows);
      dot_runs(runs, rows, b, panel, cols, writer, row * p.ldc + column);
    }
  }
  return {};
}

int64_t conv2d_u8s8_scratch(const QConvArgs& p) {
  return planar_pays_u8s8(p) ? planar_scratch_u8s8(p) : PixelRuns(p, nullptr).scratch_bytes();
}

Status conv2d_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  if (planar_pays_u8s8(p)) {
    run_planar_u8s8(p, range, ctx);
    return {};
  }
  const ConvShape& s = p.s;
  const PixelRuns runs_of(p, ctx.scratch);
  const int64_t n = s.o / s.groups, panel = conv_runs(s) * runs_of.bytes() * kQPanel;
  const int64_t pixels = s.n * s.oh * s.ow;
  const RowWriter writer(p, p.y_float, p.y, s.o);
  Columns cols(p, 0, n);
  int64_t held = 0;  // its first column
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t group = item % s.groups, pixel = item / s.groups * p.strip;  // groups fastest: they share lines
    const int rows = static_cast<int>(least(pixels - pixel, p.strip));
    const Runs runs = runs_of.find(group, pixel, rows);
    const int8_t* b = static_cast<const int8_t*>(p.w) + group * ceil_div(n, kQPanel) * panel;
    for (int64_t column = 0; column < n; column += kQColumns, b += kQColumns / kQPanel * panel) {
      const int64_t first = group * n + column;
      if (first != held) cols = Columns(p, first, n - column);
      held = first;
      dot_runs(runs, rows, b, panel, cols, writer, pixel * s.o + first);
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
