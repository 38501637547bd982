// Gradients of leaves: stored by the first backward pass after zero_grad, added to by later ones.
#pragma once
#include <vector>

#include "core/tensor.h"

namespace quernel::ops {

void accumulate_grad(const Tensor& param, const Tensor& g);
void zero_grads(const std::vector<Tensor>& params);

}  // namespace quernel::ops
