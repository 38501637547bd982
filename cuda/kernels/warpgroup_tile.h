// The mainloop of large products on Hopper: int8, bfloat16 and float16, of matrices and of patches of images, whose
// rows are 32-bit words along k, aligned to 16 bytes. tensor_tile.h has that of all others.
//
// A block computes 128 x kCols results at a time, and goes on to other tiles until none is left; tiles that are
// computed at the same time lie close together, for L2. One thread of its first warpgroup copies slices of A and B, 32
// words deep, into a ring of places (core/tma.h); each of the other two warpgroups multiplies 64 rows of them
// (core/wgmma.h), its sums in the registers that the first one gave away. A place has two barriers: `full` ends a phase
// when its slice has landed, `empty` when all warps that read what this block copies have multiplied it. The next
// tile's slices land while results are stored. A sum runs over k in order, eight words at a time, whatever the tile is.
//
// Tiles of 128 and 256 columns are computed by clusters of two blocks, one below the other: each copies half of the
// columns of B that both need. Of tiles of 64 columns, soon multiplied, a multiprocessor has two blocks: one stores
// results while the other multiplies.
//
// What is multiplied is a Problem as in tensor_tile.h, of which are used:
//   using Element; int64_t m, n, k
//   bool describe_a(TensorMap*, int rows)                     on the host, for copies of so many rows
//   struct Slice; Slice first_slice(int64_t row)              along k, of the rows from this one on
//   void copy_slice(Slice&, void* to, const TensorMap&, Barrier&)    goes on to the next one
//   struct Place; Place place(int64_t row); void next_row(Place&)    `start`: where a row of results begins
//   struct TwoColumns; TwoColumns columns(int64_t column)     what a thread remembers of a column and the next one
//   bool is_light()                                           little becomes of a sum
//   void store_two<kLight>(int64_t element, TwoColumns, Pair<Sum>, bool in_pairs)    of the results
// Not measured on a device.
#pragma once
#include "core/wgmma.h"
#include "kernels/pairs.h"
#include "kernels/tensor_tile.h"

namespace quernel::cuda {

template <int kSums>
__device__ void multiply(Bf16, WarpgroupProducts& products, float (&c)[kSums], uint64_t a, uint64_t b) {
  products.multiply_bf16(c, a, b);
}
template <int kSums>
__device__ void multiply(F16, WarpgroupProducts& products, float (&c)[kSums], uint64_t a, uint64_t b) {
  products.multiply_f16(c, a, b);
}
template <int kSums>
__device__ void multiply(Bytes, WarpgroupProducts& products, int (&c)[kSums], uint64_t a, uint64_t b) {
  products.multiply_u8s8(c, a, b);
}

template <int kCols_>
struct WarpgroupTile {
  static constexpr int kRows = 128, kCols = kCols_, kCluster = kCols == 64 ? 1 : 2;  // kCluster: blocks
  static constexpr int kBlocks = kCols == 64 ? 2 : 1;                                // of a multiprocessor
  static constexpr int kStages = kCols == 256 ? 4 : kCols == 128 ? 6 : 3;
  static constexpr int kCopyRegisters = kBlocks == 1 ? 56 : 64, kMultiplyRegisters = kBlocks == 1 ? 224 : 88;
  static constexpr int kBlock = 3 * kWarpgroup, kWarps = 8;  // kWarps: that multiply
  static constexpr int kRowBytes = kTileWords * 4, kABytes = kRows * kRowBytes;
  static constexpr int kStageBytes = kABytes + kCols * kRowBytes;
  static constexpr int kShareOfB = kCols / kCluster;                            // columns
  static constexpr int kStagedColumns = 64, kStaged = 16 * kStagedColumns * 4;  // bytes of a warp, on their way out

  unsigned char *stages, *staged;
  Barrier *full, *empty;

  static constexpr int kBytes = kTileAlign + kStages * kStageBytes + kWarps * kStaged + 2 * kStages * 8;
  static_assert(kBlocks * (kBytes + 1024) <= 228 * 1024);  // the system has 1024 of each block

  __device__ explicit WarpgroupTile(unsigned char* shared) {
    stages = shared + (kTileAlign - reinterpret_cast<uintptr_t>(shared) % kTileAlign) % kTileAlign;
    staged = stages + kStages * kStageBytes;
    full = reinterpret_cast<Barrier*>(staged + kWarps * kStaged);
    empty = full + kStages;
  }

  // Once all blocks of the cluster have done this, they may reach each other's barriers.
  __device__ void begin() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) {
        full[i].init(1);
        empty[i].init(kWarps * kCluster);
      }
      publish_barriers();
    }
    meet();
  }
  // All threads.
  __device__ static void meet() {
    if constexpr (kCluster == 1) {
      __syncthreads();
    } else {
      cluster_barrier();
    }
  }

  // A warp's, of a place that it has multiplied: this block's thread that copies is told, and the others'.
  __device__ void release(int stage) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if (lane >= kCluster) return;
    if constexpr (kCluster == 1) {
      empty[stage].arrive();
    } else {
      empty[stage].arrive_at(lane);
    }
  }
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

