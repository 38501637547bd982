// What Hopper adds to get tiles into shared memory: barriers that count bytes, and copies of whole tiles that one
// thread begins and a barrier reports. PTX under nvcc, for sm_90a; plain C++ under emulation, with the same places.
//
// A tile is rows of 128 bytes. It lies in shared memory from a multiple of 1024 bytes on, and of each row the 16-byte
// chunks are exchanged by the row: address bits 4 to 6 are those of a plain tile xor bits 7 to 9. So the same chunk of
// eight rows lies in eight different groups of banks.
#pragma once
#include <cstdint>

#include "core/cluster.h"

namespace quernel::cuda {

// sm_90a has what this header and wgmma.h need; other code must not be reached elsewhere.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHasWarpgroups = true;
#else
inline constexpr bool kHasWarpgroups = false;
#endif

inline constexpr int kTileWords = 32;  // of a row
inline constexpr int kTileAlign = 1024;

// A matrix of 32-bit words in global memory and the tile that is copied of it at a time (device_encode, device.h), or
// images and the pixels that are (device_encode_pixels).
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

// Along an axis of images of `size` pixels: pixels first + i step for i < count, inside of the image or not.
struct PixelAxis {
  int64_t size, first, count, step;

  // How far behind the last pixel of an image the last of these lies.
  int64_t behind() const { return first + (count - 1) * step - (size - 1); }
  // Whether copies know numbers this large, also of pixels up to `reach` further.
  bool is_within(int64_t reach) const {
    return size > 0 && count > 0 && size < 1 << 30 && first >= -128 && first <= 127 && behind() >= -128 &&
           behind() <= 127 && step <= 8 && reach <= 255;
  }
};
// Images (count, height, width, words) and the pixels of each that are copied: rows of `across` for each of `down`.
struct PixelGrid {
  int64_t images, words;
  PixelAxis down, across;
};
// A pixel of a grid, by its place in the images.
struct GridPixel {
  int image, y, x;
};

// What the emulation keeps in a map.
struct EmulatedMap {
  const unsigned char* data;
  int64_t words, rows, row_bytes;
  int tile_rows;
};
struct EmulatedPixels {
  const unsigned char* data;
  PixelGrid grid;
  int tile_pixels;
};
static_assert(sizeof(EmulatedMap) <= sizeof(TensorMap) && sizeof(EmulatedPixels) <= sizeof(TensorMap));

// A barrier in shared memory. A phase of it ends when so many threads have arrived as were agreed, and so many bytes
// have landed as they said they expect; phases are even and odd in turn, the first one even.
class Barrier {
 public:
  __device__ void init(int arrivals) {
#ifndef __CUDACC__
    state_ = {0, static_cast<int16_t>(arrivals), static_cast<uint16_t>(arrivals), 0};
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
#endif
  }

  __device__ void arrive() {
#ifndef __CUDACC__
    if (state_.pending <= 0) return emulated::fail("Barrier: more threads arrive than were agreed");
    --state_.pending;
    end_phase();
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
#endif
  }

  // At the barrier in the same place in another block of the cluster, or in this one. To other threads it says nothing
  // of what this one wrote, which would take a fence of the whole device.
  __device__ void arrive_at(int rank) {
#ifndef __CUDACC__
    static_cast<Barrier*>(emulated::pointer_of_rank(this, rank))->arrive();
#else
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
        "}" ::"r"(address()),
        "r"(rank)
        : "memory");
#endif
  }

  __device__ void arrive_expecting(int bytes) {
#ifndef __CUDACC__
    state_.bytes += bytes;
    arrive();
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()), "r"(bytes) : "memory");
#endif
  }

  // Until the latest phase of this parity has ended.
  __device__ void wait(int parity) {
#ifndef __CUDACC__
    if (state_.bytes == -1) emulated::fail("Barrier: it was not initialized");
    while (state_.parity == parity) emulated::wait_on(this);
#else
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(address()),
        "r"(parity)
        : "memory");
#endif
  }

#ifndef __CUDACC__
  void land(int bytes) {
    state_.bytes -= bytes;
    end_phase();
  }

 private:
  struct State {
    int32_t bytes;
    int16_t pending;
    uint16_t arrivals : 15, parity : 1;
  };

  void end_phase() {
    if (state_.pending > 0 || state_.bytes != 0) return;
    state_.pending = static_cast<int16_t>(state_.arrivals);
    state_.parity ^= 1;
    emulated::wake(this);
  }

  State state_;
#else
  __device__ unsigned address() const { return static_cast<unsigned>(__cvta_generic_to_shared(&state_)); }

 private:
  uint64_t state_;
#endif
};
static_assert(sizeof(Barrier) == 8);

