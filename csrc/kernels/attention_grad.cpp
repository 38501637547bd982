// Gradients of attention's operands, see attention_grad_block.h.
//
// One pass over the blocks makes all three: five products a block. dk and dv gather queries in their order, dq keys, so
// nothing is added by two threads at once. Where heads are fewer than threads, two passes take their place, one over
// blocks of queries for dq and one over blocks of keys for dk and dv: seven products, but as many items as blocks.
// Every sum runs in the same order either way.
#include "kernels/attention_grad_block.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
void clear_rows(const HeadRows<T>& x, int64_t first, int64_t rows) {
  if (!x.data) return;
  for (int64_t t = first; t < first + rows; ++t) __builtin_memset(x.at(t), 0, static_cast<size_t>(x.cols) * sizeof(T));
}

template <class T>
void add_block(const AttentionGradArgs& a, const Block& b, const GradHead<T>& head, const GradWorkspace<T>& w) {
  slope_block(a, b, head, w);
  if (head.dv.data)
    multiply(Product<T>{w.scores, kScoreRow, 1, w.g_rows, kRowsGroup<T>, head.dv.at(b.key), head.dv.row, b.keys,
                        head.dv.cols, b.queries, true});
  if (head.dk.data)
    multiply(Product<T>{w.slopes, kScoreRow, 1, w.q_rows, kRowsGroup<T>, head.dk.at(b.key), head.dk.row, b.keys,
                        head.dk.cols, b.queries, true});
  if (!head.dq.data) return;
  pack_rows(head.k, b.key, b.keys, w.k_rows);
  multiply(Product<T>{w.slopes, 1, kScoreRow, w.k_rows, kRowsGroup<T>, head.dq.at(b.query), head.dq.row, b.queries,
                      head.dq.cols, b.keys, b.key > 0});
}

// A block of queries with every key in [first, end) that it sees.
template <class T>
void add_queries(const AttentionGradArgs& a, Block b, const GradHead<T>& head, const GradWorkspace<T>& w, int64_t first,
                 int64_t end) {
  b.queries = least(kAttentionQueries, a.size.queries - b.query);
  const int64_t limit = least(key_limit(a, b), end);
  if (limit <= first) return clear_rows(head.dq, b.query, b.queries);
  begin_queries(a, b, head, w);
  for (b.key = first; b.key < limit; b.key += kAttentionKeys) {
    b.keys = least(kAttentionKeys, limit - b.key);
    add_block(a, b, head, w);
  }
  if (!head.dq.data) return;
  for (int64_t i = b.query; i < b.query + b.queries; ++i) scale_all(head.dq.at(i), head.dq.cols, a.scale);
}

// Every query, for the keys in [first, end).
template <class T>
void add_keys(const AttentionGradArgs& a, Block b, const GradHead<T>& head, const GradWorkspace<T>& w, int64_t first,
              int64_t end) {
  clear_rows(head.dk, first, end - first);
  clear_rows(head.dv, first, end - first);
  for (b.query = 0; b.query < a.size.queries; b.query += kAttentionQueries) add_queries(a, b, head, w, first, end);
}

// Calls f(block, head, workspace, part) for the items, of which each head has `parts`.
template <class F>
Status for_parts(const AttentionGradArgs& a, Range r, const Ctx& ctx, int64_t parts, F f) {
  visit_floating(a.dtype, [&]<class T>(T) {
    GradWorkspace<T> w{};
    carve(a, ctx.scratch, w);
    for (int64_t item = r.begin; item < r.end; ++item) {
      const int64_t head = item / parts;
      const Block b{head / a.size.heads, head % a.size.heads, 0, 0, 0, 0};
      f(b, head_of<T>(a, b.n, b.h), w, item % parts);
    }
  });
  return {};
}

}  // namespace

Status attention_grad(const AttentionGradArgs& a, Range r, const Ctx& ctx) {
  return for_parts(a, r, ctx, 1, [&](const Block& b, const auto& head, const auto& w, int64_t) {
    add_keys(a, b, head, w, 0, a.size.keys);
  });
}

Status attention_grad_queries(const AttentionGradArgs& a, Range r, const Ctx& ctx) {
  const int64_t parts = ceil_div(a.size.queries, kAttentionQueries);
  return for_parts(a, r, ctx, parts, [&](Block b, const auto& head, const auto& w, int64_t part) {
    b.query = part * kAttentionQueries;
    add_queries(a, b, head, w, 0, a.size.keys);
  });
}

Status attention_grad_keys(const AttentionGradArgs& a, Range r, const Ctx& ctx) {
  const int64_t parts = ceil_div(a.size.keys, kAttentionKeys);
  return for_parts(a, r, ctx, parts, [&](const Block& b, const auto& head, const auto& w, int64_t part) {
    const int64_t first = part * kAttentionKeys;
    add_keys(a, b, head, w, first, least(first + kAttentionKeys, a.size.keys));
  });
}

int64_t attention_grad_scratch(const AttentionGradArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) {
    GradWorkspace<T> w{};
    bytes = carve(a, nullptr, w);
  });
  return bytes;
}

}  // namespace quernel::QUERNEL_ISA
