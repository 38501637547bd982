// Matrix products and the packing of their right-hand side.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel {

// Panels of packed B: [N/64][K/g][64][g], g = 4 / itemsize (1, 2, 4), the last panel and k-group padded with zeros.
inline constexpr int64_t kPanel = 64;

// C[b][M, N] = epilogue(A[b][M, K] · B[b][K, N]); item = (batch, panel of 64 columns, strip of `strip` rows), strips
// fastest. B is packed (ldb = 64, panel_stride = 64 K) or plain rows (ldb = N, panel_stride = 64). C is contiguous; A
// and B have a stride for each of the `batch_rank` batch dimensions, 0 where they broadcast.
struct GemmArgs : Epilogue {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t a_row = 0, a_col = 1;
  int64_t ldb = 0, panel_stride = 0;
  int64_t strip = 0;
  int32_t batch_rank = 0;
  int64_t batch_dims[kArgsRank] = {}, a_batch[kArgsRank] = {}, b_batch[kArgsRank] = {};
};

// B[K, N] with any strides into panels; item = (batch, tap, panel). With taps, B is a stack of blocks of k rows, each
// with its own place in the source; without, taps = 1 and dst_panel = 64 K.
struct PackArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  int64_t k = 0, n = 0;
  int64_t src_row = 0, src_col = 0;  // strides of k and of n
  int64_t batch = 1, src_batch = 0, dst_batch = 0;
  int64_t taps = 1, src_tap = 0;
  int64_t src_offset = 0;
};

}  // namespace quernel
