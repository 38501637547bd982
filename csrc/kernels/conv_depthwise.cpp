// Depthwise convolution of NHWC images, and its gradient with respect to the input: one channel per group, so there is
// no sum over channels, and lanes run over the channels of a pixel.
//
// A register tile is up to eight neighbouring results of one row times one vector of channels: eight chains, enough to
// hide the latency of an FMA. Taps come row by row; the weights of one row of taps (3 or 5 vectors) stay in registers,
// and each input vector is read once and multiplied into every result of the tile that it reaches: 24 FMAs for 13 loads
// at 3 x 3 and stride 1, where reading both operands of every product would take 48. Rows of two, three and five
// neighbouring taps have tiles of their own, others take their taps one by one (9 loads for 8 FMAs). Rows of taps above
// and below the image are left out, columns beside it are read from zeros.
//
// Tiles go from pixel to pixel and not line to line, so the CPU does not see by itself what they will need: images that
// no cache holds took twice the time until every row fetched what the next one reads and writes, some lines with each
// vector. Where all is in cache that would cost a tenth.
//
// The gradient is the same computation for each phase (pixel coordinates modulo the stride), see conv.cpp. Every output
// is one chain of FMAs in the order of taps: neither tiles nor strips nor threads change a bit.
#include <array>
#include <utility>

#include "kernels/conv_columns.h"
#include "kernels/epilogue.h"
#include "kernels/simd/math.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kPixels = 8;  // results of a full tile

constexpr int64_t kInCache = 8 << 20;  // bytes of images and results together

template <class T>
constexpr int64_t kLine = 64 / sizeof(T);

// What the next row will read and write, asked for piece by piece.
template <class T>
struct Ahead {
  const T *x = nullptr, *y = nullptr;  // where a tile begins
  int64_t x_piece = 0, y_piece = 0;    // elements that go with a vector of channels; 0: none
};

// Results y[p][c], p < kPixels, for all channels.
template <class T>
struct Tile {
  const T* const* const* x;  // [segments] columns that the row of taps reads, from the first result of the row on
  const T* const* w;         // [segments] the packed weights of that row of taps
  int64_t group;             // from one group of their columns to the next
  int64_t segments;
  int64_t taps, tap_stride;  // in a segment; from one tap's weights to the next one's
  int64_t at, step;          // columns to the first result of the tile; from one result to the next
  T* y;
  int64_t y_stride;
  const Epilogue* epilogue;
  T* base;  // of the whole output
  int cols;
  Ahead<T> ahead;
};

template <class V>
inline V load_weights(const Tile<typename V::Scalar>& t, int64_t segment, int64_t tap, int64_t c) {
  constexpr int64_t kWidth = kPackWidth<typename V::Scalar>;
  return V::load(t.w[segment] + tap * t.tap_stride + c / kWidth * t.group + c % kWidth);
}

template <class V, int kRows>
inline void store(const Tile<typename V::Scalar>& t, V (&acc)[kRows], int64_t c, int lanes) {
  using T = typename V::Scalar;
  const Epilogue& e = *t.epilogue;
  const bool whole = lanes == V::kWidth;
  const auto get = [&](const T* p) { return whole ? V::load(p) : V::load(p, lanes); };
  const auto put = [&](V v, T* p) { whole ? v.store(p) : v.store(p, lanes); };
  T* y = t.y + c;
  if (e.bias) {
    const V bias = get(static_cast<const T*>(e.bias) + c);
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) acc[p] = acc[p] + bias;
  }
  if (e.residual) {
    const T* residual = static_cast<const T*>(e.residual) + (y - t.base);
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) acc[p] = acc[p] + get(residual + p * t.y_stride);
  }
  if (e.gate) {
    const T* gate = static_cast<const T*>(e.gate) + (y - t.base);
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) acc[p] = select(get(gate + p * t.y_stride) > V::zero(), acc[p], V::zero());
  }
  if (e.pre) {
    T* pre = static_cast<T*>(e.pre) + (y - t.base);
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) put(acc[p], pre + p * t.y_stride);
  }
  if (e.activation == Activation::kRelu) {
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) acc[p] = relu(acc[p]);
  } else if (e.activation == Activation::kRelu6) {
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) acc[p] = relu6(acc[p]);
  }
