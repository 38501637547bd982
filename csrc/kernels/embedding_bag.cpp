// Sums, means and maxima of rows of a table, and the gradient of a table by rows. No tensor holds the rows looked up.
//
// Sums stay in registers while the lookups of a bag (or, in the gradient, of a row) go by, up to kVecs registers of
// columns at once: rows of 64 float32 are read in one pass (asking for rows ahead of time was no faster). The order of
// a sum is that of its lookups, so neither threads nor the columns beside it change its bits, and a gradient by rows
// has the bits of the dense one.
//
// The gradient groups the lookups by row first: a hash table (open addressing, at most half full) numbers the rows in
// the order of their first appearance, a counting sort puts the lookups of each number side by side. That is one item
// and costs some 10 ns a lookup; then every row is summed by itself, by any thread, and written once.
#include "kernels/args/embedding_bag.h"

#include <cstring>

#include "kernels/integers.h"
#include "kernels/isa.h"
#include "kernels/scratch.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kVecs = 8;

const int64_t* whole(const void* p) { return static_cast<const int64_t*>(p); }

// The lookups of bag b.
template <class Args>
Range bag_range(const Args& a, int64_t b) {
  if (!a.offsets) return {b * a.length, (b + 1) * a.length};
  const int64_t* offsets = whole(a.offsets);
  return {offsets[b], b + 1 < a.bags ? offsets[b + 1] : a.n};
}

// The bag of lookup j: the last that begins at or before it.
template <class Args>
int64_t bag_of(const Args& a, int64_t j) {
  if (!a.offsets) return a.length == 1 ? j : j / a.length;
  const int64_t* offsets = whole(a.offsets);
  int64_t low = 0, high = a.bags;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (offsets[middle] <= j ? low : high) = middle;
  }
  return low;
}

// Rows to add up: row(i, &weight) is the first column of the i-th, or null where one is left out.
template <class T, class Row>
struct Terms {
  Row row;
  int64_t count;
  bool weighted, onto;  // plain sums have no weights; added to what y holds, or written
  T scale;              // of the sum, 1 for none
};

// y = scale · sum of weight · row, upon y or not, in `vecs` registers of columns from `first` on, all of them whole or
// the only one of `lanes`.
template <class V, int vecs, bool whole, class T, class Row>
void sum_columns(const Terms<T, Row>& terms, int64_t first, T* y, int lanes = V::kWidth) {
  const int n = whole ? V::kWidth : lanes;
  const V scale = V::set(terms.scale);
  V acc[vecs];
  for (int v = 0; v < vecs; ++v) acc[v] = V::zero();
  for (int64_t i = 0; i < terms.count; ++i) {
    T weight = 1;
    const T* row = terms.row(i, &weight);
    if (!row) continue;
    row += first;
    if (terms.weighted) {
      const V w = V::set(weight);
      for (int v = 0; v < vecs; ++v) acc[v] = fma(w, get<V>(row + v * V::kWidth, n), acc[v]);
    } else {
      for (int v = 0; v < vecs; ++v) acc[v] = acc[v] + get<V>(row + v * V::kWidth, n);
    }
  }
  for (int v = 0; v < vecs; ++v) {
    T* to = y + first + v * V::kWidth;
    const V sum = acc[v] * scale;
    put(terms.onto ? get<V>(to, n) + sum : sum, to, n);
  }
}

template <class T, class Row>
void sum_terms(const Terms<T, Row>& terms, int64_t features, T* y) {
  using V = Vec<T>;
  constexpr int kWidth = V::kWidth;
  int64_t d = 0;
  for (; d + kVecs * kWidth <= features; d += kVecs * kWidth) sum_columns<V, kVecs, true>(terms, d, y);
  for (; d + 2 * kWidth <= features; d += 2 * kWidth) sum_columns<V, 2, true>(terms, d, y);
  for (; d + kWidth <= features; d += kWidth) sum_columns<V, 1, true>(terms, d, y);
  if (d < features) sum_columns<V, 1, false>(terms, d, y, static_cast<int>(features - d));
}

