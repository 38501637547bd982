// What the two directions of a recurrent layer share: which rows of an item run at a step, what is multiplied together,
// and how rows are found.
#pragma once
#include "kernels/args/matmul.h"
#include "kernels/args/recurrent.h"
#include "kernels/integers.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kProductRows = 48;  // at once: at least kRecurrentRows

// Rows that gather behind a backward step: gradients of weights are read and written once for all of them. (48 took 2
// to 6 % longer.)
constexpr int kGathered = 2 * kProductRows;

// The rows of an item.
struct Strip {
  int64_t first;
  int rows;
  int64_t length[kRecurrentRows];
  int64_t longest;

  Strip(const RecurrentShape& a, const void* lengths, int64_t number)
      : first(number * a.strip), rows(static_cast<int>(least(a.strip, a.rows - first))), longest(0) {
    for (int i = 0; i < rows; ++i) {
      length[i] = lengths ? static_cast<const int64_t*>(lengths)[first + i] : a.steps;
      longest = most(longest, length[i]);
    }
  }

  // Where row i's step s lies in an (N, T, …) tensor.
  int64_t place(const RecurrentShape& a, int i, int64_t s) const {
    return (first + i) * a.steps + (a.reverse ? length[i] - 1 - s : s);
  }
  // Where it lies in what is kept for the gradient.
  int64_t kept(const RecurrentShape& a, int i, int64_t s) const { return s * a.rows + first + i; }
};

// Rows of A and of the result that are multiplied together.
template <class T>
struct Product {
  const T* a[kProductRows];
  T* c[kProductRows];
  int rows = 0;

  void add(const T* from, T* to) {
    a[rows] = from;
    c[rows++] = to;
  }
};

// How a product goes on.
template <class T>
struct Finishing {
  const T* bias = nullptr;
  bool accumulate = false;
  bool backwards = false;  // the last panel first: what the product before has left in L1 is used
};

// Gathered gradients of gates: rows of `width` numbers, `lead` apart. There is memory for kGathered of them.
template <class T>
struct GatheredGates {
  T* g;
  int64_t lead;
  int64_t width;
  int rows;
};

// `count` numbers at row `at` of a tensor with rows of so many, null if there is none.
template <class T>
inline T* row_of(void* base, int64_t at, int64_t count) {
  return base ? static_cast<T*>(base) + at * count : nullptr;
}
template <class T>
inline const T* row_of(const void* base, int64_t at, int64_t count) {
  return base ? static_cast<const T*>(base) + at * count : nullptr;
}

template <class T>
inline void copy_or_zero(const T* from, T* to, int64_t count) {
  if (from)
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
  else
    __builtin_memset(to, 0, static_cast<size_t>(count) * sizeof(T));
}

// Zeros in the steps of row i, from `step` on, of an (N, T, count) tensor.
template <class T>
inline void clear_steps(const RecurrentShape& a, void* base, const Strip& strip, int i, int64_t count) {
  if (!base) return;
  const int64_t from = (strip.first + i) * a.steps + strip.length[i];
  copy_or_zero<T>(nullptr, static_cast<T*>(base) + from * count, (a.steps - strip.length[i]) * count);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
