// Convolution of NHWC images, and its gradient with respect to the input. An item is a block of result pixels and some
// panels of output channels. Images are read where they are. Pixels whose taps lie in the image are the same ones form
// a part of the block, and padding costs nothing: a register tile takes the addresses of pixels of one part and the
// list of runs that it sums. A row of taps is one run of KW · C elements where its weights are neighbours too. Where
// those are few, every element is listed. (To copy a block's pixels with zeros around them took up to a third longer.)
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
#include "kernels/conv_planar.h"
#include "kernels/conv_stencil.h"
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
constexpr int64_t kMostLists = 8;   // of runs, one per segment of columns

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

// A thread's scratch: tables of taps, of what reads them, of runs and of addresses.
template <class T>
struct Scratch {
  Tap* taps;
  Segment *down, *across;
  Run* lists;
  int64_t* listed;
  Run* stretch;
  const T** a;
  T** c;
};

// Runs of a sum at most.
inline int64_t most_runs(const ConvShape& s, int64_t depth) { return s.kh * s.kw * most(1, least(depth, kShortRun)); }

// Lists of runs that are kept.
inline int64_t kept_lists(const ConvShape& s) { return least(kMostLists, most_segments(s.kw)); }

// Lays the scratch out from `at` on, or only measures it (at = null).
template <class T>
int64_t carve(const ConvArgs& args, bool adjoint, void* at, Scratch<T>* scratch) {
  const ConvShape& s = args.s;
  const int64_t pixels = args.block.images * args.block.rows * args.block.cols;
  const int64_t runs = most_runs(s, sides(s, adjoint).depth);
  Carver carver(at);
  carver.take(scratch->taps, s.kh + s.kw);
  carver.take(scratch->down, most_segments(s.kh));
  carver.take(scratch->across, most_segments(s.kw));
  carver.take(scratch->lists, kept_lists(s) * runs);
  carver.take(scratch->listed, kept_lists(s));
  carver.take(scratch->stretch, runs);
  carver.take(scratch->a, pixels);
  carver.take(scratch->c, pixels);
  return carver.used();
}

template <class T>
int64_t scratch_bytes(const ConvArgs& args, bool adjoint) {
  Scratch<T> unused{};
  return carve(args, adjoint, nullptr, &unused);
}

template <class T>
class Pass {
 public:
  Pass(const ConvArgs& args, bool adjoint, const Ctx& ctx)
      : args_(args),
        shape_(args.s),
        adjoint_(adjoint),
        in_tile_(finishes_in_tile(args)),
        after_tile_(!is_trivial(args) && !in_tile_),
        side_(sides(args.s, adjoint)) {
    carve(args, adjoint, ctx.scratch, &scratch_);
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
    down_ = cut_axis(y_, scratch_.down);
    across_ = cut_axis(x_, scratch_.across);
    folded_ = side_.source_channels == side_.depth;
    for (int64_t j = 1; j < x_.count; ++j)
      folded_ &= x_.taps[j].offset == x_.taps[0].offset + j && x_.taps[j].index == x_.taps[0].index + j;
    single_ = (folded_ ? x_.count : 1) * side_.depth < kShortRun;
    depth_ = y_.count * x_.count * side_.depth;
    for (int64_t i = 0; i < kept_lists(shape_); ++i) scratch_.listed[i] = -1;
  }

  // The parts of the block that read the same taps: f(segment of rows, number of the segment of columns, rows,
  // columns).
  template <class F>
  void for_parts(F f) const {
    for (const Segment* v = scratch_.down; v < scratch_.down + down_; ++v) {
      const Span rows = overlap(rows_, *v);
      for (int64_t i = 0; rows.size > 0 && i < across_; ++i) {
        const Span cols = overlap(cols_, scratch_.across[i]);
        if (cols.size > 0) f(*v, i, rows, cols);
      }
    }
  }
  static Span overlap(Span a, const Segment& b) {
    const int64_t first = most(a.first, b.begin);
    return {first, least(a.first + a.size, b.end) - first};
  }

