// int8 products on the mainloop of tile.h: bytes are widened on their way into shared memory, sums are exact.
#include "kernels/requantize.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

struct QGemm {
  using T = int;
  static constexpr bool kRowsAdjacent = false;

  QGemmArgs g;
  int64_t m, n, k, groups, batches = 1;

  explicit QGemm(const QGemmArgs& args) : g(args), m(args.m), n(args.n), k(args.k), groups(ceil_div(args.k, 4)) {}

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

  __device__ int a(const Row& r, const Depth& d) const { return r.start && d.k < k ? r.start[d.k] : 0; }
  __device__ int b(const Depth& d, int64_t column) const {
    return d.k < k && column < n ? packed_weight(g.b, d.k, groups, column) : 0;
  }
  __device__ void store(int64_t r, int64_t column, int sum) const {
    put_quantized(g, g.y_float, sum, column, g.c, r * g.ldc + column);
  }
};

}  // namespace

Status gemm_u8s8(const QGemmArgs& g, Range, const Ctx& ctx) {
  multiply(ctx, QGemm(g));
  return {};
}

}  // namespace quernel::cuda
