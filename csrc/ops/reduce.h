// Reductions over axes; the reduced axes are dropped.
#pragma once
#include <vector>

#include "core/tensor.h"

namespace quernel::ops {

using Axes = std::vector<int64_t>;

Tensor sum(const Tensor& x, const Axes& axes);   // integers and bool add up to int64
Tensor mean(const Tensor& x, const Axes& axes);  // floating point; NaN of nothing
Tensor max(const Tensor& x, const Axes& axes);   // NaN if there is one

// Sums of (outer, reduced, inner) over the middle, in blocks of fixed length: the order of summation depends on
// `reduced` alone. For ops that reduce what they computed themselves.
Tensor sum_middle(const char* op, const Tensor& x, int64_t outer, int64_t reduced, int64_t inner);

}  // namespace quernel::ops
