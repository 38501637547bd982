// Gradient of a mask that is added to attention's scores: ds (attention_grad_block.h), summed over the dimensions that
// the mask lacks. Item = (n, h, block of queries, block of keys) of those that it has.
//
// Samples, heads and blocks that share an element add up in a block of sums, in their order; its rows and columns
// follow where queries or keys share one. The blocks of scores are computed for this alone, which takes two products
// beside the five of the other gradients and keeps every sum with one thread.
#include "kernels/attention_grad_block.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

// A dimension of the scores: an index and its end. Those that the mask lacks are summed from begin to end.
struct Span {
  int64_t begin, end;
};

// Of `count` steps, the next digit of an item if the mask has this dimension, otherwise all of them.
Span take_span(int64_t& item, bool has, int64_t count, int64_t step, int64_t size) {
  if (!has) return {0, size};
  const int64_t begin = item % count * step;
  item /= count;
  return {begin, least(begin + step, size)};
}

struct MaskPart {
  Span n, h, query, key;
};

MaskPart part_of(const AttentionGradArgs& a, int64_t item) {
  const AttentionSize& s = a.size;
  const int64_t* at = a.mask_at;
  MaskPart part;
  part.key = take_span(item, at[3] != 0, ceil_div(s.keys, kAttentionKeys), kAttentionKeys, s.keys);
  part.query = take_span(item, at[2] != 0, ceil_div(s.queries, kAttentionQueries), kAttentionQueries, s.queries);
  part.h = take_span(item, at[1] != 0, s.heads, 1, s.heads);
  part.n = take_span(item, at[0] != 0, s.batch, 1, s.batch);
  return part;
}

// Adds ds of the keys in `keys` to the sums.
template <class T>
void add_queries(const AttentionGradArgs& a, Block b, Span keys, const GradWorkspace<T>& w) {
  using V = Vec<T>;
  const GradHead<T> head = head_of<T>(a, b.n, b.h);
  const int64_t limit = least(key_limit(a, b), keys.end);
  if (limit <= keys.begin) return;
  begin_queries(a, b, head, w);
  for (b.key = keys.begin; b.key < limit; b.key += kAttentionKeys) {
    b.keys = least(kAttentionKeys, limit - b.key);
    slope_block(a, b, head, w);
    for (int64_t j = 0; j < b.keys; ++j) {
      T* sums = w.mask + j * kScoreRow;
      const T* slopes = w.slopes + j * kScoreRow;
      // Lanes behind the last query may hold anything, for a key may be infinite.
      for_lanes<V>(b.queries,
                   [&](int64_t i, int lanes) { (V::load(sums + i) + get<V>(slopes + i, lanes)).store(sums + i); });
    }
  }
}

template <class T>
void write_sums(const AttentionGradArgs& a, const MaskPart& part, T* sums) {
  const int64_t* at = a.mask_at;
  const int64_t keys = at[3] == 0 ? 1 : part.key.end - part.key.begin;
  const int64_t queries = at[2] == 0 ? 1 : part.query.end - part.query.begin;
  if (at[3] == 0) {
    for (int64_t j = 1; j < kAttentionKeys; ++j)
      for (int64_t i = 0; i < kScoreRow; ++i) sums[i] += sums[j * kScoreRow + i];
  }
  if (at[2] == 0) {
    for (int64_t j = 0; j < keys; ++j)
      for (int64_t i = 1; i < kScoreRow; ++i) sums[j * kScoreRow] += sums[j * kScoreRow + i];
  }
  T* to = static_cast<T*>(a.dmask) + part.n.begin * at[0] + part.h.begin * at[1] + part.query.begin * at[2] +
          part.key.begin * at[3];
  for (int64_t i = 0; i < queries; ++i)
    for (int64_t j = 0; j < keys; ++j) to[i * at[2] + j * at[3]] = sums[j * kScoreRow + i];
}

template <class T>
void differentiate_mask(const AttentionGradArgs& a, int64_t item, const GradWorkspace<T>& w) {
  const MaskPart part = part_of(a, item);
  __builtin_memset(w.mask, 0, static_cast<size_t>(kAttentionKeys * kScoreRow) * sizeof(T));
  Block b{part.n.begin, 0, 0, 0, 0, 0};
  for (; b.n < part.n.end; ++b.n) {
    for (b.h = part.h.begin; b.h < part.h.end; ++b.h) {
      for (b.query = part.query.begin; b.query < part.query.end; b.query += kAttentionQueries) {
        b.queries = least(kAttentionQueries, a.size.queries - b.query);
        add_queries(a, b, part.key, w);
      }
    }
  }
  write_sums(a, part, w.mask);
}

}  // namespace

Status attention_grad_mask(const AttentionGradArgs& a, Range r, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    GradWorkspace<T> w{};
    carve(a, ctx.scratch, w);
    for (int64_t item = r.begin; item < r.end; ++item) differentiate_mask<T>(a, item, w);
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