template <class T>
void sum_bag(const EmbeddingBagArgs& a, int64_t b) {
  const Range bag = bag_range(a, b);
  const int64_t* index = whole(a.index) + bag.begin;
  const T* x = static_cast<const T*>(a.x);
  const T* weights = a.weights ? static_cast<const T*>(a.weights) + bag.begin : nullptr;
  const int64_t count = bag.end - bag.begin;
  T scale = 1;
  if (a.mode == BagMode::kMean) {
    int64_t present = 0;
    for (int64_t i = 0; i < count; ++i) present += index[i] != a.skip;
    scale = present ? 1 / static_cast<T>(present) : 0;
    static_cast<T*>(a.inverse)[b] = scale;
  }
  const auto row = [&](int64_t i, T* weight) -> const T* {
    if (index[i] == a.skip) return nullptr;
    if (weights) *weight = weights[i];
    return x + index[i] * a.features;
  };
  sum_terms(Terms<T, decltype(row)>{row, count, weights != nullptr, false, scale}, a.features,
            static_cast<T*>(a.y) + b * a.features);
}

template <class T>
void max_bag(const EmbeddingBagArgs& a, int64_t b) {
  const Range bag = bag_range(a, b);
  const int64_t* index = whole(a.index);
  T* y = static_cast<T*>(a.y) + b * a.features;
  int64_t* chosen = static_cast<int64_t*>(a.chosen) + b * a.features;
  bool empty = true;
  for (int64_t j = bag.begin; j < bag.end; ++j) {
    if (index[j] == a.skip) continue;
    const T* x = static_cast<const T*>(a.x) + index[j] * a.features;
    for (int64_t d = 0; d < a.features; ++d) {
      const bool better = empty | (x[d] > y[d]) | (x[d] != x[d]);  // not a number stays one
      y[d] = better ? x[d] : y[d];
      chosen[d] = better ? index[j] : chosen[d];
    }
    empty = false;
  }
  for (int64_t d = 0; empty && d < a.features; ++d) y[d] = 0, chosen[d] = -1;
}

// What group_rows needs meanwhile: numbers by hash, and the number of each lookup.
struct Numbering {
  int32_t* table = nullptr;
  int32_t* number = nullptr;
  int64_t slots = 16;
  int bits = 4;
  int64_t bytes;

  Numbering(const GroupRowsArgs& a, void* memory) {
    while (slots < 2 * (a.kept + a.n)) slots *= 2, ++bits;
    Carver carver(memory);
    carver.take(table, slots);
    carver.take(number, a.n);
    bytes = carver.used();
  }

  // Where the number of a row is, or its place if it has none.
  int32_t& find(int64_t row, const int64_t* rows) const {
    auto at = static_cast<int64_t>(static_cast<uint64_t>(row) * 0x9E3779B97F4A7C15u >> (64 - bits));
    while (table[at] >= 0 && rows[table[at]] != row) at = (at + 1) & (slots - 1);
    return table[at];
  }
};

}  // namespace

Status check_offsets(const CheckOffsetsArgs& a, Range, const Ctx&) {
  const int64_t* offsets = whole(a.offsets);
  int64_t least = 0, greatest = 0;
  for (int64_t i = 0; i < a.size; ++i) {
    if (a.closed && i + 1 == a.size) least = a.n;
    if (offsets[i] < least || offsets[i] > greatest) return {StatusCode::kBagOffset, i, offsets[i], a.n};
    least = offsets[i], greatest = a.n;
  }
  return {};
}

Status embedding_bag(const EmbeddingBagArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t b = r.begin; b < r.end; ++b) a.mode == BagMode::kMax ? max_bag<T>(a, b) : sum_bag<T>(a, b);
  });
  return {};
}