  // Notes where the pixels of a block start to read, part by part, and where they go to.
  void load_block(int64_t block) {
    const ConvBlock& b = args_.block;
    group_ = block % side_.groups;
    block /= side_.groups;
    const int64_t across = ceil_div(x_.size, b.cols), down = ceil_div(y_.size, b.rows);
    cols_ = part(block % across, b.cols, x_.size);
    rows_ = part(block / across % down, b.rows, y_.size);
    images_ = part(block / across / down, b.images, shape_.n);
    const T* source = static_cast<const T*>(args_.x) + group_ * side_.depth;
    T* result = static_cast<T*>(args_.y) + group_ * side_.cols;
    const int64_t top = y_.count > 0 ? y_.taps[0].offset : 0, left = x_.count > 0 ? x_.taps[0].offset : 0;
    const int64_t a_step = x_.step * side_.source_channels, c_step = x_.stride * side_.result_channels;
    const T** a = scratch_.a;
    T** c = scratch_.c;
    most_taps_ = 0;
    for_parts([&](const Segment& v, int64_t segment, Span rows, Span cols) {
      const Segment& h = scratch_.across[segment];
      most_taps_ = most(most_taps_, (v.last - v.first) * (h.last - h.first));
      for (int64_t n = images_.first; n < images_.first + images_.size; ++n) {
        for (int64_t r = rows.first; r < rows.first + rows.size; ++r) {
          const int64_t from = (n * y_.source + r * y_.step + top) * x_.source + cols.first * x_.step + left;
          const int64_t to = (n * y_.result + y_.first + r * y_.stride) * x_.result + x_.first + cols.first * x_.stride;
          const T* pixel = source + from * side_.source_channels;
          T* out = result + to * side_.result_channels;
          for (int64_t p = 0; p < cols.size; ++p, pixel += a_step, out += c_step) {
            *a++ = pixel;
            *c++ = out;
          }
        }
      }
    });
  }

  // Runs of a row of taps. A run is the channels of a tap, or, folded, of all taps of the row.
  int64_t runs_per_row(const Segment& h) const {
    const int64_t taps = h.last - h.first;
    return single_ ? taps * side_.depth : folded_ ? least(taps, 1) : taps;
  }

  // The runs of all rows of taps, for pixels of a segment of columns.
  const Run* list_runs(int64_t segment) {
    const int64_t slot = segment % kept_lists(shape_);
    Run* const list = scratch_.lists + slot * most_runs(shape_, side_.depth);
    if (scratch_.listed[slot] == segment) return list;
    scratch_.listed[slot] = segment;
    const Segment& h = scratch_.across[segment];
    const int64_t pitch = x_.source * side_.source_channels, taps = folded_ ? h.last - h.first : 1;
    Run* run = list;
    for (int64_t i = 0; i < y_.count; ++i) {
      for (int64_t j = h.first; j < h.last; j += taps) {
        const int64_t tap = y_.taps[i].index * shape_.kw + x_.taps[j].index, depth = taps * side_.depth;
        const int64_t a = (y_.taps[i].offset - y_.taps[0].offset) * pitch +
                          (x_.taps[j].offset - x_.taps[0].offset) * side_.source_channels;
        const int64_t b = tap * side_.depth * kPackWidth<T>;
        if (!single_) *run++ = {a, b, depth};
        for (int64_t k = 0; single_ && k < depth; ++k) *run++ = {a + k, b + k * kPackWidth<T>, 1};
      }
    }
    return list;
  }

  // Those of them that a part of the block reads, cut to products [from, to) of the whole sum.
  struct Runs {
    const Run* at;
    int64_t count;
  };
  Runs cut(const Segment& v, int64_t segment, int64_t from, int64_t to) {
    const Segment& h = scratch_.across[segment];
    const int64_t per_row = runs_per_row(h);
    const Run* run = list_runs(segment) + v.first * per_row;
    if (from == 0 && to == depth_) return {run, (v.last - v.first) * per_row};
    int64_t count = 0;
    for (int64_t i = v.first; i < v.last; ++i) {
      int64_t at = (i * x_.count + h.first) * side_.depth;
      for (int64_t j = 0; j < per_row; ++j, at += run->depth, ++run) {
        const int64_t begin = most(from, at), end = least(to, at + run->depth), skip = begin - at;
        if (begin < end) scratch_.stretch[count++] = {run->a + skip, run->b + skip * kPackWidth<T>, end - begin};
      }
    }
    return {scratch_.stretch, count};
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
    // The next stretch comes into L2 while the first tile passes, row by row: all at once, the tile would wait for it
    // (up to 1.6 times as long where weights meet few pixels). With every tile, it would take as long or longer.
    int64_t ahead = end - begin < kFewLines ? 0 : (end - begin) * kPackWidth<T>;
    const TileFinish<T> epilogue = tile_finish<T>(args_, args_.y, group_ * side_.cols);
    const bool ends = end == depth_;
    Tile<T> tile{};
    tile.a = scratch_.a;
    tile.b = static_cast<const T*>(args_.w) + group_ * ceil_div(side_.cols, kPackWidth<T>) * group;
    tile.c = scratch_.c;
    tile.single = single_;
    tile.a_step = 1;
    tile.ldb = kPackWidth<T>;
    tile.group = group;
    tile.first = static_cast<int>(col);
    tile.cols = cols;
    tile.accumulate = begin > 0;
    tile.finish = in_tile_ && ends ? &epilogue : nullptr;
    for_parts([&](const Segment& v, int64_t segment, Span rows, Span columns) {
      const Segment& h = scratch_.across[segment];
      const Runs runs = cut(v, segment, begin, end);
      const int64_t pixels = images_.size * rows.size * columns.size;
      tile.runs = runs.at;
      tile.count = runs.count;
      T* const* const c = tile.c;
      const bool whole = (v.last - v.first) * (h.last - h.first) == most_taps_;
      run_part(tile, pixels, whole ? ahead : 0);
      if (whole) ahead = 0;
      if (after_tile_ && ends) finish_part(c, pixels, col, cols);
    });
  }

