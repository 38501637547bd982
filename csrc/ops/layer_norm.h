// Layer norm and RMS norm over the rows of (rows, columns).
#pragma once
#include <tuple>

#include "core/tensor.h"

namespace quernel::ops {

// (y, mean, rstd): the numbers per row are for the gradient; rms has no mean, which stays undefined. The columns are
// the last `weight`-shaped dimensions: `columns` of them. weight and bias may be undefined.
std::tuple<Tensor, Tensor, Tensor> layer_norm(const Tensor& x, int64_t columns, const Tensor& weight,
                                              const Tensor& bias, double eps, bool rms);
// (dx, dweight, dbias); the latter two undefined unless wanted.
std::tuple<Tensor, Tensor, Tensor> layer_norm_grad(const Tensor& x, const Tensor& g, int64_t columns,
                                                   const Tensor& weight, const Tensor& mean, const Tensor& rstd,
                                                   bool rms, bool want_weight, bool want_bias);

}  // namespace quernel::ops
