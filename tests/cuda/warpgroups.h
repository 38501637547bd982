// A product of bfloat16, float16 or bytes by every primitive of core/tma.h and core/wgmma.h: C (m, kCols) = A (m, k) B
// (kCols, k), rows along k in words of 32 bits, m at most 64. One warpgroup multiplies, a thread beside it copies
// slices into one of two places while the other is multiplied. A Slip is a bug that a test must notice.
#pragma once
#include "core/wgmma.h"

namespace quernel::cuda {

enum class Slip { kNone, kNoFull, kFullTooLate, kNoEmpty, kEmptyTooEarly, kNoWait, kNoBegin };

// What a word holds.
struct RingBf16 {
  using Sum = float;
  static constexpr int kOf = 2;
  static unsigned bits(int value) { return bf16_of(value); }
  template <int kSums>
  static __device__ void multiply(WarpgroupProducts& p, float (&c)[kSums], uint64_t a, uint64_t b) {
    p.multiply_bf16(c, a, b);
  }
};
struct RingF16 {
  using Sum = float;
  static constexpr int kOf = 2;
  static unsigned bits(int value) { return to_f16(static_cast<float>(value)); }
  template <int kSums>
  static __device__ void multiply(WarpgroupProducts& p, float (&c)[kSums], uint64_t a, uint64_t b) {
    p.multiply_f16(c, a, b);
  }
};
struct RingBytes {
  using Sum = int;
  static constexpr int kOf = 4;
  static unsigned bits(int value) { return static_cast<uint8_t>(value); }
  template <int kSums>
  static __device__ void multiply(WarpgroupProducts& p, int (&c)[kSums], uint64_t a, uint64_t b) {
    p.multiply_u8s8(c, a, b);
  }
};

template <class Sum>
struct WarpgroupProduct {
  Sum* c;
  int m, words;
};

inline constexpr int kPlaces = 2, kRingBlock = kWarpgroup + kWarp;
template <int kCols>
inline constexpr int kRingBytes = kTileAlign + kPlaces * (64 + kCols) * kTileWords * 4;

template <Slip kSlip, class E, int kCols>
__global__ void __launch_bounds__(kRingBlock)
    multiply_in_ring(WarpgroupProduct<typename E::Sum> p, const __grid_constant__ TensorMap a,
                     const __grid_constant__ TensorMap b) {
  if constexpr (kHasWarpgroups) {
    constexpr int kABytes = 64 * kTileWords * 4, kPlaceBytes = kABytes + kCols * kTileWords * 4;
    __shared__ Barrier full[kPlaces], empty[kPlaces];
    auto* shared = shared_memory<unsigned char>();
    shared += (kTileAlign - reinterpret_cast<uintptr_t>(shared) % kTileAlign) % kTileAlign;
    const int t = static_cast<int>(threadIdx.x), slices = (p.words + kTileWords - 1) / kTileWords;
    if (t == 0) {
      for (int i = 0; i < kPlaces; ++i) {
        full[i].init(1);
        empty[i].init(kWarpgroup / kWarp);
      }
      publish_barriers();
    }
    __syncthreads();
    if (t >= kWarpgroup) {
      for (int slice = 0; slice < slices && t == kWarpgroup; ++slice) {
        const int place = slice % kPlaces;
        if (kSlip != Slip::kNoEmpty) empty[place].wait(slice / kPlaces % 2 ^ 1);
        full[place].arrive_expecting(kPlaceBytes);
        copy_tile<1>(shared + place * kPlaceBytes, a, slice * kTileWords, 0, full[place]);
        copy_tile<1>(shared + place * kPlaceBytes + kABytes, b, slice * kTileWords, 0, full[place]);
      }
      return;
    }
    typename E::Sum sums[kCols / 2] = {};
    WarpgroupProducts products;
    for (int slice = 0; slice < slices; ++slice) {
      const int place = slice % kPlaces, parity = slice / kPlaces % 2;
      if (kSlip != Slip::kNoFull && kSlip != Slip::kFullTooLate) full[place].wait(parity);
      if (kSlip != Slip::kNoBegin) products.begin();
      const uint64_t left = tile_descriptor(shared + place * kPlaceBytes);
      const uint64_t right = tile_descriptor(shared + place * kPlaceBytes + kABytes);
      for (int word = 0; word < kTileWords; word += 8)
        E::multiply(products, sums, advanced(left, word), advanced(right, word));
      products.close_group();
      if (kSlip == Slip::kFullTooLate) full[place].wait(parity);
      if (kSlip == Slip::kEmptyTooEarly && t % kWarp == 0) empty[place].arrive();
      if (kSlip == Slip::kEmptyTooEarly) __syncwarp();
      if (kSlip != Slip::kNoWait) products.template wait<0>();
      if (kSlip != Slip::kEmptyTooEarly && t % kWarp == 0) empty[place].arrive();
    }
    for (int i = 0; i < kCols / 2; ++i) {
      const int row = t / kWarp * 16 + t % kWarp / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + t % 4 * 2 + i % 2;
      if (row < p.m) p.c[row * kCols + column] = sums[i];
    }
    if (kSlip == Slip::kNoWait) products.template wait<0>();
  }
}

// Runs it on rows of words; 0 everywhere if the device refuses.
template <Slip kSlip, int kCols, class E, class Sum = typename E::Sum>
std::vector<Sum> multiplied_in_ring(const std::vector<unsigned>& a, const std::vector<unsigned>& b, int m, int words) {
  const DeviceArray<unsigned> da(a), db(b);
  const DeviceArray<Sum> dc(std::vector<Sum>(static_cast<size_t>(m) * kCols, Sum{}));
  TensorMap left, right;
  if (device_encode(&left, da.data, words, m, words * 4, 64) &&
      device_encode(&right, db.data, words, kCols, words * 4, kCols)) {
    auto* kernel = multiply_in_ring<kSlip, E, kCols>;
    allow_shared(kernel, kRingBytes<kCols>);
    launch(context(), kernel, 1, kRingBlock, kRingBytes<kCols>, WarpgroupProduct<Sum>{dc.data, m, words}, left, right);
  }
  return dc.host();
}

// Rows of small integers in words; `at` reads one.
template <class E>
struct Words {
  static constexpr int kOf = E::kOf;
  std::vector<int> values;
  std::vector<unsigned> words;

