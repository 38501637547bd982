// Recurrent layers, forward, in float32 with products in bfloat16.
#include "kernels/recurrent_forward.h"
#include "kernels/recurrent_products_bf16.h"

namespace quernel::QUERNEL_ISA {

Status recurrent_bf16(const RecurrentArgs& a, Range range, const Ctx& ctx) {
  for (int64_t item = range.begin; item < range.end; ++item) run<Bf16Products>(a, item, ctx);
  return {};
}

int64_t recurrent_bf16_scratch(const RecurrentArgs& a) { return scratch_bytes<Bf16Products>(a); }

}  // namespace quernel::QUERNEL_ISA
