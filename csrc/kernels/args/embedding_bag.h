// Sums, means and maxima of rows of a table, and the gradient of a table by rows.
//
// Bag b of `bags` holds the lookups [b · length, (b + 1) · length), or where there are `offsets`, those from offsets[b]
// up to offsets[b + 1]; the last bag's end at n. A plain lookup is a bag of one. Lookups of the row `skip` count as
// absent. Indices are int64 and have been checked (check_index), offsets too (check_offsets).
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Refuses offsets that do not begin with 0, that fall or exceed n; the last must be n if they are `closed`. One item.
struct CheckOffsetsArgs {
  const void* offsets = nullptr;
  int64_t size = 0, n = 0;
  bool closed = false;
};

// y[b] = reduction over j in bag b of x[index[j]], times weights[j] for sums; 0 for an empty bag. Item = bag.
enum class BagMode : int32_t { kSum, kMean, kMax };
struct EmbeddingBagArgs {
  const void* x = nullptr;  // (rows, features)
  const void* index = nullptr;
  const void* offsets = nullptr;  // may be null
  const void* weights = nullptr;  // (n), may be null
  void* y = nullptr;              // (bags, features)
  void* inverse = nullptr;        // kMean: (bags), one over the number of its lookups, or 0
  void* chosen = nullptr;         // kMax: (bags, features) int64, the row that each element is of, or -1
  DType dtype{};
  BagMode mode = BagMode::kSum;
  int64_t bags = 0, length = 0, n = 0, features = 0, skip = -1;
};

// Numbers the different rows among n lookups in the order of their first appearance, behind the `kept` rows that are
// listed already (-1 ends them), and sorts the lookups by that number, those of one row in their own order. One item.
struct GroupRowsArgs {
  const void* index = nullptr;
  void* rows = nullptr;  // (capacity): the row behind each number, then -1
  // (most + 2): where in `order` the lookups of each number begin; last, how many numbers are old
  void* start = nullptr;
  void* order = nullptr;                                       // (n)
  int64_t n = 0, kept = 0, most = 0, capacity = 0, skip = -1;  // most: numbers that there can be
};

// y[i] (or y[rows[i]], where there are `rows`) = sum of the g[bag of j], times weights[j], over the lookups j of number
// i in their order, upon what the old numbers hold. Item = number.
struct SumRowsArgs {
  const void* g = nullptr;  // (bags, features)
  const void* start = nullptr;
  const void* order = nullptr;
  const void* offsets = nullptr;  // may be null
  const void* weights = nullptr;  // may be null
  const void* rows = nullptr;     // may be null
  void* y = nullptr;
  DType dtype{};
  int64_t most = 0, bags = 0, length = 0, features = 0;
};

// y[j] = sum over features of g[bag of j] x[index[j]]: the gradient of the weights. Item = block of kBagWeightsBlock.
inline constexpr int64_t kBagWeightsBlock = 64;
struct BagWeightsGradArgs {
  const void* g = nullptr;
  const void* x = nullptr;
  const void* index = nullptr;
  const void* offsets = nullptr;  // may be null
  void* y = nullptr;
  DType dtype{};
  int64_t bags = 0, length = 0, n = 0, features = 0, skip = -1;
};

}  // namespace quernel
