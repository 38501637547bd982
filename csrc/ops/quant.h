// int8 ops. Activations are uint8 with a zero point, weights int8 and symmetric per output channel, accumulation int32
// (wrapping). What comes out is, in fp32 and bit for bit the same at every ISA,
//   rint_even(clamp(float(acc + bias) * scale, lo - zero_point, hi - zero_point)) + zero_point
// or float(acc + bias) * scale. `bias` (int32) has the input's zero point folded in, `scale` (float32, one per output
// channel, finite) is s_x · s_w / s_y; relu is lo = zero_point.
#pragma once
#include <array>

#include "core/tensor.h"

namespace quernel::ops {

using Pair = std::array<int64_t, 2>;

// Nanoseconds of `macs` multiply-adds: between AVX2's 24 a cycle and VNNI's 64.
inline double quant_mac_ns(double macs) { return macs / 100.0; }

// Where results of qlinear and qconv2d go.
struct QOutput {
  Tensor bias, scale;
  int32_t zero_point, lo, hi;
  bool as_float;
};
void check_output(const char* op, const QOutput& out, int64_t channels, const Shape& weight);

Tensor quantize(const Tensor& x, float scale, int32_t zero_point);
Tensor dequantize(const Tensor& x, float scale, int32_t zero_point);

// x (..., I), weight (O, I) -> (..., O).
Tensor qlinear(const Tensor& x, const Tensor& weight, const QOutput& out);

struct QConvParams {
  int32_t x_zero_point;  // the value of the padding
  Pair stride, padding, dilation;
  int64_t groups;
};
// x (N, H, W, C), weight (O, KH, KW, C/groups) -> (N, OH, OW, O).
Tensor qconv2d(const Tensor& x, const Tensor& weight, const QOutput& out, const QConvParams& params);

struct QParams {
  float scale;
  int32_t zero_point;
};
// Dequantize both, add, quantize; see QAddArgs.
Tensor qadd(const Tensor& a, QParams qa, const Tensor& b, QParams qb, QParams qy, int32_t lo, int32_t hi);

Tensor qlookup(const Tensor& x, const Tensor& table);

// Pooling keeps scale and zero point. Means are exact and rounded half to even.
Tensor qmax_pool2d(const Tensor& x, Pair kernel, Pair stride, Pair padding);
Tensor qavg_pool2d(const Tensor& x, Pair kernel, Pair stride, Pair padding, int32_t zero_point, bool count_include_pad);
Tensor qmean_hw(const Tensor& x);  // (N, H, W, C) -> (N, C)

}  // namespace quernel::ops
