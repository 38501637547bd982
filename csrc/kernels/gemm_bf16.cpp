// bfloat16 matrix products. A work item is a strip of 32 rows times 64 columns; consecutive items walk down the rows,
// so that B stays in L2. A dot object leaves the strip's sums in an L1 buffer, 32 x 64 floats: tiles can store nowhere
// else, and one epilogue serves every level. Through that buffer fp32 output costs a copy, K / 2 times cheaper than the
// product.
#include "kernels/args/bf16.h"
#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/simd/bf16.h"
#include "kernels/simd/math.h"
#include "kernels/strip_bf16.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Part of the output: `rows` x `cols` from (row, column) on.
struct Place {
  int64_t row, column;
  int rows, cols;
};

void finish_float(const Bf16GemmArgs& g, const Place& at, const float* acc) {
  float* base = static_cast<float*>(g.c);
  float* c[kBf16Strip];
  for (int r = 0; r < at.rows; ++r) c[r] = base + (at.row + r) * g.n + at.column;
  finish_strip(g, base, c, at.rows, at.cols, at.column, acc);
}

inline void round_row(float* x, int n) {
  for_lanes<VecF32>(n, [&](int64_t j, int lanes) { put(round_to_bf16(get<VecF32>(x + j, lanes)), x + j, lanes); });
}

inline void add_row(float* x, const uint16_t* y, int n) {
  for (int j = 0; j < n; ++j) x[j] += from_bf16(y[j]);
}

// The bits of gelu(x), rounded.
inline void narrow_gelu(float* x, uint16_t* y, int n) {
  for_lanes<VecF32>(n,
                    [&](int64_t j, int lanes) { put(gelu</*kShort=*/true>(get<VecF32>(x + j, lanes)), x + j, lanes); });
  narrow(x, y, n);
}

void finish_bf16(const Bf16GemmArgs& g, const Place& at, float* acc) {
  const auto place = [&](const void* p, int r) {
    return static_cast<const uint16_t*>(p) + (at.row + r) * g.n + at.column;
  };
  float* rows[kBf16Strip];
  for (int r = 0; r < at.rows; ++r) {
    float* x = rows[r] = acc + r * kBf16Columns;
    if (g.bias) add_row(x, static_cast<const uint16_t*>(g.bias) + at.column, at.cols);
    round_row(x, at.cols);
    if (g.residual) {
      add_row(x, place(g.residual, r), at.cols);
      round_row(x, at.cols);
    }
    if (g.pre) narrow(x, const_cast<uint16_t*>(place(g.pre, r)), at.cols);
  }
  if (g.activation == Activation::kGelu) {  // of arguments so short that it takes fewer steps
    for (int r = 0; r < at.rows; ++r) narrow_gelu(rows[r], const_cast<uint16_t*>(place(g.c, r)), at.cols);
    return;
  }
  Epilogue activation;
  activation.activation = g.activation;
  finish(Finish<float>{&activation, acc, rows, at.rows, at.cols, 0});
  for (int r = 0; r < at.rows; ++r) narrow(rows[r], const_cast<uint16_t*>(place(g.c, r)), at.cols);
}

}  // namespace

Status gemm_bf16(const Bf16GemmArgs& g, Range range, const Ctx& ctx) {
  alignas(64) float acc[kBf16Strip * kBf16Columns];
  StripDot dot(ctx);
  const int64_t strips = ceil_div(g.m, kBf16Strip);
  for (int64_t item = range.begin; item < range.end; ++item) {
    Place at;
    at.row = item % strips * kBf16Strip;
    at.column = item / strips * kBf16Columns;
    at.rows = static_cast<int>(least(g.m - at.row, kBf16Strip));
    at.cols = static_cast<int>(least(g.n - at.column, kBf16Columns));
    dot(static_cast<const uint16_t*>(g.a) + at.row * g.k, g.k, at.rows,
        static_cast<const uint16_t*>(g.b) + at.column * g.k, g.k, static_cast<int>(ceil_div(at.cols, kBf16Group)), acc);
    if (g.dtype == DType::kFloat32)
      finish_float(g, at, acc);
    else
      finish_bf16(g, at, acc);
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
