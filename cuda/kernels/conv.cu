// Convolution and its adjoint as implicit products on the mainloop of tile.h: rows are result pixels, columns output
// channels of a group, k runs over (kernel row, kernel column, channel), see conv_tile.h. Nothing is unfolded: a thread
// remembers where its pixel's window begins and which tap it is at.
#include "core/math.h"
#include "kernels/conv_tile.h"
#include "kernels/tile.h"

namespace quernel::cuda {
namespace {

template <class V, bool kAdjoint>
struct Conv : Windows<kAdjoint> {
  using T = V;
  using Base = Windows<kAdjoint>;
  using typename Base::Depth, typename Base::Row;

  ConvArgs args;

  explicit Conv(const ConvArgs& a) : Base(a.s), args(a) {}

  __device__ void enter(int64_t batch) {
    constexpr int64_t kWidth = kPackWidth<T>;
    Base::enter(batch);
    args.w = static_cast<const T*>(args.w) + this->group * ceil_div(this->n, kWidth) * kWidth * this->weight_rows();
    args.x = static_cast<const T*>(args.x) + this->group * this->channels;
  }
  __device__ T a(const Row& r, const Depth& d) const {
    if (!this->has(r, d)) return T(0);
    const int64_t at = this->element(r, d);
    return at < 0 ? T(0) : static_cast<const T*>(args.x)[at];
  }
  __device__ T b(const Depth& d, int64_t column) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    if (d.k >= this->k || column >= this->n) return T(0);
    const int64_t row = column / kWidth * this->weight_rows() + this->weight_row(d);
    return static_cast<const T*>(args.w)[row * kWidth + column % kWidth];
  }
  __device__ void store(int64_t r, int64_t column, T sum) const {
    const int64_t channel = this->group * this->n + column;
    const int64_t i = this->pixel(r) * this->n * this->s.groups + channel;
    static_cast<T*>(args.y)[i] = finished(args, sum, i, channel);
  }
};

template <class T, bool kAdjoint>
Status run(const ConvArgs& a, const Ctx& ctx) {
  multiply(ctx, Conv<T, kAdjoint>(a));
  return {};
}

}  // namespace

Status conv2d_f32(const ConvArgs& a, Range, const Ctx& ctx) { return run<float, false>(a, ctx); }
Status conv2d_f64(const ConvArgs& a, Range, const Ctx& ctx) { return run<double, false>(a, ctx); }
Status conv2d_grad_input_f32(const ConvArgs& a, Range, const Ctx& ctx) { return run<float, true>(a, ctx); }
Status conv2d_grad_input_f64(const ConvArgs& a, Range, const Ctx& ctx) { return run<double, true>(a, ctx); }

}  // namespace quernel::cuda