  Words(int rows, int words_, bool is_signed, unsigned seed)
      : values(small_integers(static_cast<size_t>(rows) * words_ * kOf, 60, seed)),
        words(static_cast<size_t>(rows) * words_) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (!is_signed) values[i] += 60;
      words[i / kOf] |= E::bits(values[i]) << i % kOf * (32 / kOf);
    }
  }
};

template <Slip kSlip, int kCols, class E>
bool is_right_in_ring(int m, int words) {
  const Words<E> a(m, words, false, 11), b(kCols, words, true, 12);
  const auto c = multiplied_in_ring<kSlip, kCols, E>(a.words, b.words, m, words);
  const int k = words * E::kOf;
  bool right = true;
  for (int i = 0; i < m * kCols; ++i) {
    int sum = 0;
    for (int j = 0; j < k; ++j) sum += a.values[i / kCols * k + j] * b.values[i % kCols * k + j];
    right &= c[i] == static_cast<typename E::Sum>(sum);
  }
  return right;
}

// Two blocks of a cluster read tiles of 16 rows, one after the other, of which each block copies half to both. Thread t
// of block b writes the sum of word t % 32 of all rows of tiles, of the upper half if t < 32, times b + 1. kAlone: a
// block waits until it has read its own place, and not until the other one has.
enum class Share { kNone, kAlone };
inline constexpr int kShareRows = 16, kReaders = 2 * kWarp, kShareBytes = kTileAlign + kShareRows * 128 + 2 * 8;

template <Share kSlip>
__global__ void __launch_bounds__(kReaders + kWarp)
    read_shared_tiles(const __grid_constant__ TensorMap map, unsigned* y, int tiles) {
  if constexpr (kHasWarpgroups) {
    auto* tile = shared_memory<unsigned char>();
    tile += (kTileAlign - reinterpret_cast<uintptr_t>(tile) % kTileAlign) % kTileAlign;
    Barrier *full = reinterpret_cast<Barrier*>(tile + kShareRows * 128), *empty = full + 1;
    const int t = static_cast<int>(threadIdx.x), rank = cluster_rank(), half = kShareRows / 2;
    if (t == 0) {
      full->init(1);
      empty->init(kSlip == Share::kAlone ? 2 : 4);
      publish_barriers();
    }
    cluster_barrier();
    if (t >= kReaders) {
      for (int i = 0; i < tiles && t == kReaders; ++i) {
        empty->wait(i % 2 ^ 1);
        full->arrive_expecting(kShareRows * 128);
        copy_tile<2>(tile + rank * half * 128, map, 0, i * kShareRows + rank * half, *full);
      }
    } else {
      unsigned sum = 0;
      for (int i = 0; i < tiles; ++i) {
        full->wait(i % 2);
        for (int row = t / kWarp * half; row < (t / kWarp + 1) * half; ++row)
          sum += *reinterpret_cast<unsigned*>(tile + ((row * 128 + t % kWarp * 4) ^ row % 8 * 16));
        __syncwarp();
        if (kSlip == Share::kAlone && t % kWarp == 0) empty->arrive();
        if (kSlip != Share::kAlone && t % kWarp < 2) empty->arrive_at(t % kWarp);
      }
      y[blockIdx.x * kReaders + t] = sum * (static_cast<unsigned>(rank) + 1);
    }
    cluster_barrier();
  }
}

