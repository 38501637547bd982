#include "runtime/chain.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace quernel {
namespace {

// ---- which steps are elementwise --------------------------------------------------------------------------------

// A step whose item is a block of its `size` results. An operand is blockwise if that item touches the same block of it
// and nothing else.
struct Elementwise {
  int64_t size;
  std::vector<uint32_t> spread;  // fields of operands that are broadcast
};

// What kernels/broadcast.h reads in place; in doubt not, since it would look at the first elements of other operands.
bool is_contiguous(const StridedShape& shape, const int64_t* strides) {
  int64_t expected = 1;
  for (int d = shape.rank - 1; d >= 0; --d) {
    if (strides[d] != expected) return false;
    expected *= shape.dims[d];
  }
  return true;
}

std::optional<Elementwise> elementwise(const Step& step) {
  if (step.is(&KernelTable::unary)) return Elementwise{step.as<UnaryArgs>().size, {}};
  if (step.is(&KernelTable::clip)) return Elementwise{step.as<ClipArgs>().size, {}};
  if (step.is(&KernelTable::cast)) return Elementwise{step.as<CastArgs>().size, {}};
  if (step.is(&KernelTable::dropout_grad)) return Elementwise{step.as<DropoutGradArgs>().size, {}};
  if (step.is(&KernelTable::dropout))
    return Elementwise{step.as<DropoutArgs>().size, {field_offset(&DropoutArgs::state)}};
  if (step.is(&KernelTable::binary)) {
    const auto& args = step.as<BinaryArgs>();
    Elementwise found{args.shape.size, {}};
    if (!is_contiguous(args.shape, args.a_strides)) found.spread.push_back(field_offset(&BinaryArgs::a));
    if (!is_contiguous(args.shape, args.b_strides)) found.spread.push_back(field_offset(&BinaryArgs::b));
    return found;
  }
  if (step.is(&KernelTable::where)) {
    const auto& args = step.as<WhereArgs>();
    Elementwise found{args.shape.size, {}};
    if (!is_contiguous(args.shape, args.c_strides)) found.spread.push_back(field_offset(&WhereArgs::condition));
    if (!is_contiguous(args.shape, args.a_strides)) found.spread.push_back(field_offset(&WhereArgs::a));
    if (!is_contiguous(args.shape, args.b_strides)) found.spread.push_back(field_offset(&WhereArgs::b));
    return found;
  }
  return std::nullopt;
}

bool is_blockwise(const Elementwise& step, const Use& use) {
  return std::find(step.spread.begin(), step.spread.end(), use.field) == step.spread.end();
}

// ---- which of them go together ----------------------------------------------------------------------------------

class ChainFinder {
 public:
  explicit ChainFinder(const Program& program) : program_(program) {
    for (const Step& step : program.steps) kinds_.push_back(elementwise(step));
  }

  std::vector<Chain> run() const {
    std::vector<Chain> chains;
    for (size_t begin = 0; begin < kinds_.size();) {
      size_t end = begin + 1;
      while (end < kinds_.size() && end - begin < kChainSteps && joins(begin, end)) ++end;
      if (end - begin > 1) chains.push_back(chain(begin, end));
      begin = end;
    }
    return chains;
  }

 private:
  // Whether step `next` may follow [begin, next) block by block, and has data in common with it.
  bool joins(size_t begin, size_t next) const {
    const auto& kind = kinds_[next];
    if (!kinds_[begin] || !kind || kind->size != kinds_[begin]->size || kind->size == 0) return false;
    bool related = false;
    for (size_t i = begin; i < next; ++i) {
      for (const Use& before : program_.steps[i].uses) {
        for (const Use& use : program_.steps[next].uses) {
          if (!use.overlaps(before)) continue;
          related = true;
          if (!use.writes() && !before.writes()) continue;
          if (!use.is_same_place(before) || !is_blockwise(*kind, use) || !is_blockwise(*kinds_[i], before))
            return false;
        }
      }
    }
    return related;
  }

