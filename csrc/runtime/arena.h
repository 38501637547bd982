// Places a program's temporaries in one arena: two may share bytes if no step, and no chain, needs both.
#pragma once
#include <span>
#include <vector>

#include "runtime/chain.h"

namespace quernel {

struct ArenaLayout {
  std::vector<int64_t> offsets;  // per segment; 0 for those outside the arena, tiles among them
  int64_t nbytes = 0;
};

ArenaLayout lay_out_arena(const Program& program, std::span<const Chain> chains);

}  // namespace quernel
