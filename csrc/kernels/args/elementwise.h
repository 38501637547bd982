// Functions of one element at a time.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

// clang-format off
enum class UnaryOp : int32_t {
  kCopy, kLogicalNot,                    // any dtype
  kNeg, kAbs, kSign, kSquare, kRelu,     // numbers
  // Floating-point numbers only, from here on.
  kFloor, kCeil, kRound, kSqrt, kRsqrt, kReciprocal, kExp, kExpm1, kLog, kLog1p, kSin, kCos, kErf,
  kTanh, kSigmoid, kGelu, kSilu, kRelu6, kHardswish, kHardsigmoid, kMish, kLogSigmoid, kSoftsign,
  kLeakyRelu,  // params: slope
  kElu,        // a, b, c of x > 0 ? b x : a expm1(c x), which ELU, SELU and CELU share
  kSoftplus    // beta, threshold
};
enum class BinaryOp : int32_t {
  kAdd, kSub, kMul, kDiv, kFloorDiv, kRemainder, kPow, kMaximum, kMinimum,
  kEq, kNe, kLt, kLe, kGt, kGe, kLogicalAnd, kLogicalOr,  // bool results
  // Gradients: first operand is what the forward pass saved, second the incoming gradient.
  kReluGrad, kTanhGrad, kSigmoidGrad, kSoftsignGrad,                   // from the output y
  kClampGrad,                                                          // from y; params: lo, hi
  kAbsGrad, kGeluGrad, kSiluGrad, kMishGrad, kLogSigmoidGrad,          // from the input x
  kHardswishGrad, kHardsigmoidGrad, kLeakyReluGrad, kEluGrad, kSoftplusGrad
};
// clang-format on

inline constexpr int kElementParams = 3;  // parameters of a function, such as a slope: most that one has

struct UnaryArgs {
  const void* x = nullptr;
  void* y = nullptr;
  UnaryOp op{};
  DType dtype{};  // of x; y has it too, or bool for kLogicalNot
  int64_t size = 0;
  double params[kElementParams] = {};
};

// `scalar` replaces the operand whose pointer is null.
struct BinaryArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  BinaryOp op{};
  DType dtype{};  // of a and b; y has it too, or bool for comparisons
  double scalar = 0;
  double params[kElementParams] = {};
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
