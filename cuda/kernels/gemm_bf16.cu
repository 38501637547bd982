// Products of bfloat16 and of float16 with sums in fp32, on the mainloops of tensor_tile.h and warpgroup_tile.h.
// Operands are rows, K padded with zeros, as args/bf16.h has them for A: tensor cores take the columns of B along k
// too.
#include "core/math.h"
#include "kernels/args/bf16.h"
#include "kernels/warpgroup_tile.h"

namespace quernel::cuda {
namespace {

// E: Bf16 or F16. With kAligned rows of A begin at multiples of 16 bytes.
template <class E, bool kAligned>
struct HalfGemm {
  using Element = E;
  using Columns = AlongK;
  static constexpr int kChunk = kAligned ? 4 : 1, kBChunk = 4;

  Bf16GemmArgs g;
  int64_t m, n, k, batches = 1;

  explicit HalfGemm(const Bf16GemmArgs& args) : g(args), m(args.m), n(args.n), k(args.k / 2) {}

  __device__ void enter(int64_t) {}

  struct Row {
    const uint16_t* start;  // null: beyond the last
  };
  __device__ Row row(int64_t i) const { return {i < m ? static_cast<const uint16_t*>(g.a) + i * g.k : nullptr}; }
  struct Depth {
    int64_t k;
  };
  __device__ Depth depth(int64_t at) const { return {at}; }
  __device__ void advance(Depth& d, int64_t by) const { d.k += by; }

  __device__ void copy_a(AsyncCopies& copies, unsigned* to, const Row& r, const Depth& d) const {
    const uint16_t* from = r.start && d.k < k ? r.start + 2 * d.k : nullptr;
    if constexpr (kAligned) {
      copy_chunk<kChunk>(copies, to, from);
    } else {
      *to = from ? from[0] | unsigned{from[1]} << 16 : 0;
    }
  }
  __device__ const unsigned* b(const Depth& d, int64_t column) const {
    return d.k < k && column < n ? static_cast<const unsigned*>(g.b) + column * k + d.k : nullptr;
  }
  __device__ void store(int64_t r, int64_t column, float sum) const {
    const int64_t i = r * n + column;
    if (g.dtype == DType::kFloat32) {
      static_cast<float*>(g.c)[i] = finished(g, sum, i, column);
      return;
    }
    const float v = with_addends(sum, bias(column), static_cast<const uint16_t*>(g.residual), i);
    if (g.pre) static_cast<uint16_t*>(g.pre)[i] = E::from(v);
    static_cast<uint16_t*>(g.c)[i] = E::from(activate(g.activation, v));
  }

  // For warpgroup_tile.h.
  bool describe_a(TensorMap* map, int rows) const { return device_encode(map, g.a, k, m, k * 4, rows); }
  using Slice = MatrixSlice;
  __device__ Slice first_slice(int64_t r) const { return {static_cast<int>(r)}; }
  __device__ void copy_slice(Slice& at, void* to, const TensorMap& map, Barrier& full) const { at.copy(to, map, full); }
  using Place = RowPlace;
  __device__ Place place(int64_t r) const { return {r * n}; }
  __device__ void next_row(Place& p) const { p.start += n; }
  using TwoColumns = TwoFloats;
  __device__ TwoColumns columns(int64_t column) const {
    const int64_t next = column + 1 < n ? column + 1 : column;
    return {{bias(column), bias(next)}, next > column};
  }
  __device__ bool is_light() const { return cuda::is_light(g); }
  template <bool kLight>
  __device__ void store_two(int64_t i, const TwoColumns& c, Pair<float> sums, bool in_pairs) const {
    if (g.dtype == DType::kFloat32) return put_two_floats<kLight>(g, g.c, i, c, sums, in_pairs);
    const auto* residual = static_cast<const uint16_t*>(g.residual);
    const Pair<float> v{with_addends(sums.first, c.bias[0], residual, i),
                        with_addends(sums.second, c.bias[1], residual, i + c.has_second)};
    if (g.pre)
      put_two(static_cast<uint16_t*>(g.pre) + i, {E::from(v.first), E::from(v.second)}, in_pairs, c.has_second);
    put_two(static_cast<uint16_t*>(g.c) + i,
            {E::from(activated<kLight>(g, v.first)), E::from(activated<kLight>(g, v.second))}, in_pairs, c.has_second);
  }

