// Matrix products and the packing of their right-hand side.
#pragma once
#include "kernels/args/epilogue.h"

namespace quernel {

// Columns that a work item takes.
inline constexpr int64_t kPanel = 64;

// Packed B: [N/w][K][w], where w columns are one cache line, the last group of them padded with zeros. Groups are
// narrow and contiguous: those of a register tile, whatever its width, are few streams and fill the sets of L1 evenly.
inline constexpr int64_t kPackBytes = 64;
template <class T>
inline constexpr int64_t kPackWidth = kPackBytes / static_cast<int64_t>(sizeof(T));

// Sums so short that an output's row is made at a time, not a register tile.
inline constexpr int64_t kShortDepth = 8;

// C[b][M, N] = epilogue(A[b][M, K] · B[b][K, N]); item = (batch, `span` panels of 64 columns, strip of `strip` rows),
// strips fastest. B is packed (b_row = w, group = w K) or plain rows (b_row = N, group = w): `group` leads from w
// columns to the next ones. Or, with `pack`, B has any strides and each item packs its panel in scratch, block by
// block: that pays where there is one strip, so that no panel is packed twice. C is contiguous; A and B have a stride
// for each of the `batch_rank` batch dimensions, 0 where they broadcast.
struct GemmArgs : Epilogue {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t a_row = 0, a_col = 1;
  int64_t b_row = 0, b_col = 1;
  int64_t group = 0;
  bool pack = false;
  bool skip_zeros = false;  // a row of A may leave out its zeros: B is packed and finite
  int64_t strip = 0, span = 1;
  int32_t batch_rank = 0;
  int64_t batch_dims[kArgsRank] = {}, a_batch[kArgsRank] = {}, b_batch[kArgsRank] = {};
};

// B[K, N] with any strides, packed; item = (batch, tap, panel of 64 columns). With taps, B is a stack of blocks of k
// rows, each with its own place in the source.
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
