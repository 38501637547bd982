// One SIMD register as a value type, so that a kernel is written once for every level and both float types:
// `VecF32`, `VecF64`, `VecI32` and the comparison results `MaskF32`, `MaskF64`. Each level's header defines the same
// names; the anonymous namespaces keep every level's copy to itself (see kernels/isa.h).
//
//   static V load(const T*), load(const T*, int n)   unaligned; the second reads n <= kWidth elements, the rest are 0
//   static V set(T), zero();  store(T*), store(T*, int n)
//   + - * /, unary -, fma(a, b, c) = a b + c, sqrt, abs, round_even, floor; < <= > >= == !=
//   min, max            NaN if either operand is (NumPy's minimum and maximum)
//   raw_min, raw_max    one instruction: the second operand if either is NaN
//   select(mask, a, b)  a where the mask is set; masks have & | ~, any(), all()
//   first_lanes<V>(n)   the mask of the first n lanes
//   scale_pow2(x, n)    x 2^n for integral n, rounded once if |x| is in [2^-30, 2^30]
//   exponent(x), mantissa(x)   x = mantissa 2^exponent with mantissa in [1, 2), for positive finite x
//   zip_lo(a, b), zip_hi(a, b)  lanes of a and b in turn, from their lower or upper halves
//   load_transposed(p, step, v)   v[k] = p[k], p[k + step], p[k + 2 step] …, for k < kWidth / 2
//   load_bool(p, n), store_bool(mask, p, n)   bytes 0 and 1
//
//   Half<V>, lower<L>(v)   half of V, for few lanes, and V's lower one; V itself where that saves nothing
//
// At the scalar level fma rounds twice (there is no such instruction); elsewhere it is one rounding.
#pragma once
#include <type_traits>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512BW__)
#include "kernels/simd/vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "kernels/simd/vec_avx2.h"
#else
#include "kernels/simd/vec_scalar.h"
#endif

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
using Vec = std::conditional_t<std::is_same_v<T, float>, VecF32, VecF64>;

#if defined(__AVX512F__)
template <class V>
using Half = decltype(lower_half(V()));
#else
template <class V>
using Half = V;
#endif

template <class L, class V>
inline L lower(V v) {
  if constexpr (std::is_same_v<L, V>)
    return v;
  else
    return lower_half(v);
}

// max(x, 0), with relu(NaN) = NaN.
template <class V>
inline V relu(V x) {
  return raw_max(V::zero(), x);
}

template <class V>
inline typename V::Mask is_nan(V x) {
  return x != x;
}

// Sums the lanes as a balanced tree: lane i with lane i + width / 2 first.
template <class V>
inline typename V::Scalar reduce_add(V v) {
  typename V::Scalar lanes[V::kWidth];
  v.store(lanes);
  for (int half = V::kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// The greatest lane; NaN if there is one.
template <class V>
inline typename V::Scalar reduce_max(V v) {
  typename V::Scalar lanes[V::kWidth];
  v.store(lanes);
  for (int half = V::kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) {
      const auto a = lanes[i], b = lanes[i + half];
      lanes[i] = (a > b) | (a != a) ? a : b;
    }
  return lanes[0];
}

// Transposes the square of lanes. One round of zips rotates the bits of an element's index (row, lane) by one.
template <class V>
inline void transpose(V (&v)[V::kWidth]) {
  constexpr int kHalf = V::kWidth / 2;
  for (int round = 1; round < V::kWidth; round *= 2) {
    V in[V::kWidth];
    for (int i = 0; i < V::kWidth; ++i) in[i] = v[i];
    for (int i = 0; i < kHalf; ++i) {
      v[2 * i] = zip_lo(in[i], in[i + kHalf]);
      v[2 * i + 1] = zip_hi(in[i], in[i + kHalf]);
    }
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
