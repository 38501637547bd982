// int8 GEMM and convolution, u8 activations x s8 weights -> u8 or float; at the level of VNNI alone,
// quant_gemm_runs.cpp.
//
// Weights come packed in panels of 16 columns, [N/16][K/4][16][4], the last panel and k-group padded with zeros: one
// layout feeds vpdpbusd, AMX tiles and the widening products of AVX2. (With panels of 64 columns a register tile of 16
// reads 64 of every 256 bytes: a quarter of the L1's sets, and four interleaved streams for the prefetcher.) A work
// item is a strip of 32 rows times 64 columns (GEMM) or all columns of a group (convolution). PanelDot leaves the
// strip's int32 sums in an L1 buffer, and one epilogue, the same at every level, turns them into output. All of it is
// exact: int32 sums wrap, as NumPy's do, and the epilogue's float steps are single IEEE operations, so that levels
// agree bit for bit.
//
// Convolution gathers the 32 x K patch of a strip into scratch, once for all panels: input rows are contiguous over
// (kw, c), so a patch row is KH block copies, and copying K bytes stands against K · O/64 cycles of dot products. The
// padding is the input's zero point. Where bytes are widened anyway, few channels are left to quant_planar.cpp.
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/quant_epilogue.h"
#include "kernels/quant_gather.h"
#include "kernels/quant_planar.h"

#if defined(__AMX_INT8__) || defined(QUERNEL_AMX_EMULATED)
#include "kernels/amx/panel_dot_s8.h"
#else
#include "kernels/simd/panel_dot_s8.h"
#endif

namespace quernel::QUERNEL_ISA {
namespace {

#if defined(__AMX_INT8__) || defined(QUERNEL_AMX_EMULATED)
using PanelDot = TileDot;
#else
using PanelDot = RegisterDot;
#endif

// Levels that widen bytes for each product: those without a dot product of bytes, but for plain C++.
constexpr bool kWidens = DotS8::kWidens && !kDotLevel;

}  // namespace

int64_t gemm_u8s8_scratch(const QGemmArgs& p) { return PanelDot::scratch(p.k); }

Status gemm_u8s8(const QGemmArgs& p, Range range, const Ctx& ctx) {
  alignas(64) int32_t acc[kQStrip * kQColumns];
  PanelDot dot(ctx, ctx.scratch);
  const int64_t strips = ceil_div(p.m, kQStrip);
  for (int64_t item = range.begin; item < range.end;) {
    const int64_t block = item / strips, column = block * kQColumns;
    const int8_t* b = static_cast<const int8_t*>(p.b) + column * column_bytes(p.k);
    const Columns cols(p, column, p.n - column);
    const int64_t end = (block + 1) * strips < range.end ? (block + 1) * strips : range.end;
    for (; item < end; ++item) {
      const int64_t row = (item - block * strips) * kQStrip;
      const int rows = static_cast<int>(p.m - row < kQStrip ? p.m - row : kQStrip);
      dot.set_rows(static_cast<const uint8_t*>(p.a) + row * p.lda, p.lda, rows, p.k);
      dot(b, cols.count, acc);
      epilogue(p, p.y_float, cols, acc, rows, p.c, row * p.ldc + column, p.ldc);
    }
  }
  return {};
}

int64_t conv2d_u8s8_scratch(const QConvArgs& p) {
  if constexpr (kWidens) {
    if (planar_pays_u8s8(p)) return planar_scratch_u8s8(p);
  }
  return ceil_div(Gather::scratch(p.s), 64) * 64 + PanelDot::scratch(packed_depth(p.s));
}

Status conv2d_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  if constexpr (kWidens) {
    if (planar_pays_u8s8(p)) {
      run_planar_u8s8(p, range, ctx);
      return {};
    }
  }
  alignas(64) int32_t acc[kQStrip * kQColumns];
  const ConvShape& s = p.s;
  // Whole groups of four k: what a patch holds beyond its last k meets weights of zero.
  const int64_t k = packed_depth(s), n = s.o / s.groups;
  const int64_t pixels = s.n * s.oh * s.ow, strips = ceil_div(pixels, kQStrip);
  const int64_t group_bytes = ceil_div(n, kQPanel) * kQPanel * k;
  uint8_t* scratch = static_cast<uint8_t*>(ctx.scratch);
  const Gather gather(p, scratch);
  PanelDot dot(ctx, scratch + ceil_div(Gather::scratch(s), 64) * 64);
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t group = item / strips, pixel = item % strips * kQStrip;
    const int rows = static_cast<int>(pixels - pixel < kQStrip ? pixels - pixel : kQStrip);
    dot.set_rows(gather(group, pixel, rows), Gather::stride(s), rows, k);
    const int8_t* b = static_cast<const int8_t*>(p.w) + group * group_bytes;
    for (int64_t column = 0; column < n; column += kQColumns) {
      const Columns cols(p, group * n + column, n - column);
      dot(b + column * k, cols.count, acc);
      epilogue(p, p.y_float, cols, acc, rows, p.y, pixel * s.o + group * n + column, s.o);
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
