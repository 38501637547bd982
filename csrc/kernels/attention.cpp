// Attention, fused: the scores of a block of keys and 64 queries stay in L1; between blocks a query keeps its greatest
// score and the sum of its exponentials, and its row of y is rescaled where the greatest score has grown (Milakov and
// Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135). Item = (n, h, `span` blocks of queries).
//
// Other blocks, of 32 to 96 queries by 64 to 256 keys, were no faster beyond the noise. Keys and values are copied
// block by block, once for all queries of an item, as far as that pays: the rows of a packed projection lie so far
// apart that they share few sets of L1 and L2.
//
// A query's bits depend on its own row, the keys and their blocks alone: keys that are masked out add zeros to sums,
// and which queries share a block changes nothing.
#include "kernels/attention_block.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
struct Workspace {
  T *keys, *values, *scores;
  T* keep;                          // dropout's factors
  T *columns, *top, *sum, *factor;  // of each block of queries

  // The same, for block i.
  Workspace at(const AttentionArgs& a, int64_t i) const {
    Workspace w = *this;
    w.columns += i * kAttentionQueries * a.size.depth;
    w.top += i * kAttentionQueries;
    w.sum += i * kAttentionQueries;
    w.factor += i * kAttentionQueries;
    return w;
  }
};

template <class T>
int64_t carve(const AttentionArgs& a, void* scratch, Workspace<T>& w) {
  const int64_t queries = a.span * kAttentionQueries;
  Carver carver(scratch);
  carver.take(w.keys, kAttentionKeys * a.size.depth);
  carver.take(w.values, kAttentionKeys * padded<T>(a.size.values));
  carver.take(w.scores, kAttentionKeys * kScoreRow);
  carver.take(w.keep, a.dropout > 0 ? kAttentionKeys * kScoreRow : 0);
  carver.take(w.columns, queries * a.size.depth);
  carver.take(w.top, queries);
  carver.take(w.sum, queries);
  carver.take(w.factor, queries);
  return carver.used();
}

// Scores to exponentials, for a register of queries. `factor` is what earlier sums and rows of y are worth now.
template <class T>
void exponentials(const Workspace<T>& w, int64_t query, int64_t keys) {
  using V = Vec<T>;
  T* scores = w.scores + query;
  const V before = V::load(w.top + query), none = V::set(-std::numeric_limits<T>::infinity());
  V best[4] = {before, before, before, before};
  int64_t j = 0;
  for (; j + 4 <= keys; j += 4)
    for (int lane = 0; lane < 4; ++lane) best[lane] = raw_max(V::load(scores + (j + lane) * kScoreRow), best[lane]);
  for (; j < keys; ++j) best[0] = raw_max(V::load(scores + j * kScoreRow), best[0]);
  const V top = raw_max(raw_max(best[0], best[1]), raw_max(best[2], best[3]));
  const V shift = select(top == none, V::zero(), top);
  // Two sums: more do not fit into AVX2's registers, beside the polynomial.
  V even = V::zero(), odd = V::zero();
  const auto exponential = [&](T* score) {
    const V e = exp2_to_zero(V::load(score) - shift);
    e.store(score);
    return e;
  };
  T *score = scores, *end = scores + keys * kScoreRow;
  for (; score + kScoreRow < end; score += 2 * kScoreRow) {
    even = even + exponential(score);
    odd = odd + exponential(score + kScoreRow);
  }
  if (score < end) even = even + exponential(score);
  const V factor = exp2_to_zero(before - shift);
  top.store(w.top + query);
  factor.store(w.factor + query);
  fma(V::load(w.sum + query), factor, even + odd).store(w.sum + query);
}

// Dropout of the weights, whose sums stay what they are.
template <class T>
void drop(const AttentionArgs& a, const Block& b, const Workspace<T>& w) {
  using V = Vec<T>;
  keep_block(a, b, w.keep);
  for (int64_t j = 0; j < b.keys; ++j) {
    for (int64_t i = j * kScoreRow; i < j * kScoreRow + b.queries; i += V::kWidth)
      (V::load(w.scores + i) * V::load(w.keep + i)).store(w.scores + i);
  }
}

