// Gradients of attention; item = (n, h). The scores are computed once more, block by block, and turn into the softmax's
// results p = e^(s - lse). With g the gradient of y and d the rows' sums of g y (Dao et al., arXiv 2205.14135):
//
//   dv = p^T g,   ds = p (g v^T - d),   dq = scale ds k,   dk = scale ds^T q
//
// One pass over the blocks makes all three: five products a block. dk and dv gather queries in their order, dq keys, so
// nothing is added by two threads at once. Two passes, one for dq and one for dk and dv, would take seven products.
#include "kernels/attention_block.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
struct Workspace {
  T *q_columns, *q_rows, *g_columns, *g_rows;  // of a block of queries
  T* k_rows;
  T *scores, *slopes;
  T *lse, *dot;  // one for each query
};

template <class T>
int64_t carve(const AttentionGradArgs& a, void* scratch, Workspace<T>& w) {
  Carver carver(scratch);
  carver.take(w.q_columns, kAttentionQueries * a.size.depth);
  carver.take(w.q_rows, kAttentionQueries * padded<T>(a.size.depth));
  carver.take(w.g_columns, kAttentionQueries * a.size.values);
  carver.take(w.g_rows, kAttentionQueries * padded<T>(a.size.values));
  carver.take(w.k_rows, kAttentionKeys * padded<T>(a.size.depth));
  carver.take(w.scores, kAttentionKeys * kScoreRow);
  carver.take(w.slopes, kAttentionKeys * kScoreRow);
  carver.take(w.lse, kAttentionQueries);
  carver.take(w.dot, kAttentionQueries);
  return carver.used();
}

template <class T>
struct Head {
  HeadRows<const T> q, k, v, y, g;
  HeadRows<T> dq, dk, dv;  // data null where nobody wants them
};

template <class T>
Head<T> head_of(const AttentionGradArgs& a, int64_t n, int64_t h) {
  const AttentionSize& s = a.size;
  const auto out = [&](void* data, const HeadPlace& place, int64_t cols) {
    return data ? head_rows<T>(data, place, n, h, cols) : HeadRows<T>{nullptr, 0, cols};
  };
  return {head_rows<const T>(a.q, a.q_at, n, h, s.depth),
          head_rows<const T>(a.k, a.k_at, n, h, s.depth),
          head_rows<const T>(a.v, a.v_at, n, h, s.values),
          head_rows<const T>(a.y, a.y_at, n, h, s.values),
          head_rows<const T>(a.g, a.y_at, n, h, s.values),
          out(a.dq, a.q_at, s.depth),
          out(a.dk, a.k_at, s.depth),
          out(a.dv, a.v_at, s.values)};
}

template <class T>
void clear_rows(const HeadRows<T>& x, int64_t first, int64_t rows) {
  if (!x.data) return;
  for (int64_t t = first; t < first + rows; ++t) __builtin_memset(x.at(t), 0, static_cast<size_t>(x.cols) * sizeof(T));
}

// What a block of queries brings along. Queries that do not exist have p = 0.
template <class T>
void begin_queries(const AttentionGradArgs& a, const Block& b, const Head<T>& head, const Workspace<T>& w) {
  using V = Vec<T>;
  pack_columns(head.q, b.query, b.queries, w.q_columns);
  scale_all(w.q_columns, padded<T>(b.queries) * head.q.cols, a.scale);
  pack_rows(head.q, b.query, b.queries, w.q_rows);
  scale_all(w.q_rows, b.queries * padded<T>(head.q.cols), a.scale);
  pack_columns(head.g, b.query, b.queries, w.g_columns);
  pack_rows(head.g, b.query, b.queries, w.g_rows);
  const T* lse = static_cast<const T*>(a.lse) + (b.n * a.size.heads + b.h) * a.size.queries + b.query;
  for (int64_t i = 0; i < b.queries; ++i) {
    const T *y = head.y.at(b.query + i), *g = head.g.at(b.query + i);
    V dot = V::zero();
    for_lanes<V>(head.y.cols, [&](int64_t j, int k) { dot = fma(get<V>(y + j, k), get<V>(g + j, k), dot); });
    w.dot[i] = reduce_add(dot);
    w.lse[i] = lse[i];
  }
  for (int64_t i = b.queries; i < kAttentionQueries; ++i) {
    w.dot[i] = 0;
    w.lse[i] = std::numeric_limits<T>::infinity();
  }
}

