// Convolutions in bfloat16 with sums in fp32, on the mainloops of tensor_tile.h and, forward, warpgroup_tile.h.
//
// Forward, and each phase of an adjoint: rows are result pixels, k runs over (kernel row, kernel column, channel), see
// conv_tile.h. The sums are those of gemm_bf16 on the matrix of patches, bit for bit, if that takes the same mainloop;
// where pixels are the patches, gemm_bf16 is called.
//
// Gradient of the weights: rows are output channels, columns (kernel row, kernel column, channel), k runs over output
// pixels. The gradients come as rows of pixels. What they are multiplied by lies in the images as rows of columns, one
// row a pixel, and ldmatrix turns it: nothing is unfolded or transposed.
#include "core/math.h"
#include "kernels/args/bf16.h"
#include "kernels/conv_tile.h"

namespace quernel::cuda {

Status gemm_bf16(const Bf16GemmArgs& g, Range, const Ctx& ctx);

namespace {

// With kAligned channels are a multiple of 8 and images begin at multiples of 16 bytes.
template <bool kAligned>
struct Bf16Conv : TapWords<uint16_t, kAligned> {
  using Base = TapWords<uint16_t, kAligned>;
  using Element = Bf16;

  Bf16ConvArgs args;

  explicit Bf16Conv(const Bf16ConvArgs& a) : Base(a.s, a.x, 0, a.w), args(a) {
    this->pitch = ceil_div(a.s.kh * a.s.kw * a.s.c, kBf16Block) * kBf16Block / 2;
  }
  __device__ void store(int64_t r, int64_t column, float sum) const {
    const int64_t i = place(r).start + column;
    static_cast<float*>(args.y)[i] = finished(args, sum, i, column);
  }

  struct Place {
    int64_t start;
    int32_t y, x;  // among the pixels of this result
  };
  __device__ Place place(int64_t r) const {
    const ConvShape& s = args.s;
    const int64_t line = r / s.ow, x = r % s.ow, image = line / s.oh, y = line % s.oh;
    const int64_t row = image * args.y_h + args.first_h + y * args.step_h;
    return {(row * args.y_w + args.first_w + x * args.step_w) * s.o, static_cast<int32_t>(y), static_cast<int32_t>(x)};
  }

  // For warpgroup_tile.h.
  __device__ void next_row(Place& p) const {
    const ConvShape& s = args.s;
    p.start += args.step_w * s.o;
    if (++p.x < s.ow) return;
    p.x = 0;
    p.start += (args.step_h * args.y_w - s.ow * args.step_w) * s.o;
    if (++p.y < s.oh) return;
    p.y = 0;
    p.start += (args.y_h - s.oh * args.step_h) * args.y_w * s.o;
  }
  using TwoColumns = TwoFloats;
  __device__ TwoColumns columns(int64_t column) const { return two_floats(args, column, args.s.o); }
  __device__ bool is_light() const { return cuda::is_light(args); }
  template <bool kLight>
  __device__ void store_two(int64_t i, const TwoColumns& c, Pair<float> sums, bool in_pairs) const {
    put_two_floats<kLight>(args, args.y, i, c, sums, in_pairs);
  }
};

// With kAligned as above: eight columns are channels of one tap.
template <bool kAligned>
struct Bf16GradWeight {
  using Element = Bf16;
  using Columns = Turned;
  static constexpr int kChunk = 4;

  Bf16ConvGradWeightArgs args;
  int64_t m, n, k = 0, batches;
  int64_t pitch;             // pixels of a row of the gradients, in words
  int64_t first = 0, count;  // pixels of the chosen split

  explicit Bf16GradWeight(const Bf16ConvGradWeightArgs& a) : args(a), m(a.s.o), n(a.s.kh * a.s.kw * a.s.c) {
    batches = a.splits;
    count = a.s.n * a.s.oh * a.s.ow;
    pitch = ceil_div(count, kBf16Block) * kBf16Block / 2;
  }

  __device__ void enter(int64_t split) {
    const int64_t blocks = ceil_div(count, kBf16GradPixels);
    args.dw = static_cast<float*>(args.dw) + split * m * n;
    first = blocks * split / args.splits * kBf16GradPixels;
    count = most(0, least(count, blocks * (split + 1) / args.splits * kBf16GradPixels) - first);
    k = ceil_div(count, 2);
  }

