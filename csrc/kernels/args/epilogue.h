// What kernels do to a finished value before they store it.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

enum class Activation : int32_t { kNone, kRelu, kTanh, kSigmoid, kGelu, kSilu, kRelu6, kHardswish };

// y = activation(acc + bias + residual), and pre = acc + bias + residual where a backward pass will need it; backward,
// y = acc + bias + residual where gate > 0, else 0.
struct Epilogue {
  const void* bias = nullptr;      // (N)
  const void* residual = nullptr;  // laid out as the output
  const void* gate = nullptr;      // the output of the ReLU whose gradient this is, laid out as this output
  void* pre = nullptr;             // laid out as the output
  Activation activation = Activation::kNone;
};

}  // namespace quernel
