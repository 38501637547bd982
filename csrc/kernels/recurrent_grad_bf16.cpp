// Recurrent layers, backward, in float32 with products in bfloat16.
#include "kernels/recurrent_backward.h"
#include "kernels/recurrent_products_bf16.h"

namespace quernel::QUERNEL_ISA {

Status recurrent_grad_bf16(const RecurrentGradArgs& a, Range range, const Ctx& ctx) {
  for (int64_t item = range.begin; item < range.end; ++item) run<Bf16Products>(a, item, ctx);
  return {};
}

int64_t recurrent_grad_bf16_scratch(const RecurrentGradArgs& a) { return scratch_bytes<Bf16Products>(a); }

}  // namespace quernel::QUERNEL_ISA
