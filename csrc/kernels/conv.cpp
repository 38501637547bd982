// Convolution of NHWC images, and its gradient with respect to the input. An item is a block of result pixels and some
// panels of output channels. Its source pixels lie in one place, padding included (conv_block.h), so that all pixels
// find their taps at the same offsets: a register tile takes the addresses of its pixels and a list of runs. A row of
// taps is one run of KW · C elements where its weights are neighbours too. Where those are few, every element is
// listed. (To gather patches instead took longer.)
//
// The sum is cut into stretches of at most kBlockBytes of B: that much of B stays in cache while all tiles of the block
// pass. Between stretches the accumulators rest in y.
//
// Few output channels are computed with lanes over pixels, see conv_planar.cpp; one channel per group has kernels of
// its own, in conv_depthwise.cpp.
//
// The gradient is the same computation: input pixels of one phase (coordinates modulo the stride) read the same taps,
// so each phase is a convolution of stride 1 with its share of the (flipped) kernel. Every output is one chain of FMAs
// in the order of taps and channels, so blocks, batch splits and threads change no bit.
#include "kernels/conv_block.h"
#include "kernels/conv_planar.h"
#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"
#include "kernels/scratch.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Of the columns of B that pass together. Less, so that they stay in L1, was slower: accumulators come and go more
// often.
constexpr int64_t kBlockBytes = kTileCols == 16 ? 40 << 10 : 384 << 10;

constexpr int64_t kShortRun = 24;   // elements
constexpr int64_t kFewLines = 256;  // of B, that stay in L1

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

// A thread's scratch: tables of taps, runs and addresses, and room for a block's pixels.
template <class T>
struct Scratch {
  Tap* taps;
  Run* runs;
  Run* stretch;
  const T** a;
  T** c;
  T* source;
};

// Lays the scratch out from `at` on, or only measures it (at = null).
template <class V>
int64_t carve(const ConvArgs& args, bool adjoint, void* at, Scratch<typename V::Scalar>* scratch) {
  const ConvShape& s = args.s;
  const int64_t pixels = args.block.images * args.block.rows * args.block.cols, depth = sides(s, adjoint).depth;
  Carver carver(at);
  carver.take(scratch->taps, s.kh + s.kw);
  carver.take(scratch->runs, s.kh * s.kw * most(1, least(depth, kShortRun)));
  carver.take(scratch->stretch, s.kh * s.kw * most(1, least(depth, kShortRun)));
  carver.take(scratch->a, pixels);
  carver.take(scratch->c, pixels);
  carver.take(scratch->source, SourceBlock<V>::scratch_elements(s, adjoint, args.block, depth));
  return carver.used();
}

template <class V>
int64_t scratch_bytes(const ConvArgs& args, bool adjoint) {
  Scratch<typename V::Scalar> unused{};
  return carve<V>(args, adjoint, nullptr, &unused);
}

template <class V>
class Pass {
 public:
  using T = typename V::Scalar;

  Pass(const ConvArgs& args, bool adjoint, const Ctx& ctx)
      : args_(args),
        shape_(args.s),
        adjoint_(adjoint),
        in_tile_(finishes_in_tile(args)),
        after_tile_(!is_trivial(args) && !in_tile_),
        side_(sides(args.s, adjoint)) {
    carve<V>(args, adjoint, ctx.scratch, &scratch_);
    source_.set(static_cast<const T*>(args.x), side_.source_channels, side_.depth, side_.depth, scratch_.source);
  }

  // Items: phase by phase, see ConvArgs.
  void run(Range range) {
    const int64_t phases_w = adjoint_ ? shape_.stride_w : 1, phases = phases_w * (adjoint_ ? shape_.stride_h : 1);
    const int64_t panels = ceil_div(ceil_div(side_.cols, kPanel), args_.panels);
    int64_t first = 0;
    for (int64_t phase = 0; phase < phases && first < range.end; ++phase) {
      set_phase(phase / phases_w, phase % phases_w);
      const int64_t images = ceil_div(shape_.n, args_.block.images), rows = ceil_div(y_.size, args_.block.rows);
      const int64_t blocks = images * rows * ceil_div(x_.size, args_.block.cols) * side_.groups;
      int64_t loaded = -1;
      for (int64_t i = most(range.begin - first, 0); i < least(range.end - first, blocks * panels); ++i) {
        if (i / panels != loaded) load_block(i / panels);
        loaded = i / panels;
        run_columns(i % panels * args_.panels * kPanel);
      }
      first += blocks * panels;
    }
  }