// Initialized barriers are seen by copies; by other threads after __syncthreads().
__device__ inline void publish_barriers() {
#ifdef __CUDACC__
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

#ifndef __CUDACC__
// A row of a tile, of what there is of `words` from `word` on; null: of nothing.
inline void land_row(unsigned char* tile, int row, const unsigned char* from, int64_t words, int64_t word) {
  constexpr int kChunk = 16, kRow = kTileWords * 4;
  for (int at = 0; at < kRow; at += kChunk) {
    unsigned char* to = tile + row * kRow + (at ^ row % 8 * kChunk);
    const int64_t begin = word * 4 + at, bytes = from ? most(0, least(kChunk, words * 4 - begin)) : 0;
    std::memset(to, 0, kChunk);
    if (bytes > 0) std::memcpy(to, from + begin, static_cast<size_t>(bytes));
  }
}

inline void land_tile(unsigned char* tile, const EmulatedMap& from, int word, int row) {
  for (int i = 0; i < from.tile_rows; ++i)
    land_row(tile, i, row + i < from.rows ? from.data + (row + i) * from.row_bytes : nullptr, from.words, word);
}

// Goes on from the last pixel of a row to the first of the next one, and from image to image.
inline void land_pixels(unsigned char* tile, const EmulatedPixels& from, int word, GridPixel at, int down, int right) {
  const PixelGrid& g = from.grid;
  for (int i = 0; i < from.tile_pixels; ++i) {
    const int64_t y = at.y + down, x = at.x + right;
    const bool inside = at.image < g.images && y >= 0 && y < g.down.size && x >= 0 && x < g.across.size;
    const int64_t pixel = (at.image * g.down.size + y) * g.across.size + x;
    land_row(tile, i, inside ? from.data + pixel * g.words * 4 : nullptr, g.words, word);
    at.x += static_cast<int>(g.across.step);
    if (at.x < g.across.size + g.across.behind()) continue;
    at.x = static_cast<int>(g.across.first);
    at.y += static_cast<int>(g.down.step);
    if (at.y < g.down.size + g.down.behind()) continue;
    at.y = static_cast<int>(g.down.first);
    ++at.image;
  }
}
#endif

// Begins to copy the tile whose first word and row these are to the same place in the first kBlocks blocks of the
// cluster, each of which has its barrier told; of one block to that block. Places outside of the matrix become zeros,
// and count as bytes that land. One thread does this.
template <int kBlocks>
__device__ void copy_tile(void* shared, const TensorMap& map, int word, int row, Barrier& barrier) {
#ifndef __CUDACC__
  EmulatedMap from;
  std::memcpy(&from, map.bytes, sizeof from);
  if (emulated::shared_address(shared) % kTileAlign != 0) emulated::fail("copy_tile: the tile is not aligned");
  for (int i = 0; i < kBlocks; ++i) {
    const int rank = kBlocks == 1 ? emulated::cluster_rank() : i;
    auto* to = static_cast<unsigned char*>(emulated::pointer_of_rank(shared, rank));
    auto* told = static_cast<Barrier*>(emulated::pointer_of_rank(&barrier, rank));
    emulated::copy_apart([=] {
      land_tile(to, from, word, row);
      told->land(from.tile_rows * kTileWords * 4);
    });
  }
#else
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (kBlocks == 1) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
        "[%4];" ::"r"(to),
        "l"(&map), "r"(word), "r"(row), "r"(barrier.address())
        : "memory");
  } else {
    constexpr uint16_t kAll = (1 << kBlocks) - 1;
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(&map), "r"(word), "r"(row), "r"(barrier.address()), "h"(kAll)
        : "memory");
  }
#endif
}

// The same of pixels of a grid, row after row from this one on, each `down` and `right` further: words of them from
// `word` on, to this block. Pixels outside of an image, and those after the last image, are zeros.
__device__ inline void copy_pixels(void* shared, const TensorMap& map, int word, GridPixel first, int down, int right,
                                   Barrier& barrier) {
#ifndef __CUDACC__
  EmulatedPixels from;
  std::memcpy(&from, map.bytes, sizeof from);
  if (emulated::shared_address(shared) % kTileAlign != 0) emulated::fail("copy_pixels: the tile is not aligned");
  emulated::copy_apart([=, told = &barrier] {
    land_pixels(static_cast<unsigned char*>(shared), from, word, first, down, right);
    told->land(from.tile_pixels * kTileWords * 4);
  });
#else
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
      "%5}], [%6], {%7, %8};" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
      "l"(&map), "r"(word), "r"(first.x), "r"(first.y), "r"(first.image), "r"(barrier.address()),
      "h"(static_cast<uint16_t>(right)), "h"(static_cast<uint16_t>(down))
      : "memory");
#endif
}

}  // namespace quernel::cuda
