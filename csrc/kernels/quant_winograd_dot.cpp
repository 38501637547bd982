// int8 convolution of 3x3 taps, stride 1, by Winograd's algorithm in integers, with VNNI: quant_winograd.cpp's
// arithmetic and items (see there), in whole vectors of AVX-512. Products of int16 run at half the pace of those of
// bytes, so that a quarter of them takes half the time; the transformations take from that. What differs:
//
// Where rows or columns of outputs end with one or two beyond the tiles of four, their tiles are of two outputs, from
// F(2, 3) along that axis: its points 0, ±1 and infinity are among those of F(4, 3), so that it takes the same weights
// and skips two of six points. (14x14 outputs take 22 x 22 products of 24 x 24, which is 16 % of the time.) Tiles are
// ordered by kind, narrow ones first and flat ones last, so that those with products at a point are neighbours.
//
// 128 is subtracted from the inputs, which their transform notices at the point (1, 1) alone, and its product with the
// sum of a column's weights added to the bias: half the range, and twice the channels per sum. Rows 0 and 5 of G are
// taken 24 and 6 times, so that Aᵗ has factors of two alone: |G w Gᵗ| <= 49 · 128 as before, |Bᵗ x B| <= 100 · 128.
//
// Weights come transformed (quant_winograd_pack.cpp). For each pair of panels and each part of the depth come the
// products of a point for all tiles of the item (simd/tile_pairs_s16.h), then the outputs.
#include "kernels/args/quant.h"
#include "kernels/quant_epilogue.h"
#include "kernels/quant_winograd_tiles.h"
#include "kernels/scratch.h"
#include "kernels/simd/tile_pairs_s16.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kIn = kTileIn, kPoints = kTilePoints;

constexpr int16_t kShift = 128;  // of inputs; of their transform at (1, 1) 6 · 6 times that

using S16Lanes [[gnu::vector_size(64)]] = int16_t;
using U32Lanes [[gnu::vector_size(64)]] = uint32_t;  // unsigned: wraps
using S32Lanes [[gnu::vector_size(64)]] = int32_t;

[[gnu::always_inline]] inline S16Lanes spread(int16_t value) { return S16Lanes{} + value; }

// Bᵗ x; of a short axis, points 0, 1, 2 and 5 of four inputs, of which 1 and 2 three times.
template <bool kShort>
[[gnu::always_inline]] inline void transform_input(const S16Lanes (&x)[kIn], S16Lanes (&t)[kIn]) {
  if constexpr (kShort) {
    const S16Lanes near = x[1] + x[2], near_odd = x[2] - x[1];
    t[0] = x[0] - x[2];
    t[1] = near + near + near;
    t[2] = near_odd + near_odd + near_odd;
    t[5] = x[3] - x[1];
  } else {
    const S16Lanes even = x[4] - x[2], odd = x[3] - x[1], twice = odd + odd;
    t[0] = 4 * (x[0] - x[2]) + even;
    t[1] = 4 * (x[1] + x[2]) - (x[3] + x[4]);
    t[2] = 4 * (x[2] - x[1]) + (x[3] - x[4]);
    t[3] = even + twice;
    t[4] = even - twice;
    t[5] = (x[5] - x[3]) - (twice + twice);
  }
}

// Aᵗ m, 24, 12, 6 and 6 times; of a short axis, 6 and 6 times.
template <bool kShort>
[[gnu::always_inline]] inline void transform_sums(const U32Lanes (&m)[kIn], U32Lanes (&y)[4]) {
  const U32Lanes near = m[1] + m[2], near_odd = m[1] - m[2];
  if constexpr (kShort) {
    y[0] = m[0] + near;
    y[1] = near_odd + m[5];
  } else {
    const U32Lanes far = m[3] + m[4], far_odd = m[3] - m[4];
    y[0] = (m[0] + far) + 4 * near;
    y[1] = (near_odd + near_odd) + far_odd;
    y[2] = near + far;
    y[3] = (near_odd + m[5]) + (far_odd + far_odd);
  }
}

// Whether an axis has products at a point.
constexpr bool has_point(bool is_short, int64_t point) { return !is_short || point < 3 || point == 5; }

