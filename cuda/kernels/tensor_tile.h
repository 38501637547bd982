// The mainloop of products on tensor cores: int8, bfloat16, float16, and float32 where tf32 is allowed.
//
// All are products of words of 32 bits, which hold one float, two halves or four bytes that follow each other along
// k: an instruction takes eight words along k whatever they hold (core/mma.h). B is rows of words along k, one a
// column; or for tf32, as packed by pack.cu, [N/16][words][16]; or, of bfloat16, rows of columns. A block computes
// kRows x kCols results, a warp of its eight a half by a quarter of them. Slices of A and B, 16 words deep, are copied
// into shared memory by cp.async, two ahead of the one that is multiplied. Places there are exchanged (along_place,
// place) so that neither ldmatrix nor the reads of B meet in a bank. A sum runs over k in order, eight words at a time,
// whatever the tile is: results do not depend on the number of rows.
//
// What is multiplied is a Problem P:
//   using Element                what a word holds: Bytes, Bf16, F16 or Tf32
//   using Columns                how B lies: AlongK, Across or Turned, which say what P has for it
//   static constexpr int kChunk  words of A that are copied at once: 4 or 1
//   void enter(int64_t batch)    chooses one of the products
//   int64_t m, n, k, batches     k in words; m and k of the chosen product; m at most what it was before
//   struct Row; Row row(i)       what a thread remembers of row i of A
//   struct Depth; Depth depth(k); void advance(Depth&, by)    and of a place along k
//   void copy_a(AsyncCopies&, unsigned* to, Row, Depth)       a chunk; beyond m anything finite, beyond k too
//   void store(int64_t row, int64_t column, Sum sum)
#pragma once
#include <initializer_list>

#include "core/device.h"
#include "core/mma.h"
#include "core/types.h"

namespace quernel::cuda {

struct Bytes {
  using Sum = int;
  static __device__ unsigned ready(unsigned word) { return word; }
  static __device__ void multiply(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_u8s8(c, a, b);
  }
};
struct Bf16 : BFloat16 {
  using Sum = float;
  static __device__ unsigned ready(unsigned word) { return word; }
  static __device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_bf16(c, a, b);
  }
};
struct F16 : Float16 {
  using Sum = float;
  static __device__ unsigned ready(unsigned word) { return word; }
  static __device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_f16(c, a, b);
  }
};
struct Tf32 {
  using Sum = float;
  static __device__ unsigned ready(unsigned word) { return to_tf32(word); }
  static __device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    multiply_tf32(c, a, b);
  }
};

inline constexpr int kSlice = 16, kStages = 3;

// Copies a chunk of A from memory that is aligned to it, or fills it.
template <int kChunk>
__device__ void copy_chunk(AsyncCopies& copies, unsigned* to, const void* from, unsigned fill = 0) {
  if (from) {
    copies.template copy<kChunk * 4>(to, from);
  } else {
    for (int i = 0; i < kChunk; ++i) to[i] = fill;
  }
}

// Of A, and of B along k.
__device__ constexpr int along_place(int row, int word) { return row * kSlice + (word ^ row / 2 % 4 * 4); }

// Each way that B may lie has what a thread copies of a slice (Copies), and what an instruction takes of kN groups of
// eight columns (load).

// Rows of words along k, one a column: a thread copies one place along k in some columns. P has
//   static constexpr int kBChunk                words that are copied at once: 4 or 1
//   const unsigned* b(Depth, int64_t column)    a chunk, aligned to its size; null beyond k and n: zeros
struct AlongK {
  template <class P, int kCols>
  class Copies {
   public:
    __device__ Copies(const P& p, int64_t first_column) : first_(first_column) {
      if (p.k > 0) depth_ = p.depth(word());
    }

    __device__ void fetch(const P& p, AsyncCopies& copies, unsigned* b) {
      for (int i = 0; i < kCols / kStep; ++i) {
        const int column = static_cast<int>(threadIdx.x) / kAcross + i * kStep;
        const unsigned* from = p.b(depth_, first_ + column);
        copies.template copy<P::kBChunk * 4>(b + along_place(column, word()), from, from != nullptr);
      }
      p.advance(depth_, kSlice);
    }

   private:
    static constexpr int kAcross = kSlice / P::kBChunk, kStep = kThreads / kAcross;
    static_assert(kCols % kStep == 0);

    __device__ static int word() { return static_cast<int>(threadIdx.x) % kAcross * P::kBChunk; }

    int64_t first_;
    typename P::Depth depth_{};
  };

  template <class E, int kCols, int kN>
  static __device__ void load(const unsigned* b, int word, int column, unsigned (&right)[kN][2]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int j = 0; j < kN; j += 2) {  // a load has two columns' tiles
      unsigned tiles[4];
      load_tiles(tiles, b + along_place(column + j * 8 + lane / 16 * 8 + lane % 8, word + lane / 8 % 2 * 4));
      for (int t = 0; t < 4; ++t) right[j + t / 2][t % 2] = tiles[t];
    }
  }
};

