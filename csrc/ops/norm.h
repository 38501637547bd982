// Batch normalization of (..., channels): all axes but the last are the batch.
#pragma once
#include <tuple>
#include <utility>

#include "core/tensor.h"

namespace quernel::ops {

std::pair<Tensor, Tensor> batch_norm_stats(const Tensor& x);  // mean and biased variance
// `weight` and `bias` may be undefined.
Tensor batch_norm(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& weight, const Tensor& bias,
                  double eps);
void batch_norm_update(const Tensor& mean, const Tensor& var, const Tensor& running_mean, const Tensor& running_var,
                       double momentum, int64_t rows);
// (dx, dweight, dbias) where mean and var are those of x itself.
std::tuple<Tensor, Tensor, Tensor> batch_norm_grad(const Tensor& x, const Tensor& g, const Tensor& mean,
                                                   const Tensor& var, const Tensor& weight, double eps);

}  // namespace quernel::ops
