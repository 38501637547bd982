// The mainloop of large products on Hopper: int8 and bfloat16, both operands rows of 32-bit words along k, aligned to
// 16 bytes. tensor_tile.h has that of all others.
//
// A block computes 128 x kCols results at a time, and goes on to other tiles until none is left; tiles that are
// computed at the same time lie close together, for L2. One thread of its first warpgroup copies slices of A and B, 32
// words deep, into a ring of places (core/tma.h); each of the other two warpgroups multiplies 64 rows of them
// (core/wgmma.h), its sums in the registers that the first one gave away. A place has two barriers: `full` ends a phase
// when its slice has landed, `empty` when all eight warps have multiplied it. The next tile's slices land while results
// are stored. A sum runs over k in order, eight words at a time, whatever the tile is.
//
// What is multiplied is a Problem as in tensor_tile.h, of which are used:
//   using Element; int64_t m, n, k
//   void store(int64_t row, int64_t column, Sum sum)
//   void store_two(int64_t row, int64_t column, Pair<Sum>)    neighbours, whose place is aligned to both
// Not measured on a device.
#pragma once
#include "core/wgmma.h"
#include "kernels/tensor_tile.h"

namespace quernel::cuda {

template <int kSums>
__device__ void multiply(Bf16, WarpgroupProducts& products, float (&c)[kSums], uint64_t a, uint64_t b) {
  products.multiply_bf16(c, a, b);
}
template <int kSums>
__device__ void multiply(Bytes, WarpgroupProducts& products, int (&c)[kSums], uint64_t a, uint64_t b) {
  products.multiply_u8s8(c, a, b);
}

template <int kCols_>
struct WarpgroupTile {
  static constexpr int kRows = 128, kCols = kCols_, kStages = kCols == 256 ? 4 : 6;
  static constexpr int kBlock = 3 * kWarpgroup, kWarps = 8;  // kWarps: that multiply
  static constexpr int kABytes = kRows * kTileWords * 4, kStageBytes = kABytes + kCols * kTileWords * 4;
  static constexpr int kStagedColumns = 64, kStaged = 16 * kStagedColumns;  // results of a warp on their way out
  static constexpr int kSharedBytes = kTileAlign + kStages * kStageBytes + kWarps * kStaged * 4;
  static_assert(kSharedBytes + 2 * kStages * int{sizeof(Barrier)} <= 227 * 1024);
};

template <int kStages>
struct Ring {
  int stage = 0, parity = 0;

  __device__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Where the tiles of a block begin: columns after columns of kBand tiles.
class TileOrder {
 public:
  __device__ TileOrder(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}

  __device__ int64_t count() const { return rows_ * columns_; }
  struct Place {
    int64_t row, column;
  };
  __device__ Place place(int64_t tile) const {
    constexpr int64_t kBand = 16;
    const int64_t first = tile / (kBand * columns_) * kBand, height = least(kBand, rows_ - first);
    const int64_t rest = tile - first * columns_;
    return {first + rest % height, rest / height};
  }