template <Share kSlip>
bool reads_shared_tiles() {
  constexpr int kTiles = 6, kClusters = 2;
  const std::vector<int> values = small_integers(kTiles * kShareRows * kTileWords, 99, 13);
  const DeviceArray<unsigned> x(std::vector<unsigned>(values.begin(), values.end()));
  const DeviceArray<unsigned> y(std::vector<unsigned>(2 * kClusters * kReaders, 1));
  TensorMap map;
  if (!device_encode(&map, x.data, kTileWords, kTiles * kShareRows, 128, kShareRows / 2)) return false;
  launch_clusters(context(), read_shared_tiles<kSlip>, 2, 2 * kClusters, kReaders + kWarp, kShareBytes, map, y.data,
                  kTiles);
  const std::vector<unsigned> found = y.host();
  bool right = true;
  for (int at = 0; at < 2 * kClusters * kReaders; ++at) {
    int sum = 0;
    for (int row = 0; row < kTiles * kShareRows; ++row)
      if (row % kShareRows / 8 == at % kReaders / kWarp) sum += values[row * kTileWords + at % kWarp];
    right &= found[at] == static_cast<unsigned>(sum * (at / kReaders % 2 + 1));
  }
  return right;
}

// Tiles of pixels of a grid, one after the other: tile i at tap i / kPixelTiles, from its pixel i % kPixelTiles times
// 24 on, second slices of words too. Thread t writes word t of every row to y.
inline constexpr int kPixelTiles = 3, kTilePixels = 24, kPixelBytes = kTileAlign + kTilePixels * 128 + 8;

struct PixelTaps {
  PixelGrid grid;
  int down, across, apart_y, apart_x;  // taps, and how far apart they are
};

__global__ void __launch_bounds__(kWarp)
    read_pixels(const __grid_constant__ TensorMap map, PixelTaps taps, unsigned* y) {
  if constexpr (kHasWarpgroups) {
    auto* tile = shared_memory<unsigned char>();
    tile += (kTileAlign - reinterpret_cast<uintptr_t>(tile) % kTileAlign) % kTileAlign;
    auto* full = reinterpret_cast<Barrier*>(tile + kTilePixels * 128);
    const int t = static_cast<int>(threadIdx.x), slices = static_cast<int>(taps.grid.words) / kTileWords;
    const PixelAxis &down = taps.grid.down, &across = taps.grid.across;
    if (t == 0) {
      full->init(1);
      publish_barriers();
    }
    __syncthreads();
    for (int i = 0; i < kPixelTiles * taps.down * taps.across * slices; ++i) {
      const int64_t pixel = int64_t{i} % kPixelTiles * kTilePixels, line = pixel / across.count;
      const int tap = i / kPixelTiles / slices, word = i / kPixelTiles % slices * kTileWords;
      if (t == 0) {
        const GridPixel first{static_cast<int>(line / down.count),
                              static_cast<int>(down.first + line % down.count * down.step),
                              static_cast<int>(across.first + pixel % across.count * across.step)};
        full->arrive_expecting(kTilePixels * 128);
        copy_pixels(tile, map, word, first, tap / taps.across * taps.apart_y, tap % taps.across * taps.apart_x, *full);
      }
      full->wait(i % 2);
      for (int row = 0; row < kTilePixels; ++row)
        y[(i * kTilePixels + row) * kWarp + t] =
            *reinterpret_cast<unsigned*>(tile + ((row * 128 + t * 4) ^ row % 8 * 16));
      __syncthreads();
    }
  }
}

inline bool reads_pixels(const PixelTaps& taps) {
  const auto [images, words, down, across] = taps.grid;
  const int slices = static_cast<int>(words) / kTileWords, tiles = kPixelTiles * taps.down * taps.across * slices;
  const std::vector<int> values = small_integers(static_cast<size_t>(images * down.size * across.size * words), 99, 14);
  const DeviceArray<unsigned> x(std::vector<unsigned>(values.begin(), values.end()));
  const DeviceArray<unsigned> y(std::vector<unsigned>(static_cast<size_t>(tiles) * kTilePixels * kWarp, 1));
  TensorMap map;
  if (!device_encode_pixels(&map, x.data, taps.grid, kTilePixels)) return false;
  launch(context(), read_pixels, 1, kWarp, kPixelBytes, map, taps, y.data);
  const std::vector<unsigned> found = y.host();
  bool right = true;
  for (size_t at = 0; at < found.size(); ++at) {
    const int64_t i = static_cast<int64_t>(at) / kWarp / kTilePixels, tap = i / kPixelTiles / slices;
    const int64_t pixel = i % kPixelTiles * kTilePixels + static_cast<int64_t>(at) / kWarp % kTilePixels;
    const int64_t word = i / kPixelTiles % slices * kTileWords + static_cast<int64_t>(at) % kWarp;
    const int64_t line = pixel / across.count, image = line / down.count;
    const int64_t row = down.first + line % down.count * down.step + tap / taps.across * taps.apart_y;
    const int64_t column = across.first + pixel % across.count * across.step + tap % taps.across * taps.apart_x;
    const bool inside = image < images && row >= 0 && row < down.size && column >= 0 && column < across.size;
    const int64_t from = ((image * down.size + row) * across.size + column) * words + word;
    right &= found[at] == (inside ? static_cast<unsigned>(values[static_cast<size_t>(from)]) : 0u);
  }
  return right;
}

}  // namespace quernel::cuda
