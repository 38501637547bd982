// A block of scores, which both directions of attention compute: keys by queries, so that the softmax's maxima and sums
// run down the block, a register of queries at a time, and that keys and values are read where they lie, as the rows of
// a register tile. What a tile reads by columns, queries and gradients, is packed once per block of queries.
//
// Scores are logarithms to base 2, log2(e) being part of the queries' factor: 2^x is made in fewer steps than e^x.
#pragma once
#include "kernels/attention_mask.h"
#include "kernels/attention_product.h"
#include "kernels/pack_block.h"
#include "kernels/scratch.h"
#include "kernels/simd/math.h"

namespace quernel::QUERNEL_ISA {
namespace {

// One head of an operand: rows of `cols` contiguous elements.
template <class T>
struct HeadRows {
  T* data;
  int64_t row;
  int64_t cols;

  T* at(int64_t t) const { return data + t * row; }
};

template <class T, class U>
HeadRows<T> head_rows(U* data, const HeadPlace& place, int64_t n, int64_t h, int64_t cols) {
  return {static_cast<T*>(data) + place.first + n * place.batch + h * place.head, place.row, cols};
}

// Rows of packed columns that cover `cols`.
template <class T>
int64_t padded(int64_t cols) {
  return ceil_div(cols, kPackWidth<T>) * kPackWidth<T>;
}

// `count` rows from `first` on, packed as the right-hand side of a product over rows, of which a block has no more than
// kAttentionKeys, or over columns.
template <class T>
inline constexpr int64_t kRowsGroup = kAttentionKeys * kPackWidth<T>;
static_assert(kAttentionKeys == kAttentionQueries);

template <class T>
void pack_rows(const HeadRows<const T>& from, int64_t first, int64_t count, T* to) {
  pack_block<Vec<T>>(Unpacked<T>{from.at(first), count, from.row, 1}, Packed<T>{to, kRowsGroup<T>, from.cols});
}
template <class T>
void pack_columns(const HeadRows<const T>& from, int64_t first, int64_t count, T* to) {
  pack_block<Vec<T>>(Unpacked<T>{from.at(first), from.cols, 1, from.row},
                     Packed<T>{to, from.cols * kPackWidth<T>, count});
}

// `count` rows one behind the other.
template <class T>
HeadRows<const T> copy_rows(const HeadRows<const T>& from, int64_t first, int64_t count, T* to) {
  for (int64_t t = 0; t < count; ++t)
    __builtin_memcpy(to + t * from.cols, from.at(first + t), static_cast<size_t>(from.cols) * sizeof(T));
  return {to, from.cols, from.cols};
}

template <class T>
void scale_all(T* x, int64_t size, double factor) {
  using V = Vec<T>;
  const V f = V::set(static_cast<T>(factor));
  for_lanes<V>(size, [&](int64_t i, int k) { put(get<V>(x + i, k) * f, x + i, k); });
}

// Scores of a block, masked; lanes of queries that do not exist are whatever is finite or -inf. `columns` are the
// queries times scale log2(e), packed.
template <class T>
void score_block(const AttentionInputs& a, const Block& b, const HeadRows<const T>& k, const T* columns, T* scores) {
  const int64_t width = ceil_div(b.queries, Vec<T>::kWidth) * Vec<T>::kWidth;
  multiply(
      Product<T>{k.data, k.row, 1, columns, k.cols * kPackWidth<T>, scores, kScoreRow, b.keys, width, k.cols, false});
  if (a.mask) add_mask(a, b, scores);
  if (a.causal) mask_causal(a, b, scores);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
