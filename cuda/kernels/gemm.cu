// Products of matrices in fp32 and float64 on the mainloop of tile.h, with the fused epilogue. Operands are read as
// they lie: A with any strides, B packed by columns of one cache line, as plain rows, or with any strides; both may
// broadcast over batches.
#include "core/math.h"
#include "kernels/args/matmul.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

template <class V, bool kTall>
struct Gemm {
  using T = V;
  static constexpr bool kRowsAdjacent = kTall;

  GemmArgs g;
  int64_t m, n, k, batches;
  int64_t batch = 0;

  Gemm(const GemmArgs& args, int64_t batches_) : g(args), m(args.m), n(args.n), k(args.k), batches(batches_) {}

  __device__ void enter(int64_t index) {
    batch = index;
    const T *a = static_cast<const T*>(g.a), *b = static_cast<const T*>(g.b);
    for (int d = g.batch_rank - 1; d >= 0; --d) {
      a += index % g.batch_dims[d] * g.a_batch[d];
      b += index % g.batch_dims[d] * g.b_batch[d];
      index /= g.batch_dims[d];
    }
    g.a = a;
    g.b = b;
  }

  struct Row {
    const T* start;  // null: beyond the last
  };
  __device__ Row row(int64_t i) const { return {i < m ? static_cast<const T*>(g.a) + i * g.a_row : nullptr}; }
  struct Depth {
    int64_t k;
  };
  __device__ Depth depth(int64_t at) const { return {at}; }
  __device__ void advance(Depth& d, int64_t by) const { d.k += by; }

  __device__ T a(const Row& r, const Depth& d) const { return r.start && d.k < k ? r.start[d.k * g.a_col] : T(0); }
  __device__ T b(const Depth& d, int64_t column) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    if (d.k >= k || column >= n) return T(0);
    const int64_t at = g.pack ? column * g.b_col : column / kWidth * g.group + column % kWidth;
    return static_cast<const T*>(g.b)[at + d.k * g.b_row];
  }
  __device__ void store(int64_t r, int64_t column, T sum) const {
    const int64_t i = (batch * m + r) * n + column;
    static_cast<T*>(g.c)[i] = finished(g, sum, i, column);
  }
};

template <class T>
Status run(const GemmArgs& g, const Ctx& ctx) {
  int64_t batches = 1;
  for (int d = 0; d < g.batch_rank; ++d) batches *= g.batch_dims[d];
  if (g.a_col == 1) {
    multiply(ctx, Gemm<T, false>(g, batches));
  } else {
    multiply(ctx, Gemm<T, true>(g, batches));
  }
  return {};
}

}  // namespace

Status gemm_f32(const GemmArgs& g, Range, const Ctx& ctx) { return run<float>(g, ctx); }
Status gemm_f64(const GemmArgs& g, Range, const Ctx& ctx) { return run<double>(g, ctx); }

}  // namespace quernel::cuda
