#include "ops/strided.h"

#include <algorithm>

namespace quernel::ops {

static_assert(kArgsRank >= kMaxRank);

Strides contiguous_strides(const Shape& shape) {
  Strides strides{};
  int64_t step = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

Strides broadcast_strides(const Shape& from, const Shape& to) {
  const Strides own = contiguous_strides(from);
  Strides strides{};
  const int missing = to.rank() - from.rank();
  for (int d = 0; d < from.rank(); ++d) strides[d + missing] = from[d] == 1 ? 0 : own[d];
  return strides;
}

StridedShape collapse(const Shape& shape, std::initializer_list<int64_t*> operands) {
  StridedShape out;
  out.size = shape.volume();
  int rank = 0;
  for (int d = 0; d < shape.rank(); ++d) {
    if (shape[d] == 1) continue;
    const bool merges = rank > 0 && std::all_of(operands.begin(), operands.end(), [&](const int64_t* strides) {
                          return strides[rank - 1] == strides[d] * shape[d];
                        });
    if (merges) {
      out.dims[rank - 1] *= shape[d];
    } else {
      out.dims[rank++] = shape[d];
    }
    for (int64_t* strides : operands) strides[rank - 1] = strides[d];
  }
  if (rank == 0) {  // a single element
    out.dims[rank++] = 1;
    for (int64_t* strides : operands) strides[0] = 1;
  }
  out.rank = rank;
  return out;
}

}  // namespace quernel::ops
