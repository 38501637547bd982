#include "runtime/arena.h"

#include <algorithm>
#include <numeric>

namespace quernel {
namespace {

constexpr int64_t kAlign = 64;

struct Lifetime {
  int segment;
  int64_t size;
  size_t first, last;  // turns

  bool overlaps(const Lifetime& o) const { return first <= o.last && o.first <= last; }
};

// When each step runs: those of a chain run together.
std::vector<size_t> turns_of(const Program& program, std::span<const Chain> chains) {
  std::vector<size_t> turns(program.steps.size());
  std::iota(turns.begin(), turns.end(), size_t{0});
  for (const Chain& chain : chains) {
    std::fill_n(turns.begin() + static_cast<std::ptrdiff_t>(chain.begin), chain.size(), chain.begin);
  }
  return turns;
}

std::vector<Lifetime> lifetimes(const Program& program, std::span<const Chain> chains) {
  constexpr int kNone = -1, kElsewhere = -2;
  std::vector<Lifetime> result;
  std::vector<int> slot(program.segments.size(), kNone);
  for (const Chain& chain : chains) {
    for (const int segment : chain.segments) slot[segment] = kElsewhere;
  }
  const std::vector<size_t> turns = turns_of(program, chains);
  for (size_t i = 0; i < program.steps.size(); ++i) {
    for (const Use& use : program.steps[i].uses) {
      const Segment& segment = program.segments[use.segment];
      int& s = slot[use.segment];
      if (segment.kind != Segment::Kind::kTemporary || s == kElsewhere) continue;
      if (s == kNone) {
        s = static_cast<int>(result.size());
        const auto size = static_cast<int64_t>(segment.storage->nbytes());
        result.push_back({use.segment, (size + kAlign - 1) / kAlign * kAlign, turns[i], turns[i]});
      }
      result[s].last = turns[i];
    }
  }
  return result;
}

}  // namespace

// Largest first, each at the lowest offset that is free throughout its life: within a few per cent of the lower bound
// on the nets we have seen, and quadratic in the number of temporaries, of which there are hundreds at most.
ArenaLayout lay_out_arena(const Program& program, std::span<const Chain> chains) {
  ArenaLayout layout{std::vector<int64_t>(program.segments.size(), 0), 0};
  std::vector<Lifetime> pending = lifetimes(program, chains);
  std::stable_sort(pending.begin(), pending.end(), [](const auto& a, const auto& b) { return a.size > b.size; });
  std::vector<Lifetime> placed;  // in order of offset
  for (const Lifetime& life : pending) {
    int64_t offset = 0;
    for (const Lifetime& other : placed) {
      if (!life.overlaps(other)) continue;
      if (layout.offsets[other.segment] >= offset + life.size) break;
      offset = std::max(offset, layout.offsets[other.segment] + other.size);
    }
    layout.offsets[life.segment] = offset;
    layout.nbytes = std::max(layout.nbytes, offset + life.size);
    const auto at = std::find_if(placed.begin(), placed.end(),
                                 [&](const Lifetime& o) { return layout.offsets[o.segment] > offset; });
    placed.insert(at, life);
  }
  return layout;
}

}  // namespace quernel
