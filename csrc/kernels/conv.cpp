// Convolution of NHWC images, and its gradient with respect to the input, as register tiles of six pixels times 64
// output channels. Nothing is laid out anew: a tile gets the address of every (tap, pixel) pair and sums over taps
// and channels, straight from the image. Taps outside the image point to a row of zeros.
//
//   folded    one group, no horizontal dilation: a row of taps is one contiguous run of KW · C elements, which makes
//             fewer and longer runs; pixels at the left and right edge use a copy with zeros.
//   gathered  runs shorter than kShortRun (one or two input channels): the tile's patches are copied into scratch.
//             Gathering runs of 8 already took twice as long as reading them in place.
//
// One channel per group has kernels of its own, in conv_depthwise.cpp.
//
// The gradient is the same gathering computation: input pixels of one phase (coordinates modulo the stride) read the
// same taps, so each phase is a convolution of stride 1 with its share of the (flipped) kernel. Every output is one
// chain of FMAs in the order of taps and channels, so strips, batch splits and threads change no bit.
#include "kernels/conv_stencil.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kShortRun = 8;       // elements
constexpr int64_t kBlockDepth = 1536;  // rows of a panel of B that stay in L2 while a strip passes

// Source and result of a pass: (x, y) forward, (g, dx) backward.
struct Sides {
  int64_t source_channels, result_channels;  // of all groups
  int64_t groups;
  int64_t depth, cols;  // channels per group: summed over, produced
};

inline Sides sides(const ConvShape& s, bool adjoint) {
  const int64_t c = s.c / s.groups, o = s.o / s.groups;
  return adjoint ? Sides{s.o, s.c, s.groups, o, c} : Sides{s.c, s.o, s.groups, c, o};
}

// A thread's scratch: tables of taps and addresses, zeros, and room for a tile's patches.
template <class T>
struct Scratch {
  Tap* taps;
  const T** a;
  const T** b;
  T* zeros;
  T* patch;
};

// Lays the scratch out from `at` on, or only measures it (at = null).
template <class T>
int64_t carve(const ConvShape& s, bool adjoint, std::byte* at, Scratch<T>* scratch) {
  const Sides side = sides(s, adjoint);
  const int64_t taps = s.kh * s.kw, row = s.kw * side.depth;
  int64_t used = 0;
  const auto take = [&]<class U>(U*& part, int64_t count) {
    if (at) part = reinterpret_cast<U*>(at + used);
    used += ceil_div(count * static_cast<int64_t>(sizeof(U)), 64) * 64;
  };
  take(scratch->taps, s.kh + s.kw);
  take(scratch->a, taps * kTileRows);
  take(scratch->b, taps);
  take(scratch->zeros, row + kPanel);
  take(scratch->patch, kTileRows * s.kh * row + kPanel);
  return used;
}

template <class T>
int64_t scratch_bytes(const ConvArgs& args, bool adjoint) {
  Scratch<T> unused{};
  return carve<T>(args.s, adjoint, nullptr, &unused);
}

template <class V>
class Pass {
 public:
  using T = typename V::Scalar;

  Pass(const ConvArgs& args, bool adjoint, const Ctx& ctx)
      : args_(args), shape_(args.s), adjoint_(adjoint), side_(sides(args.s, adjoint)) {
    carve(shape_, adjoint, static_cast<std::byte*>(ctx.scratch), &scratch_);
    panels_ = ceil_div(side_.cols, kPanel);
    const int64_t zeros = shape_.kw * side_.depth;
    for (int64_t i = 0; i < zeros; ++i) scratch_.zeros[i] = T(0);
  }

  // Items: phase by phase, in each (group, panel, strip) with strips fastest.
  void run(Range range) {
    const int64_t phases_w = adjoint_ ? shape_.stride_w : 1, phases = phases_w * (adjoint_ ? shape_.stride_h : 1);
    int64_t first = 0;
    for (int64_t phase = 0; phase < phases && first < range.end; ++phase) {
      set_phase(phase / phases_w, phase % phases_w);
      const int64_t rows = shape_.n * y_.size * x_.size, strips = ceil_div(rows, args_.strip);
      const int64_t items = side_.groups * panels_ * strips;
      for (int64_t i = most(range.begin - first, 0); i < least(range.end - first, items); ++i) {
        const int64_t strip = i % strips;
        run_strip(i / strips / panels_, i / strips % panels_, strip * args_.strip,
                  least(rows, (strip + 1) * args_.strip));
      }
      first += items;
    }
  }

