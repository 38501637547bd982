// int8 convolutions of few channels, see quant_planar.cpp, and with VNNI quant_planar_dot.cpp.
#pragma once
#include "kernels/args/quant.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {

// Whether this is the faster way; it gives the same bits.
bool planar_pays_u8s8(const QConvArgs& p);

int64_t planar_scratch_u8s8(const QConvArgs& p);

// Items as for conv2d_u8s8.
void run_planar_u8s8(const QConvArgs& p, Range range, const Ctx& ctx);

}  // namespace quernel::QUERNEL_ISA
