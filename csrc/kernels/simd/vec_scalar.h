// Portable: 4 floats or 2 doubles in the compiler's own vector types (GCC, Clang), which become whatever the baseline
// has (SSE2, NEON); see vec.h. fma is a multiplication and an addition, each rounded.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace quernel::QUERNEL_ISA {
namespace {

// T lanes of a 16-byte vector; Int is the integer of the same size, whose lanes are 0 or -1 in comparison results.
template <class T, class Int, int kLanes>
struct MaskOf {
  using Bits [[gnu::vector_size(16)]] = Int;
  Bits m;
  friend MaskOf operator&(MaskOf a, MaskOf b) { return {a.m & b.m}; }
  friend MaskOf operator|(MaskOf a, MaskOf b) { return {a.m | b.m}; }
  friend MaskOf operator~(MaskOf a) { return {~a.m}; }
  bool any() const {
    bool set = false;
    for (int i = 0; i < kLanes; ++i) set |= m[i] != 0;
    return set;
  }
  bool all() const { return !(~*this).any(); }
};

template <class T, class Int, int kLanes>
struct VecOf {
  using Scalar = T;
  using Mask = MaskOf<T, Int, kLanes>;
  using Lanes [[gnu::vector_size(16)]] = T;
  using Bits = typename Mask::Bits;
  static constexpr int kWidth = kLanes;
  Lanes v;

