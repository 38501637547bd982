// What is done to a block of attention's scores: masks, added or filled in, and the factors of dropout.
//
// Scores lie keys by queries, a mask queries by keys: squares of it are transposed in registers.
#pragma once
#include <math.h>

#include <limits>

#include "kernels/args/attention.h"
#include "kernels/integers.h"
#include "kernels/philox.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Part of a head's scores: keys [key, key + keys) by queries [query, query + queries).
struct Block {
  int64_t n, h;
  int64_t query, queries;
  int64_t key, keys;
};

inline constexpr int64_t kScoreRow = kAttentionQueries;  // from a key's scores to the next one's

// How many keys lie before the first query. A number from a tensor may be any: what says the same and adds up is taken.
inline int64_t past_of(const AttentionInputs& a) {
  if (!a.past_at) return a.past;
  int64_t past;
  __builtin_memcpy(&past, a.past_at, sizeof past);
  return most(-a.size.queries, least(a.size.keys, past));
}

// Keys that a block of queries has to look at.
inline int64_t key_limit(const AttentionInputs& a, const Block& b) {
  return a.causal ? most(0, least(a.size.keys, past_of(a) + b.query + b.queries)) : a.size.keys;
}

// The mask's elements from `at` on, as summands of natural scores: -inf keeps a key out, and so does false.
template <class V>
V summands(const AttentionInputs& a, int64_t at, int lanes) {
  using T = typename V::Scalar;
  if (!a.mask_is_bool) return get<V>(static_cast<const T*>(a.mask) + at, lanes);
  const auto kept = load_bool<V>(static_cast<const uint8_t*>(a.mask) + at, lanes);
  return select(kept, V::zero(), V::set(-std::numeric_limits<T>::infinity()));
}

// A key that a bool keeps out is out whatever its score, which may be NaN.
template <class V>
V masked_score(bool is_bool, V score, V summand) {
  if (is_bool) return select(summand < V::zero(), summand, score);
  return fma(summand, V::set(static_cast<typename V::Scalar>(M_LOG2E)), score);
}

// One row of the mask, or one element of it, for all queries.
template <class T>
void add_mask_row(const AttentionInputs& a, const Block& b, int64_t first, T* scores) {
  using V = Vec<T>;
  for (int64_t j = 0; j < b.keys; ++j) {
    T summand[V::kWidth];
    summands<V>(a, first + j * a.mask_at[3], 1).store(summand);
    const V all = V::set(summand[0]);
    for (int64_t i = 0; i < b.queries; i += V::kWidth) {
      T* s = scores + j * kScoreRow + i;
      masked_score(a.mask_is_bool, V::load(s), all).store(s);
    }
  }
}

template <class T>
void add_mask(const AttentionInputs& a, const Block& b, T* scores) {
  using V = Vec<T>;
  constexpr int kWidth = V::kWidth;
  const int64_t* at = a.mask_at;
  const int64_t first = b.n * at[0] + b.h * at[1] + b.query * at[2] + b.key * at[3];
  if (at[2] == 0) return add_mask_row(a, b, first, scores);
  for (int64_t i = 0; i < b.queries; i += kWidth) {
    const int rows = static_cast<int>(least(kWidth, b.queries - i));
    for (int64_t j = 0; j < b.keys; j += kWidth) {
      const int cols = static_cast<int>(least(kWidth, b.keys - j));
      V square[kWidth];
      for (int r = 0; r < kWidth; ++r) {
        square[r] = V::zero();
        if (r >= rows) continue;
        const int64_t from = first + (i + r) * at[2] + j * at[3];
        square[r] = summands<V>(a, from, at[3] == 0 ? 1 : cols);
        if (at[3] != 0) continue;
        T summand[kWidth];
        square[r].store(summand);
        square[r] = V::set(summand[0]);
      }
      transpose(square);
      for (int c = 0; c < cols; ++c) {
        T* s = scores + (j + c) * kScoreRow + i;
        masked_score(a.mask_is_bool, V::load(s), square[c]).store(s);
      }
    }
  }
}

// Query i sees keys up to past + i.
template <class T>
void mask_causal(const AttentionInputs& a, const Block& b, T* scores) {
  const int64_t past = past_of(a);
  for (int64_t j = most(0, past + b.query + 1 - b.key); j < b.keys; ++j) {
    const int64_t end = least(b.queries, b.key + j - past - b.query);
    for (int64_t i = 0; i < end; ++i) scores[j * kScoreRow + i] = -std::numeric_limits<T>::infinity();
  }
}

// What dropout makes of a block of weights: 0 or 1 / (1 - p) each, laid out as the scores. A block of draws serves four
// keys of a query.
template <class T>
void keep_block(const AttentionInputs& a, const Block& b, T* keep) {
  const Dropout<T> rule(a.dropout);
  const Stream stream = stream_of(a.state, a.offset);
  const int64_t step = ceil_div(a.size.keys, 4);
  const int64_t row = (b.n * a.size.heads + b.h) * a.size.queries + b.query;
  uint32_t draws[4][kPhiloxLanes];
  for (int64_t j = 0; j < b.keys; j += 4) {
    const uint64_t first = stream.counter + static_cast<uint64_t>(row * step + (b.key + j) / 4);
    for (int64_t i = 0; i < b.queries; i += kPhiloxLanes) {
      philox({stream.seed, first + static_cast<uint64_t>(i * step)}, static_cast<uint64_t>(step), draws);
      for (int k = 0; k < 4; ++k) {
        T* to = keep + (j + k) * kScoreRow + i;
        for (int lane = 0; lane < kPhiloxLanes; ++lane) to[lane] = rule.keeps(draws[k][lane]) ? rule.scale : T{0};
      }
    }
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
