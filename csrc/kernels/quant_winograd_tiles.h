// The tiles of quant_winograd_dot.cpp: of four outputs along an axis, and of two where one or two are left. And where
// its weights lie (quant_winograd_pack.cpp): [panels, two or one][part of the depth][point][pairs of channels][16][2],
// of each group of channels the even pairs before the odd ones.
#pragma once
#include "kernels/args/conv.h"
#include "kernels/integers.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kTileIn = 6, kTilePoints = kTileIn * kTileIn;
constexpr int64_t kPairGroup = 64;   // channels that are transformed together
constexpr int64_t kMostDepth = 224;  // 9 · 224 · 128 · 128 < 2^25

// Input channels summed up at a time: parts of whole groups, as even as those allow.
inline int64_t winograd_depth(int64_t c) {
  if (c <= kMostDepth) return c;
  const int64_t groups = ceil_div(c, kPairGroup), parts = ceil_div(groups, kMostDepth / kPairGroup);
  return ceil_div(groups, parts) * kPairGroup;
}

// Where the weights of a column's panel begin.
inline int64_t winograd_weights(int64_t c, int64_t column) { return column * kTilePoints * c; }

// Along an axis.
struct TileAxis {
  explicit TileAxis(int64_t size) : whole((size + 1) / 4), rest(size % 4 == 1 || size % 4 == 2 ? 1 : 0) {}
  int64_t whole, rest;
};

// A tile's image and first output.
struct TilePlace {
  int64_t image, y, x;
  bool short_y, short_x;
};

// The tiles of all images, by kind: narrow (whole · rest), whole, flat, and flat and narrow.
class Tiles {
 public:
  explicit Tiles(const ConvShape& s)
      : down_(s.oh),
        across_(s.ow),
        whole_(s.n * down_.whole * across_.rest),
        flat_(whole_ + s.n * down_.whole * across_.whole),
        corner_(flat_ + s.n * down_.rest * across_.whole),
        end_(corner_ + s.n * down_.rest * across_.rest) {}

  int64_t count() const { return end_; }
  int64_t first_wide() const { return whole_; }     // tiles before are narrow,
  int64_t first_flat() const { return flat_; }      // from here on flat,
  int64_t first_corner() const { return corner_; }  // and from here on narrow again

  TilePlace place(int64_t tile) const {
    const bool short_y = tile >= flat_, short_x = tile < whole_ || tile >= corner_;
    const int64_t i = tile - (tile < whole_ ? 0 : tile < flat_ ? whole_ : tile < corner_ ? flat_ : corner_);
    const int64_t down = short_y ? 1 : down_.whole, across = short_x ? 1 : across_.whole;
    return {i / (down * across), 4 * (short_y ? down_.whole : i / across % down),
            4 * (short_x ? across_.whole : i % across), short_y, short_x};
  }

 private:
  TileAxis down_, across_;
  int64_t whole_, flat_, corner_, end_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
