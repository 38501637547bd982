// Convolution, and its gradient with respect to the input, that produces few channels: too few to fill a vector, so
// lanes run over pixels. The source pixels of a block are turned into planes of one channel each, with zeros around
// them; with a stride, pixels that differ modulo the stride lie in planes of their own. Then an element of all patches
// is a stretch of a plane, across its rows too, and a register tile multiplies up to six channels of weights,
// broadcast, with the stretches of 16 or, with AVX-512's registers, 64 pixels. It computes some pixels between the rows
// in vain. The result is turned on its way out.
//
// The sums are those of conv.cpp, in the same order, bit for bit.
#include "kernels/conv_planar.h"

#include "kernels/conv_block.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"
#include "kernels/scratch.h"
#include "kernels/simd/math.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kMostCols = 8;
constexpr int64_t kTilePixels = 16;  // of which tiles are multiples
constexpr int64_t kLongRun = 8;      // channels; fewer are taken one by one

// A block, as far as it concerns one axis: pixels of the result, of a plane, and planes.
struct Extent {
  int64_t results, plane, phases;
};

inline Extent extent(const AxisShape& s, bool adjoint, int64_t results) {
  const int64_t reach = (s.kernel - 1) * s.dilation;
  return adjoint ? Extent{results, results + reach / s.stride, 1}
                 : Extent{results, results + reach / s.stride, least(s.stride, reach + 1)};
}

template <class T>
struct Scratch {
  Tap* taps;
  Run* runs;
  T* planes;
  T* sums;
};

template <class V>
class Planar {
 public:
  using T = typename V::Scalar;

  Planar(const ConvArgs& args, bool adjoint, void* at)
      : args_(args),
        s_(args.s),
        adjoint_(adjoint),
        depth_((adjoint ? s_.o : s_.c) / s_.groups),
        cols_(static_cast<int>((adjoint ? s_.c : s_.o) / s_.groups)),
        y_size_(extent(vertical(s_), adjoint, args.block.rows)),
        x_size_(extent(horizontal(s_), adjoint, args.block.cols)) {
    plane_ = y_size_.plane * x_size_.plane;
    pixels_ = pixels_of(y_size_, x_size_);
    Carver carver(at);
    carver.take(scratch_.taps, s_.kh + s_.kw);
    carver.take(scratch_.runs, s_.kh * s_.kw * (depth_ < kLongRun ? depth_ : 1));
    // Tiles at the end of the last plane read beyond it.
    carver.take(scratch_.planes, depth_ * y_size_.phases * x_size_.phases * plane_ + 2 * kTilePixels + V::kWidth);
    carver.take(scratch_.sums, kMostCols * pixels_ + V::kWidth);
    used_ = carver.used();
    rest_.activation = args.activation;
  }

  int64_t scratch_bytes() const { return used_; }

  // Lanes over channels: those of a vector that are of no use, and too few chains to hide the latency of an FMA. Over
  // pixels: those between rows, and copies both ways. Known by the shape of an image alone, as if a block were all of
  // it: where a weight is not finite, its products with the zeros around an image are NaN, which the sum over the taps
  // inside does not have, so that the batch must not choose.
  bool pays() const {
    if (cols_ > kMostCols || cols_ >= kPackWidth<T> || s_.kh * s_.kw < 4) return false;
    const int64_t height = adjoint_ ? ceil_div(s_.h, s_.stride_h) : s_.oh;
    const int64_t width = adjoint_ ? ceil_div(s_.w, s_.stride_w) : s_.ow, results = height * width;
    const Extent y = extent(vertical(s_), adjoint_, height), x = extent(horizontal(s_), adjoint_, width);
    // With taps far apart, planes would hold more than patches do.
    if (y.phases * x.phases * y.plane * x.plane > s_.kh * s_.kw * results) return false;
    const int64_t padded = ceil_div(cols_, V::kWidth) * V::kWidth;
    return 4 * cols_ * pixels_of(y, x) <= 5 * padded * results;
  }

