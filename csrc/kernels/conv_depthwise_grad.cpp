// The gradient of a depthwise convolution with respect to its weights: dW[tap, c] = sum over output pixels p of
// g[p, c] · x[p at tap, c]. Lanes run over channels. Of some pixels of a row, and up to kMostRows rows of neighbouring
// taps, all sums of one vector of channels are registers: each gradient is read once for all taps, each input vector
// once for the taps of its row. Pixels come by four, whose gradients are registers too, so 3 x 3 taps take 22 loads for
// 36 FMAs. All channels of the pixels follow before the next pixels do: images are read once, from front to back.
//
// Rows of three, five and seven neighbouring taps at steps 1 and 2 run so; others pass tap by tap, four vectors at a
// time. As in conv_grad_weight.cpp, pixels are cut into `splits` ranges, and in each range every sum is one chain over
// the pixels.
#include "kernels/conv_columns.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kBlock = 4;       // pixels whose gradients are held in registers
constexpr int kMostRows = 3;    // of taps, in one pass
constexpr int64_t kChunk = 16;  // pixels, which stay in L1 while all channels pass

template <class T>
struct Pass {
  const T* const* x[kMostRows];  // per row of taps: the columns from the first pixel's first tap on
  const T* g;                    // the first pixel's gradient
  int64_t channels, pixels;
  T* sums;  // [row][tap][channels]
};

template <class V, int kRows, int kTaps, int kStep>
void add_rows(const Pass<typename V::Scalar>& pass) {
  using T = typename V::Scalar;
  constexpr int kColumns = (kBlock - 1) * kStep + kTaps;
  for (int64_t c = 0; c < pass.channels; c += V::kWidth) {
    const int lanes = static_cast<int>(least(pass.channels - c, V::kWidth));
    const auto get = [&](const T* p) { return lanes == V::kWidth ? V::load(p) : V::load(p, lanes); };
    const auto sum = [&](int i, int j) { return pass.sums + (i * kTaps + j) * pass.channels + c; };
    V acc[kRows][kTaps];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kTaps; ++j) acc[i][j] = get(sum(i, j));
    }
    const T* gradient = pass.g + c;
    int64_t p = 0;
    for (; p + kBlock <= pass.pixels; p += kBlock) {
      V g[kBlock];
#pragma GCC unroll 8
      for (int q = 0; q < kBlock; ++q, gradient += pass.channels) g[q] = get(gradient);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const T* const* x = pass.x[i] + p * kStep;
#pragma GCC unroll 32
        for (int k = 0; k < kColumns; ++k) {
          const V column = get(x[k] + c);
#pragma GCC unroll 8
          for (int j = 0; j < kTaps; ++j) {
            const int q = (k - j) / kStep;
            if (k >= j && q < kBlock && q * kStep == k - j) acc[i][j] = fma(g[q], column, acc[i][j]);
          }
        }
      }
    }
    for (; p < pass.pixels; ++p, gradient += pass.channels) {
      const V g = get(gradient);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const T* const* x = pass.x[i] + p * kStep;
#pragma GCC unroll 8
        for (int j = 0; j < kTaps; ++j) acc[i][j] = fma(g, get(x[j] + c), acc[i][j]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < kTaps; ++j)
        lanes == V::kWidth ? acc[i][j].store(sum(i, j)) : acc[i][j].store(sum(i, j), lanes);
    }
  }
}

template <class V>
using AddRows = void (*)(const Pass<typename V::Scalar>&);

// For rows of `taps` neighbouring taps: passes[rows - 1], as many as registers hold; none if there is no such kernel.
template <class V>
struct Choice {
  AddRows<V> passes[kMostRows] = {};
  int most_rows = 0;
};

