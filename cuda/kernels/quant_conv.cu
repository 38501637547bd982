// int8 convolution as an implicit product on the mainloop of tensor_tile.h: rows are output pixels, k runs over (kernel
// row, kernel column, channel), see conv_tile.h; taps in the padding read the zero point, and on that of
// warpgroup_tile.h, if no tap reads another padding, 0. Depthwise a thread a result.
#include "kernels/conv_tile.h"
#include "kernels/requantize.h"

namespace quernel::cuda {
namespace {

// With kAligned channels of a group are a multiple of 16 and images begin at multiples of 16 bytes.
template <bool kAligned>
struct QConv : TapWords<uint8_t, kAligned> {
  using Base = TapWords<uint8_t, kAligned>;
  using Element = Bytes;

  QConvArgs p;

  explicit QConv(const QConvArgs& args)
      : Base(args.s, args.x, static_cast<uint8_t>(args.x_zero_point), args.w), p(args) {}

  __device__ void enter(int64_t group) {
    Base::enter(group);
    this->w += group * ceil_div(this->n, kQPanel) * kQPanel * this->pitch;
  }
  __device__ void store(int64_t r, int64_t column, int sum) const {
    const int64_t channel = this->windows.group * this->n + column;
    put_quantized(p, p.y_float, sum, channel, p.y, r * p.s.o + channel);
  }

  // For warpgroup_tile.h, of one group; taps in the padding read 0.
  using Place = RowPlace;
  __device__ Place place(int64_t r) const { return {r * p.s.o}; }
  __device__ void next_row(Place& at) const { at.start += p.s.o; }
  using TwoColumns = TwoQuantized;
  __device__ TwoColumns columns(int64_t column) const { return two_quantized(p, column, p.s.o); }
  __device__ static constexpr bool is_light() { return true; }
  template <bool kLight>
  __device__ void store_two(int64_t i, const TwoColumns& c, Pair<int> sums, bool in_pairs) const {
    put_two_quantized(p, p.y_float, c, sums, p.y, i, in_pairs);
  }
};

constexpr int64_t kTapChannels = 16;  // of a block of depthwise weights

// First channel of a block: whole blocks, the last one moved back to end with the last channel.
__device__ inline int64_t first_channel(int64_t block, int64_t channels) {
  const int64_t first = block * kTapChannels, last = channels - kTapChannels;
  return first <= last || last < 0 ? first : last;
}

struct PackDepthwise {
  PackArgs p;
  int64_t pairs;

  __device__ void operator()(int64_t at) const {
    const int64_t tap = at / (2 * kTapChannels) % pairs * 2 + at % 2;
    const int64_t block = at / (2 * kTapChannels) / pairs;
    const int64_t channel = first_channel(block, p.n) + at / 2 % kTapChannels;
    static_cast<int16_t*>(p.dst)[at] =
        channel < p.n && tap < p.k ? static_cast<const int8_t*>(p.src)[channel * p.src_col + tap] : int16_t{0};
  }
};

struct QDepthwise {
  QConvArgs p;

  __device__ void operator()(int64_t at) const {
    const ConvShape& s = p.s;
    const int64_t c = at % s.c, ox = at / s.c % s.ow, oy = at / s.c / s.ow % s.oh, image = at / s.c / s.ow / s.oh;
    const int64_t block = c / kTapChannels, lane = c - first_channel(block, s.c), pairs = ceil_div(s.kh * s.kw, 2);
    const auto* w = static_cast<const int16_t*>(p.w) + block * pairs * 2 * kTapChannels + 2 * lane;
    int sum = 0;
    int64_t tap = 0;
    for (int64_t ky = 0; ky < s.kh; ++ky) {
      const int64_t y = oy * s.stride_h - s.pad_h + ky * s.dilation_h;
      for (int64_t kx = 0; kx < s.kw; ++kx, ++tap) {
        const int64_t x = ox * s.stride_w - s.pad_w + kx * s.dilation_w;
        const bool inside = y >= 0 && y < s.h && x >= 0 && x < s.w;
        const int value =
            inside ? static_cast<const uint8_t*>(p.x)[((image * s.h + y) * s.w + x) * s.c + c] : p.x_zero_point;
        sum += value * w[tap / 2 * 2 * kTapChannels + tap % 2];
      }
    }
    put_quantized(p, p.y_float, sum, c, p.y, at);
  }
};

bool reads_padding(const ConvShape& s) {
  const auto beyond = [](const AxisShape& a) {
    return a.pad > 0 || (a.out - 1) * a.stride - a.pad + (a.kernel - 1) * a.dilation >= a.in;
  };
  return beyond(vertical(s)) || beyond(horizontal(s));
}

}  // namespace

Status conv2d_u8s8(const QConvArgs& p, Range, const Ctx& ctx) {
  if (!are_vectors(p.x, {p.s.c / p.s.groups})) {
    multiply_on_tensor_cores(ctx, QConv<false>(p));
    return {};
  }
  const QConv<true> product(p);
  if (suits_warpgroups(product.n, product.k) && product.has_slices() && (p.x_zero_point == 0 || !reads_padding(p.s)))
    multiply_on_warpgroups(ctx, product, p.w, are_pairs(p.y, p.y_float ? 4 : 1, p.s.o));
  else
    multiply_on_tensor_cores(ctx, product);
  return {};
}

Status pack_depthwise_s8(const PackArgs& p, Range, const Ctx& ctx) {
  const int64_t pairs = ceil_div(p.k, 2);
  for_each(ctx, ceil_div(p.n, kTapChannels) * pairs * 2 * kTapChannels, PackDepthwise{p, pairs});
  return {};
}

Status depthwise2d_u8s8(const QConvArgs& p, Range, const Ctx& ctx) {
  for_each(ctx, p.s.n * p.s.oh * p.s.ow * p.s.c, QDepthwise{p});
  return {};
}

}  // namespace quernel::cuda