  // Items are those of ConvArgs; an item has all its columns.
  void run(Range range) {
    const int64_t phases_w = adjoint_ ? s_.stride_w : 1, phases = phases_w * (adjoint_ ? s_.stride_h : 1);
    int64_t first = 0;
    for (int64_t phase = 0; phase < phases && first < range.end; ++phase) {
      set_phase(phase / phases_w, phase % phases_w);
      const int64_t images = ceil_div(s_.n, args_.block.images), rows = ceil_div(y_.size, args_.block.rows);
      const int64_t blocks = images * rows * ceil_div(x_.size, args_.block.cols) * s_.groups;
      for (int64_t i = most(range.begin - first, 0); i < least(range.end - first, blocks); ++i) run_block(i);
      first += blocks;
    }
  }

 private:
  // Of all rows, those between them included.
  static int64_t pixels_of(const Extent& y, const Extent& x) {
    return ceil_div((y.results - 1) * x.plane + x.results, kTilePixels) * kTilePixels;
  }

  void set_phase(int64_t phase_h, int64_t phase_w) {
    const AxisShape v = vertical(s_), h = horizontal(s_);
    y_ = adjoint_ ? adjoint_axis(v, phase_h, scratch_.taps) : forward_axis(v, scratch_.taps);
    x_ = adjoint_ ? adjoint_axis(h, phase_w, scratch_.taps + v.kernel) : forward_axis(h, scratch_.taps + v.kernel);
    count_ = 0;
    const int64_t channel = y_size_.phases * x_size_.phases * plane_;
    for (int64_t i = 0; i < y_.count; ++i) {
      for (int64_t j = 0; j < x_.count; ++j) {
        const int64_t dy = y_.taps[i].offset - y_.taps[0].offset, dx = x_.taps[j].offset - x_.taps[0].offset;
        const int64_t at =
            (dy % y_.step * x_size_.phases + dx % x_.step) * plane_ + dy / y_.step * x_size_.plane + dx / x_.step;
        const int64_t k = (y_.taps[i].index * s_.kw + x_.taps[j].index) * depth_;
        if (depth_ >= kLongRun)
          scratch_.runs[count_++] = {k * kPackWidth<T>, at, depth_};
        else
          for (int64_t c = 0; c < depth_; ++c) scratch_.runs[count_++] = {(k + c) * kPackWidth<T>, at + c * channel, 1};
      }
    }
  }

  void run_block(int64_t block) {
    const ConvBlock& b = args_.block;
    const int64_t group = block % s_.groups;
    block /= s_.groups;
    const int64_t across = ceil_div(x_.size, b.cols), down = ceil_div(y_.size, b.rows);
    const Span cols = part(block % across, b.cols, x_.size), rows = part(block / across % down, b.rows, y_.size);
    const Span images = part(block / across / down, b.images, s_.n);
    for (int64_t n = images.first; n < images.first + images.size; ++n) {
      if (count_ > 0) load(n, rows, cols, group);
      multiply(rows, cols, group);
      store(n, rows, cols, group);
    }
  }

  // ---- in: planes ----

  void load(int64_t n, Span rows, Span cols, int64_t group) {
    const int64_t channels = adjoint_ ? s_.o : s_.c;
    const int64_t top = rows.first * y_.step + y_.taps[0].offset, left = cols.first * x_.step + x_.taps[0].offset;
    const T* image = static_cast<const T*>(args_.x) + n * y_.source * x_.source * channels + group * depth_;
    for (int64_t fy = 0; fy < y_size_.phases; ++fy) {
      for (int64_t fx = 0; fx < x_size_.phases; ++fx) {
        T* plane = scratch_.planes + (fy * x_size_.phases + fx) * plane_;
        for (int64_t r = 0; r < y_size_.plane; ++r)
          load_row(image, top + fy + r * y_.step, left + fx, plane + r * x_size_.plane);
      }
    }
  }

