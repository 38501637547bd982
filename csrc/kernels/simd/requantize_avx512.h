// Four registers of sums to 64 bytes: Requantize of args/quant.h with what packing saturates left to it. A sum that
// rounds to less than -2^31 becomes that, and like NaN ends at lo.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/simd/intrinsics.h"

namespace quernel::QUERNEL_ISA {
namespace {

class PackingRequantizer {
 public:
  explicit PackingRequantizer(const Requantize& p)
      : hi_(_mm512_set1_ps(static_cast<float>(p.hi - p.zero_point))),
        zero_point_(_mm512_set1_epi16(static_cast<int16_t>(p.zero_point))),
        lo_(_mm512_set1_epi8(static_cast<char>(p.lo))) {}

  // Of V registers, bias included. The 128-bit lane i of the bytes has columns 4 i … + 3 of each, one after another; of
  // registers that are missing, those of others.
  template <int V>
  [[gnu::always_inline]] __m512i operator()(const __m512i (&sum)[V], const __m512 (&scale)[V]) const {
    __m512i q[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)  // min takes its second operand if that is NaN
      q[v] = _mm512_cvtps_epi32(_mm512_min_ps(hi_, _mm512_mul_ps(_mm512_cvtepi32_ps(sum[v]), scale[v])));
    const __m512i low = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[V > 1 ? 1 : 0]), zero_point_);
    __m512i high = low;
    if constexpr (V > 2) high = _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[V - 1]), zero_point_);
    return _mm512_max_epu8(_mm512_packus_epi16(low, high), lo_);
  }

 private:
  __m512 hi_;
  __m512i zero_point_, lo_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
