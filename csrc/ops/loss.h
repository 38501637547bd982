// Losses of pairs of elements; `kind` is the name of the op in Python.
#pragma once
#include <string>

#include "core/tensor.h"

namespace quernel::ops {

// Numbers that a loss depends on (kernels/args/loss.h).
struct LossConstants {
  double a = 0, b = -1;
};

// x and target (undefined for "focal_loss") of one shape and dtype -> losses of that shape. Targets of binary losses
// and of "kl_div" that are no probabilities are refused before anything is written.
Tensor loss(const std::string& kind, const Tensor& x, const Tensor& target, const Tensor& weight, LossConstants c);
// g of that shape, or one number; dx = g · scale · slope.
Tensor loss_grad(const std::string& kind, const Tensor& x, const Tensor& target, const Tensor& weight, const Tensor& g,
                 LossConstants c, double scale);

// Refuses numbers outside [0, 1 + slack], and NaN unless it passes.
void check_probabilities(const char* op, const Tensor& x, bool nan_passes, double slack);
inline constexpr double kProbabilitySlack = 1e-5;  // rows of float32 that were divided by their sum

}  // namespace quernel::ops
