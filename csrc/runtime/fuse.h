// Bit-neutral rewrites of a recorded program; the table of patterns stands in fuse.cpp.
#pragma once
#include "runtime/program.h"

namespace quernel {

void fuse(Program& program);
void fuse_layers(Program& program);  // its last patterns, for CUDA alone
void fuse_loss(Program& program);
void fuse_gradients(Program& program);

// Moves checks as early and small visible writes as late as their operands allow. False: a check depends on a visible
// write, so that a refusal could not leave everything as it was.
bool order_for_atomicity(Program& program);

}  // namespace quernel