// Packed across columns: four columns at some places along k. P has
//   const unsigned* b(Depth, int64_t column)    a word of four columns, aligned to 16 bytes; null beyond k and n: zeros
struct Across {
  template <int kCols>
  static __device__ constexpr int place(int word, int column) {
    return word * kCols + (column ^ word % 4 * 8);
  }

  template <class P, int kCols>
  class Copies {
   public:
    __device__ Copies(const P& p, int64_t first_column) : first_(first_column) {
      if (p.k <= 0) return;
      for (int i = 0; i < kDepths; ++i) depths_[i] = p.depth(word(i));
    }

    __device__ void fetch(const P& p, AsyncCopies& copies, unsigned* b) {
      const int column = static_cast<int>(threadIdx.x) % kAcross * 4;
      for (int i = 0; i < kDepths; ++i) {
        const unsigned* from = p.b(depths_[i], first_ + column);
        copies.template copy<16>(b + place<kCols>(word(i), column), from, from != nullptr);
        p.advance(depths_[i], kSlice);
      }
    }

   private:
    static constexpr int kAcross = kCols / 4, kStep = kThreads / kAcross, kDepths = kSlice / kStep;

    __device__ static int word(int i) { return static_cast<int>(threadIdx.x) / kAcross + i * kStep; }

    int64_t first_;
    typename P::Depth depths_[kDepths]{};
  };

  template <class E, int kCols, int kN>
  static __device__ void load(const unsigned* b, int word, int column, unsigned (&right)[kN][2]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int j = 0; j < kN; ++j)
      for (int half = 0; half < 2; ++half)
        right[j][half] = E::ready(b[place<kCols>(word + half * 4 + lane % 4, column + j * 8 + lane / 4)]);
  }
};

// Rows of columns of bfloat16, one for each k, which ldmatrix turns: eight columns at some places along k. P has
//   struct Place; Place place(int64_t k); void advance(Place&, int by)    of one k, not of a word
//   void copy_b(AsyncCopies&, unsigned* to, Place, int64_t column)        zeros beyond k; beyond n anything finite
struct Turned {
  template <int kCols>
  static __device__ constexpr int place(int k, int column) {
    return (k * kCols + (column ^ k % 8 * 8)) / 2;
  }

  template <class P, int kCols>
  class Copies {
   public:
    __device__ Copies(const P& p, int64_t first_column) : first_(first_column) {
      if (p.k <= 0) return;
      for (int i = 0; i < kPlaces; ++i) places_[i] = p.place(k(i));
    }

    __device__ void fetch(const P& p, AsyncCopies& copies, unsigned* b) {
      const int column = static_cast<int>(threadIdx.x) % kAcross * 8;
#pragma unroll  // places stay in registers
      for (int i = 0; i < kPlaces; ++i) {
        p.copy_b(copies, b + place<kCols>(k(i), column), places_[i], first_ + column);
        p.advance(places_[i], 2 * kSlice);
      }
    }

   private:
    static constexpr int kAcross = kCols / 8, kStep = kThreads / kAcross, kPlaces = 2 * kSlice / kStep;

    __device__ static int k(int i) { return static_cast<int>(threadIdx.x) / kAcross + i * kStep; }

    int64_t first_;
    typename P::Place places_[kPlaces]{};
  };

  template <class E, int kCols, int kN>
  static __device__ void load(const unsigned* b, int word, int column, unsigned (&right)[kN][2]) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (int j = 0; j < kN; j += 2) {
      unsigned tiles[4];
      load_tiles_turned(tiles, b + place<kCols>(2 * word + lane % 16, column + j * 8 + lane / 16 * 8));
      for (int t = 0; t < 4; ++t) right[j + t / 2][t % 2] = tiles[t];
    }
  }
};

// The share of a warp, whose rows and columns begin at `row` and `column`, of the product of a slice.
template <class E, class Columns, int kCols, int kM, int kN>
__device__ void multiply_slice(const unsigned* a, const unsigned* b, int row, int column,
                               typename E::Sum (&sums)[kM][kN][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int word = 0; word < kSlice; word += 8) {
    unsigned left[kM][4], right[kN][2];
    for (int i = 0; i < kM; ++i) {
      load_tiles(left[i], a + along_place(row + i * 16 + lane % 16, word + lane / 16 * 4));
      for (unsigned& x : left[i]) x = E::ready(x);
    }
    Columns::template load<E, kCols>(b, word, column, right);
    for (int i = 0; i < kM; ++i)
      for (int j = 0; j < kN; ++j) E::multiply(sums[i][j], left[i], right[j]);
  }
}

template <int kRows, int kCols>
inline constexpr int kTensorTileBytes = kStages * (kRows + kCols) * kSlice * 4;

