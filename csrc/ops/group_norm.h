// Normalization of groups of channels of (N, ..., C), per sample. `weight` and `bias` (C,) may be undefined.
#pragma once
#include <tuple>
#include <utility>

#include "core/tensor.h"

namespace quernel::ops {

std::pair<Tensor, Tensor> group_norm_stats(const Tensor& x, int64_t groups);  // mean and biased variance, (N, groups)
// The statistics are (N, groups).
Tensor group_norm(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& weight, const Tensor& bias,
                  double eps);
// (dx, dweight, dbias) where mean and var are those of x itself.
std::tuple<Tensor, Tensor, Tensor> group_norm_grad(const Tensor& x, const Tensor& g, const Tensor& mean,
                                                   const Tensor& var, const Tensor& weight, double eps);

}  // namespace quernel::ops
