// What products and convolutions do to a finished sum before they store it.
#pragma once
#include "kernels/args/common.h"

namespace quernel {

enum class Activation : int32_t { kNone, kRelu, kTanh, kSigmoid, kGelu, kSilu, kRelu6, kHardswish };

// y = activation(acc + bias + residual), and pre = acc + bias + residual where a backward pass will need it.
struct Epilogue {
  const void* bias = nullptr;      // (N)
  const void* residual = nullptr;  // laid out as the output
  void* pre = nullptr;             // laid out as the output
  Activation activation = Activation::kNone;
};

}  // namespace quernel
