// Recurrent layers, forward, in the dtype of their operands; and the check of lengths.
#include "kernels/recurrent_forward.h"
#include "kernels/recurrent_products.h"

namespace quernel::QUERNEL_ISA {

Status recurrent(const RecurrentArgs& a, Range range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for (int64_t item = range.begin; item < range.end; ++item) run<OwnProducts<T>>(a, item, ctx);
  });
  return {};
}

int64_t recurrent_scratch(const RecurrentArgs& a) {
  int64_t bytes = 0;
  visit_floating(a.dtype, [&]<class T>(T) { bytes = scratch_bytes<OwnProducts<T>>(a); });
  return bytes;
}

Status check_lengths(const CheckLengthsArgs& a, Range, const Ctx&) {
  const int64_t* lengths = static_cast<const int64_t*>(a.lengths);
  for (int64_t row = 0; row < a.rows; ++row)
    if (lengths[row] < a.range.least || lengths[row] > a.range.most)
      return {StatusCode::kLengthOutOfRange, row, lengths[row], a.range.most, nullptr, &a.range};
  return {};
}

}  // namespace quernel::QUERNEL_ISA