class Winograd {
 public:
  Winograd(const QConvArgs& args, void* at)
      : p_(args),
        s_(args.s),
        writer_(args),
        tiles_(s_),
        depth_(winograd_depth(s_.c)),
        pitch_(ceil_div(s_.c, kPairGroup) * kPairGroup),
        // A cache line beyond a power of two, so that the products of a tile spread over the L1's sets.
        input_point_(args.tiles * pitch_ + 32),
        sums_point_(args.tiles * kPairColumns + 16) {
    Carver carver(at);
    carver.take(input_, kPoints * input_point_);
    carver.take(sums_, kPoints * sums_point_);
    carver.take(outputs_, depth_ < s_.c ? p_.tiles * 16 * kPairColumns : 0);
    carver.take(places_, args.tiles);
    carver.take(shift_, depth_);
    carver.take(padding_, s_.c);
    used_ = carver.used();
    if (!at) return;
    __builtin_memset(padding_, p_.x_zero_point, static_cast<size_t>(s_.c));
    for (int64_t i = 0; i < depth_; ++i) shift_[i] = kShift;
  }

  int64_t scratch_bytes() const { return used_; }

  void run(int64_t item) {
    const int64_t blocks = ceil_div(s_.o, p_.columns);
    const int64_t column = item % blocks * p_.columns;
    const int64_t end = column + p_.columns < s_.o ? column + p_.columns : s_.o;
    first_ = item / blocks * p_.tiles;
    count_ = tiles_.count() - first_ < p_.tiles ? tiles_.count() - first_ : p_.tiles;
    for (int64_t i = 0; i < count_; ++i) load_tile(i);
    int64_t j = column;
    for (; end - j > kQPanel; j += kPairColumns) run_columns<2>(j, end - j);
    if (j < end) run_columns<1>(j, end - j);
  }

 private:
  template <int V>
  void run_columns(int64_t column, int64_t left) {
    Columns cols(p_, column, left < V * kQPanel ? left : V * kQPanel);
    for (int64_t c = 0; c < s_.c; c += depth_) {
      const int64_t depth = s_.c - c < depth_ ? s_.c - c : depth_;
      const int16_t* weight =
          static_cast<const int16_t*>(p_.w) + winograd_weights(s_.c, column) + c * kPoints * V * kQPanel;
      add_shift<V>(weight, depth, cols);
      multiply_points<V>(weight, c, depth);
      for (int64_t i = 0; i < count_; ++i) {
        const TilePlace& place = places_[i];
        for (int v = 0; v < V; ++v) {
          if (place.short_y)
            place.short_x ? end_tile<V, true, true>(i, v, c, depth, place, column, cols)
                          : end_tile<V, true, false>(i, v, c, depth, place, column, cols);
          else
            place.short_x ? end_tile<V, false, true>(i, v, c, depth, place, column, cols)
                          : end_tile<V, false, false>(i, v, c, depth, place, column, cols);
        }
      }
    }
  }

  // ---- in: [point][tile][channels], of each group of channels the even pairs before the odd ones ----

  void load_tile(int64_t tile) const {
    const TilePlace& place = places_[tile] = tiles_.place(first_ + tile);
    const int64_t y0 = place.y - s_.pad_h, x0 = place.x - s_.pad_w;
    const int64_t depth = s_.c;
    const uint8_t* at[kIn][kIn];
    for (int64_t y = 0; y < kIn; ++y) {
      const bool in_image = y0 + y >= 0 && y0 + y < s_.h;
      const uint8_t* row = static_cast<const uint8_t*>(p_.x) + (place.image * s_.h + y0 + y) * s_.w * depth;
#pragma GCC unroll 6
      for (int64_t x = 0; x < kIn; ++x) {
        const bool inside = in_image && x0 + x >= 0 && x0 + x < s_.w;
        at[y][x] = inside ? row + (x0 + x) * depth : padding_;
      }
    }
    int16_t* to = input_ + tile * pitch_;
    if (place.short_y)
      place.short_x ? load_groups<true, true>(at, to) : load_groups<true, false>(at, to);
    else
      place.short_x ? load_groups<false, true>(at, to) : load_groups<false, false>(at, to);
  }

