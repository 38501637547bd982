#include <string>
#include <variant>

#include "bindings/bindings.h"
#include "bindings/direct.h"
#include "ops/elementwise.h"

namespace quernel {
namespace {

struct NamedUnary {
  const char* name;
  UnaryOp kind;
};
constexpr NamedUnary kUnary[] = {
    {"copy", UnaryOp::kCopy},
    {"logical_not", UnaryOp::kLogicalNot},
    {"neg", UnaryOp::kNeg},
    {"abs", UnaryOp::kAbs},
    {"sign", UnaryOp::kSign},
    {"square", UnaryOp::kSquare},
    {"relu", UnaryOp::kRelu},
    {"floor", UnaryOp::kFloor},
    {"ceil", UnaryOp::kCeil},
    {"round", UnaryOp::kRound},
    {"sqrt", UnaryOp::kSqrt},
    {"rsqrt", UnaryOp::kRsqrt},
    {"reciprocal", UnaryOp::kReciprocal},
    {"exp", UnaryOp::kExp},
    {"expm1", UnaryOp::kExpm1},
    {"log", UnaryOp::kLog},
    {"log1p", UnaryOp::kLog1p},
    {"sin", UnaryOp::kSin},
    {"cos", UnaryOp::kCos},
    {"erf", UnaryOp::kErf},
    {"tanh", UnaryOp::kTanh},
    {"sigmoid", UnaryOp::kSigmoid},
    {"gelu", UnaryOp::kGelu},
    {"silu", UnaryOp::kSilu},
    {"relu6", UnaryOp::kRelu6},
    {"hardswish", UnaryOp::kHardswish},
    {"hardsigmoid", UnaryOp::kHardsigmoid},
    {"mish", UnaryOp::kMish},
    {"logsigmoid", UnaryOp::kLogSigmoid},
    {"softsign", UnaryOp::kSoftsign},
};
// With parameters, see UnaryOp.
constexpr NamedUnary kParametric[] = {
    {"leaky_relu", UnaryOp::kLeakyRelu},
    {"elu", UnaryOp::kElu},
    {"softplus", UnaryOp::kSoftplus},
};

struct NamedBinary {
  const char* name;
  BinaryOp kind;
};
constexpr NamedBinary kBinary[] = {
    {"add", BinaryOp::kAdd},
    {"sub", BinaryOp::kSub},
    {"mul", BinaryOp::kMul},
    {"div", BinaryOp::kDiv},
    {"floor_divide", BinaryOp::kFloorDiv},
    {"remainder", BinaryOp::kRemainder},
    {"pow", BinaryOp::kPow},
    {"maximum", BinaryOp::kMaximum},
    {"minimum", BinaryOp::kMinimum},
    {"eq", BinaryOp::kEq},
    {"ne", BinaryOp::kNe},
    {"lt", BinaryOp::kLt},
    {"le", BinaryOp::kLe},
    {"gt", BinaryOp::kGt},
    {"ge", BinaryOp::kGe},
    {"logical_and", BinaryOp::kLogicalAnd},
    {"logical_or", BinaryOp::kLogicalOr},
    {"relu_grad", BinaryOp::kReluGrad},
    {"tanh_grad", BinaryOp::kTanhGrad},
    {"sigmoid_grad", BinaryOp::kSigmoidGrad},
    {"softsign_grad", BinaryOp::kSoftsignGrad},
    {"abs_grad", BinaryOp::kAbsGrad},
    {"gelu_grad", BinaryOp::kGeluGrad},
    {"silu_grad", BinaryOp::kSiluGrad},
    {"mish_grad", BinaryOp::kMishGrad},
    {"logsigmoid_grad", BinaryOp::kLogSigmoidGrad},
    {"hardswish_grad", BinaryOp::kHardswishGrad},
    {"hardsigmoid_grad", BinaryOp::kHardsigmoidGrad},
};
constexpr NamedBinary kParametricGrad[] = {
    {"clamp_grad", BinaryOp::kClampGrad},
    {"leaky_relu_grad", BinaryOp::kLeakyReluGrad},
    {"elu_grad", BinaryOp::kEluGrad},
    {"softplus_grad", BinaryOp::kSoftplusGrad},
};

}  // namespace

void register_elementwise(py::module_& m) {
  for (const NamedUnary& op : kUnary) {
    m.def(op.name, [op](const Tensor& x) { return ops::unary(op.name, op.kind, x); }, py::arg("x"), Unlocked());
    add_direct({op.name, 1, static_cast<int>(op.kind), [](const Direct& d, const Tensor* const* x) {
                  return ops::unary(d.name, static_cast<UnaryOp>(d.kind), *x[0]);
                }});
  }
  for (const NamedUnary& op : kParametric) {
    m.def(
        op.name, [op](const Tensor& x, const ops::Params& params) { return ops::unary(op.name, op.kind, x, params); },
        py::arg("x"), py::arg("params"), Unlocked());
  }
  for (const NamedBinary& op : kParametricGrad) {
    m.def(
        op.name,
        [op](const ops::Value& a, const ops::Value& b, const ops::Params& params) {
          return ops::binary(op.name, op.kind, a, b, params);
        },
        py::arg("a"), py::arg("b"), py::arg("params"), Unlocked());
  }
  for (const NamedBinary& op : kBinary) {
    m.def(
        op.name, [op](const ops::Value& a, const ops::Value& b) { return ops::binary(op.name, op.kind, a, b); },
        py::arg("a"), py::arg("b"), Unlocked());
    add_direct({op.name, 2, static_cast<int>(op.kind), [](const Direct& d, const Tensor* const* x) {
                  return ops::binary(d.name, static_cast<BinaryOp>(d.kind), *x[0], *x[1]);
                }});
  }
  m.def("where", &ops::where, py::arg("condition"), py::arg("a"), py::arg("b"), Unlocked());
  m.def("clip", &ops::clip, py::arg("x"), py::arg("lo"), py::arg("hi"), Unlocked());
  m.def(
      "cast", [](const Tensor& x, const std::string& dtype) { return ops::cast(x, dtype_from_name(dtype.c_str())); },
      py::arg("x"), py::arg("dtype"), Unlocked());
  m.def(
      "full",
      [](const std::vector<int64_t>& shape, double value, const std::string& dtype,
         const std::optional<std::string>& device) {
        return ops::full(Shape(shape), value, dtype_from_name(dtype.c_str()), or_default(device));
      },
      py::arg("shape"), py::arg("value"), py::arg("dtype"), py::arg("device") = py::none(), Unlocked());
  m.def("fill_", &ops::fill_into, py::arg("dst"), py::arg("value"), Unlocked());
  m.def("copy_into_", &ops::copy_into, py::arg("dst"), py::arg("src"), Unlocked());
  m.def("add_into_", &ops::add_into, py::arg("dst"), py::arg("src"), Unlocked());
}

}  // namespace quernel
