// int8.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/args/pool.h"

namespace quernel {

// q = rint_even(clamp(float(acc + bias) * scale, lo - zero_point, hi - zero_point)) + zero_point, in fp32.
// The input's zero point is folded into `bias` at pack time; relu is lo = zero_point.
struct Requantize {
  const void* bias = nullptr;   // int32 (N)
  const void* scale = nullptr;  // float (N)
  int32_t zero_point = 0, lo = 0, hi = 255;
};

// Rows and columns of one work item of the int8 kernels: two by four AMX tiles.
inline constexpr int64_t kQStrip = 32, kQColumns = 64;

// Columns of a panel of packed weights, [N/16][K/4][16][4], the last panel and k-group padded with zeros. The 64 bytes
// of a k-group are a vector of AVX-512 and a row of an AMX tile, and a whole panel is one stream.
inline constexpr int64_t kQPanel = 16;

// Bytes of packed weights for each output column: k up to a whole group of four.
constexpr int64_t column_bytes(int64_t k) { return (k + 3) / 4 * 4; }

// u8 [M, K] · s8 packed -> u8; item = (block of kQColumns columns, strip of kQStrip rows), strips fastest. `y_float`:
// dequantized output instead, float(acc + bias) * scale.
struct QGemmArgs : Requantize {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  bool y_float = false;
  int64_t m = 0, n = 0, k = 0, lda = 0, ldc = 0;
};

// Runs of neighbouring bytes that an output pixel of a convolution reads: the taps of a kernel row, or single taps.
constexpr int64_t conv_runs(const ConvShape& s) { return s.dilation_w == 1 && s.groups == 1 ? s.kh : s.kh * s.kw; }

// The same for a convolution, K = KH·KW·C/g per group, N = O/g; w holds the groups' panels one after another. Levels
// that multiply bytes (dots_bytes()) have each of conv_runs() padded to whole groups of four k. Item =
// (group, strip of kQStrip output pixels, with VNNI of `strip`), in either order. Depthwise (C = O = groups): w from
// the level's own pack_depthwise_s8, item = output row. Winograd (3x3 taps, stride and dilation 1, one group, C a
// multiple of four): item = (`tiles` tiles of up to 4x4 output pixels, `columns` columns), columns fastest; w, at
// levels that multiply bytes, from pack_winograd_s8.
struct QConvArgs : Requantize {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  bool y_float = false;
  ConvShape s{};
  int32_t x_zero_point = 0;        // padding value
  int64_t strip = kQStrip;         // at most that
  int64_t tiles = 0, columns = 0;  // of an item of winograd_u8s8
};

// quantize: y = clamp(rint_even(x / scale) + zero_point, 0, 255), NaN -> zero_point; dequantize:
// y = float(q - zero_point) * scale. Item = block of kElementBlock elements, as for qadd and qlookup.
struct QuantizeArgs {
  const void* x = nullptr;
  void* y = nullptr;
  float scale = 1;
  int32_t zero_point = 0;
  int64_t size = 0;
};

// y = rint_even(clamp(t / y_scale, lo - zy, hi - zy)) + zy with t = (a - za) * a_scale + (b - zb) * b_scale, each step
// rounded to fp32: dequantize both, add, quantize.
struct QAddArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  float a_scale = 1, b_scale = 1, y_scale = 1;
  int32_t a_zero_point = 0, b_zero_point = 0, y_zero_point = 0, lo = 0, hi = 255;
  int64_t size = 0;
};

// Mean of each window, rounded half to even; taps in the padding count as zero_point, or not at all. Item = output row.
struct QAvgPoolArgs : PoolArgs {
  int32_t zero_point = 0;
};

// Maps u8 to u8 through a table of 256 bytes: requantization to another scale, relu, clip, any unary.
struct QLookupArgs {
  const void* x = nullptr;
  const void* table = nullptr;
  void* y = nullptr;
  int64_t size = 0;
};

}  // namespace quernel
