// int8 convolution of 3x3 taps, stride 1, by Winograd's F(4x4, 3x3) in integers: a quarter of the multiplications, and
// the same bits. For levels whose byte products go through int16 anyway; with VNNI, quant_winograd_dot.cpp.
//
//   y = Aᵗ [(G w Gᵗ) ⊙ (Bᵗ x B)] A    x: 6x6 pixels of a channel, w: 3x3 taps, y: 4x4 output pixels
//
// with the points 0, ±1, ±2 and infinity. G's rows are taken 4, 6, 6, 24, 24 and 1 times (and rows 1 and 2 of G and Bᵗ
// negated), so that both factors are integers that fit into int16: |Bᵗ x B| <= 100 · 255, |G w Gᵗ| <= 49 · 128. Sums of
// products wrap in int32. What Aᵗ makes of them is then y multiplied by 24, 12, 6 or 6 along each axis, modulo 2^32: by
// the inverse of 9, which exists there, and an exact shift by up to 6 bits, y is found, provided that |y| < 2^25. So
// sums over at most kMostDepth input channels are taken at a time.
//
// Item = (block of tiles of 4x4 outputs, block of columns). Its transformed input stays in scratch, L2, while panels of
// 16 columns pass by, their weights transformed from the common packed form on the way: that takes about as long as a
// product with two tiles, and no memory beside (transformed, weights are eight times as large).
#include "kernels/args/quant.h"
#include "kernels/quant_epilogue.h"
#include "kernels/scratch.h"
#include "kernels/simd/dot_s16.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kOut = 4, kIn = 6, kPoints = kIn * kIn;  // pixels along an axis of a tile; products per tile
constexpr int64_t kMostDepth = 112;                        // 9 · 112 · 255 · 128 < 2^25
constexpr int64_t kLanes = 16;
constexpr int kRows = 4;  // tiles of a register tile

using U8Lanes [[gnu::vector_size(kLanes)]] = uint8_t;
using S16Lanes [[gnu::vector_size(2 * kLanes)]] = int16_t;
using U32Lanes [[gnu::vector_size(32)]] = uint32_t;  // unsigned: wraps
using S32Lanes [[gnu::vector_size(32)]] = int32_t;

// By reference: levels without AVX have no register in which to return 32 bytes.
template <class Lanes, class T>
void load(const T* p, Lanes& lanes) {
  __builtin_memcpy(&lanes, p, sizeof(lanes));
}

template <class Lanes, class T>
void store(const Lanes& lanes, T* p) {
  __builtin_memcpy(p, &lanes, sizeof(lanes));
}

// Bᵗ x.
inline void transform_input(const S16Lanes (&x)[kIn], S16Lanes (&t)[kIn]) {
  const S16Lanes even = x[4] - x[2], odd = x[3] - x[1], twice = odd + odd;
  t[0] = 4 * (x[0] - x[2]) + even;
  t[1] = 4 * (x[1] + x[2]) - (x[3] + x[4]);
  t[2] = 4 * (x[2] - x[1]) + (x[3] - x[4]);
  t[3] = even + twice;
  t[4] = even - twice;
  t[5] = (x[5] - x[3]) - 4 * odd;
}

// G w.
inline void transform_weight(const S16Lanes& w0, const S16Lanes& w1, const S16Lanes& w2, S16Lanes (&t)[kIn]) {
  const S16Lanes ends = w0 + w2, far = w0 + 4 * w2, middle = w1 + w1;
  t[0] = w0;
  t[1] = ends + w1;
  t[2] = ends - w1;
  t[3] = far + middle;
  t[4] = far - middle;
  t[5] = w2;
}

// Aᵗ m, 24, 12, 6 and 6 times.
inline void transform_sums(const U32Lanes (&m)[kIn], U32Lanes (&y)[kOut]) {
  const U32Lanes near = m[1] + m[2], near_odd = m[1] - m[2], far = m[3] + m[4], far_odd = m[3] - m[4];
  y[0] = 6 * m[0] + 4 * near + far;
  y[1] = 2 * near_odd + far_odd;
  y[2] = near + far;
  y[3] = near_odd + 2 * far_odd + 6 * m[5];
}

// rows x 16 sums over pairs of k: a[rows][2 pairs], b[pairs][16][2].
template <int R>
inline void multiply(const int16_t* a, int64_t lda, const int16_t* b, int64_t pairs, int32_t* sums) {
  constexpr int kVectors = static_cast<int>(kQPanel) / DotS16::kWidth;
  DotS16::Sum sum[R][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = DotS16::zero();
  for (int64_t i = 0; i < pairs; ++i, a += 2, b += 2 * kQPanel) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const auto x = DotS16::spread(a + r * lda);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        sum[r][v] = DotS16::dot(sum[r][v], x, DotS16::load(b + 2 * DotS16::kWidth * v));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) DotS16::store(sum[r][v], sums + r * kQPanel + v * DotS16::kWidth);
}

