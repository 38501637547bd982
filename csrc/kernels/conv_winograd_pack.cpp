// Weights of a 3 x 3 convolution, transformed (winograd.h) and packed: matrix p of P x P holds the p-th element of
// every channel pair's transform. Lanes run along whichever channels are neighbours in the source; blocks of 16 x 16
// channels pass through scratch that stays in L1, where pack_block.h turns them if it must.
#include "kernels/args/conv.h"
#include "kernels/integers.h"
#include "kernels/pack_block.h"
#include "kernels/winograd.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kSide = kPackWidth<float>;  // of a block

// `rows` x `lanes` channel pairs from src on, lanes next to each other, to scratch[point][row][kSide].
template <class W, class V>
void transform_block(const WinogradPackArgs& args, const float* src, int64_t row_step, int64_t rows, int64_t lanes,
                     float* scratch) {
  constexpr int kPoints = W::kPoints;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t first = 0; first < lanes; first += V::kWidth) {
      const int here = static_cast<int>(least(lanes - first, V::kWidth));
      const float* from = src + row * row_step + first;
      float* to = scratch + row * kSide + first;
      const bool whole = here == V::kWidth;
      transform_square<V, 3, kPoints, W::weight>(
          [&](int i, int j) {
            const float* tap = from + (3 * i + j) * args.src_tap;
            return whole ? V::load(tap) : V::load(tap, here);
          },
          [&](int i, int j, V v) { v.store(to + (i * kPoints + j) * kSide * kSide); });
    }
  }
}

template <class V, WinogradTiles kTiles>
void pack_panel(const WinogradPackArgs& args, int64_t panel, float* scratch) {
  using W = Winograd<V, kTiles>;
  const bool along_rows = args.src_row == 1;  // lanes run along C
  const int64_t group = args.c * kSide, matrix = ceil_div(args.o, kSide) * group;
  const float* src = static_cast<const float*>(args.src) + args.src_offset;
  const int64_t end = least(args.o, (panel + 1) * kPanel);
  for (int64_t col = panel * kPanel; col < end; col += kSide) {
    const int64_t cols = least(end - col, kSide);
    for (int64_t row = 0; row < args.c; row += kSide) {
      const int64_t rows = least(args.c - row, kSide);
      const float* from = src + row * args.src_row + col * args.src_col;
      transform_block<W, V>(args, from, along_rows ? args.src_col : args.src_row, along_rows ? cols : rows,
                            along_rows ? rows : cols, scratch);
      float* to = static_cast<float*>(args.dst) + col / kSide * group + row * kSide;
      for (int point = 0; point < W::kPoints * W::kPoints; ++point, to += matrix) {
        const float* block = scratch + point * kSide * kSide;
        pack_block<V>(Unpacked<float>{block, rows, along_rows ? 1 : kSide, along_rows ? kSide : 1},
                      Packed<float>{to, group, cols});
      }
    }
  }
}

}  // namespace

Status winograd_pack_f32(const WinogradPackArgs& args, Range range, const Ctx& ctx) {
  for (int64_t panel = range.begin; panel < range.end; ++panel) {
    float* scratch = static_cast<float*>(ctx.scratch);
    with_tiles(args.tiles, [&]<WinogradTiles kTiles>() { pack_panel<VecF32, kTiles>(args, panel, scratch); });
  }
  return {};
}

int64_t winograd_pack_f32_scratch(const WinogradPackArgs& args) {
  return tile_points(args.tiles) * tile_points(args.tiles) * kSide * kSide * static_cast<int64_t>(sizeof(float));
}

}  // namespace quernel::QUERNEL_ISA