// The tiles of a block, one after the other: of all that clusters compute, columns after columns of kBand.
template <class Tile>
class TileWalk {
 public:
  __device__ TileWalk(int64_t m, int64_t n)
      : rows_(ceil_div(m, Tile::kRows * Tile::kCluster)),
        columns_(ceil_div(n, Tile::kCols)),
        at_(blockIdx.x / Tile::kCluster) {}

  __device__ bool is_over() const { return at_ >= rows_ * columns_; }
  __device__ void advance() { at_ += gridDim.x / Tile::kCluster; }

  struct Place {
    int64_t row, column;
  };
  __device__ Place place() const {
    constexpr int64_t kBand = 16 / Tile::kCluster;
    const int64_t first = at_ / (kBand * columns_) * kBand, height = least(kBand, rows_ - first);
    const int64_t rest = at_ - first * columns_, row = (first + rest % height) * Tile::kCluster;
    return {(row + (Tile::kCluster == 1 ? 0 : cluster_rank())) * Tile::kRows, rest / height * Tile::kCols};
  }

 private:
  int64_t rows_, columns_, at_;
};

// A slice of rows of a matrix.
struct MatrixSlice {
  int row, word = 0;

  __device__ void copy(void* to, const TensorMap& map, Barrier& full) {
    copy_tile<1>(to, map, word, row, full);
    word += kTileWords;
  }
};

// Copies the slices of all tiles of the block.
template <class Tile, class P>
__device__ void copy_slices(const P& p, const Tile& shared, TileWalk<Tile> walk, int64_t slices, const TensorMap& a,
                            const TensorMap& b) {
  Ring<Tile::kStages> ring;
  const int share = Tile::kCluster == 1 ? 0 : cluster_rank() * Tile::kShareOfB;
  for (; !walk.is_over(); walk.advance()) {
    const auto at = walk.place();
    const int column = static_cast<int>(at.column) + share;
    auto rows = p.first_slice(at.row);
    for (int slice = 0; slice < slices; ++slice) {
      unsigned char* to = shared.stages + ring.stage * Tile::kStageBytes;
      Barrier& full = shared.full[ring.stage];
      shared.empty[ring.stage].wait(ring.parity ^ 1);
      full.arrive_expecting(Tile::kStageBytes);
      p.copy_slice(rows, to, a, full);
      to += Tile::kABytes + share * Tile::kRowBytes;
      copy_tile<Tile::kCluster>(to, b, slice * kTileWords, column, full);
      ring.advance();
    }
  }
}

// Multiplies the slices of a tile, which lie at these descriptors and behind them.
template <class E, class Tile, class Sum>
__device__ void multiply_slices(const Tile& shared, int64_t slices, uint64_t a, uint64_t b, Ring<Tile::kStages>& ring,
                                Sum (&sums)[Tile::kCols / 2]) {
  WarpgroupProducts products;
  int previous = 0;
  for (int slice = 0; slice < slices; ++slice) {
    shared.full[ring.stage].wait(ring.parity);
    products.begin();
    const uint64_t to_stage = static_cast<uint64_t>(ring.stage * (Tile::kStageBytes / 16));
#pragma unroll
    for (int word = 0; word < kTileWords; word += 8)
      multiply(E{}, products, sums, advanced(a + to_stage, word), advanced(b + to_stage, word));
    products.close_group();
    products.template wait<1>();
    if (slice > 0) shared.release(previous);
    previous = ring.stage;
    ring.advance();
  }
  products.template wait<0>();
  shared.release(previous);
}

// Results of a warp go out through shared memory, 16 x 64 at a time, so that a warp writes a row of them, and what
// becomes of a sum is compiled seldom; several rows at once where that is little, whose reads wait together. Rows in
// shared memory are exchanged as those of tiles are.
template <class Tile, class P, class Sum>
__device__ void store_sums(const P& p, Sum* staged, int64_t first_row, int64_t first_column,
                           const Sum (&sums)[Tile::kCols / 2], bool in_pairs) {
  constexpr int kWidth = Tile::kStagedColumns;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int rows = static_cast<int>(most(0, least(16, p.m - first_row)));
  const auto pair = [&](int row, int column) -> Pair<Sum>& {
    return *reinterpret_cast<Pair<Sum>*>(staged + row * kWidth + (column ^ row % 8 * 8));
  };
  const auto first = p.place(first_row);
#pragma unroll
  for (int part = 0; part < Tile::kCols / kWidth; ++part) {
#pragma unroll
    for (int at = 0; at < kWidth / 4; ++at) {
      const Sum* from = sums + part * kWidth / 2 + at * 2;
      pair(lane / 4 + at % 2 * 8, at / 2 * 8 + lane % 4 * 2) = {from[0], from[1]};
    }
    __syncwarp();
    const int64_t column = first_column + part * kWidth + lane * 2;
    if (column < p.n) {
      const auto columns = p.columns(column);
      auto place = first;
      if (p.is_light()) {
#pragma unroll 4
        for (int row = 0; row < rows; ++row, p.next_row(place))
          p.template store_two<true>(place.start + column, columns, pair(row, lane * 2), in_pairs);
      } else {
#pragma unroll 1
        for (int row = 0; row < rows; ++row, p.next_row(place))
          p.template store_two<false>(place.start + column, columns, pair(row, lane * 2), in_pairs);
      }
    }
    __syncwarp();
  }
}

