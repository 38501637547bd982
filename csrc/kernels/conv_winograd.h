// What the passes of Winograd's algorithm share: tiles of images, transformed into matrices over channels.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/conv_stencil.h"
#include "kernels/winograd.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kLine = kPackWidth<float>;

inline int64_t whole_lines(int64_t channels) { return ceil_div(channels, kLine) * kLine; }

// Tiles of kEdge x kEdge pixels that cover the results, counted row by row, image by image.
struct Grid {
  int64_t edge, down, across;

  Grid(int64_t edge, int64_t oh, int64_t ow) : edge(edge), down(ceil_div(oh, edge)), across(ceil_div(ow, edge)) {}

  struct Place {
    int64_t image, row, col;  // the first result pixel
  };
  Place place(int64_t tile) const {
    const int64_t line = tile / across;
    return {line / down, line % down * edge, tile % across * edge};
  }
};

// NHWC images, of which channels [first, first + count) are read; zeros lie around them.
struct Images {
  const float* at;
  int64_t h, w, c;
  int64_t first, count;
};

// One matrix per point, [tile][channel]; channel c of a tile at tile * tile_step + c / 16 * group_step + c % 16.
struct Matrices {
  float* at;
  int64_t matrix, tile_step, group_step;
};

// Room for the addresses of a tile's pixels and for a pixel of zeros.
struct TileScratch {
  const float** pixels;
  float* zeros;

  void clear(int64_t channels) const {
    for (int64_t i = 0; i < channels; ++i) zeros[i] = 0;
  }
};

// Transforms tiles [begin, end) of kFrom x kFrom pixels, `advance` pixels from one to the next, the first of which lies
// `pad` above and left of the image, by kAlong into kTo x kTo matrices. A tile finds its pixels through a table of
// addresses, those outside the image at a row of zeros: one case for borders, odd sizes and any padding. Channels
// beyond the last are zeros up to a whole vector.
template <class V, int kFrom, int kTo, auto kAlong>
void transform_tiles(const Images& images, const Grid& grid, int64_t advance, int64_t pad_h, int64_t pad_w,
                     int64_t begin, int64_t end, const Matrices& out, const TileScratch& scratch) {
  const auto vector = [&]<bool kTail>(float* to, int64_t c, [[maybe_unused]] int lanes) {
    transform_square<V, kFrom, kTo, kAlong>(
        [&](int i, int j) {
          const float* pixel = scratch.pixels[i * kFrom + j] + c;
          return kTail ? V::load(pixel, lanes) : V::load(pixel);
        },
        [&](int i, int j, V v) { v.store(to + (i * kTo + j) * out.matrix); });
  };
  for (int64_t tile = begin; tile < end; ++tile) {
    const Grid::Place at = grid.place(tile);
    const float* image = images.at + at.image * images.h * images.w * images.c + images.first;
    const int64_t top = at.row / grid.edge * advance - pad_h, left = at.col / grid.edge * advance - pad_w;
    for (int64_t i = 0; i < kFrom; ++i) {
      for (int64_t j = 0; j < kFrom; ++j) {
        const int64_t y = top + i, x = left + j;
        const bool inside = y >= 0 && y < images.h && x >= 0 && x < images.w;
        scratch.pixels[i * kFrom + j] = inside ? image + (y * images.w + x) * images.c : scratch.zeros;
      }
    }
    for (int64_t c = 0; c < images.count; c += V::kWidth) {
      float* to = out.at + (tile - begin) * out.tile_step + c / kLine * out.group_step + c % kLine;
      const int lanes = static_cast<int>(least(V::kWidth, images.count - c));
      if (lanes == V::kWidth)
        vector.template operator()<false>(to, c, lanes);
      else
        vector.template operator()<true>(to, c, lanes);
    }
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
