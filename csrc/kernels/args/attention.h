// Scaled dot-product attention of several heads, and its gradients.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// Where a head's rows lie: element (n, h, t, d) at first + n batch + h head + t row + d.
struct HeadPlace {
  int64_t first = 0, batch = 0, head = 0, row = 0;
};

struct AttentionSize {
  int64_t batch = 0, heads = 0, queries = 0, keys = 0;
  int64_t depth = 0, values = 0;  // columns of q and k, and of v
};

// What both directions read. Key j takes part in the row of query i unless the mask keeps it out or, if `causal`,
// j > past + i. The mask, bool (1 = takes part) or a summand of dtype, has strides for n, h, i and j; it may be null.
struct AttentionInputs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* mask = nullptr;
  DType dtype{};
  bool causal = false;
  bool mask_is_bool = false;
  double scale = 1;
  int64_t past = 0;
  AttentionSize size;
  HeadPlace q_at, k_at, v_at, y_at;
  int64_t mask_at[4] = {};
};

// y = softmax(q k^T scale + mask) v, rows without keys 0; lse (N, H, queries), the logarithms of the softmax's sums,
// +inf where there are no keys, may be null. Item = (n, h, block of queries).
struct AttentionArgs : AttentionInputs {
  void* y = nullptr;
  void* lse = nullptr;
};

// Gradients, each laid out as its operand; g as y. Item = (n, h).
struct AttentionGradArgs : AttentionInputs {
  const void* y = nullptr;
  const void* lse = nullptr;
  const void* g = nullptr;
  void* dq = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
};

// Queries that an item of the forward pass takes.
inline constexpr int64_t kAttentionQueries = 64;

}  // namespace quernel
