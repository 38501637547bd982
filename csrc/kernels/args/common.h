// Arguments of kernels: one trivially copyable struct per kernel, one header per family. Pointers are `const void*`
// (read) or `void*` (written); ops/ fills them through runtime/launch.h, a plan patches them at each replay. Sizes and
// strides count elements unless a name says otherwise. These headers declare data only: every ISA's objects include
// them.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace quernel {

inline constexpr int kArgsRank = 8;  // most dimensions a strided kernel sees

// A slice [begin, end) of a kernel's work items. Every item writes its own outputs, so splitting changes no bits.
struct Range {
  int64_t begin;
  int64_t end;
};

// What a kernel gets beside its arguments: scratch memory of the calling thread, or of the stream on CUDA (64-byte
// aligned, contents undefined).
struct Ctx {
  void* scratch;
  int thread;
  void* stream = nullptr;  // CUDA: where to launch
};

enum class StatusCode : int32_t {
  kOk = 0,
  kLabelOutOfRange,
  kIndexOutOfRange,
  kNotProbability,
  kSparsePointers,
  kSparseIndex,
  kSparseOrder,
  kLengthOutOfRange,
  kLabelIsBlank,
  kBagOffset
};

// What a message says of an index that is refused: the shape of the tensor of indices, and what they count.
struct IndexPlace {
  const char* unit = nullptr;  // "rows", a static string; null: what they index is axis `axis`
  int32_t axis = 0;
  int32_t rank = 0;
  int64_t dims[kArgsRank] = {};
};

// What lengths may be, and what they count: "time steps", a static string.
struct LengthRange {
  int64_t least = 1, most = 0;
  const char* unit = nullptr;
};

// Kernels that look at data may refuse it; `index` and `value` say where and what.
struct Status {
  StatusCode code = StatusCode::kOk;
  int64_t index = 0;
  int64_t value = 0;                   // kNotProbability: the bits of a double
  int64_t limit = 0;                   // the value had to be in [0, limit)
  const IndexPlace* place = nullptr;   // kIndexOutOfRange: a part of the kernel's arguments
  const LengthRange* range = nullptr;  // kLengthOutOfRange: likewise
};

// Strided operands of up to kArgsRank collapsed dimensions, the output contiguous; item = block of kElementBlock
// output elements. Strides count elements; 0 broadcasts.
inline constexpr int64_t kElementBlock = 4096;
struct StridedShape {
  int32_t rank = 0;
  int64_t size = 0;
  int64_t dims[kArgsRank] = {};
};

}  // namespace quernel