  // The tiles of a part, into which rows are dealt out evenly.
  static void run_part(Tile<T>& tile, int64_t pixels, int64_t ahead) {
    const int64_t tiles = ceil_div(pixels, kTileRows), least_rows = pixels / tiles, longer = pixels % tiles;
    const auto next = [&](int64_t rows, int64_t count) {
      if (count == 0) return;
      tile.rows = static_cast<int>(rows);
      tile.tiles = count;
      multiply_tile(tile);
      tile.a += rows * count;
      tile.c += rows * count;
      tile.ahead = 0;
    };
    tile.ahead = ahead;
    const int64_t first = ahead > 0 ? 1 : 0;
    next(least_rows + 1, least(longer, first));
    next(least_rows + 1, longer - least(longer, first));
    next(least_rows, longer > 0 ? 0 : first);
    next(least_rows, tiles - longer - (longer > 0 ? 0 : first));
  }

  // What the epilogue asks for and tiles cannot do.
  void finish_part(T* const* pixels, int64_t count, int64_t col, int cols) const {
    for (int64_t p = 0; p < count; p += kTileRows) {
      const int rows = static_cast<int>(least(count - p, kTileRows));
      T* c[kTileRows];
      for (int i = 0; i < rows; ++i) c[i] = pixels[p + i] + col;
      finish(Finish<T>{&args_, static_cast<T*>(args_.y), c, rows, cols, group_ * side_.cols + col});
    }
  }

  const ConvArgs& args_;
  const ConvShape& shape_;
  const bool adjoint_, in_tile_, after_tile_;  // where the epilogue is, if there is one
  const Sides side_;
  Scratch<T> scratch_{};
  Axis y_{}, x_{};
  int64_t down_ = 0, across_ = 0;    // segments
  bool folded_ = false;              // the weights of a row of taps are neighbours, as are the pixels that it reads
  bool single_ = false;              // runs are so short that every element is one
  int64_t depth_ = 0;                // of the whole sum
  Span images_{}, rows_{}, cols_{};  // of the block
  int64_t group_ = 0, most_taps_ = 0;
};

}  // namespace

Status conv2d_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f32(args, false) ? run_planar_f32(args, false, range, ctx) : Pass<float>(args, false, ctx).run(range);
  return {};
}
Status conv2d_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f64(args, false) ? run_planar_f64(args, false, range, ctx) : Pass<double>(args, false, ctx).run(range);
  return {};
}
Status conv2d_grad_input_f32(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f32(args, true) ? run_planar_f32(args, true, range, ctx) : Pass<float>(args, true, ctx).run(range);
  return {};
}
Status conv2d_grad_input_f64(const ConvArgs& args, Range range, const Ctx& ctx) {
  planar_pays_f64(args, true) ? run_planar_f64(args, true, range, ctx) : Pass<double>(args, true, ctx).run(range);
  return {};
}

int64_t conv2d_f32_scratch(const ConvArgs& args) {
  return planar_pays_f32(args, false) ? planar_scratch_f32(args, false) : scratch_bytes<float>(args, false);
}
int64_t conv2d_f64_scratch(const ConvArgs& args) {
  return planar_pays_f64(args, false) ? planar_scratch_f64(args, false) : scratch_bytes<double>(args, false);
}
int64_t conv2d_grad_input_f32_scratch(const ConvArgs& args) {
  return planar_pays_f32(args, true) ? planar_scratch_f32(args, true) : scratch_bytes<float>(args, true);
}
int64_t conv2d_grad_input_f64_scratch(const ConvArgs& args) {
  return planar_pays_f64(args, true) ? planar_scratch_f64(args, true) : scratch_bytes<double>(args, true);
}

}  // namespace quernel::QUERNEL_ISA
