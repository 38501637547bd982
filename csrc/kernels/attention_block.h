// A block of scores, which both directions of attention compute: keys by queries, so that the softmax's maxima and sums
// run down the block, a register of queries at a time, and that keys and values are read where they lie, as the rows of
// a register tile. What a tile reads by columns, queries and gradients, is packed once per block of queries.
#pragma once
#include <limits>

#include "kernels/args/attention.h"
#include "kernels/gemm_tile.h"
#include "kernels/integers.h"
#include "kernels/pack_block.h"
#include "kernels/scratch.h"
#include "kernels/simd/math.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Keys of a block. They are part of the results' bits: the softmax's sums are rescaled from block to block.
inline constexpr int64_t kAttentionKeys = 64;

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

// c (+)= a b: a in place, with any strides, b packed in groups of `depth` rows, c with rows `c_row` apart.
template <class T>
struct Product {
  const T* a;
  int64_t a_row, a_step;
  const T* b;
  T* c;
  int64_t c_row;
  int64_t rows, cols, depth;
  bool accumulate;
};

template <class T>
void multiply(const Product<T>& p) {
  const Run run{0, 0, p.depth};
  const int64_t tiles = ceil_div(p.rows, kTileRows), group = p.depth * kPackWidth<T>;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t from = p.rows * tile / tiles, to = p.rows * (tile + 1) / tiles;
    for (int64_t first = 0; first < p.cols; first += kPanel) {
      const T* a[kTileRows];
      T* c[kTileRows];
      for (int64_t i = from; i < to; ++i) {
        a[i - from] = p.a + i * p.a_row;
        c[i - from] = p.c + i * p.c_row + first;
      }
      multiply_tile(Tile<T>{a, p.b + first * p.depth, c, &run, 1, false, p.a_step, kPackWidth<T>, group,
                            static_cast<int>(to - from), static_cast<int>(least(p.cols - first, kPanel)),
                            p.accumulate});
    }
  }
}

// `count` rows from `first` on, packed as the right-hand side of a product over rows, or over columns.
template <class T>
void pack_rows(const HeadRows<const T>& from, int64_t first, int64_t count, T* to) {
  pack_block<Vec<T>>(Unpacked<T>{from.at(first), count, from.row, 1}, Packed<T>{to, count * kPackWidth<T>, from.cols});
}
template <class T>
void pack_columns(const HeadRows<const T>& from, int64_t first, int64_t count, T* to) {
  pack_block<Vec<T>>(Unpacked<T>{from.at(first), from.cols, 1, from.row},
                     Packed<T>{to, from.cols * kPackWidth<T>, count});
}

template <class T>
void scale_all(T* x, int64_t size, double factor) {
  using V = Vec<T>;
  const V f = V::set(static_cast<T>(factor));
  for_lanes<V>(size, [&](int64_t i, int k) { put(get<V>(x + i, k) * f, x + i, k); });
}

// Part of a head's scores: keys [key, key + keys) by queries [query, query + queries).
struct Block {
  int64_t n, h;
  int64_t query, queries;
  int64_t key, keys;
};

inline constexpr int64_t kScoreRow = kAttentionQueries;  // from a key's scores to the next one's

// Keys that a block of queries has to look at.
inline int64_t key_limit(const AttentionInputs& a, const Block& b) {
  return a.causal ? most(0, least(a.size.keys, a.past + b.query + b.queries)) : a.size.keys;
}

template <class T>
void add_mask(const AttentionInputs& a, const Block& b, T* scores) {
  constexpr T kOut = -std::numeric_limits<T>::infinity();
  const int64_t* at = a.mask_at;
  const int64_t first = b.n * at[0] + b.h * at[1] + b.query * at[2] + b.key * at[3];
  // One query's row after the other, as the mask lies in memory; a row that serves all queries at once.
  const int64_t rows = at[2] == 0 ? 1 : b.queries, width = at[2] == 0 ? b.queries : 1;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < b.keys; ++j) {
      T* s = scores + j * kScoreRow + i;
      const int64_t from = first + i * at[2] + j * at[3];
      if (!a.mask_is_bool) {
        const T summand = static_cast<const T*>(a.mask)[from];
        for (int64_t w = 0; w < width; ++w) s[w] += summand;
      } else if (!static_cast<const uint8_t*>(a.mask)[from]) {
        for (int64_t w = 0; w < width; ++w) s[w] = kOut;
      }
    }
  }
}

// Query i sees keys up to past + i.
template <class T>
void mask_causal(const AttentionInputs& a, const Block& b, T* scores) {
  for (int64_t j = most(0, a.past + b.query + 1 - b.key); j < b.keys; ++j) {
    const int64_t end = least(b.queries, b.key + j - a.past - b.query);
    for (int64_t i = 0; i < end; ++i) scores[j * kScoreRow + i] = -std::numeric_limits<T>::infinity();
  }
}

// Scores of a block, masked; lanes of queries that do not exist are 0. `columns` are the queries times scale, packed.
template <class T>
void score_block(const AttentionInputs& a, const Block& b, const HeadRows<const T>& k, const T* columns, T* scores) {
  const int64_t width = ceil_div(b.queries, Vec<T>::kWidth) * Vec<T>::kWidth;
  multiply(Product<T>{k.at(b.key), k.row, 1, columns, scores, kScoreRow, b.keys, width, k.cols, false});
  if (a.mask) add_mask(a, b, scores);
  if (a.causal) mask_causal(a, b, scores);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
