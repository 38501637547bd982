// int8 GEMM and convolution, u8 activations x s8 weights -> u8 or float; the only kernels of the dot-product levels.
//
// Weights come packed in panels of 64 columns, [N/64][K/4][64][4], the last panel and k-group padded with zeros: one
// layout feeds vpdpbusd, AMX tiles and the widening products of AVX2. A work item is a strip of 32 rows times one panel
// (GEMM) or all panels of a group (convolution). PanelDot leaves the strip's int32 sums in an L1 buffer, and one
// epilogue, the same at every level, turns them into output. All of it is exact: int32 sums wrap, as NumPy's do, and
// the epilogue's float steps are single IEEE operations, so that levels agree bit for bit.
//
// Convolution gathers the 32 x K patch of a strip into scratch, once for all panels: input rows are contiguous over
// (kw, c), so a patch row is KH block copies, and copying K bytes stands against K · O/64 cycles of dot products. The
// padding is the input's zero point.
#include "kernels/args/quant.h"
#include "kernels/quant_epilogue.h"
#include "kernels/quant_gather.h"

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

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t panel_bytes(int64_t k) { return ceil_div(k, 4) * 4 * kPanel; }

int64_t patch_stride(int64_t k) {
  return (ceil_div(k, 64) * 64) | 64;  // an odd number of cache lines, so that rows spread over the L1's sets
}

}  // namespace

Status gemm_u8s8(const QGemmArgs& p, Range range, const Ctx& ctx) {
  alignas(64) int32_t acc[kQStrip * kPanel];
  PanelDot dot(ctx);
  const int64_t strips = ceil_div(p.m, kQStrip);
  for (int64_t item = range.begin; item < range.end;) {
    const int64_t panel = item / strips, column = panel * kPanel;
    const int8_t* b = static_cast<const int8_t*>(p.b) + panel * panel_bytes(p.k);
    const Columns cols(p, column, p.n - column);
    const int64_t end = (panel + 1) * strips < range.end ? (panel + 1) * strips : range.end;
    for (; item < end; ++item) {
      const int64_t row = (item - panel * strips) * kQStrip;
      const int rows = static_cast<int>(p.m - row < kQStrip ? p.m - row : kQStrip);
      dot(static_cast<const uint8_t*>(p.a) + row * p.lda, p.lda, rows, b, p.k, cols.count, acc);
      epilogue(p, p.y_float, cols, acc, rows, p.c, row * p.ldc + column, p.ldc);
    }
  }
  return {};
}

int64_t conv2d_u8s8_scratch(const QConvArgs& p) {
  return kQStrip * patch_stride(p.s.kh * p.s.kw * (p.s.c / p.s.groups));
}

Status conv2d_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  alignas(64) int32_t acc[kQStrip * kPanel];
  PanelDot dot(ctx);
  const ConvShape& s = p.s;
  const int64_t k = s.kh * s.kw * (s.c / s.groups), n = s.o / s.groups, lda = patch_stride(k);
  const int64_t pixels = s.n * s.oh * s.ow, strips = ceil_div(pixels, kQStrip), panels = ceil_div(n, kPanel);
  uint8_t* patch = static_cast<uint8_t*>(ctx.scratch);
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t group = item / strips, pixel = item % strips * kQStrip;
    const int rows = static_cast<int>(pixels - pixel < kQStrip ? pixels - pixel : kQStrip);
    gather_patch(s, static_cast<const uint8_t*>(p.x), static_cast<uint8_t>(p.x_zero_point), group, pixel, rows, patch,
                 lda);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t column = group * n + panel * kPanel;
      const Columns cols(p, column, n - panel * kPanel);
      const int8_t* b = static_cast<const int8_t*>(p.w) + (group * panels + panel) * panel_bytes(k);
      dot(patch, lda, rows, b, k, cols.count, acc);
      epilogue(p, p.y_float, cols, acc, rows, p.y, pixel * s.o + column, s.o);
    }
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