template <class Tile, class P>
__device__ void multiply_and_store(const P& p, const Tile& shared, TileWalk<Tile> walk, int64_t slices, bool in_pairs) {
  using Sum = typename P::Element::Sum;
  const int warp = static_cast<int>(threadIdx.x - kWarpgroup) / kWarp;
  Sum* const staged = reinterpret_cast<Sum*>(shared.staged + warp * Tile::kStaged);
  const uint64_t left = tile_descriptor(shared.stages + warp / 4 * (Tile::kABytes / 2));
  const uint64_t right = tile_descriptor(shared.stages + Tile::kABytes);
  Ring<Tile::kStages> ring;
  for (; !walk.is_over(); walk.advance()) {
    const auto at = walk.place();
    Sum sums[Tile::kCols / 2] = {};
    multiply_slices<typename P::Element>(shared, slices, left, right, ring, sums);
    store_sums<Tile>(p, staged, at.row + warp * 16, at.column, sums, in_pairs);
  }
}

template <class P, int kCols>
__global__ void __launch_bounds__(WarpgroupTile<kCols>::kBlock, WarpgroupTile<kCols>::kBlocks)
    multiply_by_warpgroups(P p, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                           bool in_pairs) {
  if constexpr (kHasWarpgroups) {
    using Tile = WarpgroupTile<kCols>;
    const Tile shared(shared_memory<unsigned char>());
    shared.begin();
    const TileWalk<Tile> walk(p.m, p.n);
    const int64_t slices = ceil_div(p.k, kTileWords);
    if (threadIdx.x < kWarpgroup) {
      give_registers<Tile::kCopyRegisters>();
      if (threadIdx.x == 0) copy_slices(p, shared, walk, slices, a, b);
    } else {
      take_registers<Tile::kMultiplyRegisters>();
      multiply_and_store(p, shared, walk, slices, in_pairs);
    }
    if (Tile::kCluster > 1) shared.meet();  // others may still tell this block's barriers
  }
}

// Which products take this path: by the device, the columns and the depth alone, as another order of summation within
// an instruction may be other bits. Fewer columns would leave the narrowest tile empty in part; a shallower product is
// done before a block's copies have begun to pay.
inline bool suits_warpgroups(int64_t n, int64_t words) {
  return n >= 64 && words >= 128 && n < (1 << 30) && words < (1 << 30) && device_has_warpgroups();
}

// B is rows of k words.
template <class P>
void multiply_on_warpgroups(const Ctx& ctx, const P& p, const void* b, bool in_pairs) {
  if (p.m <= 0) return;
  const auto run = [&](auto tile, auto* kernel) {
    using Tile = typename decltype(tile)::type;
    TensorMap left, right;
    if (!p.describe_a(&left, Tile::kRows) || !device_encode(&right, b, p.k, p.n, p.k * 4, Tile::kShareOfB)) return;
    const int64_t tiles = ceil_div(p.m, Tile::kRows * Tile::kCluster) * ceil_div(p.n, Tile::kCols);
    const int64_t clusters = least(tiles, device_multiprocessors() * Tile::kBlocks / Tile::kCluster);
    static const bool allowed = (allow_shared(kernel, Tile::kBytes), true);  // once for each kernel
    (void)allowed;
    launch_clusters(ctx, kernel, Tile::kCluster, static_cast<unsigned>(clusters * Tile::kCluster), Tile::kBlock,
                    Tile::kBytes, p, left, right, in_pairs);
  };
  // Rounds of tiles, times what one is guessed to take, by what it multiplies and copies: a sum costs a tile of 64
  // columns three times the bytes that it costs one of 256, one of 128 half as many more.
  const auto time = [&]<class Tile>(std::type_identity<Tile>, int64_t each) {
    const int64_t tiles = ceil_div(p.m, Tile::kRows * Tile::kCluster) * ceil_div(p.n, Tile::kCols);
    return ceil_div(tiles, device_multiprocessors() / Tile::kCluster) * each;
  };
  constexpr std::type_identity<WarpgroupTile<256>> wide{};
  constexpr std::type_identity<WarpgroupTile<128>> middle{};
  constexpr std::type_identity<WarpgroupTile<64>> narrow{};
  const int64_t wide_time = time(wide, 16), middle_time = time(middle, 9), narrow_time = time(narrow, 6);
  if (wide_time <= middle_time && wide_time <= narrow_time)
    run(wide, multiply_by_warpgroups<P, 256>);
  else if (middle_time <= narrow_time)
    run(middle, multiply_by_warpgroups<P, 128>);
  else
    run(narrow, multiply_by_warpgroups<P, 64>);
}

}  // namespace quernel::cuda
