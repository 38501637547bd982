// Places a program's temporaries in one arena: two may share bytes if no step needs both.
#pragma once
#include <vector>

#include "runtime/program.h"

namespace quernel {

struct ArenaLayout {
  std::vector<int64_t> offsets;  // per segment; 0 for those outside the arena
  int64_t nbytes = 0;
};

ArenaLayout lay_out_arena(const Program& program);

}  // namespace quernel