  // A temporary that only these steps use, all in the same way, and first of all overwrite.
  bool is_local(size_t begin, size_t end, const Use& first) const {
    if (program_.segments[static_cast<size_t>(first.segment)].kind != Segment::Kind::kTemporary) return false;
    bool is_first = true;
    for (size_t i = 0; i < program_.steps.size(); ++i) {
      for (const Use& use : program_.steps[i].uses) {
        if (use.segment != first.segment) continue;
        if (i < begin || i >= end || !use.is_same_place(first) || !is_blockwise(*kinds_[i], use)) return false;
        if (is_first && use.access != Access::kWrite) return false;
        is_first = false;
      }
    }
    return true;
  }

  size_t last_use(size_t end, int segment) const {
    for (size_t i = end; i-- > 0;) {
      for (const Use& use : program_.steps[i].uses) {
        if (use.segment == segment) return i;
      }
    }
    return 0;
  }

  // Hands out tiles, each again after its last use, so that few are hot.
  Chain chain(size_t begin, size_t end) const {
    struct Tile {
      int64_t place;
      int segment;
      size_t last;
    };
    std::vector<Tile> tiles;
    Chain made{begin, {}, {}};
    int64_t block = 0;
    for (size_t i = begin; i < end; ++i) {
      for (const Use& use : program_.steps[i].uses) block = std::max(block, bytes_of_block(i, use));
    }
    for (size_t i = begin; i < end; ++i) {
      std::vector<TilePatch>& patches = made.tiles.emplace_back();
      for (const Use& use : program_.steps[i].uses) {
        if (!is_local(begin, end, use)) continue;
        const auto holds = [&](const Tile& t) { return t.segment == use.segment; };
        auto tile = std::find_if(tiles.begin(), tiles.end(), holds);
        if (tile == tiles.end()) {
          made.segments.push_back(use.segment);
          tile = std::find_if(tiles.begin(), tiles.end(), [&](const Tile& t) { return t.last < i; });
          if (tile == tiles.end()) tile = tiles.insert(tile, {static_cast<int64_t>(tiles.size()) * block, 0, 0});
          tile->segment = use.segment;
          tile->last = last_use(end, use.segment);
        }
        patches.push_back({use.field, tile->place, bytes_of_block(i, use)});
      }
    }
    made.tile_bytes = static_cast<int64_t>(tiles.size()) * block;
    return made;
  }

  int64_t bytes_of_block(size_t step, const Use& use) const { return use.nbytes / kinds_[step]->size * kElementBlock; }

  const Program& program_;
  std::vector<std::optional<Elementwise>> kinds_;
};

}  // namespace

std::vector<Chain> find_chains(const Program& program) {
  if (program.device != Device::kCpu) return {};
  return ChainFinder(program).run();
}

Status run_chain(const void* call, Range range, const Ctx& ctx) {
  const auto& chain = *static_cast<const ChainCall*>(call);
  alignas(64) std::byte args[kChainSteps][kMaxArgsSize];
  for (size_t s = 0; s < chain.count; ++s) std::memcpy(args[s], chain.steps[s].args, chain.steps[s].args_size);
  for (int64_t item = range.begin; item < range.end; ++item) {
    for (size_t s = 0; s < chain.count; ++s) {
      const ChainCall::Step& step = chain.steps[s];
      for (size_t t = 0; t < step.tile_count; ++t) {
        const TilePatch& patch = step.tiles[t];
        // Where the operand would begin if its block of this item were the tile.
        const auto base = reinterpret_cast<uintptr_t>(ctx.scratch) + static_cast<uintptr_t>(patch.tile) -
                          static_cast<uintptr_t>(item * patch.block_bytes);
        std::memcpy(args[s] + patch.field, &base, sizeof(base));
      }
      const Status status = step.run(args[s], {item, item + 1}, Ctx{nullptr, ctx.thread});
      if (status.code != StatusCode::kOk) return status;
    }
  }
  return {};
}

int64_t chain_scratch(const void* call) { return static_cast<const ChainCall*>(call)->tile_bytes; }

}  // namespace quernel