  // Pixels left, left + step, … of row y into the rows of their planes, zeros where they leave the image.
  void load_row(const T* image, int64_t y, int64_t left, T* to) const {
    const int64_t channels = adjoint_ ? s_.o : s_.c, pitch = y_size_.phases * x_size_.phases * plane_;
    const int64_t size = x_size_.plane, step = x_.step;
    const bool inside = y >= 0 && y < y_.source;
    const int64_t begin = inside ? least(size, most(0, ceil_div(-left, step))) : size;
    const int64_t end = inside ? most(begin, least(size, ceil_div(x_.source - left, step))) : size;
    const T* row = image + (inside ? y * x_.source * channels : 0) + left * channels;
    for (int64_t c = 0; c < depth_; ++c) {
      T* plane = to + c * pitch;
      for (int64_t x = 0; x < begin; ++x) plane[x] = T(0);
      for (int64_t x = end; x < size; ++x) plane[x] = T(0);
    }
    if (channels == 1 && step == 1) {
      for (int64_t x = begin; x < end; x += V::kWidth) {
        const int lanes = static_cast<int>(least(end - x, V::kWidth));
        V::load(row + x, lanes).store(to + x, lanes);
      }
      return;
    }
    for (int64_t c = 0; c < depth_; c += V::kWidth) {
      const int wide = static_cast<int>(least(depth_ - c, V::kWidth));
      for (int64_t x = begin; x < end; x += V::kWidth) {
        const int high = static_cast<int>(least(end - x, V::kWidth));
        V square[V::kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < V::kWidth; ++i)
          square[i] = i < high ? V::load(row + (x + i) * step * channels + c, wide) : V::zero();
        transpose(square);
#pragma GCC unroll 16
        for (int i = 0; i < V::kWidth; ++i)
          if (i < wide) square[i].store(to + (c + i) * pitch + x, high);
      }
    }
  }

  // ---- sums: [channel][pixel] ----

