// int8 products on the mainloops of tensor_tile.h and warpgroup_tile.h; sums are exact.
#include "kernels/requantize.h"
#include "kernels/warpgroup_tile.h"

namespace quernel::cuda {
namespace {

// With kAligned K is a multiple of 16, and rows of A begin at multiples of 16 bytes. Else words are put together.
template <bool kAligned>
struct QGemm {
  using Element = Bytes;
  using Columns = AlongK;
  static constexpr int kChunk = kAligned ? 4 : 1, kBChunk = kChunk;

  QGemmArgs g;
  int64_t m, n, k, batches = 1;

  explicit QGemm(const QGemmArgs& args) : g(args), m(args.m), n(args.n), k(ceil_div(args.k, 4)) {}

  __device__ void enter(int64_t) {}

  struct Row {
    const uint8_t* start;  // null: beyond the last
  };
  __device__ Row row(int64_t i) const { return {i < m ? static_cast<const uint8_t*>(g.a) + i * g.lda : nullptr}; }
  struct Depth {
    int64_t k;
  };
  __device__ Depth depth(int64_t at) const { return {at}; }
  __device__ void advance(Depth& d, int64_t by) const { d.k += by; }

  __device__ void copy_a(AsyncCopies& copies, unsigned* to, const Row& r, const Depth& d) const {
    if constexpr (kAligned) {
      copy_chunk<kChunk>(copies, to, r.start && d.k < k ? r.start + 4 * d.k : nullptr);
    } else {
      unsigned word = 0;
      for (int i = 0; i < 4; ++i)
        if (r.start && 4 * d.k + i < g.k) word |= unsigned{r.start[4 * d.k + i]} << 8 * i;
      *to = word;
    }
  }
  __device__ const unsigned* b(const Depth& d, int64_t column) const {
    return d.k < k && column < n ? static_cast<const unsigned*>(g.b) + column * k + d.k : nullptr;
  }
  __device__ void store(int64_t r, int64_t column, int sum) const {
    put_quantized(g, g.y_float, sum, column, g.c, r * g.ldc + column);
  }

  // For warpgroup_tile.h.
  bool describe_a(TensorMap* map, int rows) const { return device_encode(map, g.a, k, m, g.lda, rows); }
  using Slice = MatrixSlice;
  __device__ Slice first_slice(int64_t r) const { return {static_cast<int>(r)}; }
  __device__ void copy_slice(Slice& at, void* to, const TensorMap& map, Barrier& full) const { at.copy(to, map, full); }
  using Place = RowPlace;
  __device__ Place place(int64_t r) const { return {r * g.ldc}; }
  __device__ void next_row(Place& p) const { p.start += g.ldc; }
  using TwoColumns = TwoQuantized;
  __device__ TwoColumns columns(int64_t column) const { return two_quantized(g, column, n); }
  __device__ static constexpr bool is_light() { return true; }
  template <bool kLight>
  __device__ void store_two(int64_t i, const TwoColumns& c, Pair<int> sums, bool in_pairs) const {
    put_two_quantized(g, g.y_float, c, sums, g.c, i, in_pairs);
  }
};

}  // namespace

Status gemm_u8s8(const QGemmArgs& g, Range, const Ctx& ctx) {
  const bool aligned = are_vectors(g.a, {g.k, g.lda});
  if (aligned && suits_warpgroups(g.n, g.k / 4))
    multiply_on_warpgroups(ctx, QGemm<true>(g), g.b, are_pairs(g.c, g.y_float ? 4 : 1, g.ldc));
  else if (aligned)
    multiply_on_tensor_cores(ctx, QGemm<true>(g));
  else
    multiply_on_tensor_cores(ctx, QGemm<false>(g));
  return {};
}

}  // namespace quernel::cuda
