#include <string>
#include <variant>

#include "bindings/bindings.h"
#include "ops/elementwise.h"

namespace quernel {
namespace {

struct NamedUnary {
  const char* name;
  UnaryOp kind;
};
constexpr NamedUnary kUnary[] = {
    {"neg", UnaryOp::kNeg},         {"abs", UnaryOp::kAbs},   {"sign", UnaryOp::kSign},
    {"square", UnaryOp::kSquare},   {"sqrt", UnaryOp::kSqrt}, {"reciprocal", UnaryOp::kReciprocal},
    {"exp", UnaryOp::kExp},         {"log", UnaryOp::kLog},   {"tanh", UnaryOp::kTanh},
    {"sigmoid", UnaryOp::kSigmoid}, {"relu", UnaryOp::kRelu}, {"gelu", UnaryOp::kGelu},
    {"silu", UnaryOp::kSilu},       {"copy", UnaryOp::kCopy}, {"logical_not", UnaryOp::kLogicalNot},
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
    {"gelu_grad", BinaryOp::kGeluGrad},
    {"silu_grad", BinaryOp::kSiluGrad},
    {"abs_grad", BinaryOp::kAbsGrad},
};

}  // namespace

void register_elementwise(py::module_& m) {
  for (const NamedUnary& op : kUnary) {
    m.def(op.name, [op](const Tensor& x) { return ops::unary(op.name, op.kind, x); }, py::arg("x"), Unlocked());
  }
  for (const NamedBinary& op : kBinary) {
    m.def(
        op.name, [op](const ops::Value& a, const ops::Value& b) { return ops::binary(op.name, op.kind, a, b); },
        py::arg("a"), py::arg("b"), Unlocked());
  }
  m.def("where", &ops::where, py::arg("condition"), py::arg("a"), py::arg("b"), Unlocked());
  m.def("clip", &ops::clip, py::arg("x"), py::arg("lo"), py::arg("hi"), Unlocked());
  m.def(
      "cast", [](const Tensor& x, const std::string& dtype) { return ops::cast(x, dtype_from_name(dtype.c_str())); },
      py::arg("x"), py::arg("dtype"), Unlocked());
  m.def(
      "full",
      [](const std::vector<int64_t>& shape, double value, const std::string& dtype) {
        return ops::full(Shape(shape), value, dtype_from_name(dtype.c_str()));
      },
      py::arg("shape"), py::arg("value"), py::arg("dtype"), Unlocked());
  m.def("fill_", &ops::fill_into, py::arg("dst"), py::arg("value"), Unlocked());
  m.def("copy_into_", &ops::copy_into, py::arg("dst"), py::arg("src"), Unlocked());
  m.def("add_into_", &ops::add_into, py::arg("dst"), py::arg("src"), Unlocked());
}

}  // namespace quernel