 private:
  void set_phase(int64_t phase_h, int64_t phase_w) {
    const AxisShape v = vertical(shape_), h = horizontal(shape_);
    y_ = adjoint_ ? adjoint_axis(v, phase_h, scratch_.taps) : forward_axis(v, scratch_.taps);
    x_ = adjoint_ ? adjoint_axis(h, phase_w, scratch_.taps + v.kernel) : forward_axis(h, scratch_.taps + v.kernel);
    bool consecutive = x_.count > 0;
    for (int64_t j = 1; j < x_.count; ++j)
      consecutive &= x_.taps[j].offset == x_.taps[0].offset + j && x_.taps[j].index == x_.taps[0].index + j;
    folded_ = consecutive && side_.groups == 1;
    run_ = folded_ ? x_.count * side_.depth : side_.depth;
    const bool whole = y_.count == shape_.kh && x_.count == shape_.kw;  // packed rows are in order, without gaps
    gathered_ = whole && run_ < kShortRun;
    taps_ = gathered_ ? 1 : y_.count * (folded_ ? 1 : x_.count);
  }

  // Source image row, at the channels of `group`.
  const T* source_row(int64_t n, int64_t y, int64_t group) const {
    return static_cast<const T*>(args_.x) + (n * y_.source + y) * x_.source * side_.source_channels +
           group * side_.depth;
  }

  // Rows of packed weights.
  int64_t depth() const { return shape_.kh * shape_.kw * side_.depth; }

  // Packed rows of tap (i, j) of panel `panel`.
  const T* packed(int64_t group, int64_t panel, int64_t i, int64_t j) const {
    const int64_t tap = y_.taps[i].index * shape_.kw + x_.taps[j].index;
    const int64_t column = group * ceil_div(side_.cols, kPackWidth<T>) * kPackWidth<T> + panel * kPanel;
    return static_cast<const T*>(args_.w) + column * depth() + tap * side_.depth * kPackWidth<T>;
  }

  void set_b(int64_t group, int64_t panel) {
    for (int64_t tap = 0; tap < taps_; ++tap)
      scratch_.b[tap] =
          gathered_ || folded_ ? packed(group, panel, tap, 0) : packed(group, panel, tap / x_.count, tap % x_.count);
  }

  struct Pixel {
    int64_t n, y, x;  // y, x within the phase
  };
  Pixel pixel(int64_t row) const { return {row / (y_.size * x_.size), row / x_.size % y_.size, row % x_.size}; }
  void advance(Pixel& p) const {
    if (++p.x < x_.size) return;
    p.x = 0;
    if (++p.y < y_.size) return;
    p.y = 0;
    ++p.n;
  }

  T* result(const Pixel& p, int64_t group, int64_t panel) const {
    const int64_t y = y_.first + p.y * y_.stride, x = x_.first + p.x * x_.stride;
    return static_cast<T*>(args_.y) + ((p.n * y_.result + y) * x_.result + x) * side_.result_channels +
           group * side_.cols + panel * kPanel;
  }

  // The address of tap (i, j) at a pixel: in the image or zeros.
  const T* address(const Pixel& p, int64_t group, int64_t i, int64_t j) const {
    const int64_t y = p.y * y_.step + y_.taps[i].offset, x = p.x * x_.step + x_.taps[j].offset;
    if (y < 0 || y >= y_.source || x < 0 || x >= x_.source) return scratch_.zeros;
    return source_row(p.n, y, group) + x * side_.source_channels;
  }

  // A whole row of taps as one run: in the image, zeros, or a copy in `patch`.
  const T* folded_address(const Pixel& p, int64_t i, T* patch) const {
    const int64_t y = p.y * y_.step + y_.taps[i].offset, x = p.x * x_.step + x_.taps[0].offset;
    if (y < 0 || y >= y_.source) return scratch_.zeros;
    const T* row = source_row(p.n, y, 0);
    if (x >= 0 && x + x_.count <= x_.source) return row + x * side_.depth;
    copy_clipped<V>(patch, row, x * side_.depth, run_, x_.source * side_.depth);
    return patch;
  }

