// What the gradients of attention share: a block of scores, computed once more, becomes the softmax's results
// p = 2^(s - lse) and the gradients ds of the scores. With m the factors of dropout (1 without), g the gradient of y
// and d the rows' sums of g y (Dao et al., arXiv 2205.14135):
//
//   dv = (m p)^T g,   ds = p (m (g v^T) - d),   dq = scale ds k,   dk = scale ds^T q
#pragma once
#include "kernels/attention_block.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
struct GradWorkspace {
  T *q_columns, *q_rows, *g_columns, *g_rows;  // of a block of queries
  T* k_rows;
  T *scores, *slopes;  // in the end m p and ds
  T *keep, *mask;      // dropout's factors; sums for the mask's gradient
  T *lse, *dot;        // one for each query
};

template <class T>
int64_t carve(const AttentionGradArgs& a, void* scratch, GradWorkspace<T>& w) {
  constexpr int64_t kBlock = kAttentionKeys * kScoreRow;
  Carver carver(scratch);
  carver.take(w.q_columns, kAttentionQueries * a.size.depth);
  carver.take(w.q_rows, kAttentionQueries * padded<T>(a.size.depth));
  carver.take(w.g_columns, kAttentionQueries * a.size.values);
  carver.take(w.g_rows, kAttentionQueries * padded<T>(a.size.values));
  carver.take(w.k_rows, kAttentionKeys * padded<T>(a.size.depth));
  carver.take(w.scores, kBlock);
  carver.take(w.slopes, kBlock);
  carver.take(w.keep, a.dropout > 0 ? kBlock : 0);
  carver.take(w.mask, kBlock);
  carver.take(w.lse, kAttentionQueries);
  carver.take(w.dot, kAttentionQueries);
  return carver.used();
}

template <class T>
struct GradHead {
  HeadRows<const T> q, k, v, y, g;
  HeadRows<T> dq, dk, dv;  // data null where nobody wants them
};

template <class T>
GradHead<T> head_of(const AttentionGradArgs& a, int64_t n, int64_t h) {
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

// What a block of queries brings along. Queries that do not exist have p = 0.
template <class T>
void begin_queries(const AttentionGradArgs& a, const Block& b, const GradHead<T>& head, const GradWorkspace<T>& w) {
  using V = Vec<T>;
  pack_columns(head.q, b.query, b.queries, w.q_columns);
  scale_all(w.q_columns, padded<T>(b.queries) * head.q.cols, a.scale * M_LOG2E);
  pack_columns(head.g, b.query, b.queries, w.g_columns);
  if (head.dk.data) {
    pack_rows(head.q, b.query, b.queries, w.q_rows);
    for (int64_t j = 0; j < head.q.cols; j += kPackWidth<T>)
      scale_all(w.q_rows + j * kAttentionQueries, b.queries * kPackWidth<T>, a.scale);
  }
  if (head.dv.data) pack_rows(head.g, b.query, b.queries, w.g_rows);
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

// Scores to m p and, from g v^T, slopes to ds.
template <class T>
void differentiate(const AttentionGradArgs& a, const Block& b, const GradWorkspace<T>& w) {
  using V = Vec<T>;
  const bool drops = a.dropout > 0;
  if (drops) keep_block(a, b, w.keep);
  for (int64_t j = 0; j < b.keys; ++j) {
    T *scores = w.scores + j * kScoreRow, *slopes = w.slopes + j * kScoreRow;
    const T* keep = w.keep + j * kScoreRow;
    for (int64_t i = 0; i < b.queries; i += V::kWidth) {
      const V p = exp2_to_zero(V::load(scores + i) - V::load(w.lse + i)), dot = V::load(w.dot + i);
      if (drops) {
        const V m = V::load(keep + i);
        (p * m).store(scores + i);
        (p * (m * V::load(slopes + i) - dot)).store(slopes + i);
      } else {
        p.store(scores + i);
        (p * (V::load(slopes + i) - dot)).store(slopes + i);
      }
    }
  }
}

// m p and ds of a block.
template <class T>
void slope_block(const AttentionGradArgs& a, const Block& b, const GradHead<T>& head, const GradWorkspace<T>& w) {
  const int64_t width = ceil_div(b.queries, Vec<T>::kWidth) * Vec<T>::kWidth;
  score_block(a, b, {head.k.at(b.key), head.k.row, head.k.cols}, w.q_columns, w.scores);
  multiply(Product<T>{head.v.at(b.key), head.v.row, 1, w.g_columns, head.v.cols * kPackWidth<T>, w.slopes, kScoreRow,
                      b.keys, width, head.v.cols, false});
  differentiate(a, b, w);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