  void multiply(Span rows, Span cols, int64_t group) const {
    const int64_t pixels = (rows.size - 1) * x_size_.plane + cols.size, k = s_.kh * s_.kw * depth_;
    const int64_t tiles = ceil_div(cols_, kTileRows);
    const T* w = static_cast<const T*>(args_.w) + group * k * kPackWidth<T>;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t from = cols_ * tile / tiles, to = cols_ * (tile + 1) / tiles;
      const int64_t step = to - from <= 3 ? kPanel : kTileCols;  // few rows need more columns
      for (int64_t p = 0; p < pixels; p += step) {
        const int wide = static_cast<int>(least(ceil_div(pixels - p, kTilePixels) * kTilePixels, step));
        const T* a[kTileRows];
        T* c[kTileRows];
        for (int64_t o = from; o < to; ++o) {
          a[o - from] = w + o;
          c[o - from] = scratch_.sums + o * pixels_ + p;
        }
        multiply_tile(Tile<T>{a, scratch_.planes + p, c, scratch_.runs, count_, depth_ < kLongRun, kPackWidth<T>,
                              y_size_.phases * x_size_.phases * plane_, kPackWidth<T>, static_cast<int>(to - from),
                              wide, false});
      }
    }
  }

  // ---- out: pixels ----

  void store(int64_t n, Span rows, Span cols, int64_t group) {
    const int64_t channels = adjoint_ ? s_.c : s_.o;
    const bool plain = !args_.residual && !args_.gate && !args_.pre;
    if (plain) add_bias(group);
    for (int64_t r = 0; r < rows.size; ++r) {
      const int64_t y = y_.first + (rows.first + r) * y_.stride, x = x_.first + cols.first * x_.stride;
      T* out = static_cast<T*>(args_.y) + ((n * y_.result + y) * x_.result + x) * channels + group * cols_;
      store_row(scratch_.sums + r * x_size_.plane, out, cols.size, x_.stride * channels);
      if (!plain || (args_.activation != Activation::kNone && args_.activation != Activation::kRelu))
        finish_row(out, cols.size, x_.stride * channels, plain ? rest_ : static_cast<const Epilogue&>(args_),
                   group * cols_);
    }
  }

  void add_bias(int64_t group) {
    const bool rectify = args_.activation == Activation::kRelu;
    if (!args_.bias && !rectify) return;
    for (int o = 0; o < cols_; ++o) {
      T* sums = scratch_.sums + o * pixels_;
      const T* bias = static_cast<const T*>(args_.bias);
      const V addend = V::set(bias ? bias[group * cols_ + o] : T(0));
      for (int64_t p = 0; p < pixels_; p += V::kWidth) {
        const V v = bias ? V::load(sums + p) + addend : V::load(sums + p);
        (rectify ? relu(v) : v).store(sums + p);
      }
    }
  }

  // A row of pixels, `stride` apart. Where they are neighbours whole vectors are stored, and what is too much of one is
  // overwritten by the next.
  void store_row(const T* sums, T* out, int64_t pixels, int64_t stride) const {
    const int64_t whole = stride == cols_ && cols_ <= V::kWidth ? pixels - ceil_div(V::kWidth, cols_) : -1;
    for (int64_t x = 0; x < pixels; x += V::kWidth) {
      const int64_t high = pixels - x;
      for (int first = 0; first < cols_; first += V::kWidth) {
        const int wide = static_cast<int>(least(cols_ - first, V::kWidth));
        V square[V::kWidth];
        // Unrolled by order: what is indexed would lie in memory.
#pragma GCC unroll 16
        for (int i = 0; i < V::kWidth; ++i)
          square[i] = i < wide ? V::load(sums + (first + i) * pixels_ + x) : V::zero();
        transpose(square);
        T* to = out + x * stride + first;
#pragma GCC unroll 16
        for (int i = 0; i < V::kWidth; ++i, to += stride) {
          if (x + i <= whole)
            square[i].store(to);
          else if (i < high)
            square[i].store(to, wide);
        }
      }
    }
  }

  void finish_row(T* out, int64_t pixels, int64_t stride, const Epilogue& epilogue, int64_t first) const {
    for (int64_t x = 0; x < pixels; x += kTileRows) {
      const int rows = static_cast<int>(least(pixels - x, kTileRows));
      T* c[kTileRows];
      for (int i = 0; i < rows; ++i) c[i] = out + (x + i) * stride;
      finish(Finish<T>{&epilogue, static_cast<T*>(args_.y), c, rows, cols_, first});
    }
  }

  const ConvArgs& args_;
  const ConvShape& s_;
  const bool adjoint_;
  const int64_t depth_;
  const int cols_;
  const Extent y_size_, x_size_;
  int64_t plane_, pixels_;  // elements of a plane; pixels of all rows, those between them included
  Scratch<T> scratch_{};
  int64_t used_ = 0;
  Epilogue rest_;  // the activations that are left to a second pass
  Axis y_{}, x_{};
  int64_t count_ = 0;  // runs
};

}  // namespace

bool planar_pays_f32(const ConvArgs& args, bool adjoint) { return Planar<VecF32>(args, adjoint, nullptr).pays(); }
bool planar_pays_f64(const ConvArgs& args, bool adjoint) { return Planar<VecF64>(args, adjoint, nullptr).pays(); }

int64_t planar_scratch_f32(const ConvArgs& args, bool adjoint) {
  return Planar<VecF32>(args, adjoint, nullptr).scratch_bytes();
}
int64_t planar_scratch_f64(const ConvArgs& args, bool adjoint) {
  return Planar<VecF64>(args, adjoint, nullptr).scratch_bytes();
}

void run_planar_f32(const ConvArgs& args, bool adjoint, Range range, const Ctx& ctx) {
  Planar<VecF32>(args, adjoint, ctx.scratch).run(range);
}
void run_planar_f64(const ConvArgs& args, bool adjoint, Range range, const Ctx& ctx) {
  Planar<VecF64>(args, adjoint, ctx.scratch).run(range);
}

}  // namespace quernel::QUERNEL_ISA
