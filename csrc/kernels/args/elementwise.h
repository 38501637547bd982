// Functions of one element at a time.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// clang-format off
enum class UnaryOp : int32_t {
  kCopy, kNeg, kAbs, kSign, kSquare, kSqrt, kReciprocal, kExp, kLog, kTanh, kSigmoid, kRelu, kGelu, kSilu, kLogicalNot
};
enum class BinaryOp : int32_t {
  kAdd, kSub, kMul, kDiv, kPow, kMaximum, kMinimum,
  kEq, kNe, kLt, kLe, kGt, kGe, kLogicalAnd, kLogicalOr,  // bool results
  // Gradients: first operand is what the forward pass saved, second the incoming gradient.
  kReluGrad, kTanhGrad, kSigmoidGrad,  // from the output y
  kGeluGrad, kSiluGrad, kAbsGrad       // from the input x
};
// clang-format on

struct UnaryArgs {
  const void* x = nullptr;
  void* y = nullptr;
  UnaryOp op{};
  DType dtype{};  // of x; y has it too, or bool for kLogicalNot
  int64_t size = 0;
};

// `scalar` replaces the operand whose pointer is null.
struct BinaryArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  BinaryOp op{};
  DType dtype{};  // of a and b; y has it too, or bool for comparisons
  double scalar = 0;
  StridedShape shape;
  int64_t a_strides[kArgsRank] = {}, b_strides[kArgsRank] = {};
};

struct WhereArgs {
  const void* condition = nullptr;  // bool
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  DType dtype{};
  double a_scalar = 0, b_scalar = 0;  // where a pointer is null
  StridedShape shape;
  int64_t c_strides[kArgsRank] = {}, a_strides[kArgsRank] = {}, b_strides[kArgsRank] = {};
};

// y = min(max(x, lo), hi); NaN stays.
struct ClipArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  double lo = 0, hi = 0;
  int64_t size = 0;
};

struct CastArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType from{}, to{};
  int64_t size = 0;
};

struct FillArgs {
  void* y = nullptr;
  DType dtype{};
  double value = 0;
  int64_t size = 0;
};

}  // namespace quernel