#pragma GCC unroll 8
  for (int p = 0; p < kRows; ++p) put(acc[p], y + p * t.y_stride);
}

// Whole vectors of channels. kTaps neighbouring taps at a compile-time step; or, kStep = 0, one tap at any step.
template <class V, int kRows, int kTaps, int kStep>
void multiply(const Tile<typename V::Scalar>& t) {
  using T = typename V::Scalar;
  constexpr int kColumns = (kRows - 1) * kStep + kTaps;
  for (int64_t c = 0; c + V::kWidth <= t.cols; c += V::kWidth) {
    // Here and not in a function: gcc drops calls of functions that do nothing but prefetch.
    const Ahead<T>& a = t.ahead;
    const T *x_ahead = a.x + c / V::kWidth * a.x_piece, *y_ahead = a.y + c / V::kWidth * a.y_piece;
    for (int64_t i = 0; i < a.x_piece; i += kLine<T>) __builtin_prefetch(x_ahead + i, 0, 2);
    for (int64_t i = 0; i < a.y_piece; i += kLine<T>) __builtin_prefetch(y_ahead + i, 1, 2);
    V acc[kRows];
#pragma GCC unroll 8
    for (int p = 0; p < kRows; ++p) acc[p] = V::zero();
    for (int64_t s = 0; s < t.segments; ++s) {
      const T* const* x = t.x[s] + t.at;
      V w[kTaps];
#pragma GCC unroll 8
      for (int j = 0; j < kTaps; ++j) w[j] = load_weights<V>(t, s, j, c);
      if constexpr (kStep == 0) {
#pragma GCC unroll 8
        for (int p = 0; p < kRows; ++p) acc[p] = fma(V::load(x[p * t.step] + c), w[0], acc[p]);
      } else {
#pragma GCC unroll 32
        for (int i = 0; i < kColumns; ++i) {
          const V column = V::load(x[i] + c);
#pragma GCC unroll 8
          for (int j = 0; j < kTaps; ++j) {
            const int p = (i - j) / kStep;
            if (i >= j && p < kRows && p * kStep == i - j) acc[p] = fma(column, w[j], acc[p]);
          }
        }
      }
    }
    store(t, acc, c, V::kWidth);
  }
}

// The channels behind the last whole vector.
template <class V, int kRows>
void multiply_tail(const Tile<typename V::Scalar>& t) {
  using T = typename V::Scalar;
  const int64_t c = t.cols / V::kWidth * V::kWidth;
  const int lanes = static_cast<int>(t.cols - c);
  V acc[kRows];
#pragma GCC unroll 8
  for (int p = 0; p < kRows; ++p) acc[p] = V::zero();
  for (int64_t s = 0; s < t.segments; ++s) {
    for (int64_t j = 0; j < t.taps; ++j) {
      const T* const* x = t.x[s] + t.at + j;
      const V w = load_weights<V>(t, s, j, c);  // groups are padded
#pragma GCC unroll 8
      for (int p = 0; p < kRows; ++p) acc[p] = fma(V::load(x[p * t.step] + c, lanes), w, acc[p]);
    }
  }
  store(t, acc, c, lanes);
}

template <class V>
using Multiply = void (*)(const Tile<typename V::Scalar>&);

enum Kind { kOneTap, kTail, k2Taps, k3Taps, k5Taps, k3TapsApart, k5TapsApart, kKinds };

template <class V, int kRows>
constexpr std::array<Multiply<V>, kKinds> kinds() {
  return {multiply<V, kRows, 1, 0>, multiply_tail<V, kRows>,  multiply<V, kRows, 2, 1>, multiply<V, kRows, 3, 1>,
          multiply<V, kRows, 5, 1>, multiply<V, kRows, 3, 2>, multiply<V, kRows, 5, 2>};
}

template <class V, size_t... kRow>
constexpr std::array<std::array<Multiply<V>, kKinds>, kPixels> make_table(std::index_sequence<kRow...>) {
  return {kinds<V, static_cast<int>(kRow) + 1>()...};
}

