#include "ops/epilogue.h"

#include "core/error.h"
#include "ops/common.h"

namespace quernel::ops {

Activation activation_from_name(const char* op, const std::string& name) {
  constexpr std::pair<const char*, Activation> kNames[] = {
      {"none", Activation::kNone},       {"relu", Activation::kRelu},          {"tanh", Activation::kTanh},
      {"sigmoid", Activation::kSigmoid}, {"gelu", Activation::kGelu},          {"silu", Activation::kSilu},
      {"relu6", Activation::kRelu6},     {"hardswish", Activation::kHardswish}};
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  fail<ArgumentError>(op, "unknown activation '", name,
                      "'; choose none, relu, tanh, sigmoid, gelu, silu, relu6 or hardswish");
}

void check_epilogue(const char* op, const EpilogueSpec& spec, DType dtype, const Shape& y) {
  if (spec.bias.defined()) {
    check<ShapeError>(spec.bias.rank() == 1 && spec.bias.dim(0) == y[-1], op, "bias has shape ", spec.bias.shape(),
                      ", the output has ", y[-1], " channels (bias: (", y[-1], ",))");
    check<DTypeError>(spec.bias.dtype() == dtype, op, "bias is ", name(spec.bias.dtype()), ", x is ", name(dtype),
                      "; cast one of them");
  }
  if (spec.residual.defined()) {
    check<ShapeError>(spec.residual.shape() == y, op, "residual has shape ", spec.residual.shape(), ", the output has ",
                      y, "; they must be equal");
    check<DTypeError>(spec.residual.dtype() == dtype, op, "residual is ", name(spec.residual.dtype()), ", x is ",
                      name(dtype), "; cast one of them");
  }
}

void check_floating(const char* op, const char* a_name, const Tensor& a, const char* b_name, const Tensor& b) {
  check_floating(op, a_name, a.dtype());
  check_floating(op, b_name, b.dtype());
  check<DTypeError>(a.dtype() == b.dtype(), op, a_name, " is ", name(a.dtype()), ", ", b_name, " is ", name(b.dtype()),
                    "; cast one of them");
}

}  // namespace quernel::ops
