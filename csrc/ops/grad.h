// Gradients of leaves: stored by the first backward pass after zero_grad, added to by later ones. That of a table whose
// rows were looked up may be kept by rows, so that a step costs what the lookups cost and not what the table does.
#pragma once
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "ops/embedding_bag.h"

namespace quernel::ops {

void accumulate_grad(const Tensor& param, const Tensor& g);
void accumulate_row_grad(const Tensor& param, const Tensor& g, const Lookups& lookups);

// (n) int64 and (n, features): row numbers of the leaf, each once, -1 behind the last of them, and their gradients.
std::pair<Tensor, Tensor> row_grad(const Tensor& param);

void zero_grads(const std::vector<Tensor>& params);

}  // namespace quernel::ops
