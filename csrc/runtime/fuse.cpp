// The fusion table. Every pattern leaves the bits of all results as they are.
//
//   step ->            … -> becomes
//   any (unread)            dropped
#include "runtime/fuse.h"

#include <algorithm>

namespace quernel {
namespace {

bool is_temporary(const Program& program, const Use& use) {
  return program.segments[use.segment].kind == Segment::Kind::kTemporary;
}

// Steps whose results nobody reads.
bool drop_dead(Program& program) {
  std::vector<int> readers(program.segments.size(), 0);
  for (const Step& step : program.steps) {
    for (const Use& use : step.uses) readers[use.segment] += use.reads();
  }
  const size_t before = program.steps.size();
  std::erase_if(program.steps, [&](const Step& step) {
    return !is_check(step) && std::all_of(step.uses.begin(), step.uses.end(), [&](const Use& use) {
      return !use.writes() || (is_temporary(program, use) && readers[use.segment] == 0);
    });
  });
  return program.steps.size() != before;
}

}  // namespace

void fuse(Program& program) {
  while (drop_dead(program)) {
  }
}

}  // namespace quernel