template <int R>
void multiply_rows(int64_t rows, const int16_t* a, int64_t lda, const int16_t* b, int64_t pairs, int32_t* sums) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows<R - 1>(rows, a, lda, b, pairs, sums);
  }
  multiply<R>(a, lda, b, pairs, sums);
}

class Winograd {
 public:
  Winograd(const QConvArgs& args, void* at)
      : p_(args),
        s_(args.s),
        depth_(ceil_div(ceil_div(s_.c, ceil_div(s_.c, kMostDepth)), 4) * 4),
        pitch_(ceil_div(s_.c, kLanes) * kLanes),
        // A cache line beyond a power of two, so that the products of a tile spread over the L1's sets.
        input_point_(args.tiles * pitch_ + 32),
        weight_point_(depth_ * kQPanel + 32),
        down_(ceil_div(s_.oh, kOut)),
        across_(ceil_div(s_.ow, kOut)) {
    Carver carver(at);
    carver.take(input_, kPoints * input_point_);
    carver.take(weight_, kPoints * weight_point_);
    carver.take(sums_, kPoints * p_.tiles * kQPanel);
    carver.take(outputs_, p_.tiles * kOut * kOut * kQPanel);
    carver.take(padding_, s_.c);
    used_ = carver.used();
    if (at) __builtin_memset(padding_, p_.x_zero_point, static_cast<size_t>(s_.c));
  }

  int64_t scratch_bytes() const { return used_; }

  void run(int64_t item) {
    const int64_t blocks = ceil_div(s_.o, p_.columns), tiles = s_.n * down_ * across_;
    const int64_t first = item / blocks * p_.tiles, column = item % blocks * p_.columns;
    const int64_t count = tiles - first < p_.tiles ? tiles - first : p_.tiles;
    const int64_t end = column + p_.columns < s_.o ? column + p_.columns : s_.o;
    for (int64_t i = 0; i < count; ++i) load_tile(first + i, input_ + i * pitch_);
    for (int64_t j = column; j < end; j += kQPanel) {
      for (int64_t c = 0; c < s_.c; c += depth_) {
        const int64_t depth = s_.c - c < depth_ ? s_.c - c : depth_;
        load_weights(j, c, depth);
        multiply_points(c, depth, count);
        for (int64_t i = 0; i < count; ++i) add_outputs(i, c == 0);
      }
      write(first, count, j, end - j);
    }
  }

 private:
  // ---- in ----

  void load_tile(int64_t tile, int16_t* to) const {
    const int64_t image = tile / (down_ * across_), y0 = tile / across_ % down_ * kOut - s_.pad_h,
                  x0 = tile % across_ * kOut - s_.pad_w;
    const uint8_t* at[kIn][kIn];
    for (int64_t y = 0; y < kIn; ++y)
      for (int64_t x = 0; x < kIn; ++x) {
        const bool inside = y0 + y >= 0 && y0 + y < s_.h && x0 + x >= 0 && x0 + x < s_.w;
        at[y][x] =
            inside ? static_cast<const uint8_t*>(p_.x) + ((image * s_.h + y0 + y) * s_.w + x0 + x) * s_.c : padding_;
      }
    int64_t c = 0;
    for (; c + kLanes <= s_.c; c += kLanes)
      load_lanes(
          [&](int64_t y, int64_t x) {
            U8Lanes lanes;
            load(at[y][x] + c, lanes);
            return lanes;
          },
          to + c);
    if (c < s_.c)
      load_lanes(
          [&](int64_t y, int64_t x) {
            U8Lanes lanes = {};
            __builtin_memcpy(&lanes, at[y][x] + c, static_cast<size_t>(s_.c - c));
            return lanes;
          },
          to + c);
  }

  // Sixteen channels of a tile. Of four, those of k = 0, 2 and of 1, 3 are made neighbours, as weights have them.
  template <class Pixel>
  void load_lanes(const Pixel& pixel, int16_t* to) const {
    S16Lanes half[kIn][kIn];  // [x][y]
    for (int64_t x = 0; x < kIn; ++x) {
      S16Lanes column[kIn];
#pragma GCC unroll 6
      for (int64_t y = 0; y < kIn; ++y) {
        const U8Lanes bytes = pixel(y, x);
        column[y] = __builtin_convertvector(
            __builtin_shufflevector(bytes, bytes, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15), S16Lanes);
      }
      transform_input(column, half[x]);
    }
    for (int64_t y = 0; y < kIn; ++y) {
      S16Lanes row[kIn], out[kIn];
#pragma GCC unroll 6
      for (int64_t x = 0; x < kIn; ++x) row[x] = half[x][y];
      transform_input(row, out);
#pragma GCC unroll 6
      for (int64_t x = 0; x < kIn; ++x) store(out[x], to + (y * kIn + x) * input_point_);
    }
  }

