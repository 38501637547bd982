// int8 convolutions of 3x3 by Winograd's algorithm, where it pays.
#pragma once
#include "kernels/args/quant.h"
#include "ops/quant.h"

namespace quernel::ops {

// The bits of the result do not depend on it.
bool quant_winograd_pays(const ConvShape& s, const Tensor& weight);

// Weight (O, 3, 3, C) as levels that multiply bytes take it: transformed, (panels of 16, 36 points, C/2, 16, 2) of
// int16. The others take panels as any convolution does.
Tensor pack_quant_winograd(const Tensor& weight, int64_t o, int64_t c);

// The convolution of x by a packed weight.
void launch_quant_winograd(QConvArgs args, const Tensor& x, const Tensor& w, const Tensor& y, const QOutput& out);

}  // namespace quernel::ops
