// Pooling.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel {

// Windows of kh x kw taps, `dilation` apart; or, adaptive, window i of n covers [floor(i size / n), ceil((i + 1) size /
// n)) of each axis, and kh x kw bounds its taps. Item = row of the output: of y (n, oh), or of dx (n, h) backward.
struct PoolArgs : Epilogue {    // of max backward alone, but for `bias`
  const void* x = nullptr;      // input (forward) or incoming gradient (backward)
  const void* index = nullptr;  // max backward: argmax of the forward pass, int32 tap numbers (i kw + j)
  void* y = nullptr;
  void* index_out = nullptr;  // max forward
  DType dtype{};
  int64_t n = 0, h = 0, w = 0, c = 0, oh = 0, ow = 0;
  int64_t kh = 0, kw = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;  // max only
  bool adaptive = false;
  bool count_include_pad = true;
};

}  // namespace quernel
