// Optimizer steps on flat segments, in place. `hyper` is laid out as kernels/args/optim.h says, `step` counts from 1.
#pragma once
#include "core/tensor.h"

namespace quernel::ops {

void sgd(const Tensor& param, const Tensor& grad, const Tensor& momentum, const Tensor& hyper, const Tensor& step);
void adam(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const Tensor& hyper,
          const Tensor& step);
void advance_step(const Tensor& step);

}  // namespace quernel::ops
