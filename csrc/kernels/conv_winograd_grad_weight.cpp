// The gradient of a 3 x 3 convolution of stride 1 or 2 with respect to its weights by Winograd's algorithm
// (winograd.h): per point, dU[C, O] = sum over tiles of (transformed source)' (transformed gradient), of which the last
// step makes dW. Tiles come in blocks whose transforms lie in scratch: the source as [tile][channel], so that A's
// columns are its rows; gradients in groups of 16 output channels, as packed B. Between blocks dU itself holds the
// accumulators.
//
// As in conv_grad_weight.cpp the blocks are dealt to `splits` sums with a result each, whose number depends on the
// shape alone, as does therefore the order of summation.
#include "kernels/conv_winograd.h"
#include "kernels/gemm_tile.h"
#include "kernels/scratch.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Scratch {
  TileScratch tile;
  float* source;     // [point][tile][rows]
  float* gradients;  // [point][O / 16][tile][16]
};

int64_t source_matrix(const WinogradGradWeightArgs& args) { return args.block * whole_lines(args.rows) + kLine; }
int64_t gradient_matrix(const WinogradGradWeightArgs& args) { return args.block * whole_lines(args.s.o) + kLine; }

int64_t carve(const WinogradGradWeightArgs& args, void* at, Scratch* scratch) {
  const int64_t points = tile_points(args.tiles) * tile_points(args.tiles);
  Carver carver(at);
  carver.take(scratch->tile.pixels, points);
  carver.take(scratch->tile.zeros, whole_lines(most(args.rows, args.s.o)));
  carver.take(scratch->source, points * source_matrix(args));
  carver.take(scratch->gradients, points * gradient_matrix(args));
  return carver.used();
}

template <class V, WinogradTiles kTiles>
class GradWeight {
 public:
  using W = Winograd<V, kTiles>;
  static constexpr int kEdge = W::kEdge, kPoints = W::kPoints;

  GradWeight(const WinogradGradWeightArgs& args, const Ctx& ctx) : args_(args), grid_(kEdge, args.s.oh, args.s.ow) {
    carve(args, ctx.scratch, &scratch_);
    scratch_.tile.clear(whole_lines(most(args.rows, args.s.o)));
  }

  void run(Range range) {
    const int64_t parts = ceil_div(args_.s.c, args_.rows), tiles = args_.s.n * grid_.down * grid_.across;
    const int64_t blocks = ceil_div(tiles, args_.block), pitch = whole_lines(args_.s.o);
    for (int64_t item = range.begin; item < range.end; ++item) {
      const int64_t split = item / parts, row = item % parts * args_.rows, rows = least(args_.rows, args_.s.c - row);
      const int64_t first = blocks * split / args_.splits, end = blocks * (split + 1) / args_.splits;
      float* du = static_cast<float*>(args_.du) + (split * kPoints * kPoints * args_.s.c + row) * pitch;
      for (int64_t block = first; block < end; ++block) {
        const int64_t from = block * args_.block, to = least(tiles, from + args_.block);
        load(from, to, row, rows);
        multiply(to - from, rows, block > first, du);
      }
    }
  }

 private:
  void load(int64_t begin, int64_t end, int64_t row, int64_t rows) {
    const Images x{static_cast<const float*>(args_.x), args_.s.h, args_.s.w, args_.s.c, row, rows};
    const Matrices source{scratch_.source, source_matrix(args_), whole_lines(args_.rows), kLine};
    transform_tiles<V, W::kSource, kPoints, W::source>(x, grid_, W::kAdvance, args_.s.pad_h, args_.s.pad_w, begin, end,
                                                       source, scratch_.tile);
    const Images g{static_cast<const float*>(args_.g), args_.s.oh, args_.s.ow, args_.s.o, 0, args_.s.o};
    const Matrices gradients{scratch_.gradients, gradient_matrix(args_), kLine, args_.block * kLine};
    transform_tiles<V, kEdge, kPoints, W::result_grad>(g, grid_, kEdge, 0, 0, begin, end, gradients, scratch_.tile);
  }

