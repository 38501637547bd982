// Recurrent layers, backward, in the dtype of their operands.
#include "kernels/recurrent_backward.h"
#include "kernels/recurrent_products.h"

namespace quernel::QUERNEL_ISA {

Status recurrent_grad(const RecurrentGradArgs& a, Range range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = range.begin; item < range.end; ++item) run<OwnProducts<T>>(a, item, ctx);
  });
  return {};
}

int64_t recurrent_grad_scratch(const RecurrentGradArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) { bytes = scratch_bytes<OwnProducts<T>>(a); });
  return bytes;
}

}  // namespace quernel::QUERNEL_ISA