// A block of keys with the block of queries that `w` stands at.
template <class T>
void add_block(const AttentionArgs& a, const Block& b, const HeadRows<const T>& keys, const Workspace<T>& w,
               const HeadRows<T>& y) {
  using V = Vec<T>;
  score_block(a, b, keys, w.columns, w.scores);
  for (int64_t i = 0; i < b.queries; i += V::kWidth) exponentials(w, i, b.keys);
  if (a.dropout > 0) drop(a, b, w);
  if (b.key > 0) {
    for (int64_t i = 0; i < b.queries; ++i)
      if (w.factor[i] != 1) scale_all(y.at(b.query + i), y.cols, static_cast<double>(w.factor[i]));
  }
  multiply(Product<T>{w.scores, 1, kScoreRow, w.values, kRowsGroup<T>, y.at(b.query), y.row, b.queries, y.cols, b.keys,
                      b.key > 0});
}

// Divides the rows by their sums.
template <class T>
void finish_rows(const AttentionArgs& a, const Block& b, const Workspace<T>& w, const HeadRows<T>& y) {
  using V = Vec<T>;
  for (int64_t i = 0; i < b.queries; ++i) {
    T* row = y.at(b.query + i);
    const V sum = V::set(w.sum[i]);
    const bool empty = w.sum[i] == 0;
    for_lanes<V>(y.cols, [&](int64_t j, int k) { put(empty ? V::zero() : get<V>(row + j, k) / sum, row + j, k); });
  }
  if (!a.lse) return;
  T* lse = static_cast<T*>(a.lse) + (b.n * a.size.heads + b.h) * a.size.queries + b.query;
  const V infinity = V::set(std::numeric_limits<T>::infinity());
  for_lanes<V>(b.queries, [&](int64_t i, int k) {
    const V sum = V::load(w.sum + i);
    const V log2_sum = log(sum) * V::set(static_cast<T>(M_LOG2E));
    put(select(sum == V::zero(), infinity, V::load(w.top + i) + log2_sum), lse + i, k);
  });
}

template <class T>
void begin_queries(const AttentionArgs& a, const Block& b, const Workspace<T>& w) {
  pack_columns(head_rows<const T>(a.q, a.q_at, b.n, b.h, a.size.depth), b.query, b.queries, w.columns);
  scale_all(w.columns, padded<T>(b.queries) * a.size.depth, a.scale * M_LOG2E);
  for (int64_t i = 0; i < kAttentionQueries; ++i) {
    w.top[i] = -std::numeric_limits<T>::infinity();
    w.sum[i] = 0;
  }
}

// ---- one query ----------------------------------------------------------------------------------------------------

// Scores to exponentials, as `exponentials` does it, with keys in the lanes. Sums run down the keys there, two by two:
// so they do here, one by one.
template <class T>
void exponentials_of_one(const Workspace<T>& w, int64_t keys) {
  using V = Vec<T>;
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  const T before = w.top[0];
  V best = V::set(before);
  for (int64_t j = keys; j % V::kWidth != 0; ++j) w.scores[j] = kNone;
  for (int64_t j = 0; j < keys; j += V::kWidth) best = raw_max(V::load(w.scores + j), best);
  T lanes[V::kWidth];
  best.store(lanes);
  T top = before;
  for (const T lane : lanes) top = lane > top ? lane : top;
  const V shift = V::set(top == kNone ? T{0} : top);
  for (int64_t j = 0; j < keys; j += V::kWidth) exp2_to_zero(V::load(w.scores + j) - shift).store(w.scores + j);
  T even = 0, odd = 0;
  int64_t j = 0;
  for (; j + 2 <= keys; j += 2) {
    even += w.scores[j];
    odd += w.scores[j + 1];
  }
  if (j < keys) even += w.scores[j];
  const V factor = exp2_to_zero(V::set(before) - shift);
  factor.store(lanes);
  w.factor[0] = lanes[0];
  fma(V::set(w.sum[0]), factor, V::set(even + odd)).store(lanes);
  w.sum[0] = lanes[0];
  w.top[0] = top;
}