 private:
  void set_phase(int64_t phase_h, int64_t phase_w) {
    const AxisShape v = vertical(shape_), h = horizontal(shape_);
    y_ = adjoint_ ? adjoint_axis(v, phase_h, scratch_.taps) : forward_axis(v, scratch_.taps);
    x_ = adjoint_ ? adjoint_axis(h, phase_w, scratch_.taps + v.kernel) : forward_axis(h, scratch_.taps + v.kernel);
    source_.set_axes(y_, x_);
    folded_ = true;
    for (int64_t j = 1; j < x_.count; ++j)
      folded_ &= x_.taps[j].offset == x_.taps[0].offset + j && x_.taps[j].index == x_.taps[0].index + j;
  }

  // Brings the block's source pixels together and notes where its pixels start and what they sum.
  void load_block(int64_t block) {
    const ConvBlock& b = args_.block;
    group_ = block % side_.groups;
    block /= side_.groups;
    const int64_t across = ceil_div(x_.size, b.cols), down = ceil_div(y_.size, b.rows);
    const Span cols = part(block % across, b.cols, x_.size), rows = part(block / across % down, b.rows, y_.size);
    const Span images = part(block / across / down, b.images, shape_.n);
    source_.load(images, rows, cols, group_);
    pixels_ = 0;
    for (int64_t n = 0; n < images.size; ++n) {
      for (int64_t r = 0; r < rows.size; ++r) {
        const int64_t y = y_.first + (rows.first + r) * y_.stride, x = x_.first + cols.first * x_.stride;
        T* c = static_cast<T*>(args_.y) + group_ * side_.cols +
               (((images.first + n) * y_.result + y) * x_.result + x) * side_.result_channels;
        for (int64_t p = 0; p < cols.size; ++p, ++pixels_, c += x_.stride * side_.result_channels) {
          scratch_.a[pixels_] = source_.address(n, r, p);
          scratch_.c[pixels_] = c;
        }
      }
    }
    set_runs();
  }

  // A run is the channels of a tap, or, folded, of all taps of a row.
  void set_runs() {
    const bool folded = folded_ && source_.pixel_pitch() == side_.depth;
    const int64_t taps = folded ? x_.count : 1, depth = taps * side_.depth;
    single_ = depth < kShortRun;
    count_ = depth_ = 0;
    for (int64_t i = 0; i < y_.count; ++i) {
      for (int64_t j = 0; j < x_.count; j += taps, depth_ += depth) {
        const int64_t tap = y_.taps[i].index * shape_.kw + x_.taps[j].index;
        const Run run{source_.offset(i, j), tap * side_.depth * kPackWidth<T>, depth};
        if (!single_) scratch_.runs[count_++] = run;
        for (int64_t k = 0; single_ && k < depth; ++k)
          scratch_.runs[count_++] = {run.a + k, run.b + k * kPackWidth<T>, 1};
      }
    }
  }

  // The runs of products [from, to) of the sum.
  int64_t cut(int64_t from, int64_t to) {
    int64_t count = 0;
    const Run* run = scratch_.runs;
    for (int64_t at = 0; at < to; at += run->depth, ++run) {
      const int64_t skip = most(from - at, 0), end = least(to - at, run->depth);
      if (skip < end) scratch_.stretch[count++] = {run->a + skip, run->b + skip * kPackWidth<T>, end - skip};
    }
    return count;
  }

  // Columns [first, …) of an item: as many at once as leave B in cache, whole registers of them.
  void run_columns(int64_t first) {
    const int64_t end = least(side_.cols, first + args_.panels * kPanel);
    const int64_t most_rows = kBlockBytes / static_cast<int64_t>(sizeof(T));  // of one column
    const int64_t fitting = most_rows / most(depth_, 1) / kTileCols * kTileCols;
    const int64_t step = most(kTileCols, least(fitting, kPanel));
    const int64_t stretches = most(1, ceil_div(depth_ * step, most_rows));
    for (int64_t col = first; col < end; col += step) {
      const int cols = static_cast<int>(least(end - col, step));
      for (int64_t i = 0; i < stretches; ++i) {
        const int64_t from = depth_ * i / stretches, to = depth_ * (i + 1) / stretches;
        run_stretch(col, cols, from, to);
      }
    }
  }

