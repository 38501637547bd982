// The gradient of a convolution with respect to its weights: dW[q, o] = sum over output pixels p of patch[p, q] ·
// g[p, o], q running over (tap, channel). Pixels come in blocks: of each the source pixels are copied together, with
// zeros around them (conv_block.h; pointwise ones are read in place, see below), so that an element q of all patches of
// a row lies at one distance from pixel to pixel; and the gradients, 16 output channels next to each other. Both then
// serve a register tile in place: A are six elements q, B the gradients, the sum runs along the block's rows. Between
// blocks dW itself holds the accumulators. Copying costs one element each against O, or K, products.
//
// Vectors run along O, as gradients are contiguous there whatever the kernel's size; dW comes out transposed, and is
// turned when the splits are added up. Where a pixel has whole panels of channels, A and B change places: vectors run
// along the channels, and dW comes out as it is kept. Each of its elements is the same chain either way. (To turn nine
// megabytes takes three times as long as to compute them from the pixels of one small image.)
//
// Where a block's gradients are one stretch of rows, the turned way reads them in place: with 16 to 32 outputs packing
// took a third of the time. So does either way with the pixels of a pointwise convolution, whose images are one row
// then; with more outputs than channels it goes the turned way (0.8 to 0.9 of the time), as its gradients are the
// larger side. Beside the products the next block comes into L2, some lines with every tile: copies that wait for
// memory took up to a fifth of the time.
//
// Few weights leave few items, so the blocks are dealt to `splits` sums with a result each. The number of splits
// depends on the shape alone: so does the order of summation.
#include "kernels/conv_block.h"
#include "kernels/gemm_tile.h"
#include "kernels/scratch.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
struct Scratch {
  Tap* taps;
  Run* runs;
  T* source;
  T* gradients;
};

// A pixel's channels: where their number is a multiple of 64, pixels would meet in few sets of L1.
template <class T>
int64_t source_pitch(int64_t depth) {
  return depth % 64 == 0 ? depth + kPackWidth<T> : depth;
}

// Rows of pixels that are listed one by one: to begin a run takes as long as several products.
inline bool is_short(const ConvBlock& b) { return b.cols < 16; }

template <class V>
int64_t carve(const ConvGradWeightArgs& args, void* at, Scratch<typename V::Scalar>* scratch) {
  using T = typename V::Scalar;
  const ConvShape& s = args.s;
  const ConvBlock& b = args.block;
  Carver carver(at);
  carver.take(scratch->taps, s.kh + s.kw);
  carver.take(scratch->runs, b.images * b.rows * (is_short(b) ? b.cols : 1));
  carver.take(scratch->source, SourceBlock<V>::scratch_elements(s, b, source_pitch<T>(s.c / s.groups)));
  carver.take(scratch->gradients, b.images * b.rows * b.cols * ceil_div(s.o / s.groups, kPackWidth<T>) * kPackWidth<T>);
  return carver.used();
}

constexpr bool kMasksAreFree = kTileCols == 64;
constexpr int64_t kMostFetchBytes = 512 << 10;  // more would drive this block's copies out of L2
constexpr int64_t kLeastFetches = 8;            // with fewer tiles, all at once would be slower

// Cache lines that are needed soon, brought into L2 some at a time.
template <class T>
class Fetch {
 public:
  // `rows` rows of `size` elements, `pitch` apart, within `steps` calls of step().
  void set(const T* at, int64_t rows, int64_t size, int64_t pitch, int64_t steps) {
    const bool joined = size == pitch;  // line by line
    at_ = at, rows_ = joined ? ceil_div(rows * size, kPackWidth<T>) : rows;
    size_ = joined ? 1 : size, pitch_ = joined ? kPackWidth<T> : pitch;
    steps_ = steps, done_ = step_ = 0;
  }
  void step() {
    if (step_ >= steps_) return;
    for (const int64_t end = rows_ * ++step_ / steps_; done_ < end; ++done_, at_ += pitch_)
      for (int64_t i = 0; i < size_; i += kPackWidth<T>) __builtin_prefetch(at_ + i, 0, 2);
  }

 private:
  const T* at_ = nullptr;
  int64_t rows_ = 0, size_ = 0, pitch_ = 0, steps_ = 0, done_ = 0, step_ = 0;
};

template <class V>
class GradWeight {
 public:
  using T = typename V::Scalar;