  struct Row {
    const uint16_t* start;  // null: beyond the last
  };
  __device__ Row row(int64_t i) const {
    return {i < m ? static_cast<const uint16_t*>(args.g) + 2 * i * pitch + first : nullptr};
  }
  struct Depth {
    int64_t k;
  };
  __device__ Depth depth(int64_t at) const { return {at}; }
  __device__ void advance(Depth& d, int64_t by) const { d.k += by; }
  __device__ void copy_a(AsyncCopies& copies, unsigned* to, const Row& r, const Depth& d) const {
    copy_chunk<kChunk>(copies, to, r.start && d.k < k ? r.start + 2 * d.k : nullptr);
  }

  using Place = OutputPixel;
  __device__ Place place(int64_t at) const { return output_pixel(args.s, first, at); }
  __device__ void advance(Place& p, int by) const { advance_pixel(args.s, p, by); }

  // What a pixel reads at a column; null: zero.
  __device__ const uint16_t* element(const Place& p, int64_t column) const {
    const ConvShape& s = args.s;
    if (p.k >= count || column >= n) return nullptr;
    const int64_t tap = column / s.c;
    const int64_t y = p.y * s.stride_h - s.pad_h + tap / s.kw * s.dilation_h;
    const int64_t x = p.x * s.stride_w - s.pad_w + tap % s.kw * s.dilation_w;
    if (y < 0 || y >= s.h || x < 0 || x >= s.w) return nullptr;
    return static_cast<const uint16_t*>(args.x) + ((p.image * s.h + y) * s.w + x) * s.c + column % s.c;
  }
  __device__ void copy_b(AsyncCopies& copies, unsigned* to, const Place& p, int64_t column) const {
    if constexpr (kAligned) {
      copy_chunk<4>(copies, to, element(p, column));
    } else {
      for (int i = 0; i < 8; i += 2) {
        const uint16_t *lower = element(p, column + i), *upper = element(p, column + i + 1);
        to[i / 2] = (lower ? *lower : 0u) | (upper ? unsigned{*upper} << 16 : 0u);
      }
    }
  }
  __device__ void store(int64_t r, int64_t column, float sum) const {
    static_cast<float*>(args.dw)[r * n + column] = sum;
  }
};

// Whether patches are pixels as they lie, and so are results: then this is the product of pixels by channels.
bool is_product(const Bf16ConvArgs& a) {
  const ConvShape& s = a.s;
  const bool same_pixels = s.kh * s.kw * s.stride_h * s.stride_w * a.step_h * a.step_w == 1 && s.h == s.oh &&
                           s.w == s.ow && s.pad_h == 0 && s.pad_w == 0;
  return same_pixels && s.c % kBf16Block == 0 && are_vectors(a.x, {});
}

Status multiply_pixels(const Bf16ConvArgs& a, const Ctx& ctx) {
  const ConvShape& s = a.s;
  return gemm_bf16({{a}, a.x, a.w, a.y, DType::kFloat32, s.n * s.h * s.w, s.o, s.c}, {}, ctx);
}

}  // namespace

Status conv2d_bf16(const Bf16ConvArgs& a, Range, const Ctx& ctx) {
  if (is_product(a)) return multiply_pixels(a, ctx);
  if (!are_vectors(a.x, {a.s.c * 2})) {
    multiply_on_tensor_cores(ctx, Bf16Conv<false>(a));
    return {};
  }
  const Bf16Conv<true> product(a);
  if (suits_warpgroups(product.n, product.k) && product.has_slices())
    multiply_on_warpgroups(ctx, product, a.w, are_pairs(a.y, 4, a.s.o) && are_pairs(a.pre, 4, a.s.o));
  else
    multiply_on_tensor_cores(ctx, product);
  return {};
}

Status conv2d_grad_weight_bf16(const Bf16ConvGradWeightArgs& a, Range, const Ctx& ctx) {
  if (are_vectors(a.x, {a.s.c * 2}))
    multiply_on_tensor_cores(ctx, Bf16GradWeight<true>(a));
  else
    multiply_on_tensor_cores(ctx, Bf16GradWeight<false>(a));
  return {};
}

}  // namespace quernel::cuda
