// Reductions over axes; the reduced axes are dropped.
#pragma once
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace quernel::ops {

using Axes = std::vector<int64_t>;

Tensor sum(const Tensor& x, const Axes& axes);   // integers and bool add up to int64
Tensor mean(const Tensor& x, const Axes& axes);  // floating point; NaN of nothing
Tensor prod(const Tensor& x, const Axes& axes);  // integers and bool multiply up to int64
Tensor max(const Tensor& x, const Axes& axes);   // NaN if there is one

// Running sums along an axis, from the front or the back; those of integers and bool are int64.
Tensor cumsum(const Tensor& x, int64_t axis, bool reverse);

// int64: where the first largest (smallest) element, or the first NaN, lies along an axis, which is dropped.
Tensor arg_reduce(const Tensor& x, int64_t axis, bool smallest);

// The k largest (smallest) elements along the last axis, in order, and their places (int64).
std::pair<Tensor, Tensor> topk(const Tensor& x, int64_t k, bool largest);
Tensor topk_grad(const Tensor& g, const Tensor& indices, int64_t cols);  // of the values, along the last axis

// Sums of (outer, reduced, inner) over the middle, in blocks of fixed length: the order of summation depends on
// `reduced` alone. For ops that reduce what they computed themselves.
Tensor sum_middle(const char* op, const Tensor& x, int64_t outer, int64_t reduced, int64_t inner);

}  // namespace quernel::ops
