// A row of A with many zeros times packed B: in each group of columns only those cache lines are read that meet an
// element other than 0, by a list of these. Four groups advance together, which fills eight registers of AVX2, and the
// lines of the fourth element from here are fetched meanwhile, for no hardware prefetcher follows the gaps. (One group
// at a time took up to twice as long, two the same; eight or sixteen elements ahead, or none, up to half as long
// again.)
//
// A B that leaves L2 and much of L3 is read faster as a stream than line by line: it takes more zeros to gain.
//
// The bits are the dense kernel's. Each output is one chain of FMAs over k that begins at +0, and 0 times a finite
// weight adds +0 or -0. That changes no sum but one that is -0, which may become +0, as later products would have it in
// either case unless they are zeros too. A sum gets to be -0 by underflow alone; one that ends so is left to the dense
// kernel.
#include "kernels/gemm_zeros.h"

#include <type_traits>

#include "kernels/epilogue.h"
#include "kernels/integers.h"
#include "kernels/simd/vec.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kAhead = 4;         // elements whose lines of B are fetched ahead
constexpr int64_t kGroupsAtOnce = 4;  // of columns

// Zeros in each eight elements of A from which on they are left out, by the size of B. (Break-even was at one quarter
// and at 60 to 75 %.)
constexpr int64_t kLargeBytes = 8 << 20;
constexpr int64_t kFewZeros = 3, kFewZerosLarge = 6;

template <class T>
int64_t count_zeros(const T* a, int64_t k) {
  using V = Vec<T>;
  const int64_t whole = k / V::kWidth;
  const V each = sum_rows<V>(
      whole, [&](int64_t r) { return select(V::load(a + r * V::kWidth) == V::zero(), V::set(1), V::zero()); });
  auto zeros = static_cast<int64_t>(reduce_add(each));
  for (int64_t i = whole * V::kWidth; i < k; ++i) zeros += a[i] == 0;
  return zeros;
}

template <class T>
Nonzeros find(const GemmArgs& g, const T* a, void* scratch) {
  const bool large = g.n * g.k * static_cast<int64_t>(sizeof(T)) > kLargeBytes;
  if (8 * count_zeros(a, g.k) < (large ? kFewZerosLarge : kFewZeros) * g.k) return {};
  auto* const index = static_cast<int32_t*>(scratch);
  int64_t count = 0;
  for (int64_t k = 0; k < g.k; ++k) {  // without branches: nobody can predict them
    index[count] = static_cast<int32_t>(k);
    count += a[k] != 0;
  }
  for (int64_t i = 0; i < kAhead; ++i) index[count + i] = 0;
  return {index, count};
}

// The sums of kGroups groups of columns; whether none of them is 0.
template <class V, int kGroups, class T = typename V::Scalar>
bool walk(const Nonzeros& row, const T* a, const T* b, int64_t group, T* sums) {
  constexpr int kVecs = static_cast<int>(kPackWidth<T>) / V::kWidth;
  V acc[kGroups][kVecs];
#pragma GCC unroll 8
  for (int i = 0; i < kGroups; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) acc[i][j] = V::zero();
  }
  for (const int32_t *at = row.index, *end = at + row.count; at < end; ++at) {
    const T *line = b + *at * kPackWidth<T>, *next = b + at[kAhead] * kPackWidth<T>;
    const V x = V::set(a[*at]);
#pragma GCC unroll 8
    for (int i = 0; i < kGroups; ++i) {
      __builtin_prefetch(next + i * group);
#pragma GCC unroll 8
      for (int j = 0; j < kVecs; ++j) acc[i][j] = fma(x, V::load(line + i * group + j * V::kWidth), acc[i][j]);
    }
  }
  bool zero = false;
#pragma GCC unroll 8
  for (int i = 0; i < kGroups; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; ++j) {
      acc[i][j].store(sums + (i * kVecs + j) * V::kWidth);
      zero |= (acc[i][j] == V::zero()).any();
    }
  }
  return !zero;
}

template <class T>
bool multiply(const GemmArgs& g, const Nonzeros& row, const RowPart<T>& part) {
  using V = Vec<T>;
  constexpr int64_t kWidth = kPackWidth<T>;
  T sums[kPanel];
  bool certain = true;
  const auto cover = [&]<int kGroups>(std::integral_constant<int, kGroups>, int64_t col) {
    certain &= walk<V, kGroups>(row, part.a, part.b + col / kWidth * g.group, g.group, sums + (col - part.first));
  };
  for (int64_t col = part.first; col < part.last; col += kGroupsAtOnce * kWidth) {
    switch (least(kGroupsAtOnce, ceil_div(part.last - col, kWidth))) {
      case 1:
        cover(std::integral_constant<int, 1>(), col);
        break;
      case 2:
        cover(std::integral_constant<int, 2>(), col);
        break;
      case 3:
        cover(std::integral_constant<int, 3>(), col);
        break;
      default:
        cover(std::integral_constant<int, 4>(), col);
    }
  }
  const int64_t cols = part.last - part.first;
  for (int64_t i = 0; !certain && i < cols; ++i) {
    if (sums[i] == 0 && __builtin_signbit(sums[i])) return false;
  }
  T* c = part.c + part.first;
  __builtin_memcpy(c, sums, static_cast<size_t>(cols) * sizeof(T));
  finish(Finish<T>{&g, static_cast<T*>(g.c), &c, 1, static_cast<int>(cols), part.first});
  return true;
}

}  // namespace

Nonzeros find_nonzeros(const GemmArgs& g, const float* a, void* scratch) { return find(g, a, scratch); }
Nonzeros find_nonzeros(const GemmArgs& g, const double* a, void* scratch) { return find(g, a, scratch); }

int64_t nonzeros_scratch(const GemmArgs& g) { return (g.k + kAhead) * static_cast<int64_t>(sizeof(int32_t)); }

bool multiply_nonzeros(const GemmArgs& g, const Nonzeros& row, const RowPart<float>& part) {
  return multiply(g, row, part);
}
bool multiply_nonzeros(const GemmArgs& g, const Nonzeros& row, const RowPart<double>& part) {
  return multiply(g, row, part);
}

}  // namespace quernel::QUERNEL_ISA
