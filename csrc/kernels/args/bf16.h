// Products of bfloat16, and of float16, with sums in fp32.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/args/epilogue.h"

namespace quernel {

// Operands are rounded and laid out by pack_bf16, K padded with zeros to whole blocks: A as rows [M][K], B as groups of
// 16 columns [N/16][K/2][16][2], the last one padded with zeros. A block of a group is one AMX tile.
inline constexpr int64_t kBf16Block = 32;
inline constexpr int64_t kBf16Group = 16;
// K up to whole blocks.
constexpr int64_t padded_depth(int64_t k) { return (k + kBf16Block - 1) / kBf16Block * kBf16Block; }

// What a work item covers.
inline constexpr int64_t kBf16Strip = 32;
inline constexpr int64_t kBf16Columns = 64;

// C[M, N] = epilogue(A · B); item = (64 columns, strip of 32 rows), strips fastest. `dtype` is that of C, bias,
// residual and pre: float32, or the operands' own. That is rounded wherever separate ops would round: after the bias,
// the residual and the activation; `gate` is unused.
struct Bf16GemmArgs : Epilogue {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  DType dtype{};
  int64_t m = 0, n = 0, k = 0;  // k: padded
};

// A matrix of `rows` x k with any strides as rows of A or as columns of B (then `rows` are N); item = 16 of them.
// float32 is rounded to bfloat16; 16-bit formats stay what they are.
struct Bf16PackArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  DType dtype{};
  bool as_columns = false;
  int64_t rows = 0, k = 0;
  int64_t src_row = 0, src_k = 0;
};

// y = epilogue(conv(x, w)), float32, of one group; x (N, H, W, C) in bfloat16, w the columns [O] of the matrix whose k
// are (kh, kw, c). Pixel (i, j) of the result lies at (first_h + i step_h, first_w + j step_w) of images of y_h x y_w
// pixels: an adjoint is given as the convolutions of stride 1 that its phases are. Item = `strips` strips of 32 pixels.
struct Bf16ConvArgs : Epilogue {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  ConvShape s{};
  int64_t first_h = 0, first_w = 0, step_h = 1, step_w = 1;
  int64_t y_h = 0, y_w = 0;
  int64_t strips = 1;
};

// dw[split] (O, KH·KW·C), float32: each the sum over a share of the blocks of kBf16GradPixels pixels. x as above; g as
// rows [O] whose k are the pixels. Item = (split, `panels` panels of 64 columns).
struct Bf16ConvGradWeightArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  void* dw = nullptr;
  ConvShape s{};
  int64_t splits = 1, panels = 1;
};

inline constexpr int64_t kBf16GradPixels = 512;

}  // namespace quernel