  GradWeight(const ConvGradWeightArgs& args, const Ctx& ctx) : args_(args), s_(args.s) {
    carve<V>(args, ctx.scratch, &scratch_);
    depth_ = s_.c / s_.groups;
    outputs_ = s_.o / s_.groups;
    taps_ = s_.kh * s_.kw;
    rows_ = taps_ * depth_;
    pitch_ = args.turned ? ceil_div(outputs_, kPackWidth<T>) * kPackWidth<T> : outputs_;
    y_ = forward_axis(vertical(s_), scratch_.taps);
    x_ = forward_axis(horizontal(s_), scratch_.taps + s_.kh);
    source_.set(static_cast<const T*>(args.x), s_.c, depth_, source_pitch<T>(depth_), scratch_.source);
    source_.set_axes(y_, x_);
    pointwise_ =
        s_.n * s_.h == 1 && s_.oh == 1 && taps_ == 1 && s_.pad_h + s_.pad_w == 0 && s_.stride_w == 1 && s_.ow == s_.w;
    const ConvBlock& b = args.block;
    const bool rows_joined = b.cols >= s_.ow && (b.images == 1 || b.rows >= s_.oh);
    const bool joined = rows_joined || b.images * b.rows == 1, whole = outputs_ % V::kWidth == 0;
    packs_ = !args.turned || !joined || (!whole && !kMasksAreFree);
    g_pitch_ = packs_ ? kPackWidth<T> : s_.o;
  }

  // Items: (split, group, `rows` rows of dW).
  void run(Range range) {
    const int64_t parts = ceil_div(rows_, args_.rows);
    const ConvBlock& b = args_.block;
    const int64_t blocks = ceil_div(s_.n, b.images) * ceil_div(s_.oh, b.rows) * ceil_div(s_.ow, b.cols);
    for (int64_t item = range.begin; item < range.end; ++item) {
      const int64_t first = item % parts * args_.rows, group = item / parts % s_.groups,
                    split = item / parts / s_.groups;
      const int64_t block = blocks * split / args_.splits, end = blocks * (split + 1) / args_.splits;
      T* dw = static_cast<T*>(args_.dw) + (split * s_.groups + group) * rows_ * pitch_;
      const int64_t last = least(first + args_.rows, rows_);
      if (block == end) clear(first, last, dw);
      for (int64_t i = block; i < end; ++i) {
        load(i, group);
        fetch_next(i + 1 < end ? i + 1 : block, group, last - first);
        args_.turned ? multiply_turned(first, last, i > block, dw) : multiply(first, last, i > block, dw);
      }
    }
  }

