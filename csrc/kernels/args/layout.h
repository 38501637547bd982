// Copies between layouts.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Copies between two strided views of one shape (transpose, slice, concat, pad, broadcast, assignment). Offsets are
// part of the strides' origin, in elements. Rows: item = block of kElementBlock elements in the order of `shape`.
// Tiles (`tiled`): the last two dimensions are walked in squares of kTransposeTile, as dst is contiguous in the last
// and src in the one before; item = square.
inline constexpr int64_t kTransposeTile = 64;
struct StridedCopyArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  int32_t itemsize = 0;
  bool tiled = false;
  StridedShape shape;
  int64_t src_offset = 0, dst_offset = 0;
  int64_t src_strides[kArgsRank] = {}, dst_strides[kArgsRank] = {};
};

}  // namespace quernel