// [pixels - 1][kind]
template <class V>
constexpr auto kTable = make_table<V>(std::make_index_sequence<kPixels>{});

struct Choice {
  Kind kind;
  int64_t taps;  // of a segment
};

// For `count` neighbouring taps (`apart` if they are not) at `step`.
inline Choice choose(int64_t count, bool apart, int64_t step) {
  if (!apart && step == 1) {
    if (count % 5 == 0) return {k5Taps, 5};
    if (count % 3 == 0) return {k3Taps, 3};
    if (count % 2 == 0) return {k2Taps, 2};
  } else if (!apart && step == 2) {
    if (count % 5 == 0) return {k5TapsApart, 5};
    if (count % 3 == 0) return {k3TapsApart, 3};
  }
  return {kOneTap, 1};
}

template <class V>
class Depthwise {
 public:
  using T = typename V::Scalar;

  Depthwise(const ConvArgs& args, bool adjoint, const Ctx& ctx) : args_(args), s_(args.s), adjoint_(adjoint) {
    const int64_t pixels = s_.n * (s_.h * s_.w + s_.oh * s_.ow);
    in_cache_ = pixels * s_.c * static_cast<int64_t>(sizeof(T)) <= kInCache;
    carve(Carver(ctx.scratch));
    rest_.activation = args.activation;
  }

  static int64_t scratch(const ConvArgs& args, bool adjoint) {
    return Depthwise(args, adjoint, Ctx{nullptr, 0}).scratch_;
  }

