// 3 x 3 convolution of stride 1 or 2 by Winograd's algorithm (winograd.h), whose P x P products per tile of results are
// as many matrix products over channels: [tiles, C] x [C, O]. An item takes a block of tiles: their source
// is transformed once, for all its columns; then, panel by panel of 64 columns, the products land in scratch and are
// transformed to results. The weights stream past once per block.
//
// Matrices in scratch lie one cache line more than their size apart: the transforms write to all of them in turn, which
// would else meet in few sets of L1.
//
// Every output is fixed by its tile's pixels and the order of channels, so blocks, batch splits and threads change no
// bit. An infinity or NaN reaches the results of its whole tile.
#include "kernels/conv_winograd.h"

#include "kernels/epilogue.h"
#include "kernels/gemm_tile.h"
#include "kernels/scratch.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Scratch {
  TileScratch tile;
  float* source;    // [point][tile][C], transformed
  float* products;  // [point][tile][columns of a panel]
};

int64_t source_matrix(const WinogradArgs& args) { return args.block * whole_lines(args.s.c) + kLine; }
int64_t product_pitch(const WinogradArgs& args) { return least(kPanel, whole_lines(args.s.o)); }
int64_t product_matrix(const WinogradArgs& args) { return args.block * product_pitch(args) + kLine; }

// Lays the scratch out from `at` on, or only measures it (at = null).
int64_t carve(const WinogradArgs& args, void* at, Scratch* scratch) {
  const int64_t points = tile_points(args.tiles) * tile_points(args.tiles);
  Carver carver(at);
  carver.take(scratch->tile.pixels, points);
  carver.take(scratch->tile.zeros, whole_lines(args.s.c));
  carver.take(scratch->source, points * source_matrix(args));
  carver.take(scratch->products, points * product_matrix(args));
  return carver.used();
}

template <class V, WinogradTiles kTiles>
class Pass {
 public:
  using W = Winograd<V, kTiles>;
  static constexpr int kEdge = W::kEdge, kPoints = W::kPoints;

  Pass(const WinogradArgs& args, const Ctx& ctx) : args_(args), grid_(kEdge, args.s.oh, args.s.ow) {
    carve(args, ctx.scratch, &scratch_);
    scratch_.tile.clear(whole_lines(args.s.c));
  }

  void run(Range range) {
    const int64_t panels = ceil_div(args_.s.o, kPanel), parts = ceil_div(panels, args_.panels);
    int64_t loaded = -1;
    for (int64_t item = range.begin; item < range.end; ++item) {
      const int64_t block = item / parts, first = item % parts * args_.panels;
      if (block != loaded) load(block);
      loaded = block;
      for (int64_t panel = first; panel < least(panels, first + args_.panels); ++panel) {
        multiply(panel);
        for (int64_t tile = 0; tile < tiles_; ++tile) store(tile, panel);
      }
    }
  }

 private:
  void load(int64_t block) {
    first_tile_ = block * args_.block;
    tiles_ = least(args_.block, args_.s.n * grid_.down * grid_.across - first_tile_);
    const Images images{static_cast<const float*>(args_.x), args_.s.h, args_.s.w, args_.s.c, 0, args_.s.c};
    const Matrices to{scratch_.source, source_matrix(args_), whole_lines(args_.s.c), kLine};
    transform_tiles<V, W::kSource, kPoints, W::source>(images, grid_, W::kAdvance, args_.s.pad_h, args_.s.pad_w,
                                                       first_tile_, first_tile_ + tiles_, to, scratch_.tile);
  }

  void multiply(int64_t panel) {
    const int64_t group = args_.s.c * kLine, matrix = ceil_div(args_.s.o, kLine) * group;
    const int64_t pitch = whole_lines(args_.s.c), tiles = ceil_div(tiles_, kTileRows);
    const int64_t cols = ceil_div(least(kPanel, args_.s.o - panel * kPanel), V::kWidth) * V::kWidth;
    const float* b = static_cast<const float*>(args_.u) + panel * (kPanel / kLine) * group;
    const float* source = scratch_.source;
    float* products = scratch_.products;
    const Run run{0, 0, args_.s.c};
    for (int point = 0; point < kPoints * kPoints; ++point) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t from = tiles_ * tile / tiles, to = tiles_ * (tile + 1) / tiles;
        const float* a[kTileRows];
        float* c[kTileRows];
        for (int64_t i = from; i < to; ++i) {
          a[i - from] = source + i * pitch;
          c[i - from] = products + i * product_pitch(args_);
        }
        // The columns of the next matrix come into L2 behind those of the first tile.
        multiply_tile(Tile<float>{a, b, c, &run, 1, false, 1, kLine, group, static_cast<int>(to - from),
                                  static_cast<int>(cols), false, nullptr, tile == 0 ? matrix : 0});
      }
      b += matrix;
      source += source_matrix(args_);
      products += product_matrix(args_);
    }
  }

  // The results of a tile at the columns of a panel.
  void store(int64_t tile, int64_t panel) {
    const Grid::Place at = grid_.place(first_tile_ + tile);
    const int64_t rows = least(kEdge, args_.s.oh - at.row), cols = least(kEdge, args_.s.ow - at.col);
    const int64_t channel = panel * kPanel, width = least(kPanel, args_.s.o - channel);
    float* pixels[kEdge * kEdge];
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        pixels[i * cols + j] = static_cast<float*>(args_.y) + channel +
                               ((at.image * args_.s.oh + at.row + i) * args_.s.ow + at.col + j) * args_.s.o;
    const float* from = scratch_.products + tile * product_pitch(args_);
    const int64_t matrix = product_matrix(args_);
    for (int64_t col = 0; col < width; col += V::kWidth) {
      const int lanes = static_cast<int>(least(V::kWidth, width - col));
      V made[kEdge][kEdge];
      transform_square<V, kPoints, kEdge, W::result>(
          [&](int i, int j) { return V::load(from + (i * kPoints + j) * matrix + col); },
          [&](int i, int j, V v) { made[i][j] = v; });
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j) {
          float* to = pixels[i * cols + j] + col;
          lanes == V::kWidth ? made[i][j].store(to) : made[i][j].store(to, lanes);
        }
      }
    }
    if (!is_trivial(args_))
      finish(Finish<float>{&args_, static_cast<float*>(args_.y), pixels, static_cast<int>(rows * cols),
                           static_cast<int>(width), channel});
  }

  const WinogradArgs& args_;
  const Grid grid_;
  Scratch scratch_{};
  int64_t first_tile_ = 0, tiles_ = 0;  // of the block
};

}  // namespace

Status winograd_f32(const WinogradArgs& args, Range range, const Ctx& ctx) {
  with_tiles(args.tiles, [&]<WinogradTiles kTiles>() { Pass<VecF32, kTiles>(args, ctx).run(range); });
  return {};
}

int64_t winograd_f32_scratch(const WinogradArgs& args) {
  Scratch unused{};
  return carve(args, nullptr, &unused);
}

}  // namespace quernel::QUERNEL_ISA
