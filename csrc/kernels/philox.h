// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). Sixteen counters go through the
// ten rounds side by side, in registers: as loops over arrays, which the compiler makes vector code of, they took four
// times as long.
#pragma once
#include <cstdint>

#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

inline constexpr int kPhiloxLanes = 16;  // counters at a time

// {seed, counter}, as ops/ keep it.
struct Stream {
  uint64_t seed, counter;
};

inline Stream stream_of(const void* state, uint64_t offset) {
  const uint64_t* s = static_cast<const uint64_t*>(state);
  return {s[0], s[1] + offset};
}

// Draw k of blocks `counter`, `counter` + step, … to out[k].
inline void philox(Stream s, uint64_t step, uint32_t (&out)[4][kPhiloxLanes]) {
  uint32_t low[kPhiloxLanes], high[kPhiloxLanes];
  for (int i = 0; i < kPhiloxLanes; ++i) {
    const uint64_t counter = s.counter + step * static_cast<uint64_t>(i);
    low[i] = static_cast<uint32_t>(counter);
    high[i] = static_cast<uint32_t>(counter >> 32);
  }
  const auto all = [](uint32_t x) { return VecI32::set(static_cast<int32_t>(x)); };
  const VecI32 m0 = all(0xD2511F53), m1 = all(0xCD9E8D57);
  for (int i = 0; i < kPhiloxLanes; i += VecI32::kWidth) {
    VecI32 c0 = VecI32::load(reinterpret_cast<const int32_t*>(low + i)),
           c1 = VecI32::load(reinterpret_cast<const int32_t*>(high + i)), c2 = VecI32::zero(), c3 = VecI32::zero();
    uint32_t k0 = static_cast<uint32_t>(s.seed), k1 = static_cast<uint32_t>(s.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      VecI32 high0, high1;
      const VecI32 low0 = multiply_wide(c0, m0, high0), low1 = multiply_wide(c2, m1, high1);
      c0 = high1 ^ c1 ^ all(k0);
      c1 = low1;
      c2 = high0 ^ c3 ^ all(k1);
      c3 = low0;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    const VecI32 draws[4] = {c0, c1, c2, c3};
    for (int k = 0; k < 4; ++k) draws[k].store(reinterpret_cast<int32_t*>(out[k] + i));
  }
}

// Dropout: an element is kept if its draw reaches p 2^32, and then scaled.
template <class T>
struct Dropout {
  bool all;  // p = 1: nothing is kept
  uint32_t limit;
  T scale;

  explicit Dropout(double p)
      : all(p >= 1), limit(all ? 0 : static_cast<uint32_t>(p * 0x1p32)), scale(static_cast<T>(1 / (1 - p))) {}

  bool keeps(uint32_t draw) const { return !all & (draw >= limit); }
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
