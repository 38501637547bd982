// IEEE 754 half precision, converted by bits: to nearest, ties to even, as NumPy converts. What fits of a NaN's payload
// stays. For every ISA level and, as constant expressions are functions of both sides there, for CUDA.
#pragma once
#include <cstdint>

namespace quernel {
namespace {

constexpr float from_f16(uint16_t x) {
  const uint32_t exponent = x & 0x7c00u, rest = (x & 0x7fffu) << 13;
  // Below 2^-14 the leading bit is not implied: there it is taken away again.
  const float small = __builtin_bit_cast(float, rest + (113u << 23)) - 0x1p-14f;
  const uint32_t rebased = exponent == 0x7c00u ? rest + (224u << 23) : rest + (112u << 23);
  const uint32_t size = exponent == 0 ? __builtin_bit_cast(uint32_t, small) : rebased;
  return __builtin_bit_cast(float, size | (x & 0x8000u) << 16);
}

constexpr uint16_t to_f16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x), size = bits & 0x7fffffffu;
  // Added to a half, multiples of 2^-24 are what the sum holds.
  const float small = __builtin_bit_cast(float, size) + 0.5f;
  const uint32_t rounded = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
  const uint32_t payload = size >> 13 & 0x3ff, nan = 0x7c00u | (payload == 0 ? 1 : payload);
  uint32_t half = size < 113u << 23 ? __builtin_bit_cast(uint32_t, small) - (126u << 23) : rounded;
  half = size >= 143u << 23 ? 0x7c00u : half;
  half = size > 0x7f800000u ? nan : half;
  return static_cast<uint16_t>(half | (bits >> 16 & 0x8000u));
}

// Float64 does not pass through float32, which would round twice: the float is cut off, and its last bit says whether
// anything was.
constexpr uint16_t to_f16(double x) {
  const uint64_t bits = __builtin_bit_cast(uint64_t, x);
  if (x != x) {
    const uint64_t payload = bits >> 42 & 0x3ff;
    return static_cast<uint16_t>((bits >> 48 & 0x8000) | 0x7c00 | (payload == 0 ? 1 : payload));
  }
  const float nearest = static_cast<float>(x);
  const double back = static_cast<double>(nearest);
  if (back == x) return to_f16(nearest);
  const bool is_beyond = x < 0 ? back < x : back > x;
  return to_f16(__builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, nearest) - is_beyond) | 1u));
}

constexpr double f64_from_f16(uint16_t x) {
  if ((x & 0x7fff) > 0x7c00)
    return __builtin_bit_cast(double, (x & 0x8000ull) << 48 | 0x7ffull << 52 | (x & 0x3ffull) << 42);
  return static_cast<double>(from_f16(x));
}

}  // namespace
}  // namespace quernel
