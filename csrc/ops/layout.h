// Ops that move elements without computing: all of them run the strided copy kernel.
#pragma once
#include <span>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace quernel::ops {

Tensor transpose(const Tensor& x, const std::vector<int64_t>& axes);

// Elements starts[d] + i · steps[d] for 0 <= i < sizes[d]; steps may be negative or 0.
struct Slice {
  std::vector<int64_t> starts, steps, sizes;
};
Tensor slice(const Tensor& x, const Slice& s);
void assign_slice(const Tensor& dst, const Slice& s, const Tensor& src);  // src broadcasts

Tensor concat(const std::vector<Tensor>& inputs, int64_t axis);
// `widths`: elements before and after, per dimension.
Tensor pad(const Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& widths, double value);
Tensor broadcast_to(const Tensor& x, const Shape& shape);

}  // namespace quernel::ops