  template <bool kShortY, bool kShortX>
  [[gnu::noinline]] void load_groups(const uint8_t* const (&at)[kIn][kIn], int16_t* to) const {
    for (int64_t c = 0; c < s_.c; c += kPairGroup, to += kPairGroup) {
      const int64_t here = s_.c - c < kPairGroup ? s_.c - c : kPairGroup;
      const PairLanes lanes(here);
      if (here <= kPairGroup / 2) {
        load_lanes<kShortY, kShortX, PairLanes::kBoth>(lanes, at, c, to);
      } else {
        load_lanes<kShortY, kShortX, PairLanes::kEven>(lanes, at, c, to);
        load_lanes<kShortY, kShortX, PairLanes::kOdd>(lanes, at, c, to + here / 2);
      }
    }
  }

  template <bool kShortY, bool kShortX, PairLanes::Which kWhich>
  [[gnu::always_inline]] void load_lanes(const PairLanes& lanes, const uint8_t* const (&at)[kIn][kIn], int64_t c,
                                         int16_t* to) const {
    constexpr int64_t kRows = kShortY ? 4 : kIn, kColumns = kShortX ? 4 : kIn;
    S16Lanes half[kIn][kIn];  // [y][x]
    for (int64_t x = 0; x < kColumns; ++x) {
      S16Lanes column[kIn], out[kIn];
#pragma GCC unroll 6
      for (int64_t y = 0; y < kRows; ++y) column[y] = reinterpret_cast<S16Lanes>(lanes.load<kWhich>(at[y][x] + c));
      transform_input<kShortY>(column, out);
#pragma GCC unroll 6
      for (int64_t y = 0; y < kIn; ++y)
        if (has_point(kShortY, y)) half[y][x] = out[y];
    }
    const int64_t point = input_point_;  // here: stores through `to` might change the member
    for (int64_t y = 0; y < kIn; ++y, to += kIn * point) {
      if (!has_point(kShortY, y)) continue;
      S16Lanes out[kIn];
      transform_input<kShortX>(half[y], out);
      if (y == 1) out[1] -= spread(36 * kShift);
#pragma GCC unroll 6
      for (int64_t x = 0; x < kIn; ++x)
        if (has_point(kShortX, x)) __builtin_memcpy(to + x * point, &out[x], sizeof(out[x]));
    }
  }

  // The bias takes in what inputs lack.
  template <int V>
  void add_shift(const int16_t* weight, int64_t depth, Columns& cols) const {
    alignas(64) int32_t sums[V * kQPanel];
    dot_pairs<1, V>(shift_, 0, weight + (kIn + 1) * depth * V * kQPanel, depth / 2, sums);
    for (int64_t j = 0; j < V * kQPanel; ++j)
      cols.bias[j] = static_cast<int32_t>(static_cast<uint32_t>(cols.bias[j]) + static_cast<uint32_t>(sums[j]));
  }

  // ---- products: [point][tile][panels][16] ----

  template <int V>
  void multiply_points(const int16_t* weight, int64_t c, int64_t depth) const {
    const auto inside = [&](int64_t tile) {
      return tile < first_ ? 0 : tile - first_ < count_ ? tile - first_ : count_;
    };
    const int64_t wide = inside(tiles_.first_wide()), flat = inside(tiles_.first_flat()),
                  corner = inside(tiles_.first_corner());
    const int64_t weight_point = depth * V * kQPanel;
    for (int64_t point = 0; point < kPoints; ++point) {
      const int64_t begin = has_point(true, point % kIn) ? 0 : wide;
      const int64_t end = !has_point(true, point / kIn) ? flat : !has_point(true, point % kIn) ? corner : count_;
      const int16_t* a = input_ + point * input_point_ + c;
      const int16_t* b = weight + point * weight_point;
      int32_t* sums = sums_ + point * sums_point_;
      // Rows are shared out evenly.
      for (int64_t i = begin, parts = ceil_div(end - begin, kPairRows); parts > 0; --parts) {
        const int64_t here = ceil_div(end - i, parts);
        dot_pair_rows<kPairRows, V>(here, a + i * pitch_, pitch_, b, depth / 2, sums + i * V * kQPanel);
        i += here;
      }
    }
  }

  // ---- out ----

