// sigmoid and tanh of recurrent gates: within 4 ulp, as those of math.h, but in fewer steps. They clamp their
// arguments to ±87, beyond which a gate's value no longer matters (sigmoid(-87) is 10^-38), so 2^n is one factor; one
// polynomial serves both signs.
//
// With e^y = s (1 + q), s = 2^n: sigmoid(x) = 1 / (1 + e^-x), and tanh(x) = E / (E + 2) with E = e^2x - 1 = s q + (s -
// 1), which keeps all digits near 0.
#pragma once
#include "kernels/simd/math.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct GateExp {
  VecF32 q, s;
};

// e^y for |y| <= 87; NaN stays in q.
inline GateExp gate_exp(VecF32 y) {
  constexpr float kMagic = 12582912.f;  // 1.5 · 2^23: an integer added to it lies in the low bits
  const VecF32 magic = VecF32::set(kMagic);
  const VecF32 shifted = fma(y, VecF32::set(kLog2E), magic), n = shifted - magic;
  const VecF32 r = fma(n, VecF32::set(-kLn2Lo), fma(n, VecF32::set(-kLn2Hi), y));
  const VecI32 one = VecI32::set(127 << 23);
  return {fma(polynomial(r, kExpm1), r * r, r), from_bits(shift_left<23>(bits(shifted)) + one)};
}

inline VecF32 gate_clamp(VecF32 x) { return raw_max(VecF32::set(-87.f), raw_min(VecF32::set(87.f), x)); }

inline VecF32 gate_sigmoid(VecF32 x) {
  const VecF32 one = VecF32::set(1.f);
  const GateExp e = gate_exp(gate_clamp(-x));
  return one / (one + fma(e.s, e.q, e.s));
}
inline VecF32 gate_tanh(VecF32 x) {
  const GateExp e = gate_exp(gate_clamp(x + x));
  const VecF32 minus_one = fma(e.s, e.q, e.s - VecF32::set(1.f));
  return minus_one / (minus_one + VecF32::set(2.f));
}

inline VecF64 gate_sigmoid(VecF64 x) { return sigmoid(x); }
inline VecF64 gate_tanh(VecF64 x) { return tanh(x); }

}  // namespace
}  // namespace quernel::QUERNEL_ISA
