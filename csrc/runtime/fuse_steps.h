// What the patterns of fuse_layers.cpp, fuse_loss.cpp and fuse_gradients.cpp, and atomicity.cpp, ask of a program.
#pragma once
#include <optional>

#include "runtime/fuse.h"

namespace quernel {

// Whether one of two steps writes what the other touches, so that they may not change places; but for what `linked`, a
// use of `a`, says to `field` of `b`.
bool conflict(const Step& a, const Step& b, const Use* linked = nullptr, uint32_t field = 0);

// Whether `step` may not pass those between two others.
bool conflicts_between(const Program& program, const Step& step, size_t first, size_t last);

// The one step that fills all of what step `reader` reads, a temporary or an output.
std::optional<size_t> sole_producer(const Program& program, size_t reader, const Use& read);

// The one step that reads a temporary, all of which `use` is.
std::optional<size_t> sole_reader(const Program& program, const Use& use);

// A product as an MLP of one layer; an MLP as itself.
std::optional<Step> as_mlp(const Step& step);
uint32_t layer_offset(int index);         // of a layer in MlpArgs
const Use* last_result(const Step& mlp);  // null: nobody reads it

}  // namespace quernel