 private:
  // The value where separate ops would store it.
  static __device__ float rounded(float x) { return E::template to<float>(E::from(x)); }
  __device__ float bias(int64_t column) const {
    if (!g.bias) return 0.f;
    return g.dtype == DType::kFloat32 ? static_cast<const float*>(g.bias)[column]
                                      : E::template to<float>(static_cast<const uint16_t*>(g.bias)[column]);
  }
  __device__ float with_addends(float sum, float bias, const uint16_t* residual, int64_t i) const {
    const float v = rounded(g.bias ? sum + bias : sum);
    return residual ? rounded(v + E::template to<float>(residual[i])) : v;
  }
};

// A thread an element of the result.
template <class T>
struct Pack {
  Bf16PackArgs p;
  int64_t padded;  // k

  __device__ void operator()(int64_t at) const {
    const int64_t row = at / padded, k = at % padded;
    uint16_t value = 0;
    if (row < p.rows && k < p.k) {
      const T x = static_cast<const T*>(p.src)[row * p.src_row + k * p.src_k];
      if constexpr (sizeof(T) == 2) {
        value = x;
      } else {
        value = to_bf16(x);
      }
    }
    static_cast<uint16_t*>(p.dst)[at] = value;
  }
};

template <class E>
Status multiply(const Bf16GemmArgs& g, const Ctx& ctx) {
  const bool aligned = are_vectors(g.a, {g.k * 2});
  if (suits_warpgroups(g.n, g.k / 2)) {
    HalfGemm<E, true> product(g);
    if (!aligned) {
      const Bf16PackArgs copy{.src = g.a, .dst = ctx.scratch, .rows = g.m, .k = g.k, .src_row = g.k, .src_k = 1};
      for_each(ctx, g.m * g.k, Pack<uint16_t>{copy, g.k});
      product.g.a = ctx.scratch;
    }
    const int64_t bytes = g.dtype == DType::kFloat32 ? 4 : 2;
    multiply_on_warpgroups(ctx, product, g.b, are_pairs(g.c, bytes, g.n) && are_pairs(g.pre, bytes, g.n));
  } else if (aligned) {
    multiply_on_tensor_cores(ctx, HalfGemm<E, true>(g));
  } else {
    multiply_on_tensor_cores(ctx, HalfGemm<E, false>(g));
  }
  return {};
}

}  // namespace

// Rows of A that no tile can be copied of are copied into scratch memory first: other kernels may add up otherwise.
int64_t gemm_bf16_scratch(const Bf16GemmArgs& g) {
  return suits_warpgroups(g.n, g.k / 2) && !are_vectors(g.a, {g.k * 2}) ? g.m * g.k * 2 : 0;
}
int64_t gemm_f16_scratch(const Bf16GemmArgs& g) { return gemm_bf16_scratch(g); }

Status gemm_bf16(const Bf16GemmArgs& g, Range, const Ctx& ctx) { return multiply<Bf16>(g, ctx); }
Status gemm_f16(const Bf16GemmArgs& g, Range, const Ctx& ctx) { return multiply<F16>(g, ctx); }

Status pack_bf16(const Bf16PackArgs& p, Range, const Ctx& ctx) {
  const int64_t padded = ceil_div(p.k, kBf16Block) * kBf16Block;
  const int64_t rows = p.as_columns ? ceil_div(p.rows, kBf16Group) * kBf16Group : p.rows;
  if (p.dtype == DType::kFloat32) {
    for_each(ctx, rows * padded, Pack<float>{p, padded});
  } else {
    for_each(ctx, rows * padded, Pack<uint16_t>{p, padded});
  }
  return {};
}

}  // namespace quernel::cuda