// y (+)= weights times rows [first, first + keys), where they lie.
template <class T>
void add_values(const HeadRows<const T>& v, int64_t first, int64_t keys, const T* weights, T* y, bool accumulate) {
  using V = Vec<T>;
  const auto columns = [&]<int kVecs>(int64_t col, int lanes) {
    V sum[kVecs];
#pragma GCC unroll 8
    for (int i = 0; i < kVecs; ++i) sum[i] = accumulate ? get<V>(y + col + i * V::kWidth, lanes) : V::zero();
    const T* row = v.at(first) + col;
    for (int64_t j = 0; j < keys; ++j, row += v.row) {
      const V weight = V::set(weights[j]);
#pragma GCC unroll 8
      for (int i = 0; i < kVecs; ++i) sum[i] = fma(weight, get<V>(row + i * V::kWidth, lanes), sum[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kVecs; ++i) put(sum[i], y + col + i * V::kWidth, lanes);
  };
  int64_t col = 0;
  for (; col + 4 * V::kWidth <= v.cols; col += 4 * V::kWidth) columns.template operator()<4>(col, V::kWidth);
  for (; col < v.cols; col += V::kWidth)
    columns.template operator()<1>(col, static_cast<int>(least(V::kWidth, v.cols - col)));
}

// The only query of a head without mask and dropout, such as the next position of a sequence: seven of eight lanes
// would be idle above. Keys are in the lanes here, each result has the same chain of operations. Transposing keys into
// registers instead of packing them took a tenth longer, and so did prefetching the rows to come.
template <class T>
void attend_one(const AttentionArgs& a, Block b, const Workspace<T>& w) {
  const HeadRows<T> y = head_rows<T>(a.y, a.y_at, b.n, b.h, a.size.values);
  const auto k = head_rows<const T>(a.k, a.k_at, b.n, b.h, a.size.depth);
  const auto v = head_rows<const T>(a.v, a.v_at, b.n, b.h, a.size.values);
  begin_queries(a, b, w);
  const int64_t end = key_limit(a, b);
  for (b.key = 0; b.key < end; b.key += kAttentionKeys) {
    b.keys = least(kAttentionKeys, end - b.key);
    pack_columns(k, b.key, b.keys, w.keys);
    multiply(
        Product<T>{w.columns, 0, kPackWidth<T>, w.keys, k.cols * kPackWidth<T>, w.scores, 0, 1, b.keys, k.cols, false});
    exponentials_of_one(w, b.keys);
    if (b.key > 0 && w.factor[0] != 1) scale_all(y.at(0), y.cols, static_cast<double>(w.factor[0]));
    add_values(v, b.key, b.keys, w.scores, y.at(0), b.key > 0);
  }
  finish_rows(a, b, w, y);
}

// -------------------------------------------------------------------------------------------------------------------

template <class T>
void attend(const AttentionArgs& a, int64_t item, void* scratch) {
  Workspace<T> w{};
  carve(a, scratch, w);
  const int64_t blocks = ceil_div(a.size.queries, kAttentionQueries), items = ceil_div(blocks, a.span);
  const int64_t head = item / items, first = item % items * a.span, count = least(a.span, blocks - first);
  Block b{head / a.size.heads, head % a.size.heads, 0, 1, 0, 0};
  if (a.size.queries == 1 && !a.mask && !(a.dropout > 0)) return attend_one(a, b, w);
  const auto for_queries = [&](auto f) {
    for (int64_t i = 0; i < count; ++i) {
      b.query = (first + i) * kAttentionQueries;
      b.queries = least(kAttentionQueries, a.size.queries - b.query);
      f(w.at(a, i));
    }
  };
  const HeadRows<T> y = head_rows<T>(a.y, a.y_at, b.n, b.h, a.size.values);
  const auto k = head_rows<const T>(a.k, a.k_at, b.n, b.h, a.size.depth);
  const auto v = head_rows<const T>(a.v, a.v_at, b.n, b.h, a.size.values);
  for_queries([&](const Workspace<T>& block) { begin_queries(a, b, block); });
  const int64_t end = key_limit(a, b);  // of the last block, which sees most
  for (b.key = 0; b.key < end; b.key += kAttentionKeys) {
    const int64_t keys = least(kAttentionKeys, end - b.key);
    const HeadRows<const T> copied =
        count > 1 ? copy_rows(k, b.key, keys, w.keys) : HeadRows<const T>{k.at(b.key), k.row, k.cols};
    pack_rows(v, b.key, keys, w.values);
    for_queries([&](const Workspace<T>& block) {
      b.keys = least(keys, key_limit(a, b) - b.key);
      if (b.keys > 0) add_block(a, b, copied, block, y);
    });
  }
  for_queries([&](const Workspace<T>& block) { finish_rows(a, b, block, y); });
}

}  // namespace

Status attention(const AttentionArgs& a, Range r, const Ctx& ctx) {
  if (a.drawn && r.begin == 0) {
    const Stream stream = stream_of(a.state, a.offset);
    __builtin_memcpy(a.drawn, &stream, sizeof stream);
  }
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) attend<T>(a, item, ctx.scratch);
  });
  return {};
}

int64_t attention_scratch(const AttentionArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) {
    Workspace<T> w{};
    bytes = carve(a, nullptr, w);
  });
  return bytes;
}

}  // namespace quernel::QUERNEL_ISA
