// How fast this level can multiply and add: the yardstick of the benchmarks. Independent chains of FMAs on registers,
// enough of them to hide the latency of two pipes of four cycles; nothing is loaded or stored on the way. An item is
// one run of `rounds` FMAs on each chain.
#include "kernels/args/peak.h"

#include "kernels/isa.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {

Status fma_peak(const PeakArgs& args, Range range, const Ctx&) {
  constexpr int kChains = 12;
  float* y = static_cast<float*>(args.y);
  const VecF32 factor = VecF32::set(0.999f), addend = VecF32::set(0.001f);
  for (int64_t item = range.begin; item < range.end; ++item) {
    VecF32 chains[kChains];
    for (int i = 0; i < kChains; ++i) chains[i] = VecF32::set(static_cast<float>(item + i));
    for (int64_t round = 0; round < args.rounds; ++round)
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) chains[i] = fma(chains[i], factor, addend);
    VecF32 sum = chains[0];
    for (int i = 1; i < kChains; ++i) sum = sum + chains[i];
    float lanes[VecF32::kWidth];
    sum.store(lanes);
    y[2 * item] = lanes[0];
    y[2 * item + 1] = static_cast<float>(2 * kChains * VecF32::kWidth);  // operations per round
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
