// What linear and conv2d have in common: optional bias, residual, activation, and keeping the pre-activation.
#pragma once
#include <string>
#include <utility>

#include "core/tensor.h"
#include "kernels/args/epilogue.h"
#include "runtime/launch.h"

namespace quernel::ops {

// y = activation(acc + bias + residual). Undefined tensors are absent.
struct EpilogueSpec {
  Tensor bias;      // (output channels)
  Tensor residual;  // of the output's shape
  Activation activation = Activation::kNone;
  bool save_pre = false;  // return acc + bias + residual too
};

using OutputAndPre = std::pair<Tensor, Tensor>;  // the second is undefined unless asked for

Activation activation_from_name(const char* op, const std::string& name);
void check_epilogue(const char* op, const EpilogueSpec& spec, DType dtype, const Shape& y);

// "float32 or float64, the same for both".
void check_floating(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b);

}  // namespace quernel::ops
