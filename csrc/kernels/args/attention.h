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
// j > past + i; `past_at`, an int64, stands for `past` where it is not null. The mask, bool (1 = takes part) or a
// summand of dtype, has strides for n, h, i and j; it may be null.
struct AttentionInputs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* mask = nullptr;
  const void* past_at = nullptr;
  DType dtype{};
  bool causal = false;
  bool mask_is_bool = false;
  double scale = 1;
  int64_t past = 0;
  AttentionSize size;
  HeadPlace q_at, k_at, v_at, y_at;
  int64_t mask_at[4] = {};
  // Dropout of the weights: that of query i and key j is kept if its draw reaches `dropout` 2^32. The draw is number
  // j % 4 of block ((n heads + h) queries + i) ceil(keys / 4) + j / 4 of the stream (args/random.h) that begins at
  // `offset`: what ops/random would draw for a matrix of weights whose rows are padded to whole blocks.
  const void* state = nullptr;
  uint64_t offset = 0;
  double dropout = 0;
};

// y = dropout(softmax(q k^T scale + mask)) v, rows without keys 0; lse (N, H, queries), the logarithms to base 2 of the
// softmax's sums, +inf where there are no keys, may be null; so may `drawn`, the {seed, counter} where the stream
// began, which is the gradients' `state`. Item = (n, h, `span` blocks of queries).
struct AttentionArgs : AttentionInputs {
  int64_t span = 1;
  void* y = nullptr;
  void* lse = nullptr;
  void* drawn = nullptr;
};

// Gradients, each laid out as its operand; g as y. attention_grad makes dq, dk and dv, item = (n, h);
// attention_grad_queries dq alone, item = (n, h, block of queries), attention_grad_keys dk and dv, item = (n, h, block
// of keys), with the same bits; attention_grad_mask dmask, item = (n, h, block of queries, block of keys) of those
// dimensions that the mask has: the others are summed.
struct AttentionGradArgs : AttentionInputs {
  const void* y = nullptr;
  const void* lse = nullptr;
  const void* g = nullptr;
  void* dq = nullptr;
  void* dk = nullptr;
  void* dv = nullptr;
  void* dmask = nullptr;
};

// A cache of keys and values takes `rows` more: y[n, at + i] = x[n, i, x_row_bytes - row_bytes, …), the last row_bytes
// of each row of x, where `at` is what `length` was; then length += rows. check_index has refused a length that leaves
// no room for them. One item: whoever writes the length is the one who reads it.
struct AppendRowsArgs {
  const void* x = nullptr;  // (batch, rows, x_row_bytes)
  void* y = nullptr;        // (batch, capacity, row_bytes)
  void* length = nullptr;   // an int64
  void* at = nullptr;       // an int64
  int64_t batch = 0, rows = 0, capacity = 0;
  int64_t row_bytes = 0, x_row_bytes = 0;
};

// Queries and keys of a block. Those of the keys are part of the results' bits: the softmax's sums are rescaled from
// block to block.
inline constexpr int64_t kAttentionQueries = 64;
inline constexpr int64_t kAttentionKeys = 64;

}  // namespace quernel
