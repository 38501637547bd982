// Elementwise steps that follow each other go through memory together: a block of elements through the first of them,
// the same block through the second, and so on. What only they use lives in tiles of the thread's own memory, which
// stay in its cache, and one fork serves them all. Bits stay as they are: every block is computed by the same kernels
// from the same values. A profile counts a chain to the layer of its first step.
#pragma once
#include <vector>

#include "runtime/program.h"

namespace quernel {

inline constexpr size_t kChainSteps = 8;  // at most; a longer run becomes several chains

// A pointer of a step's arguments that leads into a tile.
struct TilePatch {
  uint32_t field;
  int64_t tile;         // its first byte in the thread's scratch memory
  int64_t block_bytes;  // of the operand
};

// Two steps of the program or more, from `begin` on.
struct Chain {
  size_t begin;
  std::vector<std::vector<TilePatch>> tiles;  // of each step
  std::vector<int> segments;                  // temporaries that live in tiles
  int64_t tile_bytes = 0;                     // of all tiles

  size_t size() const { return tiles.size(); }
};

std::vector<Chain> find_chains(const Program& program);

// A chain ready to run. It passes for a kernel of the items of its steps: `run_chain` and `chain_scratch` take it.
struct ChainCall {
  struct Step {
    KernelFn run;
    const std::byte* args;
    size_t args_size;
    const TilePatch* tiles;
    size_t tile_count;
  };
  Step steps[kChainSteps];
  size_t count = 0;
  int64_t tile_bytes = 0;
};

Status run_chain(const void* call, Range range, const Ctx& ctx);
int64_t chain_scratch(const void* call);

}  // namespace quernel
