// Which products are narrow: they have an order of summation of their own.
#pragma once
#include "kernels/args/matmul.h"

namespace quernel {

inline constexpr int64_t kNarrowColumns = 4;  // at most

// So few columns that the lanes of a register are better filled with products of one sum than with columns. It looks at
// K and N alone, for it decides on bits. B may then have any strides (`pack`), and span is 1.
inline bool is_narrow(const GemmArgs& g) { return g.n <= kNarrowColumns && g.k > kShortDepth; }

}  // namespace quernel
