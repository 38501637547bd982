// Dropout and random tensors, drawn from a Generator.
#pragma once
#include <utility>

#include "core/tensor.h"
#include "runtime/generator.h"

namespace quernel::ops {

// y = x / (1 - p) with probability 1 - p, else 0; and the mask (uint8, 1 = kept).
std::pair<Tensor, Tensor> dropout(const Tensor& x, double p, const Generator& generator);
Tensor dropout_grad(const Tensor& g, const Tensor& mask, double p);

Tensor uniform(const Shape& shape, double lo, double hi, DType dtype, const Generator& generator,
               Device device);  // [lo, hi)
Tensor normal(const Shape& shape, double mean, double sd, DType dtype, const Generator& generator, Device device);

}  // namespace quernel::ops
