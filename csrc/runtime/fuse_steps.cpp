#include "runtime/fuse_steps.h"

namespace quernel {

bool conflict(const Step& a, const Step& b, const Use* linked, uint32_t field) {
  for (const Use& use : a.uses) {
    for (const Use& other : b.uses) {
      if (&use == linked && other.field == field) continue;
      if ((use.writes() || other.writes()) && use.overlaps(other)) return true;
    }
  }
  return false;
}

bool conflicts_between(const Program& program, const Step& step, size_t first, size_t last) {
  for (size_t i = first + 1; i < last; ++i) {
    if (conflict(step, program.steps[i])) return true;
  }
  return false;
}

std::optional<size_t> sole_producer(const Program& program, size_t reader, const Use& read) {
  const Segment::Kind kind = program.segments[static_cast<size_t>(read.segment)].kind;
  if (kind != Segment::Kind::kTemporary && kind != Segment::Kind::kOutput) return std::nullopt;
  std::optional<size_t> found;
  for (size_t i = 0; i < program.steps.size(); ++i) {
    for (const Use& use : program.steps[i].uses) {
      if (use.segment != read.segment || !use.writes()) continue;
      if (found || i >= reader || use.access != Access::kWrite || !use.is_same_place(read)) return std::nullopt;
      found = i;
    }
  }
  return found;
}

std::optional<size_t> sole_reader(const Program& program, const Use& use) {
  if (program.segments[static_cast<size_t>(use.segment)].kind != Segment::Kind::kTemporary) return std::nullopt;
  std::optional<size_t> found;
  for (size_t i = 0; i < program.steps.size(); ++i) {
    for (const Use& other : program.steps[i].uses) {
      if (other.segment != use.segment || !other.reads()) continue;
      if (found || !other.is_same_place(use)) return std::nullopt;
      found = i;
    }
  }
  return found;
}

}  // namespace quernel