  // Weights of a panel and channels [c, c + depth), to [point][pairs of channels][16][2].
  void load_weights(int64_t column, int64_t c, int64_t depth) const {
    const int8_t* panel = static_cast<const int8_t*>(p_.w) + column * 9 * s_.c;
    for (int64_t k = 0; k < depth; k += 4)
      for (int64_t half = 0; half < 2; ++half) {
        S16Lanes packed[9], even[9], odd[9];
#pragma GCC unroll 9
        for (int64_t tap = 0; tap < 9; ++tap) {
          load(panel + (tap * s_.c + c + k) * kQPanel + 2 * half * kLanes, packed[tap]);
          even[tap] = packed[tap] << 8 >> 8;
          odd[tap] = packed[tap] >> 8;
        }
        load_taps(even, weight_ + k * kQPanel + half * kLanes);
        load_taps(odd, weight_ + (k + 2) * kQPanel + half * kLanes);
      }
  }

  void load_taps(const S16Lanes (&w)[9], int16_t* to) const {
    S16Lanes half[3][kIn];
#pragma GCC unroll 3
    for (int64_t x = 0; x < 3; ++x) transform_weight(w[x], w[3 + x], w[6 + x], half[x]);
#pragma GCC unroll 6
    for (int64_t y = 0; y < kIn; ++y) {
      S16Lanes out[kIn];
      transform_weight(half[0][y], half[1][y], half[2][y], out);
#pragma GCC unroll 6
      for (int64_t x = 0; x < kIn; ++x) store(out[x], to + (y * kIn + x) * weight_point_);
    }
  }

  // ---- products: [point][tile][16] ----

  void multiply_points(int64_t c, int64_t depth, int64_t tiles) const {
    for (int64_t point = 0; point < kPoints; ++point) {
      const int16_t* a = input_ + point * input_point_ + c;
      const int16_t* b = weight_ + point * weight_point_;
      int32_t* sums = sums_ + point * p_.tiles * kQPanel;
      for (int64_t i = 0; i < tiles; i += kRows)
        multiply_rows<kRows>(tiles - i, a + i * pitch_, pitch_, b, depth / 2, sums + i * kQPanel);
    }
  }

  // ---- out: [tile][4][4][16] ----

  void add_outputs(int64_t tile, bool first) const {
    constexpr int64_t kVector = 8;
    constexpr uint32_t kInverse = 0x38e38e39;  // of 9
    constexpr int kShift[kOut] = {3, 2, 1, 1};
    for (int64_t j = 0; j < kQPanel; j += kVector) {
      const int32_t* sums = sums_ + tile * kQPanel + j;
      int32_t* to = outputs_ + tile * kOut * kOut * kQPanel + j;
      U32Lanes half[kIn][kOut];  // [x][y]
      for (int64_t x = 0; x < kIn; ++x) {
        U32Lanes column[kIn];
#pragma GCC unroll 6
        for (int64_t y = 0; y < kIn; ++y) load(sums + (y * kIn + x) * p_.tiles * kQPanel, column[y]);
        transform_sums(column, half[x]);
      }
#pragma GCC unroll 4
      for (int64_t y = 0; y < kOut; ++y) {
        U32Lanes row[kIn], out[kOut];
#pragma GCC unroll 6
        for (int64_t x = 0; x < kIn; ++x) row[x] = half[x][y];
        transform_sums(row, out);
#pragma GCC unroll 4
        for (int64_t x = 0; x < kOut; ++x, to += kQPanel) {
          S32Lanes sum = reinterpret_cast<S32Lanes>(out[x] * kInverse) >> (kShift[y] + kShift[x]);
          if (!first) {
            S32Lanes before;
            load(to, before);
            sum += before;
          }
          store(sum, to);
        }
      }
    }
  }

  void write(int64_t first, int64_t tiles, int64_t column, int64_t left) const {
    const Columns cols(p_, column, left < kQPanel ? left : kQPanel);
    const Requantizer requantize(p_);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t tile = first + i, image = tile / (down_ * across_), oy = tile / across_ % down_ * kOut,
                    ox = tile % across_ * kOut;
      for (int64_t y = 0; y < kOut && oy + y < s_.oh; ++y)
        for (int64_t x = 0; x < kOut && ox + x < s_.ow; ++x)
          write_row(requantize, p_.y_float, cols.span(), outputs_ + ((i * kOut + y) * kOut + x) * kQPanel, p_.y,
                    ((image * s_.oh + oy + y) * s_.ow + ox + x) * s_.o + column);
    }
  }

  const QConvArgs& p_;
  const ConvShape& s_;
  const int64_t depth_;  // input channels summed up at a time
  const int64_t pitch_, input_point_, weight_point_;
  const int64_t down_, across_;  // tiles of an image
  int64_t used_ = 0;
  int16_t* input_ = nullptr;   // [point][tile][channels]
  int16_t* weight_ = nullptr;  // [point][pairs of channels][16][2]
  int32_t* sums_ = nullptr;
  int32_t* outputs_ = nullptr;
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
