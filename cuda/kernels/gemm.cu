// Products of matrices in fp32 and float64 on the mainloop of tile.h, with the fused epilogue. Operands are read as
// they lie: A with any strides, B packed by columns of one cache line, as plain rows, or with any strides; both may
// broadcast over batches. Where tf32 is allowed, A by rows and B packed or by rows go to the one of tensor_tile.h.
#include "core/math.h"
#include "kernels/args/matmul.h"
#include "kernels/tensor_tile.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

// The chosen matrices of a stack.
template <class V>
struct Matrices {
  using T = V;

  GemmArgs g;
  const T *left, *right;
  int64_t m, n, k, batches;
  int64_t batch = 0;

  Matrices(const GemmArgs& args, int64_t batches_)
      : g(args),
        left(static_cast<const T*>(args.a)),
        right(static_cast<const T*>(args.b)),
        m(args.m),
        n(args.n),
        k(args.k),
        batches(batches_) {}

  __device__ void enter(int64_t index) {
    batch = index;
#pragma unroll
    for (int d = kArgsRank - 1; d >= 0; --d) {  // known indices: the arguments stay where they are
      if (d >= g.batch_rank) continue;
      left += index % g.batch_dims[d] * g.a_batch[d];
      right += index % g.batch_dims[d] * g.b_batch[d];
      index /= g.batch_dims[d];
    }
  }

  struct Row {
    const T* start;  // null: beyond the last
  };
  __device__ Row row(int64_t i) const { return {i < m ? left + i * g.a_row : nullptr}; }
  struct Depth {
    int64_t k;
  };
  __device__ Depth depth(int64_t at) const { return {at}; }
  __device__ void advance(Depth& d, int64_t by) const { d.k += by; }

  __device__ void store(int64_t r, int64_t column, T sum) const {
    const int64_t i = (batch * m + r) * n + column;
    static_cast<T*>(g.c)[i] = finished(g, sum, i, column);
  }
};

template <class T, bool kTall>
struct Gemm : Matrices<T> {
  using Base = Matrices<T>;
  static constexpr bool kRowsAdjacent = kTall;
  using Base::Base;

  __device__ T a(const typename Base::Row& r, const typename Base::Depth& d) const {
    return r.start && d.k < this->k ? r.start[d.k * this->g.a_col] : T(0);
  }
  __device__ T b(const typename Base::Depth& d, int64_t column) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    if (d.k >= this->k || column >= this->n) return T(0);
    const GemmArgs& g = this->g;
    return this->right[(g.pack ? column * g.b_col : column / kWidth * g.group + column % kWidth) + d.k * g.b_row];
  }
};

// With kAligned chunks of four along k are vectors.
template <bool kAligned>
struct Tf32Gemm : Matrices<float> {
  using Element = Tf32;
  using Columns = Across;
  static constexpr int kChunk = kAligned ? 4 : 1;
  using Matrices::Matrices;

  __device__ void copy_a(AsyncCopies& copies, unsigned* to, const Row& r, const Depth& d) const {
    copy_chunk<kChunk>(copies, to, r.start && d.k < k ? r.start + d.k : nullptr);
  }
  __device__ const unsigned* b(const Depth& d, int64_t column) const {
    if (d.k >= k || column >= n) return nullptr;
    constexpr int64_t kWidth = kPackWidth<float>;
    const float* from = right + column / kWidth * g.group + column % kWidth + d.k * g.b_row;
    return reinterpret_cast<const unsigned*>(from);
  }
};

// Whether chunks of four of an operand are vectors; `stride` is that of rows, in floats.
bool has_vectors(const void* data, int64_t stride, const int64_t (&batch)[kArgsRank], int rank) {
  bool yes = are_vectors(data, {stride * 4});
  for (int d = 0; d < rank; ++d) yes = yes && batch[d] % 4 == 0;
  return yes;
}

// Runs it where it may be done in tf32.
bool multiply_in_tf32(const Ctx& ctx, const GemmArgs& g, int64_t batches) {
  if (!uses_tf32() || g.a_col != 1 || g.pack || !has_vectors(g.b, g.b_row, g.b_batch, g.batch_rank)) return false;
  if (g.k % 4 == 0 && has_vectors(g.a, g.a_row, g.a_batch, g.batch_rank))
    multiply_on_tensor_cores(ctx, Tf32Gemm<true>(g, batches));
  else
    multiply_on_tensor_cores(ctx, Tf32Gemm<false>(g, batches));
  return true;
}

template <class T>
Status run(const GemmArgs& g, const Ctx& ctx) {
  int64_t batches = 1;
  for (int d = 0; d < g.batch_rank; ++d) batches *= g.batch_dims[d];
  if constexpr (sizeof(T) == 4) {
    if (multiply_in_tf32(ctx, g, batches)) return {};
  }
  if (g.a_col == 1)
    multiply(ctx, Gemm<T, false>(g, batches));
  else
    multiply(ctx, Gemm<T, true>(g, batches));
  return {};
}

}  // namespace

Status gemm_f32(const GemmArgs& g, Range, const Ctx& ctx) { return run<float>(g, ctx); }
Status gemm_f64(const GemmArgs& g, Range, const Ctx& ctx) { return run<double>(g, ctx); }

}  // namespace quernel::cuda
