// Reading, adding and overwriting rows and elements by index.
//
// An operand is seen as (outer, rows, inner): an index chooses among its rows. Indices are int64; check_index has
// refused those outside [-rows, rows) (or [0, rows)) before any of the other kernels runs, and negative ones count from
// the end.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Refuses indices outside [0, limit), or [-limit, limit) if they wrap. Item = block of kElementBlock.
struct CheckIndexArgs {
  const void* index = nullptr;
  int64_t size = 0, limit = 0;
  bool wrap = false;
  IndexPlace place;
};

// y = high · rows + index: several indices as one into merged dimensions. Without `high`, y = index counted from the
// front. Item = block of kElementBlock.
struct FoldIndexArgs {
  const void* index = nullptr;
  const void* high = nullptr;  // may be null
  void* y = nullptr;
  int64_t size = 0, rows = 0;
};

// y[o, j] = x[o, index[j]], rows of row_bytes; item = row of y (outer x n).
struct TakeRowsArgs {
  const void* x = nullptr;
  const void* index = nullptr;
  void* y = nullptr;
  int64_t rows = 0, n = 0, row_bytes = 0;
};

// y[o, index[j]] += src[o, j] (add) or = src[o, j], in the order of j, upon zeros, a base, or what y holds. Rows j with
// index[j] == skip are left out. Item = (o, block of rows of y); each looks through all of the index.
enum class PutOnto : int32_t { kZeros, kBase, kItself };
struct PutRowsArgs {
  const void* base = nullptr;  // kBase: of y's shape
  const void* index = nullptr;
  const void* src = nullptr;
  void* y = nullptr;
  DType dtype{};
  int32_t itemsize = 0;
  PutOnto onto = PutOnto::kZeros;
  bool add = true;
  int64_t rows = 0, n = 0, inner = 0, blocks = 1, skip = -1;
};

// y[o, j, i] = x[o, index[o, j, i], i]; item = row of y (outer x n).
struct GatherArgs {
  const void* x = nullptr;
  const void* index = nullptr;
  void* y = nullptr;
  int32_t itemsize = 0;
  int64_t rows = 0, n = 0, inner = 0;
};

// y = base (or zeros), then y[o, index[o, j, i], i] += src[o, j, i] in the order of j. Item = (o, tile of columns).
inline constexpr int64_t kScatterTile = 256;
struct ScatterAddArgs {
  const void* base = nullptr;  // may be null
  const void* index = nullptr;
  const void* src = nullptr;
  void* y = nullptr;
  DType dtype{};
  int64_t rows = 0, n = 0, inner = 0;
};

// y[i] = start + i · step, in float64 unless y is int64. Item = block of kElementBlock.
struct IotaArgs {
  void* y = nullptr;
  DType dtype{};
  int64_t size = 0, whole_start = 0, whole_step = 0;
  double start = 0, step = 0;
};

}  // namespace quernel