// Results go out through the same shared memory, 16 rows of each warp at a time, so that neighbouring threads write
// neighbouring columns, and what becomes of a sum is compiled once for each of these.
template <class P, int kRows, int kCols, class Sum, int kM, int kN>
__device__ void store_tile(const P& p, Sum* staged, int64_t first_row, int64_t first_column,
                           const Sum (&sums)[kM][kN][4]) {
  constexpr int kPitch = kCols + 8, kStaged = 32;  // words; rows
  static_assert(kStaged * kPitch * 4 <= kTensorTileBytes<kRows, kCols>);
  const int t = static_cast<int>(threadIdx.x), warp = t / kWarp;
  const int at_row = warp / 4 * 16 + t % kWarp / 4, at_column = warp % 4 * (kCols / 4) + t % 4 * 2;
#pragma unroll
  for (int i = 0; i < kM; ++i) {
    for (int j = 0; j < kN; ++j)
      for (int c = 0; c < 4; ++c) staged[(at_row + c / 2 * 8) * kPitch + at_column + j * 8 + c % 2] = sums[i][j][c];
    __syncthreads();
#pragma unroll 1
    for (int at = t; at < kStaged * kCols; at += kThreads) {
      const int from = at / kCols;
      const int64_t r = first_row + from / 16 * (kRows / 2) + i * 16 + from % 16, c = first_column + at % kCols;
      if (r < p.m && c < p.n) p.store(r, c, staged[from * kPitch + at % kCols]);
    }
    __syncthreads();
  }
}

template <class P, int kRows, int kCols>
__global__ void __launch_bounds__(kThreads) multiply_words(P p) {
  using E = typename P::Element;
  using Columns = typename P::Columns;
  using Sum = typename E::Sum;
  unsigned* const shared = shared_memory<unsigned>();
  constexpr int kStageWords = (kRows + kCols) * kSlice;
  const int t = static_cast<int>(threadIdx.x);
  const int64_t columns = ceil_div(p.n, kCols), rows = ceil_div(p.m, kRows);
  const int64_t block = blockIdx.x, first_column = block % columns * kCols, first_row = block / columns % rows * kRows;
  p.enter(block / columns / rows);

  // What a thread copies of a slice of A: one place along k in some rows.
  constexpr int kAcross = kSlice / P::kChunk, kARows = kRows * kAcross / kThreads, kAStep = kThreads / kAcross;
  const int a_row = t / kAcross, a_word = t % kAcross * P::kChunk;
  typename P::Row a_rows[kARows];
  typename P::Depth a_depth{};
  for (int i = 0; i < kARows; ++i) a_rows[i] = p.row(first_row + a_row + i * kAStep);
  if (p.k > 0) a_depth = p.depth(a_word);
  typename Columns::template Copies<P, kCols> b_copies(p, first_column);
  AsyncCopies copies;
  const auto fetch = [&](int stage) {
    unsigned* a = shared + stage * kStageWords;
    for (int i = 0; i < kARows; ++i) p.copy_a(copies, a + along_place(a_row + i * kAStep, a_word), a_rows[i], a_depth);
    p.advance(a_depth, kSlice);
    b_copies.fetch(p, copies, a + kRows * kSlice);
  };

  constexpr int kM = kRows / 32, kN = kCols / 32;
  const int warp = t / kWarp, row = warp / 4 * (kRows / 2), column = warp % 4 * (kCols / 4);
  Sum sums[kM][kN][4] = {};
  const int64_t slices = ceil_div(p.k, kSlice);
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < slices) fetch(stage);
    copies.close_group();
  }
  int present = 0, next = kStages - 1;  // stages
  for (int64_t slice = 0; slice < slices; ++slice) {
    copies.template wait<kStages - 2>();
    __syncthreads();  // this slice is there, and the one before it has been read by all
    if (slice + kStages - 1 < slices) fetch(next);
    copies.close_group();
    const unsigned* a = shared + present * kStageWords;
    multiply_slice<E, Columns, kCols>(a, a + kRows * kSlice, row, column, sums);
    present = present + 1 == kStages ? 0 : present + 1;
    next = next + 1 == kStages ? 0 : next + 1;
  }
  __syncthreads();

  store_tile<P, kRows, kCols>(p, reinterpret_cast<Sum*>(shared), first_row, first_column, sums);
}

// Large tiles where they fill the device, small ones elsewhere.
template <class P>
void multiply_on_tensor_cores(const Ctx& ctx, const P& p) {
  if (p.m <= 0 || p.n <= 0 || p.batches <= 0) return;
  const auto tiles = [&](int64_t size) { return ceil_div(p.m, size) * ceil_div(p.n, size) * p.batches; };
  const auto run = [&](auto* kernel, int64_t size, int bytes) {
    launch(ctx, kernel, static_cast<unsigned>(tiles(size)), kThreads, static_cast<size_t>(bytes), p);
  };
  if (p.n > 64 && tiles(128) >= device_multiprocessors())
    run(multiply_words<P, 128, 128>, 128, kTensorTileBytes<128, 128>);
  else
    run(multiply_words<P, 64, 64>, 64, kTensorTileBytes<64, 64>);
}

// Whether vectors of 16 bytes may be read at p and at multiples of these distances, in bytes, from it.
inline bool are_vectors(const void* p, std::initializer_list<int64_t> distances) {
  uint64_t bits = reinterpret_cast<uintptr_t>(p);
  for (const int64_t distance : distances) bits |= static_cast<uint64_t>(distance);
  return bits % 16 == 0;
}

}  // namespace quernel::cuda
