// Shared by the row kernels: element types at run time, conversions defined for every value, ranges of elements, and
// storing up to one register.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/args/common.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Calls f(T{}) with the C++ type of the dtype; bool is uint8_t. The few kernels that take halves see to these first.
template <class F>
inline void visit(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kInt8:
      return f(int8_t{});
    case DType::kUInt8:
    case DType::kBool:
      return f(uint8_t{});
    case DType::kInt32:
      return f(int32_t{});
    case DType::kInt64:
      return f(int64_t{});
    case DType::kFloat16:
    case DType::kBFloat16:
      return;
  }
}

template <class F>
inline void visit_floating(DType dtype, F f) {
  if (dtype == DType::kFloat32) {
    f(float{});
  } else {
    f(double{});
  }
}

// As C++ converts where that is defined; integers wrap. A float outside the range of int32 (int64 for int64) or NaN
// gives that type's minimum, cut to the target, at every ISA level.
template <class To, class From>
inline To convert(From x) {
  if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    using Wide = std::conditional_t<sizeof(To) == 8, int64_t, int32_t>;
    constexpr From kLimit = static_cast<From>(std::is_same_v<Wide, int64_t> ? 0x1p63 : 0x1p31);
    const bool inside = (x > -kLimit) & (x < kLimit);
    return static_cast<To>(inside ? static_cast<Wide>(inside ? x : From{0}) : std::numeric_limits<Wide>::min());
  } else {
    return static_cast<To>(x);
  }
}

template <class T>
inline T saturate(double x) {
  if (!(x > static_cast<double>(std::numeric_limits<T>::min()))) return std::numeric_limits<T>::min();
  if (!(x < static_cast<double>(std::numeric_limits<T>::max()))) return std::numeric_limits<T>::max();
  return static_cast<T>(x);
}

// The elements of a range of blocks of kElementBlock.
inline Range elements(Range items, int64_t size) {
  const int64_t end = items.end * kElementBlock;
  return {items.begin * kElementBlock, end < size ? end : size};
}

// Stores n <= kWidth lanes, or a comparison's result as bool.
template <class V>
inline void put(V v, typename V::Scalar* y, int n) {
  if (n == V::kWidth) {
    v.store(y);
  } else {
    v.store(y, n);
  }
}
template <class Mask>
inline void put(Mask mask, uint8_t* y, int n) {
  store_bool(mask, y, n);
}

// Loads n <= kWidth lanes, the rest 0.
template <class V>
inline V get(const typename V::Scalar* x, int n) {
  return n == V::kWidth ? V::load(x) : V::load(x, n);
}

// The first n lanes, and `other` in the rest.
template <class V>
inline V masked(V v, int n, V other = V::zero()) {
  return n == V::kWidth ? v : select(first_lanes<V>(n), v, other);
}

// Calls f(offset, lanes) for the registers that cover n elements.
template <class V, class F>
inline void for_lanes(int64_t n, F f) {
  int64_t i = 0;
  for (; i + V::kWidth <= n; i += V::kWidth) f(i, V::kWidth);
  if (i < n) f(i, static_cast<int>(n - i));
}

// Sums term(r) over rows, row r in phase r mod 4, so that no addition waits for the one before.
template <class V, class Term>
inline V sum_rows(int64_t rows, Term term) {
  V a = V::zero(), b = V::zero(), c = V::zero(), d = V::zero();
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    a = a + term(r);
    b = b + term(r + 1);
    c = c + term(r + 2);
    d = d + term(r + 3);
  }
  if (r < rows) a = a + term(r);
  if (r + 1 < rows) b = b + term(r + 1);
  if (r + 2 < rows) c = c + term(r + 2);
  return (a + b) + (c + d);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