// Scores to p and their gradients, from g v^T, to ds.
template <class T>
void differentiate(const Block& b, const Workspace<T>& w) {
  using V = Vec<T>;
  for (int64_t j = 0; j < b.keys; ++j) {
    T *scores = w.scores + j * kScoreRow, *slopes = w.slopes + j * kScoreRow;
    for (int64_t i = 0; i < b.queries; i += V::kWidth) {
      const V p = exp_to_zero(V::load(scores + i) - V::load(w.lse + i));
      p.store(scores + i);
      (p * (V::load(slopes + i) - V::load(w.dot + i))).store(slopes + i);
    }
  }
}

template <class T>
void add_block(const AttentionGradArgs& a, const Block& b, const Head<T>& head, const Workspace<T>& w) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const int64_t width = ceil_div(b.queries, kWidth) * kWidth;
  score_block(a, b, head.k, w.q_columns, w.scores);
  multiply(
      Product<T>{head.v.at(b.key), head.v.row, 1, w.g_columns, w.slopes, kScoreRow, b.keys, width, head.v.cols, false});
  differentiate(b, w);
  if (head.dv.data)
    multiply(Product<T>{w.scores, kScoreRow, 1, w.g_rows, head.dv.at(b.key), head.dv.row, b.keys, head.dv.cols,
                        b.queries, true});
  if (head.dk.data)
    multiply(Product<T>{w.slopes, kScoreRow, 1, w.q_rows, head.dk.at(b.key), head.dk.row, b.keys, head.dk.cols,
                        b.queries, true});
  if (!head.dq.data) return;
  pack_rows(head.k, b.key, b.keys, w.k_rows);
  multiply(Product<T>{w.slopes, 1, kScoreRow, w.k_rows, head.dq.at(b.query), head.dq.row, b.queries, head.dq.cols,
                      b.keys, b.key > 0});
}

template <class T>
void differentiate_head(const AttentionGradArgs& a, int64_t item, void* scratch) {
  Workspace<T> w{};
  carve(a, scratch, w);
  Block b{item / a.size.heads, item % a.size.heads, 0, 0, 0, 0};
  const Head<T> head = head_of<T>(a, b.n, b.h);
  clear_rows(head.dk, 0, a.size.keys);
  clear_rows(head.dv, 0, a.size.keys);
  for (b.query = 0; b.query < a.size.queries; b.query += kAttentionQueries) {
    b.queries = least(kAttentionQueries, a.size.queries - b.query);
    const int64_t limit = key_limit(a, b);
    if (limit == 0) clear_rows(head.dq, b.query, b.queries);
    begin_queries(a, b, head, w);
    for (b.key = 0; b.key < limit; b.key += kAttentionKeys) {
      b.keys = least(kAttentionKeys, limit - b.key);
      add_block(a, b, head, w);
    }
    if (!head.dq.data) continue;
    for (int64_t i = b.query; i < b.query + b.queries; ++i) scale_all(head.dq.at(i), head.dq.cols, a.scale);
  }
}

}  // namespace

Status attention_grad(const AttentionGradArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) differentiate_head<T>(a, item, ctx.scratch);
  });
  return {};
}

int64_t attention_grad_scratch(const AttentionGradArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) {
    Workspace<T> w{};
    bytes = carve(a, nullptr, w);
  });
  return bytes;
}

}  // namespace quernel::QUERNEL_ISA