  // A tile's sums of a part of the depth: kept, or with the last part written.
  template <int V, bool kShortY, bool kShortX>
  [[gnu::noinline]] void end_tile(int64_t tile, int v, int64_t c, int64_t depth, const TilePlace& place, int64_t column,
                                  const Columns& cols) const {
    constexpr uint32_t kInverse = 0x38e38e39;  // of 9
    constexpr int kShift[4] = {3, 2, 1, 1};
    constexpr int64_t kRows = kShortY ? 2 : 4, kColumns = kShortX ? 2 : 4;
    const int32_t* sums = sums_ + (tile * V + v) * kQPanel;
    int32_t* kept = outputs_ + (tile * V + v) * 16 * kQPanel;
    const bool first = c == 0, last = c + depth == s_.c;
    const int64_t rows = s_.oh - place.y < kRows ? s_.oh - place.y : kRows;
    const int64_t columns = cols.count - v * kQPanel < kQPanel ? cols.count - v * kQPanel : kQPanel;
    const int64_t pixels = s_.ow - place.x < kColumns ? s_.ow - place.x : kColumns;
    int64_t to = ((place.image * s_.oh + place.y) * s_.ow + place.x) * s_.o + column + v * kQPanel;
    S32Lanes bias;
    __builtin_memcpy(&bias, cols.bias + v * kQPanel, sizeof(bias));
    U32Lanes half[4][kIn];  // [y][x]
#pragma GCC unroll 6
    for (int64_t x = 0; x < kIn; ++x) {
      if (!has_point(kShortX, x)) continue;
      U32Lanes point[kIn], out[4];
#pragma GCC unroll 6
      for (int64_t y = 0; y < kIn; ++y)
        if (has_point(kShortY, y)) __builtin_memcpy(&point[y], sums + (y * kIn + x) * sums_point_, sizeof(point[y]));
      transform_sums<kShortY>(point, out);
#pragma GCC unroll 4
      for (int64_t y = 0; y < kRows; ++y) half[y][x] = out[y];
    }
#pragma GCC unroll 4
    for (int64_t y = 0; y < kRows; ++y, kept += 4 * kQPanel, to += s_.ow * s_.o) {
      if (y >= rows) break;
      U32Lanes out[4];
      transform_sums<kShortX>(half[y], out);
      __m512i sum[4] = {};
#pragma GCC unroll 4
      for (int64_t x = 0; x < kColumns; ++x) {
        const int shift = (kShortY ? 1 : kShift[y]) + (kShortX ? 1 : kShift[x]);
        S32Lanes total = reinterpret_cast<S32Lanes>(out[x] * kInverse) >> shift;
        if (!first) {
          S32Lanes before;
          __builtin_memcpy(&before, kept + x * kQPanel, sizeof(before));
          total = reinterpret_cast<S32Lanes>(reinterpret_cast<U32Lanes>(total) + reinterpret_cast<U32Lanes>(before));
        }
        if (!last)
          __builtin_memcpy(kept + x * kQPanel, &total, sizeof(total));
        else
          total = reinterpret_cast<S32Lanes>(reinterpret_cast<U32Lanes>(total) + reinterpret_cast<U32Lanes>(bias));
        sum[x] = reinterpret_cast<__m512i>(total);
      }
      if (last) writer_.write(sum, pixels, cols.scale + v * kQPanel, columns, to);
    }
  }

  const QConvArgs& p_;
  const ConvShape& s_;
  const PixelWriter writer_;
  const Tiles tiles_;
  const int64_t depth_;  // input channels summed up at a time
  const int64_t pitch_, input_point_, sums_point_;
  int64_t first_ = 0, count_ = 0;  // tiles of the item
  int64_t used_ = 0;
  int16_t* input_ = nullptr;
  int32_t* sums_ = nullptr;
  int32_t* outputs_ = nullptr;  // [tile][panels][4][4][16], if the depth has parts
  TilePlace* places_ = nullptr;
  int16_t* shift_ = nullptr;
  uint8_t* padding_ = nullptr;
};

}  // namespace

int64_t winograd_u8s8_scratch(const QConvArgs& p) { return Winograd(p, nullptr).scratch_bytes(); }

Status winograd_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  Winograd kernel(p, ctx.scratch);
  for (int64_t item = range.begin; item < range.end; ++item) kernel.run(item);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