  static VecOf load(const T* p) {
    VecOf r;
    std::memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  static VecOf load(const T* p, int n) {
    VecOf r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  static VecOf set(T x) { return {x - Lanes{}}; }  // keeps the sign of -0
  static VecOf zero() { return {Lanes{}}; }
  void store(T* p) const { std::memcpy(p, &v, sizeof(v)); }
  void store(T* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }

  friend VecOf operator+(VecOf a, VecOf b) { return {a.v + b.v}; }
  friend VecOf operator-(VecOf a, VecOf b) { return {a.v - b.v}; }
  friend VecOf operator*(VecOf a, VecOf b) { return {a.v * b.v}; }
  friend VecOf operator/(VecOf a, VecOf b) { return {a.v / b.v}; }
  friend VecOf operator-(VecOf a) { return {-a.v}; }
  friend Mask operator<(VecOf a, VecOf b) { return {a.v < b.v}; }
  friend Mask operator<=(VecOf a, VecOf b) { return {a.v <= b.v}; }
  friend Mask operator>(VecOf a, VecOf b) { return {a.v > b.v}; }
  friend Mask operator>=(VecOf a, VecOf b) { return {a.v >= b.v}; }
  friend Mask operator==(VecOf a, VecOf b) { return {a.v == b.v}; }
  friend Mask operator!=(VecOf a, VecOf b) { return {a.v != b.v}; }

  friend VecOf fma(VecOf a, VecOf b, VecOf c) { return a * b + c; }
  friend VecOf select(Mask mask, VecOf a, VecOf b) { return {mask.m ? a.v : b.v}; }
  friend VecOf raw_min(VecOf a, VecOf b) { return select(a < b, a, b); }
  friend VecOf raw_max(VecOf a, VecOf b) { return select(a > b, a, b); }
  friend VecOf min(VecOf a, VecOf b) { return select((a < b) | (a != a), a, b); }
  friend VecOf max(VecOf a, VecOf b) { return select((a > b) | (a != a), a, b); }
  friend VecOf abs(VecOf a) {
    return {reinterpret_cast<Lanes>(reinterpret_cast<Bits>(a.v) & ~reinterpret_cast<Bits>(set(T(-0.0)).v))};
  }
  friend VecOf zip_lo(VecOf a, VecOf b) { return zip(a, b, 0); }
  friend VecOf zip_hi(VecOf a, VecOf b) { return zip(a, b, kLanes / 2); }
  friend VecOf sqrt(VecOf a) {
    return a.map([](T x) { return std::sqrt(x); });
  }
  friend VecOf round_even(VecOf a) {
    return a.map([](T x) { return std::nearbyint(x); });
  }
  friend VecOf floor(VecOf a) {
    return a.map([](T x) { return std::floor(x); });
  }
  friend VecOf scale_pow2(VecOf x, VecOf n) {
    for (int i = 0; i < kLanes; ++i) {
      const T power = n.v[i];
      x.v[i] = power == power ? std::ldexp(x.v[i], static_cast<int>(power)) : power;  // NaN has no integer
    }
    return x;
  }
  friend VecOf exponent(VecOf x) {
    return x.map([](T t) { return T(std::ilogb(t)); });
  }
  friend VecOf mantissa(VecOf x) {
    return x.map([](T t) { return std::scalbn(t, -std::ilogb(t)); });
  }

 private:
  static VecOf zip(VecOf a, VecOf b, int from) {
    VecOf r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = (i % 2 ? b : a).v[from + i / 2];
    return r;
  }
  template <class F>
  VecOf map(F f) const {
    VecOf r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = f(v[i]);
    return r;
  }
};

using VecF32 = VecOf<float, int32_t, 4>;
using VecF64 = VecOf<double, int64_t, 2>;
using MaskF32 = VecF32::Mask;
using MaskF64 = VecF64::Mask;

template <class T, class Int, int kLanes>
inline void load_transposed(const T* p, int64_t step, VecOf<T, Int, kLanes> (&v)[kLanes / 2]) {
  for (int k = 0; k < kLanes / 2; ++k) {
    T lanes[kLanes];
    for (int i = 0; i < kLanes; ++i) lanes[i] = p[k + i * step];
    v[k] = VecOf<T, Int, kLanes>::load(lanes);
  }
}

template <class V>
inline typename V::Mask first_lanes(int n) {
  typename V::Mask mask{};
  for (int i = 0; i < n; ++i) mask.m[i] = -1;
  return mask;
}

template <class V>
inline typename V::Mask load_bool(const uint8_t* p, int n) {
  typename V::Mask mask{};
  for (int i = 0; i < n; ++i) mask.m[i] = p[i] ? -1 : 0;
  return mask;
}

template <class T, class Int, int kLanes>
inline void store_bool(MaskOf<T, Int, kLanes> mask, uint8_t* p, int n) {
  for (int i = 0; i < n; ++i) p[i] = mask.m[i] ? 1 : 0;
}

struct VecI32 {
  using Scalar = int32_t;
  using Lanes [[gnu::vector_size(16)]] = int32_t;
  static constexpr int kWidth = 4;
  Lanes v;

  static VecI32 load(const int32_t* p) {
    VecI32 r;
    std::memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  static VecI32 load(const int32_t* p, int n) { return gather(p, n); }
  static VecI32 load_u8(const uint8_t* p, int n) { return gather(p, n); }
  static VecI32 load_s8(const int8_t* p, int n) { return gather(p, n); }
  static VecI32 set(int32_t x) { return {Lanes{} + x}; }
  static VecI32 zero() { return {Lanes{}}; }
  void store(int32_t* p) const { std::memcpy(p, &v, sizeof(v)); }
  void store(int32_t* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  // Lanes must lie in [0, 255].
  void store_u8(uint8_t* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = static_cast<uint8_t>(v[i]);
  }

  friend VecI32 operator+(VecI32 a, VecI32 b) { return {a.v + b.v}; }
  friend VecI32 operator-(VecI32 a, VecI32 b) { return {a.v - b.v}; }
  friend VecI32 operator*(VecI32 a, VecI32 b) { return {a.v * b.v}; }
  friend VecI32 operator&(VecI32 a, VecI32 b) { return {a.v & b.v}; }
  friend VecI32 operator|(VecI32 a, VecI32 b) { return {a.v | b.v}; }
  friend VecI32 operator^(VecI32 a, VecI32 b) { return {a.v ^ b.v}; }

 private:
  template <class T>
  static VecI32 gather(const T* p, int n) {
    VecI32 r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
};

inline VecI32 min(VecI32 a, VecI32 b) { return {a.v < b.v ? a.v : b.v}; }
inline VecI32 max(VecI32 a, VecI32 b) { return {a.v > b.v ? a.v : b.v}; }
template <int kBits>
inline VecI32 shift_left(VecI32 a) {
  return {a.v << kBits};
}
template <int kBits>
inline VecI32 shift_right(VecI32 a) {  // arithmetic
  return {a.v >> kBits};
}
// The lower halves of the products of unsigned lanes, and the upper ones.
inline VecI32 multiply_wide(VecI32 a, VecI32 b, VecI32& high) {
  VecI32 low;
  for (int i = 0; i < VecI32::kWidth; ++i) {
    const uint64_t product = uint64_t{static_cast<uint32_t>(a.v[i])} * static_cast<uint32_t>(b.v[i]);
    low.v[i] = static_cast<int32_t>(static_cast<uint32_t>(product));
    high.v[i] = static_cast<int32_t>(static_cast<uint32_t>(product >> 32));
  }
  return low;
}
inline VecF32 to_f32(VecI32 a) { return {__builtin_convertvector(a.v, VecF32::Lanes)}; }
inline VecI32 round_to_i32(VecF32 a) { return {__builtin_convertvector(round_even(a).v, VecI32::Lanes)}; }
inline VecI32 bits(VecF32 a) { return {reinterpret_cast<VecI32::Lanes>(a.v)}; }
inline VecF32 from_bits(VecI32 a) { return {reinterpret_cast<VecF32::Lanes>(a.v)}; }

}  // namespace
}  // namespace quernel::QUERNEL_ISA