  void run_stretch(int64_t col, int cols, int64_t begin, int64_t end) {
    const int64_t group = shape_.kh * shape_.kw * side_.depth * kPackWidth<T>;
    const T* b =
        static_cast<const T*>(args_.w) + (group_ * ceil_div(side_.cols, kPackWidth<T>) + col / kPackWidth<T>)*group;
    const int64_t count = cut(begin, end), first = group_ * side_.cols + col;
    // Rows are dealt out evenly.
    const int64_t tiles = ceil_div(pixels_, kTileRows), least_rows = pixels_ / tiles, longer = pixels_ % tiles;
    // The next stretch comes into L2 while the first tile passes, row by row: all at once, the tile would wait for it
    // (up to 1.6 times as long where weights meet few pixels). With every tile, it would take as long or longer.
    const int64_t ahead = end - begin < kFewLines ? 0 : (end - begin) * kPackWidth<T>;
    const TileFinish<T> epilogue = tile_finish<T>(args_, args_.y, first);
    const bool ends = end == depth_;
    const T* const* a = scratch_.a;
    T* const* to = scratch_.c;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int rows = static_cast<int>(least_rows + (tile < longer ? 1 : 0));
      T* c[kTileRows];
      for (int i = 0; i < rows; ++i) c[i] = to[i] + col;
      multiply_tile(Tile<T>{a, b, c, scratch_.stretch, count, single_, 1, kPackWidth<T>, group, rows, cols, begin > 0,
                            in_tile_ && ends ? &epilogue : nullptr, tile == 0 ? ahead : 0});
      if (after_tile_ && ends) finish(Finish<T>{&args_, static_cast<T*>(args_.y), c, rows, cols, first});
      a += rows;
      to += rows;
    }
  }

  const ConvArgs& args_;
  const ConvShape& shape_;
  const bool adjoint_, in_tile_, after_tile_;  // where the epilogue is, if there is one
  const Sides side_;
  Scratch<T> scratch_;
  SourceBlock<V> source_;
  Axis y_{}, x_{};
  bool folded_ = false;  // the weights of a row of taps are neighbours, as are the pixels that it reads
  bool single_ = false;  // runs are so short that every element is one
  int64_t group_ = 0, pixels_ = 0;
  int64_t count_ = 0, depth_ = 0;  // runs of the whole sum, and their length together
};

}  // namespace

Status conv2d_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f32(args, false) ? run_planar_f32(args, false, range, ctx) : Pass<VecF32>(args, false, ctx).run(range);
  return {};
}
Status conv2d_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f64(args, false) ? run_planar_f64(args, false, range, ctx) : Pass<VecF64>(args, false, ctx).run(range);
  return {};
}
Status conv2d_grad_input_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f32(args, true) ? run_planar_f32(args, true, range, ctx) : Pass<VecF32>(args, true, ctx).run(range);
  return {};
}
Status conv2d_grad_input_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f64(args, true) ? run_planar_f64(args, true, range, ctx) : Pass<VecF64>(args, true, ctx).run(range);
  return {};
}

int64_t conv2d_f32_scratch(const ConvArgs& args) {
  return planar_pays_f32(args, false) ? planar_scratch_f32(args, false) : scratch_bytes<VecF32>(args, false);
}
int64_t conv2d_f64_scratch(const ConvArgs& args) {
  return planar_pays_f64(args, false) ? planar_scratch_f64(args, false) : scratch_bytes<VecF64>(args, false);
}
int64_t conv2d_grad_input_f32_scratch(const ConvArgs& args) {
  return planar_pays_f32(args, true) ? planar_scratch_f32(args, true) : scratch_bytes<VecF32>(args, true);
}
int64_t conv2d_grad_input_f64_scratch(const ConvArgs& args) {
  return planar_pays_f64(args, true) ? planar_scratch_f64(args, true) : scratch_bytes<VecF64>(args, true);
}

}  // namespace quernel::QUERNEL_ISA
