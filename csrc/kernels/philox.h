// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). Sixteen counters go through the
// ten rounds side by side, as loops that the compiler turns into vector code: integers give the same draws at every
// level.
#pragma once
#include <cstdint>

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
  uint32_t c0[kPhiloxLanes], c1[kPhiloxLanes], c2[kPhiloxLanes] = {}, c3[kPhiloxLanes] = {};
  for (int i = 0; i < kPhiloxLanes; ++i) {
    const uint64_t counter = s.counter + step * static_cast<uint64_t>(i);
    c0[i] = static_cast<uint32_t>(counter);
    c1[i] = static_cast<uint32_t>(counter >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(s.seed), k1 = static_cast<uint32_t>(s.seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 1  // unrolled, the loop would no longer be vectorized
    for (int i = 0; i < kPhiloxLanes; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
#pragma GCC unroll 1
  for (int i = 0; i < kPhiloxLanes; ++i) {
    out[0][i] = c0[i];
    out[1][i] = c1[i];
    out[2][i] = c2[i];
    out[3][i] = c3[i];
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