 private:
  // Elements q of [first, end), for all outputs.
  void clear(int64_t first, int64_t end, T* dw) const {
    const int64_t rows = args_.turned ? 1 : outputs_, pitch = args_.turned ? 0 : rows_;
    const int64_t begin = args_.turned ? first * pitch_ : first, stop = args_.turned ? end * pitch_ : end;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = begin; i < stop; ++i) dw[row * pitch + i] = T(0);
    }
  }

  void load(int64_t block, int64_t group) {
    const ConvBlock& b = args_.block;
    const int64_t across = ceil_div(s_.ow, b.cols), down = ceil_div(s_.oh, b.rows);
    const Span cols = part(block % across, b.cols, s_.ow), rows = part(block / across % down, b.rows, s_.oh);
    const Span images = part(block / across / down, b.images, s_.n);
    pointwise_ ? source_.find(images, rows, cols, group) : source_.copy(images, rows, cols, group);
    pixels_ = images.size * rows.size * cols.size;
    count_ = listed_ = 0;
    T* to = scratch_.gradients;
    for (int64_t n = 0; n < images.size; ++n) {
      for (int64_t y = 0; y < rows.size; ++y, to += cols.size * kPackWidth<T>) {
        const int64_t pixel = ((images.first + n) * s_.oh + rows.first + y) * s_.ow + cols.first;
        const T* g = static_cast<const T*>(args_.g) + pixel * s_.o + group * outputs_;
        if (n + y == 0) gradients_ = packs_ ? scratch_.gradients : g;
        if (packs_) pack(g, cols.size, to);
        add_runs(source_.address(n, y, 0) - source_.address(0, 0, 0), cols.size);
      }
    }
  }

  // Another block's pixels and gradients come into L2 meanwhile, as if that were whole rows of one image.
  void fetch_next(int64_t block, int64_t group, int64_t elements) {
    const ConvBlock& b = args_.block;
    const int64_t across = ceil_div(s_.ow, b.cols), down = ceil_div(s_.oh, b.rows);
    const int64_t x = block % across * b.cols, y = block / across % down * b.rows, n = block / across / down * b.images;
    const int64_t pixel = (n * s_.oh + y) * s_.ow + x, left = s_.n * s_.oh * s_.ow - pixel;
    const int64_t steps = args_.turned ? ceil_div(outputs_, kTileCols) * ceil_div(elements, kTileRows)
                                       : elements / kPanel * ceil_div(outputs_, kTileRows);
    const int64_t step = s_.stride_h * s_.stride_w;
    const int64_t bytes = pixels_ * (step * depth_ + outputs_) * static_cast<int64_t>(sizeof(T));
    if (steps < kLeastFetches || bytes > (pointwise_ ? 2 : 1) * kMostFetchBytes) return;
    fetch_gradients_.set(static_cast<const T*>(args_.g) + pixel * s_.o + group * outputs_, least(left, pixels_),
                         outputs_, s_.o, steps);
    const int64_t source = (n * s_.h + y * s_.stride_h) * s_.w + x * s_.stride_w;
    fetch_source_.set(static_cast<const T*>(args_.x) + source * s_.c + group * depth_,
                      least(pixels_ * step, s_.n * s_.h * s_.w - source), depth_, s_.c, steps);
  }

  // For a row of pixels that begins at `at` in the source, after those that are there.
  void add_runs(int64_t at, int64_t pixels) {
    const int64_t step = is_short(args_.block) ? 1 : pixels;
    for (int64_t p = 0; p < pixels; p += step, listed_ += step) {
      const int64_t source = at + p * x_.step * source_.pixel_pitch(), gradient = listed_ * g_pitch_;
      scratch_.runs[count_++] = args_.turned ? Run{source, gradient, step} : Run{gradient, source, step};
    }
  }

  // Gradients of a row of pixels, 16 channels next to each other, for all of them.
  void pack(const T* g, int64_t pixels, T* to) const {
    for (int64_t o = 0; o < outputs_; o += kPackWidth<T>, to += pixels_ * kPackWidth<T>) {
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t j = 0; j < kPackWidth<T>; j += V::kWidth) {
          const int64_t left = outputs_ - o - j;
          const T* from = g + p * s_.o + o + j;
          (left >= V::kWidth ? V::load(from)
           : left > 0        ? V::load(from, static_cast<int>(left))
                             : V::zero())
              .store(to + p * kPackWidth<T> + j);
        }
      }
    }
  }

  // Elements q of [first, end), whole panels, for all outputs: a row of dW each.
  void multiply(int64_t first, int64_t end, bool accumulate, T* dw) {
    const int64_t tiles = ceil_div(outputs_, kTileRows);
    const auto multiply_panel = [&](int64_t tile, int64_t q) {
      const int64_t from = outputs_ * tile / tiles, to = outputs_ * (tile + 1) / tiles;
      const T* a[kTileRows];
      T* c[kTileRows];
      for (int64_t o = from; o < to; ++o) {
        a[o - from] = scratch_.gradients + o / kPackWidth<T> * pixels_ * kPackWidth<T> + o % kPackWidth<T>;
        c[o - from] = dw + o * rows_ + q;
      }
      fetch_source_.step(), fetch_gradients_.step();
      multiply_tile(Tile<T>{a, source(q / depth_) + q % depth_, c, scratch_.runs, count_, is_short(args_.block),
                            kPackWidth<T>, x_.step * source_.pixel_pitch(), kPackWidth<T>, static_cast<int>(to - from),
                            static_cast<int>(kPanel), accumulate});
    };
    // In place a panel stays in L2 while all gradients pass; copies do as a whole.
    if (pointwise_) {
      for (int64_t q = first; q < end; q += kPanel)
        for (int64_t tile = 0; tile < tiles; ++tile) multiply_panel(tile, q);
    } else {
      for (int64_t tile = 0; tile < tiles; ++tile)
        for (int64_t q = first; q < end; q += kPanel) multiply_panel(tile, q);
    }
  }

  // Rows [first, end) of dW turned, all columns.
  void multiply_turned(int64_t first, int64_t end, bool accumulate, T* dw) {
    const int64_t padded = packs_ ? ceil_div(outputs_, V::kWidth) * V::kWidth : outputs_;
    const int64_t a_step = x_.step * source_.pixel_pitch(), group = packs_ ? pixels_ * kPackWidth<T> : kPackWidth<T>;
    const int64_t tiles = ceil_div(end - first, kTileRows), least_rows = (end - first) / tiles,
                  longer = (end - first) % tiles;
    for (int64_t col = 0; col < outputs_; col += kTileCols) {
      const int cols = static_cast<int>(least(padded - col, kTileCols));
      const T* b = gradients_ + col * (packs_ ? pixels_ : 1);
      int64_t tap = first / depth_, channel = first % depth_;
      const T* element = source(tap) + channel;
      T* row = dw + first * pitch_ + col;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int rows = static_cast<int>(least_rows + (tile < longer ? 1 : 0));
        const T* a[kTileRows];
        T* c[kTileRows];
        for (int i = 0; i < rows; ++i, row += pitch_) {
          a[i] = element++;
          c[i] = row;
          if (++channel == depth_ && tap + 1 < taps_) element = source(++tap), channel = 0;
        }
        // The next sums come into L1 meanwhile: all of dW need not fit into L2.
        for (int i = 0; i < kTileRows; ++i) __builtin_prefetch(row + i * pitch_, 1);
        fetch_source_.step(), fetch_gradients_.step();
        multiply_tile(Tile<T>{a, b, c, scratch_.runs, count_, is_short(args_.block), a_step, g_pitch_, group, rows,
                              cols, accumulate});
      }
    }
  }

  // The first channel of a tap, as the first pixel reads it.
  const T* source(int64_t tap) const { return source_.address(0, 0, 0) + source_.offset(tap / s_.kw, tap % s_.kw); }

  const ConvGradWeightArgs& args_;
  const ConvShape& s_;
  int64_t depth_, outputs_;  // channels per group: of x, of g
  int64_t taps_;
  int64_t rows_, pitch_;  // of dW turned: rows, elements from one to the next
  Scratch<T> scratch_;
  Axis y_{}, x_{};
  SourceBlock<V> source_;
  Fetch<T> fetch_source_, fetch_gradients_;
  bool pointwise_ = false;                       // a row of pixels, each of which is read once
  bool packs_ = false;                           // gradients, …
  int64_t g_pitch_ = 0;                          // … from one pixel's to the next,
  const T* gradients_ = nullptr;                 // the block's first
  int64_t pixels_ = 0, count_ = 0, listed_ = 0;  // of the block: pixels, runs, pixels in them
};

