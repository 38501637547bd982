// Elementwise ops: check, broadcast, allocate, launch. `op` names the op in errors.
#pragma once
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "kernels/args/elementwise.h"

namespace quernel::ops {

using Value = std::variant<Tensor, double>;  // an operand, or a Python number
using Params = std::vector<double>;          // of a function, such as a slope: see UnaryOp and BinaryOp

Tensor unary(const char* op, UnaryOp kind, const Tensor& x, const Params& params = {});
Tensor binary(const char* op, BinaryOp kind, const Value& a, const Value& b, const Params& params = {});
Tensor where(const Tensor& condition, const Value& a, const Value& b);
Tensor clip(const Tensor& x, double lo, double hi);
Tensor cast(const Tensor& x, DType dtype);
Tensor copy(const Tensor& x);
Tensor full(const Shape& shape, double value, DType dtype, Device device);

void fill_into(const Tensor& dst, double value);
void copy_into(const Tensor& dst, const Tensor& src);  // equal shapes and dtypes
void add_into(const Tensor& dst, const Tensor& src);   // dst += src; src broadcasts

}  // namespace quernel::ops