int64_t group_rows_scratch(const GroupRowsArgs& a) { return Numbering(a, nullptr).bytes; }

Status group_rows(const GroupRowsArgs& a, Range, const Ctx& ctx) {
  const Numbering numbering(a, ctx.scratch);
  const int64_t* index = whole(a.index);
  int64_t *rows = static_cast<int64_t*>(a.rows), *start = static_cast<int64_t*>(a.start);
  int64_t* order = static_cast<int64_t*>(a.order);
  std::memset(numbering.table, 0xff, static_cast<size_t>(numbering.slots) * sizeof(int32_t));
  std::memset(start, 0, static_cast<size_t>(a.most + 2) * sizeof(int64_t));
  int32_t count = 0;
  for (; count < a.kept && rows[count] >= 0; ++count) numbering.find(rows[count], rows) = count;
  const int32_t old = count;
  for (int64_t j = 0; j < a.n; ++j) {
    numbering.number[j] = -1;
    if (index[j] == a.skip) continue;
    int32_t& number = numbering.find(index[j], rows);
    if (number < 0) {
      rows[count] = index[j];
      number = count++;
    }
    numbering.number[j] = number;
    ++start[number + 1];
  }
  for (int64_t i = count; i < a.capacity; ++i) rows[i] = -1;
  for (int64_t i = 0; i < a.most; ++i) start[i + 1] += start[i];
  // start[i] walks to the end of number i, which is the beginning of number i + 1.
  for (int64_t j = 0; j < a.n; ++j) {
    if (numbering.number[j] >= 0) order[start[numbering.number[j]]++] = j;
  }
  for (int64_t i = a.most; i > 0; --i) start[i] = start[i - 1];
  start[0] = 0;
  start[a.most + 1] = old;
  return {};
}

Status sum_rows(const SumRowsArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) {
    const int64_t *start = whole(a.start), *order = whole(a.order), *rows = whole(a.rows);
    const T *g = static_cast<const T*>(a.g), *weights = static_cast<const T*>(a.weights);
    for (int64_t i = r.begin; i < r.end; ++i) {
      const int64_t at = rows ? rows[i] : i, count = start[i + 1] - start[i];
      const bool onto = i < start[a.most + 1];
      if (at < 0 || (onto && count == 0)) continue;
      const auto row = [&](int64_t k, T* weight) {
        const int64_t j = order[start[i] + k];
        if (weights) *weight = weights[j];
        return g + bag_of(a, j) * a.features;
      };
      sum_terms(Terms<T, decltype(row)>{row, count, weights != nullptr, onto, 1}, a.features,
                static_cast<T*>(a.y) + at * a.features);
    }
  });
  return {};
}

Status bag_weights_grad(const BagWeightsGradArgs& a, Range r, const Ctx&) {
  const int64_t end = least(r.end * kBagWeightsBlock, a.n);
  visit_floating(a.dtype, [&]<class T>(T) {
    using V = Vec<T>;
    constexpr int kWidth = V::kWidth;
    T* y = static_cast<T*>(a.y);
    for (int64_t j = r.begin * kBagWeightsBlock; j < end; ++j) {
      const int64_t row = whole(a.index)[j];
      const T* g = static_cast<const T*>(a.g) + bag_of(a, j) * a.features;
      const T* x = static_cast<const T*>(a.x) + row * a.features;
      V even = V::zero(), odd = V::zero();
      int64_t d = 0;
      for (; row != a.skip && d + 2 * kWidth <= a.features; d += 2 * kWidth) {
        even = fma(V::load(g + d), V::load(x + d), even);
        odd = fma(V::load(g + d + kWidth), V::load(x + d + kWidth), odd);
      }
      for (; row != a.skip && d < a.features; d += kWidth) {
        const int lanes = static_cast<int>(least(kWidth, a.features - d));
        even = fma(get<V>(g + d, lanes), get<V>(x + d, lanes), even);
      }
      y[j] = reduce_add(even + odd);
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