  // Items: (image, row). An adjoint's row has a vertical phase, and all horizontal ones: a phase at a time would pass
  // over the images as often.
  void run(Range range) {
    const int64_t rows = adjoint_ ? s_.h : s_.oh, down = adjoint_ ? s_.stride_h : 1,
                  across = adjoint_ ? s_.stride_w : 1;
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t n = i / rows, y = i % rows;
      for (int64_t x = 0; x < across; ++x) {
        const int64_t phase = y % down * across + x;
        if (phase != phase_) set_phase(y % down, x);
        phase_ = phase;
        run_row(n, y / down);
      }
    }
  }

 private:
  void carve(Carver carver) {
    columns_.carve(s_, adjoint_, carver);
    carver.take(taps_, s_.kh + s_.kw);
    carver.take(x_segments_, s_.kh * s_.kw);
    carver.take(w_segments_, s_.kh * s_.kw);
    scratch_ = carver.used();
  }

  void set_phase(int64_t phase_h, int64_t phase_w) {
    const AxisShape v = vertical(s_), h = horizontal(s_);
    y_ = adjoint_ ? adjoint_axis(v, phase_h, taps_) : forward_axis(v, taps_);
    x_ = adjoint_ ? adjoint_axis(h, phase_w, taps_ + v.kernel) : forward_axis(h, taps_ + v.kernel);
    columns_.set_axes(y_, x_, s_.c);
    const int64_t indices = x_.count > 1 ? x_.taps[1].index - x_.taps[0].index : 0;
    bool apart = false;
    for (int64_t j = 1; j < x_.count; ++j)
      apart |= x_.taps[j].offset != x_.taps[0].offset + j || x_.taps[j].index != x_.taps[0].index + j * indices;
    tap_stride_ = indices * kPackWidth<T>;
    choice_ = choose(x_.count, apart, x_.step);
  }

  // Row y (within the phase) of image n.
  void run_row(int64_t n, int64_t y) {
    const T* w = static_cast<const T*>(args_.w);
    int64_t segments = 0;
    for (int64_t i = 0; i < y_.count; ++i) {
      const int64_t from = y * y_.step + y_.taps[i].offset;
      if (from < 0 || from >= y_.source) continue;
      const int64_t row = n * y_.source + from;
      const T* x = static_cast<const T*>(args_.x) + row * x_.source * s_.c;
      const T* const* table = columns_.row(x, row, from, i);
      for (int64_t j = 0; j < x_.count; j += choice_.taps, ++segments) {
        x_segments_[segments] = table + (x_.taps[j].offset - columns_.first());
        w_segments_[segments] = w + (y_.taps[i].index * s_.kw + x_.taps[j].index) * kPackWidth<T>;
      }
    }
    T* base = static_cast<T*>(args_.y);
    T* out = base + ((n * y_.result + y_.first + y * y_.stride) * x_.result + x_.first) * s_.c;
    Tile<T> t{x_segments_,
              w_segments_,
              s_.kh * s_.kw * kPackWidth<T>,
              segments,
              choice_.taps,
              tap_stride_,
              0,
              x_.step,
              out,
              x_.stride * s_.c,
              &args_,
              base,
              static_cast<int>(s_.c),
              {}};
    const int64_t tiles = ceil_div(x_.size, kPixels);
    const int64_t vectors = s_.c / V::kWidth;
    if (!in_cache_ && x_.first == 0) t.ahead = look_ahead(n, y, tiles * vectors);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t from = x_.size * tile / tiles, pixels = x_.size * (tile + 1) / tiles - from;
      t.at = from * x_.step;
      t.y = out + from * t.y_stride;
      run_tile(t, static_cast<int>(pixels));
      t.ahead.x += vectors * t.ahead.x_piece;
      t.ahead.y += vectors * t.ahead.y_piece;
    }
  }

  // The rows behind those of row y of image n, in so many pieces.
  Ahead<T> look_ahead(int64_t n, int64_t y, int64_t pieces) const {
    if (pieces == 0 || y_.count == 0) return {};
    const auto piece = [&](int64_t count) { return ceil_div(count, pieces * kLine<T>) * kLine<T>; };
    const int64_t x_row = x_.source * s_.c, y_row = x_.result * s_.c;
    const int64_t read = n * y_.source + y * y_.step + y_.taps[y_.count - 1].offset + 1;
    const int64_t written = n * y_.result + y_.first + y * y_.stride + 1;
    return {static_cast<const T*>(args_.x) + read * x_row, static_cast<const T*>(args_.y) + written * y_row,
            piece(y_.step * x_row), piece(y_row)};
  }

  void run_tile(const Tile<T>& t, int pixels) const {
    if (t.cols >= V::kWidth) kTable<V>[pixels - 1][choice_.kind](t);
    if (t.cols % V::kWidth) kTable<V>[pixels - 1][kTail](t);
    if (is_in_registers(args_.activation)) return;
    T* rows[kPixels];
    for (int p = 0; p < pixels; ++p) rows[p] = t.y + p * t.y_stride;
    finish(Finish<T>{&rest_, t.base, rows, pixels, t.cols, 0});
  }

  const ConvArgs& args_;
  const ConvShape& s_;
  const bool adjoint_;
  bool in_cache_;
  Columns<T> columns_;
  Tap* taps_ = nullptr;
  const T* const** x_segments_ = nullptr;
  const T** w_segments_ = nullptr;
  int64_t scratch_ = 0, phase_ = -1;
  Axis y_{}, x_{};
  int64_t tap_stride_ = 0;
  Choice choice_{};
  Epilogue rest_;  // the activations that tiles leave to a second pass
};

}  // namespace

Status depthwise2d_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  Depthwise<VecF32>(args, false, ctx).run(range);
  return {};
}
Status depthwise2d_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  Depthwise<VecF64>(args, false, ctx).run(range);
  return {};
}
Status depthwise2d_grad_input_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  Depthwise<VecF32>(args, true, ctx).run(range);
  return {};
}
Status depthwise2d_grad_input_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  Depthwise<VecF64>(args, true, ctx).run(range);
  return {};
}

int64_t depthwise2d_f32_scratch(const ConvArgs& args) { return Depthwise<VecF32>::scratch(args, false); }
int64_t depthwise2d_f64_scratch(const ConvArgs& args) { return Depthwise<VecF64>::scratch(args, false); }
int64_t depthwise2d_grad_input_f32_scratch(const ConvArgs& args) { return Depthwise<VecF32>::scratch(args, true); }
int64_t depthwise2d_grad_input_f64_scratch(const ConvArgs& args) { return Depthwise<VecF64>::scratch(args, true); }

}  // namespace quernel::QUERNEL_ISA