// Adds up the splits of columns [first, end) of a matrix, transposed.
template <class V>
void sum_columns(const SumSplitsArgs& args, int64_t batch, int64_t first, int64_t end) {
  using T = typename V::Scalar;
  const int64_t split = args.batch * args.rows * args.pitch;
  const T* parts = static_cast<const T*>(args.parts) + batch * args.rows * args.pitch;
  T* sums = static_cast<T*>(args.sum) + batch * args.cols * args.rows;
  for (int64_t o = first; o < end; o += V::kWidth) {
    const int cols = static_cast<int>(least(end - o, V::kWidth));
    for (int64_t k = 0; k < args.rows; k += V::kWidth) {
      const int rows = static_cast<int>(least(args.rows - k, V::kWidth));
      V square[V::kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < V::kWidth; ++i) {
        square[i] = V::zero();
        if (i >= rows) continue;
        const T* part = parts + (k + i) * args.pitch + o;
        square[i] = V::load(part, cols);
        for (int64_t s = 1; s < args.splits; ++s) square[i] = square[i] + V::load(part + s * split, cols);
      }
      transpose(square);
#pragma GCC unroll 16
      for (int i = 0; i < V::kWidth; ++i)
        if (i < cols) square[i].store(sums + (o + i) * args.rows + k, rows);
    }
  }
}

template <class V>
Status sum_splits(const SumSplitsArgs& args, Range range) {
  const int64_t panels = ceil_div(args.cols, kPanel);
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t first = i % panels * kPanel;
    sum_columns<V>(args, i / panels, first, least(first + kPanel, args.cols));
  }
  return {};
}

template <class V>
int64_t scratch_bytes(const ConvGradWeightArgs& args) {
  Scratch<typename V::Scalar> unused{};
  return carve<V>(args, nullptr, &unused);
}

}  // namespace

Status conv2d_grad_weight_f32(const ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  GradWeight<VecF32>(args, ctx).run(range);
  return {};
}
Status conv2d_grad_weight_f64(const ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  GradWeight<VecF64>(args, ctx).run(range);
  return {};
}

Status sum_splits_f32(const SumSplitsArgs& args, Range range, const Ctx&) { return sum_splits<VecF32>(args, range); }
Status sum_splits_f64(const SumSplitsArgs& args, Range range, const Ctx&) { return sum_splits<VecF64>(args, range); }

int64_t conv2d_grad_weight_f32_scratch(const ConvGradWeightArgs& args) { return scratch_bytes<VecF32>(args); }
int64_t conv2d_grad_weight_f64_scratch(const ConvGradWeightArgs& args) { return scratch_bytes<VecF64>(args); }

}  // namespace quernel::QUERNEL_ISA
