// Element types on the device: dispatch by dtype, conversions defined for every value, formats of 16 bits.
#pragma once
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/cuda.h"
#include "kernels/args/common.h"
#include "kernels/float16.h"

namespace quernel::cuda {

// Call f(T{}) with the C++ type of the dtype; bool is uint8_t. The few kernels that take halves see to these first.
template <class F>
void visit(DType dtype, F f) {
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
void visit_floating(DType dtype, F f) {
  if (dtype == DType::kFloat32) {
    f(float{});
  } else {
    f(double{});
  }
}

// As C++ converts where that is defined; integers wrap. A float outside the range of int32 (int64 for int64) or NaN
// gives that type's minimum, cut to the target.
template <class To, class From>
__host__ __device__ inline To convert(From x) {
  if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    using Wide = std::conditional_t<sizeof(To) == 8, int64_t, int32_t>;
    constexpr From kLimit = static_cast<From>(std::is_same_v<Wide, int64_t> ? 0x1p63 : 0x1p31);
    constexpr Wide kLeast = std::is_same_v<Wide, int64_t> ? static_cast<Wide>(INT64_MIN) : static_cast<Wide>(INT32_MIN);
    return x > -kLimit && x < kLimit ? static_cast<To>(static_cast<Wide>(x)) : static_cast<To>(kLeast);
  } else {
    return static_cast<To>(x);
  }
}

// x < 0, for types that may have no sign.
template <class T>
__host__ __device__ constexpr bool is_negative(T x) {
  if constexpr (std::is_signed_v<T>) {
    return x < T(0);
  } else {
    return false;
  }
}

// bfloat16 is the upper half of a float. To nearest, ties to even; NaN becomes the quiet NaN of its sign.
__host__ __device__ inline uint16_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = (bits >> 16 & 0x8000) | 0x7fc0;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}
__host__ __device__ inline float from_bf16(uint16_t x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16);
}

// The formats of 16 bits. bfloat16 is converted through float, whatever the other dtype.
struct BFloat16 {
  template <class From>
  static __device__ uint16_t from(From x) {
    return to_bf16(static_cast<float>(x));
  }
  template <class To>
  static __device__ To to(uint16_t x) {
    return convert<To>(from_bf16(x));
  }
};
struct Float16 {
  template <class From>
  static __device__ uint16_t from(From x) {
    if constexpr (std::is_same_v<From, double>) {
      return to_f16(x);
    } else {
      return to_f16(static_cast<float>(x));
    }
  }
  template <class To>
  static __device__ To to(uint16_t x) {
    if constexpr (std::is_same_v<To, double>) {
      return f64_from_f16(x);
    } else {
      return convert<To>(from_f16(x));
    }
  }
};

template <class F>
void visit_half(DType dtype, F f) {
  if (dtype == DType::kBFloat16) {
    f(BFloat16{});
  } else {
    f(Float16{});
  }
}

}  // namespace quernel::cuda
