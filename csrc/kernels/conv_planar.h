// Convolutions that produce few channels, see conv_planar.cpp.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {

// Whether this is the faster way; it gives the same bits.
bool planar_pays_f32(const ConvArgs& args, bool adjoint);
bool planar_pays_f64(const ConvArgs& args, bool adjoint);

int64_t planar_scratch_f32(const ConvArgs& args, bool adjoint);
int64_t planar_scratch_f64(const ConvArgs& args, bool adjoint);

// Items as for conv2d and conv2d_grad_input.
void run_planar_f32(const ConvArgs& args, bool adjoint, Range range, const Ctx& ctx);
void run_planar_f64(const ConvArgs& args, bool adjoint, Range range, const Ctx& ctx);

}  // namespace quernel::QUERNEL_ISA
