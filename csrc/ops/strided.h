// Strided views of contiguous tensors, as kernels want them: few dimensions, strides in elements.
#pragma once
#include <array>
#include <initializer_list>

#include "core/shape.h"
#include "kernels/args/common.h"

namespace quernel::ops {

using Strides = std::array<int64_t, kMaxRank>;

Strides contiguous_strides(const Shape& shape);
// Of a contiguous tensor of shape `from`, seen as `to`, to which it broadcasts: 0 in repeated dimensions.
Strides broadcast_strides(const Shape& from, const Shape& to);

// Drops dimensions of size 1 and merges neighbours that every operand walks as one. `operands` are arrays of
// kArgsRank strides, changed in place.
StridedShape collapse(const Shape& shape, std::initializer_list<int64_t*> operands);

}  // namespace quernel::ops