  void multiply(int64_t tiles, int64_t rows, bool accumulate, float* du) const {
    const int64_t pitch = whole_lines(args_.s.o), padded = ceil_div(args_.s.o, V::kWidth) * V::kWidth;
    const int64_t a_step = whole_lines(args_.rows), row_tiles = ceil_div(rows, kTileRows);
    const Run run{0, 0, tiles};
    for (int point = 0; point < kPoints * kPoints; ++point, du += args_.s.c * pitch) {
      const float* source = scratch_.source + point * source_matrix(args_);
      for (int64_t col = 0; col < args_.s.o; col += kTileCols) {
        const int cols = static_cast<int>(least(padded - col, kTileCols));
        const float* b = scratch_.gradients + point * gradient_matrix(args_) + col * args_.block;
        for (int64_t tile = 0; tile < row_tiles; ++tile) {
          const int64_t from = rows * tile / row_tiles, to = rows * (tile + 1) / row_tiles;
          const float* a[kTileRows];
          float* c[kTileRows];
          for (int64_t i = from; i < to; ++i) {
            a[i - from] = source + i;
            c[i - from] = du + i * pitch + col;
          }
          // The next sums come into L1 meanwhile.
          for (int i = 0; i < kTileRows; ++i) __builtin_prefetch(du + (to + i) * pitch + col, 1);
          multiply_tile(Tile<float>{a, b, c, &run, 1, false, a_step, kLine, args_.block * kLine,
                                    static_cast<int>(to - from), cols, accumulate});
        }
      }
    }
  }

  const WinogradGradWeightArgs& args_;
  const Grid grid_;
  Scratch scratch_{};
};

// dW of all input and V::kWidth output channels from `o` on: splits added up, transformed, turned to [O][tap][C].
template <class V, WinogradTiles kTiles>
void transform_weights(const WinogradSumArgs& args, int64_t o) {
  using W = Winograd<V, kTiles>;
  constexpr int kPoints = W::kPoints, kTaps = 9;
  const int64_t pitch = whole_lines(args.o), matrix = args.c * pitch, split = kPoints * kPoints * matrix;
  const int outputs = static_cast<int>(least(V::kWidth, args.o - o));
  for (int64_t c = 0; c < args.c; c += V::kWidth) {
    const int channels = static_cast<int>(least(V::kWidth, args.c - c));
    V squares[kTaps][V::kWidth] = {};
    for (int k = 0; k < channels; ++k) {
      const float* du = static_cast<const float*>(args.du) + (c + k) * pitch + o;
      transform_square<V, kPoints, 3, W::weight_grad>(
          [&](int i, int j) {
            const float* at = du + (i * kPoints + j) * matrix;
            V sum = V::load(at);
            for (int64_t s = 1; s < args.splits; ++s) sum = sum + V::load(at + s * split);
            return sum;
          },
          [&](int i, int j, V v) { squares[3 * i + j][k] = v; });
    }
    for (int tap = 0; tap < kTaps; ++tap) {
      transpose(squares[tap]);
      float* dw = static_cast<float*>(args.dw) + (o * kTaps + tap) * args.c + c;
      for (int i = 0; i < outputs; ++i) squares[tap][i].store(dw + i * kTaps * args.c, channels);
    }
  }
}

template <WinogradTiles kTiles>
void sum_items(const WinogradSumArgs& args, Range range) {
  for (int64_t item = range.begin; item < range.end; ++item)
    for (int64_t o = item * kLine; o < least(args.o, (item + 1) * kLine); o += VecF32::kWidth)
      transform_weights<VecF32, kTiles>(args, o);
}

}  // namespace

Status winograd_grad_weight_f32(const WinogradGradWeightArgs& args, Range range, const Ctx& ctx) {
  with_weight_tiles(args.tiles, [&]<WinogradTiles kTiles>() { GradWeight<VecF32, kTiles>(args, ctx).run(range); });
  return {};
}

int64_t winograd_grad_weight_f32_scratch(const WinogradGradWeightArgs& args) {
  Scratch unused{};
  return carve(args, nullptr, &unused);
}

Status winograd_sum_f32(const WinogradSumArgs& args, Range range, const Ctx&) {
  with_weight_tiles(args.tiles, [&]<WinogradTiles kTiles>() { sum_items<kTiles>(args, range); });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
