// Gradient of the values of a CSR matrix: at each entry, the dot product of a row of g and a row of x (the product of
// two dense matrices, sampled). A register's worth of entries is summed at once, each in lanes over m; a transposition
// in registers then adds the lanes up, so that no entry pays for a sum across its register. The order depends on m
// alone.
#include "kernels/args/sparse.h"
#include "kernels/simd/vec.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class V>
void dot_entries(const typename V::Scalar* g, const typename V::Scalar* const* x, int64_t m, typename V::Scalar* y,
                 int entries) {
  constexpr int kWidth = V::kWidth;
  V acc[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) acc[i] = V::zero();
  int64_t j = 0;
  for (; j + kWidth <= m; j += kWidth) {
    const V row = V::load(g + j);
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) acc[i] = fma(row, V::load(x[i] + j), acc[i]);
  }
  if (j < m) {
    const int lanes = static_cast<int>(m - j);
    const V row = V::load(g + j, lanes);
    for (int i = 0; i < kWidth; ++i) acc[i] = fma(row, V::load(x[i] + j, lanes), acc[i]);
  }
  transpose(acc);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) acc[i] = acc[i] + acc[i + half];
  put(acc[0], y, entries);
}

template <class T>
void grad_row(const SparseGradArgs& a, int64_t row) {
  constexpr int kWidth = Vec<T>::kWidth;
  const int32_t* indptr = static_cast<const int32_t*>(a.indptr);
  const int32_t* indices = static_cast<const int32_t*>(a.indices);
  const T* g = static_cast<const T*>(a.g) + row * a.m;
  for (int64_t i = indptr[row], end = indptr[row + 1]; i < end; i += kWidth) {
    const int entries = static_cast<int>(end - i < kWidth ? end - i : kWidth);
    const T* x[kWidth];
    for (int j = 0; j < kWidth; ++j)
      x[j] = static_cast<const T*>(a.x) + indices[i + (j < entries ? j : entries - 1)] * a.m;
    dot_entries<Vec<T>>(g, x, a.m, static_cast<T*>(a.y) + i, entries);
  }
}

}  // namespace

Status sparse_grad(const SparseGradArgs& a, Range range, const Ctx&) {
  const int64_t end = range.end * kSparseRows < a.rows ? range.end * kSparseRows : a.rows;
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t row = range.begin * kSparseRows; row < end; ++row) grad_row<T>(a, row);
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
