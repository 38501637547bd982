// Convolution and its adjoint as implicit products on the mainloop of tile.h: rows are result pixels, columns output
// channels of a group, k runs over (kernel row, kernel column, channel), see conv_tile.h. Nothing is unfolded: a thread
// remembers where its pixel's window begins and which tap it is at. Where tf32 is allowed, on that of tensor_tile.h.
#include "core/math.h"
#include "kernels/conv_tile.h"
#include "kernels/tensor_tile.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

// Images and packed weights of the chosen group.
template <class V, bool kAdjoint>
struct Images : Windows<kAdjoint> {
  using T = V;
  using Base = Windows<kAdjoint>;

  ConvArgs args;
  const T *x, *w;

  explicit Images(const ConvArgs& a)
      : Base(a.s), args(a), x(static_cast<const T*>(a.x)), w(static_cast<const T*>(a.w)) {}

  __device__ void enter(int64_t batch) {
    constexpr int64_t kWidth = kPackWidth<T>;
    Base::enter(batch);
    w += this->group * ceil_div(this->n, kWidth) * kWidth * this->weight_rows();
    x += this->group * this->channels;
  }
  __device__ void store(int64_t r, int64_t column, T sum) const {
    const int64_t channel = this->group * this->n + column;
    const int64_t i = this->pixel(r) * this->n * this->s.groups + channel;
    static_cast<T*>(args.y)[i] = finished(args, sum, i, channel);
  }

  // Of the source; -1: zero.
  __device__ int64_t place(const typename Base::Row& r, const typename Base::Depth& d) const {
    return this->has(r, d) ? this->element(r, d) : -1;
  }
  // Null: zero.
  __device__ const T* weight(const typename Base::Depth& d, int64_t column) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    if (d.k >= this->k || column >= this->n) return nullptr;
    return w + (column / kWidth * this->weight_rows() + this->weight_row(d)) * kWidth + column % kWidth;
  }
};

template <class T, bool kAdjoint>
struct Conv : Images<T, kAdjoint> {
  using Base = Images<T, kAdjoint>;
  using Base::Base;
  using typename Base::Depth, typename Base::Row;

  __device__ T a(const Row& r, const Depth& d) const {
    const int64_t at = this->place(r, d);
    return at < 0 ? T(0) : this->x[at];
  }
  __device__ T b(const Depth& d, int64_t column) const {
    const T* at = this->weight(d, column);
    return at ? *at : T(0);
  }
};

// With kAligned chunks of four channels are vectors.
template <bool kAligned, bool kAdjoint>
struct Tf32Conv : Images<float, kAdjoint> {
  using Base = Images<float, kAdjoint>;
  using Base::Base;
  using typename Base::Depth, typename Base::Row;
  using Element = Tf32;
  using Columns = Across;
  static constexpr int kChunk = kAligned ? 4 : 1;

  __device__ void copy_a(AsyncCopies& copies, unsigned* to, const Row& r, const Depth& d) const {
    const int64_t at = this->place(r, d);
    copy_chunk<kChunk>(copies, to, at < 0 ? nullptr : this->x + at);
  }
  __device__ const unsigned* b(const Depth& d, int64_t column) const {
    return reinterpret_cast<const unsigned*>(this->weight(d, column));
  }
};

template <bool kAdjoint>
void multiply_in_tf32(const Ctx& ctx, const ConvArgs& a) {
  if (are_vectors(a.x, {(kAdjoint ? a.s.o : a.s.c) / a.s.groups * 4}))
    multiply_on_tensor_cores(ctx, Tf32Conv<true, kAdjoint>(a));
  else
    multiply_on_tensor_cores(ctx, Tf32Conv<false, kAdjoint>(a));
}

template <class T, bool kAdjoint>
Status run(const ConvArgs& a, const Ctx& ctx) {
  if (sizeof(T) == 4 && uses_tf32() && are_vectors(a.w, {}))
    multiply_in_tf32<kAdjoint>(ctx, a);
  else
    multiply(ctx, Conv<T, kAdjoint>(a));
  return {};
}

}  // namespace

Status conv2d_f32(const ConvArgs& a, Range, const Ctx& ctx) { return run<float, false>(a, ctx); }
Status conv2d_f64(const ConvArgs& a, Range, const Ctx& ctx) { return run<double, false>(a, ctx); }
Status conv2d_grad_input_f32(const ConvArgs& a, Range, const Ctx& ctx) { return run<float, true>(a, ctx); }
Status conv2d_grad_input_f64(const ConvArgs& a, Range, const Ctx& ctx) { return run<double, true>(a, ctx); }

}  // namespace quernel::cuda