template <class V, int kStep>
inline Choice<V> choose(int64_t taps) {
  if (taps == 3) return {{add_rows<V, 1, 3, kStep>, add_rows<V, 2, 3, kStep>, add_rows<V, 3, 3, kStep>}, 3};
  if (taps == 5) return {{add_rows<V, 1, 5, kStep>, add_rows<V, 2, 5, kStep>}, 2};
  if (taps == 7) return {{add_rows<V, 1, 7, kStep>}, 1};
  return {};
}

template <class V>
class GradWeight {
 public:
  using T = typename V::Scalar;

  GradWeight(const ConvGradWeightArgs& args, const Ctx& ctx) : args_(args), s_(args.s), taps_(s_.kh * s_.kw) {
    Carver carver(ctx.scratch);
    columns_.carve(s_, false, carver);
    carver.take(axes_, s_.kh + s_.kw);
    scratch_ = carver.used();
    if (s_.dilation_w == 1 && s_.stride_w == 1) choice_ = choose<V, 1>(s_.kw);
    if (s_.dilation_w == 1 && s_.stride_w == 2) choice_ = choose<V, 2>(s_.kw);
  }

  static int64_t scratch(const ConvGradWeightArgs& args) { return GradWeight(args, Ctx{nullptr, 0}).scratch_; }

  // Items: splits.
  void run(Range range) {
    const int64_t pixels = s_.n * s_.oh * s_.ow;
    y_ = forward_axis(vertical(s_), axes_);
    x_ = forward_axis(horizontal(s_), axes_ + s_.kh);
    columns_.set_axes(y_, x_, s_.c);
    for (int64_t split = range.begin; split < range.end; ++split) {
      const int64_t pixel = pixels * split / args_.splits, end = pixels * (split + 1) / args_.splits;
      T* dw = static_cast<T*>(args_.dw) + split * taps_ * s_.c;
      if (choice_.most_rows > 0)
        run_rows(pixel, end, dw);
      else
        run_taps(pixel, end, dw);
    }
  }

 private:
  // Output pixels [pixel, end), row by row.
  void run_rows(int64_t pixel, int64_t end, T* dw) {
    for (int64_t i = 0; i < taps_ * s_.c; ++i) dw[i] = T(0);
    for (int64_t row = pixel / s_.ow; row * s_.ow < end; ++row)
      add_row(row, most(0, pixel - row * s_.ow), least(s_.ow, end - row * s_.ow), dw);
  }

  // Output pixels [from, to) of one row, some at a time, for the rows of taps that lie in the image.
  void add_row(int64_t row, int64_t from, int64_t to, T* dw) {
    const int64_t n = row / s_.oh, top = row % s_.oh * s_.stride_h - s_.pad_h;
    const int64_t begin = most(0, ceil_div(-top, s_.dilation_h));
    const int64_t end = least(s_.kh, ceil_div(s_.h - top, s_.dilation_h));
    const int64_t below = n * s_.h + top + (s_.kh - 1) * s_.dilation_h + 1;
    for (; from < to; from += kChunk) {
      Pass<T> pass;
      pass.g = static_cast<const T*>(args_.g) + (row * s_.ow + from) * s_.c;
      pass.channels = s_.c;
      pass.pixels = least(to - from, kChunk);
      // Passes go from pixel to pixel, not line to line: the CPU does not see by itself what they will need.
      fetch(pass.g + s_.ow * s_.c, pass.pixels * s_.c);
      for (int64_t y = below; y < below + s_.stride_h; ++y)
        fetch(static_cast<const T*>(args_.x) + (y * s_.w + from * s_.stride_w) * s_.c,
              pass.pixels * s_.stride_w * s_.c);
      for (int64_t i = begin; i < end;) {
        const int rows = static_cast<int>(least(end - i, choice_.most_rows));
        pass.sums = dw + i * s_.kw * s_.c;
        for (int r = 0; r < rows; ++r, ++i) {
          const int64_t y = top + i * s_.dilation_h, source = n * s_.h + y;
          const T* x = static_cast<const T*>(args_.x) + source * s_.w * s_.c;
          pass.x[r] = columns_.row(x, source, y, i) + from * s_.stride_w;
        }
        choice_.passes[rows - 1](pass);
      }
    }
  }