 private:
  int64_t rows_, columns_;
};

// Copies the slices of all tiles of the block, one after the other.
template <class Tile>
__device__ void copy_slices(const TileOrder& order, int64_t slices, const TensorMap& a, const TensorMap& b,
                            unsigned char* stages, Barrier* full, Barrier* empty) {
  Ring<Tile::kStages> ring;
  for (int64_t tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
    const TileOrder::Place at = order.place(tile);
    const int row = static_cast<int>(at.row) * Tile::kRows, column = static_cast<int>(at.column) * Tile::kCols;
    for (int slice = 0; slice < slices; ++slice) {
      unsigned char* to = stages + ring.stage * Tile::kStageBytes;
      empty[ring.stage].wait(ring.parity ^ 1);
      full[ring.stage].arrive_expecting(Tile::kStageBytes);
      copy_tile(to, a, slice * kTileWords, row, full[ring.stage]);
      copy_tile(to + Tile::kABytes, b, slice * kTileWords, column, full[ring.stage]);
      ring.advance();
    }
  }
}

// Multiplies the slices of a tile.
template <class Tile, class E, class Sum>
__device__ void multiply_slices(E element, int64_t slices, uint64_t a, uint64_t b, Ring<Tile::kStages>& ring,
                                Barrier* full, Barrier* empty, Sum (&sums)[Tile::kCols / 2]) {
  const bool first_lane = threadIdx.x % kWarp == 0;
  WarpgroupProducts products;
  int previous = 0;
  for (int slice = 0; slice < slices; ++slice) {
    full[ring.stage].wait(ring.parity);
    products.begin();
    const uint64_t to_stage = static_cast<uint64_t>(ring.stage * (Tile::kStageBytes / 16));
#pragma unroll
    for (int word = 0; word < kTileWords; word += 8)
      multiply(element, products, sums, advanced(a + to_stage, word), advanced(b + to_stage, word));
    products.close_group();
    products.template wait<1>();
    if (slice > 0 && first_lane) empty[previous].arrive();
    previous = ring.stage;
    ring.advance();
  }
  products.template wait<0>();
  if (first_lane) empty[previous].arrive();
}

// Results of a warp go out through shared memory, 16 x 64 at a time, so that a warp writes a row of them, and what
// becomes of a sum is compiled seldom. Rows there are exchanged as those of tiles are.
template <class Tile, class P, class Sum>
__device__ void store_sums(const P& p, Sum* staged, int64_t first_row, int64_t first_column,
                           const Sum (&sums)[Tile::kCols / 2], bool in_pairs) {
  constexpr int kWidth = Tile::kStagedColumns;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto pair = [&](int row, int column) -> Pair<Sum>& {
    return *reinterpret_cast<Pair<Sum>*>(staged + row * kWidth + (column ^ row % 8 * 8));
  };
#pragma unroll
  for (int part = 0; part < Tile::kCols / kWidth; ++part) {
#pragma unroll
    for (int at = 0; at < kWidth / 4; ++at) {
      const Sum* from = sums + part * kWidth / 2 + at * 2;
      pair(lane / 4 + at % 2 * 8, at / 2 * 8 + lane % 4 * 2) = {from[0], from[1]};
    }
    __syncwarp();
    const int64_t column = first_column + part * kWidth + lane * 2;
#pragma unroll 1
    for (int row = 0; row < 16; ++row) {
      const int64_t r = first_row + row;
      if (r >= p.m || column >= p.n) continue;
      const Pair<Sum> two = pair(row, lane * 2);
      if (in_pairs) {
        p.store_two(r, column, two);
      } else {
        p.store(r, column, two.first);
        if (column + 1 < p.n) p.store(r, column + 1, two.second);
      }
    }
    __syncwarp();
  }
}

template <class P, int kCols>
__global__ void __launch_bounds__(WarpgroupTile<kCols>::kBlock, 1)
    multiply_by_warpgroups(P p, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                           bool in_pairs) {
  if constexpr (kHasWarpgroups) {
    using Tile = WarpgroupTile<kCols>;
    using Sum = typename P::Element::Sum;
    __shared__ Barrier full[Tile::kStages], empty[Tile::kStages];
    auto* shared = shared_memory<unsigned char>();
    unsigned char* const stages = shared + (kTileAlign - reinterpret_cast<uintptr_t>(shared) % kTileAlign) % kTileAlign;
    if (threadIdx.x == 0) {
      for (int i = 0; i < Tile::kStages; ++i) {
        full[i].init(1);
        empty[i].init(Tile::kWarps);
      }
      publish_barriers();
    }
    __syncthreads();

    const TileOrder order(ceil_div(p.m, Tile::kRows), ceil_div(p.n, kCols));
    const int64_t slices = ceil_div(p.k, kTileWords);
    if (threadIdx.x < kWarpgroup) {
      give_registers<40>();
      if (threadIdx.x == 0) copy_slices<Tile>(order, slices, a, b, stages, full, empty);
      return;
    }
    take_registers<232>();
    const int warp = static_cast<int>(threadIdx.x - kWarpgroup) / kWarp;
    Sum* const staged = reinterpret_cast<Sum*>(stages + Tile::kStages * Tile::kStageBytes) + warp * Tile::kStaged;
    const uint64_t left = tile_descriptor(stages + warp / 4 * (Tile::kABytes / 2));
    const uint64_t right = tile_descriptor(stages + Tile::kABytes);
    Ring<Tile::kStages> ring;
    for (int64_t tile = blockIdx.x; tile < order.count(); tile += gridDim.x) {
      const TileOrder::Place at = order.place(tile);
      Sum sums[kCols / 2] = {};
      multiply_slices<Tile>(typename P::Element{}, slices, left, right, ring, full, empty, sums);
      store_sums<Tile>(p, staged, at.row * Tile::kRows + warp * 16, at.column * kCols, sums, in_pairs);
    }
  }
}

// Which products take this path: by the device, the columns and the depth alone, as another order of summation within
// an instruction may be other bits.
inline bool suits_warpgroups(int64_t n, int64_t words) {
  return n >= 256 && words >= 128 && n < (1 << 30) && words < (1 << 30) && device_has_warpgroups();
}

// Whether pairs of elements of so many bytes may be written at p and at multiples of `pitch` elements from it.
inline bool are_pairs(const void* p, int64_t bytes, int64_t pitch) {
  return pitch % 2 == 0 && reinterpret_cast<uintptr_t>(p) % static_cast<uint64_t>(2 * bytes) == 0;
}

// Rows of A are `a_row` bytes apart.
template <class P>
void multiply_on_warpgroups(const Ctx& ctx, const P& p, const void* a, int64_t a_row, const void* b, bool in_pairs) {
  if (p.m <= 0) return;
  const auto run = [&](auto tile, auto* kernel) {
    using Tile = decltype(tile);
    TensorMap left, right;
    if (!device_encode(&left, a, p.k, p.m, a_row, Tile::kRows) ||
        !device_encode(&right, b, p.k, p.n, p.k * 4, Tile::kCols))
      return;
    const int64_t tiles = ceil_div(p.m, Tile::kRows) * ceil_div(p.n, Tile::kCols);
    allow_shared(kernel, Tile::kSharedBytes);
    launch(ctx, kernel, static_cast<unsigned>(least(tiles, device_multiprocessors())), Tile::kBlock, Tile::kSharedBytes,
           p, left, right, in_pairs);
  };
  // A narrow tile is a quarter of a wide one, and is guessed to take 5/16 of the time.
  const auto rounds = [&](int64_t columns) {
    return ceil_div(ceil_div(p.m, 128) * ceil_div(p.n, columns), device_multiprocessors());
  };
  if (rounds(256) * 16 <= rounds(64) * 5)
    run(WarpgroupTile<256>{}, multiply_by_warpgroups<P, 256>);
  else
    run(WarpgroupTile<64>{}, multiply_by_warpgroups<P, 64>);
}

}  // namespace quernel::cuda