  void gather(const Pixel& p, int64_t group, T* patch) const {
    for (int64_t i = 0; i < y_.count; ++i) {
      const int64_t y = p.y * y_.step + y_.taps[i].offset;
      if (folded_) {
        const bool inside = y >= 0 && y < y_.source;
        const T* row = inside ? source_row(p.n, y, 0) : scratch_.zeros;
        const int64_t x = p.x * x_.step + x_.taps[0].offset;
        copy_clipped<V>(patch, row, x * side_.depth, run_, inside ? x_.source * side_.depth : 0);
        patch += run_;
      } else {
        for (int64_t j = 0; j < x_.count; ++j, patch += run_)
          copy_clipped<V>(patch, address(p, group, i, j), 0, run_, run_);
      }
    }
  }

  // Fills the addresses of taps [tap, tap + taps) for one pixel, the `i`th of `rows`.
  void set_a(const Pixel& p, int64_t group, int64_t tap, int64_t taps, int i, int rows) const {
    if (taps == 0) return;
    if (gathered_) {
      T* patch = scratch_.patch + i * y_.count * x_.count * side_.depth;
      gather(p, group, patch);
      scratch_.a[i] = patch;
      return;
    }
    if (folded_) {
      for (int64_t t = 0; t < taps; ++t)
        scratch_.a[t * rows + i] = folded_address(p, tap + t, scratch_.patch + (i * taps + t) * run_);
      return;
    }
    const T** a = scratch_.a + i;
    for (int64_t ty = tap / x_.count, tx = tap % x_.count, t = 0; t < taps; ++t, a += rows) {
      *a = address(p, group, ty, tx);
      if (++tx == x_.count) tx = 0, ++ty;
    }
  }

  void run_strip(int64_t group, int64_t panel, int64_t row, int64_t end) {
    set_b(group, panel);
    const int64_t run = gathered_ ? y_.count * x_.count * side_.depth : run_;
    const int64_t block = most(1, kBlockDepth / most(run, 1));
    const int64_t tiles = ceil_div(end - row, kTileRows);
    const int cols = static_cast<int>(least(side_.cols - panel * kPanel, kPanel));
    for (int64_t tap = 0; tap == 0 || tap < taps_; tap += block) {
      const int64_t taps = least(block, taps_ - tap);
      Pixel p = pixel(row);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t from = row + (end - row) * tile / tiles, to = row + (end - row) * (tile + 1) / tiles;
        const int rows = static_cast<int>(to - from);
        T* c[kTileRows];
        for (int i = 0; i < rows; ++i, advance(p)) {
          c[i] = result(p, group, panel);
          set_a(p, group, tap, taps, i, rows);
        }
        multiply_tile(Tile<T>{scratch_.a, scratch_.b + tap, c, taps, run, 1, kPackWidth<T>, depth() * kPackWidth<T>,
                              rows, cols, tap > 0});
        if (tap + taps >= taps_)
          finish(Finish<T>{&args_, static_cast<T*>(args_.y), c, rows, cols, group * side_.cols + panel * kPanel});
      }
    }
  }

  const ConvArgs& args_;
  const ConvShape& shape_;
  const bool adjoint_;
  const Sides side_;
  int64_t panels_;
  Scratch<T> scratch_;
  Axis y_{}, x_{};
  bool folded_ = false, gathered_ = false;
  int64_t run_ = 0, taps_ = 0;  // elements per tap, taps
};

}  // namespace

Status conv2d_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  Pass<VecF32>(args, false, ctx).run(range);
  return {};
}
Status conv2d_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  Pass<VecF64>(args, false, ctx).run(range);
  return {};
}
Status conv2d_grad_input_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  Pass<VecF32>(args, true, ctx).run(range);
  return {};
}
Status conv2d_grad_input_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  Pass<VecF64>(args, true, ctx).run(range);
  return {};
}

int64_t conv2d_f32_scratch(const ConvArgs& args) { return scratch_bytes<float>(args, false); }
int64_t conv2d_f64_scratch(const ConvArgs& args) { return scratch_bytes<double>(args, false); }
int64_t conv2d_grad_input_f32_scratch(const ConvArgs& args) { return scratch_bytes<float>(args, true); }
int64_t conv2d_grad_input_f64_scratch(const ConvArgs& args) { return scratch_bytes<double>(args, true); }

}  // namespace quernel::QUERNEL_ISA