  static void fetch(const T* at, int64_t count) {
    for (int64_t i = 0; i < count; i += kPackWidth<T>) __builtin_prefetch(at + i, 0, 2);
  }

  // Tap by tap.
  void run_taps(int64_t pixel, int64_t end, T* dw) const {
    constexpr int kVecs = 4;  // independent chains of FMAs, to hide their latency
    for (int64_t tap = 0; tap < taps_; ++tap) {
      int64_t c = 0;
      for (; c + kVecs * V::kWidth <= s_.c; c += kVecs * V::kWidth) sum_tap<kVecs>(tap, c, V::kWidth, pixel, end, dw);
      for (; c < s_.c; c += V::kWidth) sum_tap<1>(tap, c, static_cast<int>(least(s_.c - c, V::kWidth)), pixel, end, dw);
    }
  }

  // Output pixels [pixel, end), row by row; of each row those whose tap lies in the image.
  template <int kVecs>
  void sum_tap(int64_t tap, int64_t c, int lanes, int64_t pixel, int64_t end, T* dw) const {
    const int64_t dy = tap / s_.kw * s_.dilation_h - s_.pad_h, dx = tap % s_.kw * s_.dilation_w - s_.pad_w;
    const int64_t lo = most(0, ceil_div(-dx, s_.stride_w)), hi = least(s_.ow, (s_.w - 1 - dx) / s_.stride_w + 1);
    V acc[kVecs];
    for (V& v : acc) v = V::zero();
    for (int64_t row = pixel / s_.ow; row * s_.ow < end; ++row) {
      const int64_t n = row / s_.oh, y = row % s_.oh * s_.stride_h + dy;
      if (y < 0 || y >= s_.h || dx >= s_.w) continue;
      const int64_t from = most(lo, pixel - row * s_.ow), to = least(hi, end - row * s_.ow);
      const T* g = static_cast<const T*>(args_.g) + (row * s_.ow + from) * s_.c + c;
      const T* x = static_cast<const T*>(args_.x) + ((n * s_.h + y) * s_.w + from * s_.stride_w + dx) * s_.c + c;
      for (int64_t ox = from; ox < to; ++ox, g += s_.c, x += s_.stride_w * s_.c) {
        for (int j = 0; j < kVecs - 1; ++j)
          acc[j] = fma(V::load(g + j * V::kWidth), V::load(x + j * V::kWidth), acc[j]);
        const int j = kVecs - 1;
        acc[j] = fma(V::load(g + j * V::kWidth, lanes), V::load(x + j * V::kWidth, lanes), acc[j]);
      }
    }
    for (int j = 0; j < kVecs - 1; ++j) acc[j].store(dw + tap * s_.c + c + j * V::kWidth);
    acc[kVecs - 1].store(dw + tap * s_.c + c + (kVecs - 1) * V::kWidth, lanes);
  }

  const ConvGradWeightArgs& args_;
  const ConvShape& s_;
  const int64_t taps_;
  Columns<T> columns_;
  Tap* axes_ = nullptr;
  int64_t scratch_ = 0;
  Axis y_{}, x_{};
  Choice<V> choice_;
};

}  // namespace

Status depthwise2d_grad_weight_f32(const ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  GradWeight<VecF32>(args, ctx).run(range);
  return {};
}
Status depthwise2d_grad_weight_f64(const ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  GradWeight<VecF64>(args, ctx).run(range);
  return {};
}

int64_t depthwise2d_grad_weight_f32_scratch(const ConvGradWeightArgs& args) {
  return GradWeight<VecF32>::scratch(args);
}
int64_t depthwise2d_grad_weight_f64_scratch(const ConvGradWeightArgs& args) {
  return GradWeight<VecF64>::scratch(args);
}

}  // namespace quernel::QUERNEL_ISA
