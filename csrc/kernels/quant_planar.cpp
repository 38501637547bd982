// int8 convolution, stride 1, of few channels: too few to fill panels, and patches too short to be worth their copies.
// Lanes run over the pixels of an output row. Each input row is kept as one line per channel of pairs of neighbours,
// int16, padding included, so that two taps for eight pixels are one load, wherever the row begins. Weights are
// broadcast. Sums are requantized in lines of one channel each, which are turned on their way out.
//
// On Zen 3, a third of the time of patches and panels for 28x28x1 -> 6 by 5x5, four fifths for 32x32x3 -> 16 by 3x3; as
// fast for 14x14x6 -> 16 by 5x5, slower with more channels.
#include "kernels/quant_planar.h"

#include "kernels/quant_epilogue.h"
#include "kernels/scratch.h"
#include "kernels/simd/dot_s16.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kVectors = 2, kRows = 6;                      // register tile: channels x pixels
constexpr int64_t kTilePixels = kVectors * DotS16::kWidth;  // a power of two up to 32
constexpr int64_t kBlock = 64;                              // pixels that are summed up, then written
constexpr int64_t kMostOutputs = 32;

using U8Lanes [[gnu::vector_size(16)]] = uint8_t;
using U64Lanes [[gnu::vector_size(16)]] = uint64_t;

// R channels of a tile: sums[r][pixel] over lines of pairs, from pixel x on; w[line][R][2].
template <int R>
void dot_lines(const int32_t* const* lines, int64_t count, int64_t x, const int32_t* w, int32_t* sums) {
  DotS16::Sum sum[R][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = DotS16::zero();
  for (int64_t i = 0; i < count; ++i, w += R) {
    const auto* pairs = reinterpret_cast<const int16_t*>(lines[i] + x);
    const auto first = DotS16::load(pairs), second = DotS16::load(pairs + 2 * DotS16::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto weight = DotS16::spread(reinterpret_cast<const int16_t*>(w + r));
      sum[r][0] = DotS16::dot(sum[r][0], first, weight);
      sum[r][1] = DotS16::dot(sum[r][1], second, weight);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) DotS16::store(sum[r][v], sums + r * kBlock + v * DotS16::kWidth);
}

template <int R>
void dot_rows(int rows, const int32_t* const* lines, int64_t count, int64_t x, const int32_t* w, int32_t* sums) {
  if constexpr (R > 1) {
    if (rows < R) return dot_rows<R - 1>(rows, lines, count, x, w, sums);
  }
  dot_lines<R>(lines, count, x, w, sums);
}

// Eight lines of eight bytes, `pitch` apart, to eight columns.
inline void transpose(const uint8_t* lines, uint64_t (&columns)[8]) {
  const auto pair = [&](int64_t i) {  // lines i and i + 4, byte by byte
    uint64_t line[2];
    __builtin_memcpy(&line[0], lines + i * kBlock, 8);
    __builtin_memcpy(&line[1], lines + (i + 4) * kBlock, 8);
    const auto both = reinterpret_cast<U8Lanes>(U64Lanes{line[0], line[1]});  // in memory, its halves would be awaited
    return __builtin_shufflevector(both, both, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  };
  const auto low = [](const U8Lanes& a, const U8Lanes& b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  };
  const auto high = [](const U8Lanes& a, const U8Lanes& b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  };
  const U8Lanes p0 = pair(0), p1 = pair(1), p2 = pair(2), p3 = pair(3);
  const U8Lanes even_low = low(p0, p2), even_high = high(p0, p2), odd_low = low(p1, p3), odd_high = high(p1, p3);
  const U8Lanes out[4] = {low(even_low, odd_low), high(even_low, odd_low), low(even_high, odd_high),
                          high(even_high, odd_high)};
  __builtin_memcpy(columns, out, sizeof(columns));
}

class Planar {
 public:
  Planar(const QConvArgs& args, void* at)
      : p_(args),
        s_(args.s),
        outputs_(static_cast<int>(s_.o)),
        pairs_(ceil_div(s_.kw, 2)),
        count_(s_.kh * s_.c * pairs_),
        // Tiles at the end of a row read beyond it.
        width_(s_.ow + 2 * pairs_ + kTilePixels) {
    Carver carver(at);
    carver.take(keys_, s_.kh);
    carver.take(lines_, s_.kh * s_.c * width_);
    carver.take(line_, width_ + 1);
    carver.take(taps_, count_);
    carver.take(weight_, outputs_ * count_);
    carver.take(sums_, outputs_ * kBlock);
    carver.take(bytes_, ceil_div(outputs_, 8) * 8 * kBlock);
    carver.take(bias_, outputs_ * Requantizer::kWidth);
    carver.take(scale_, outputs_ * Requantizer::kWidth);
    used_ = carver.used();
  }

  int64_t scratch_bytes() const { return used_; }

  void run(Range range) {
    prepare();
    const int64_t total = s_.n * s_.oh * s_.ow;
    const int64_t end = range.end * kQStrip < total ? range.end * kQStrip : total;
    for (int64_t pixel = range.begin * kQStrip; pixel < end;) {
      const int64_t ox = pixel % s_.ow, left = s_.ow - ox < end - pixel ? s_.ow - ox : end - pixel;
      load_rows(pixel / s_.ow);
      for (int64_t x = 0; x < left; x += kBlock) {
        const int64_t pixels = left - x < kBlock ? left - x : kBlock;
        multiply(ox + x, pixels);
        write(pixel + x, pixels);
      }
      pixel += left;
    }
  }

 private:
  // ---- in ----

  // Weights from their panels, [tile of channels][line][channel of the tile][2]; an odd last tap is paired with zero.
  void prepare() {
    const int8_t* w = static_cast<const int8_t*>(p_.w);
    const int64_t k = s_.kh * s_.kw * s_.c, panel = ceil_div(k, 4) * 4 * kQPanel;
    for_tiles([&](int first, int rows) {
      int32_t* to = weight_ + first * count_;
      for (int64_t ky = 0; ky < s_.kh; ++ky)
        for (int64_t c = 0; c < s_.c; ++c)
          for (int64_t kx = 0; kx < s_.kw; kx += 2)
            for (int o = first; o < first + rows; ++o) {
              const auto tap = [&](int64_t x) -> uint32_t {
                const int64_t i = (ky * s_.kw + x) * s_.c + c;
                return x < s_.kw ? static_cast<uint16_t>(
                                       w[o / kQPanel * panel + i / 4 * 4 * kQPanel + o % kQPanel * 4 + i % 4])
                                 : 0;
              };
              *to++ = static_cast<int32_t>(tap(kx) | tap(kx + 1) << 16);
            }
    });
    for (int o = 0; o < outputs_; ++o)
      for (int i = 0; i < Requantizer::kWidth; ++i) {
        bias_[o * Requantizer::kWidth + i] = static_cast<const int32_t*>(p_.bias)[o];
        scale_[o * Requantizer::kWidth + i] = static_cast<const float*>(p_.scale)[o];
      }
    for (int64_t i = 0; i < s_.kh; ++i) keys_[i] = -1;
  }

  // Channels in tiles of even height: tile(first, rows).
  template <class Tile>
  void for_tiles(const Tile& tile) const {
    const int tiles = (outputs_ + kRows - 1) / kRows;
    for (int i = 0; i < tiles; ++i) {
      const int first = outputs_ * i / tiles;
      tile(first, outputs_ * (i + 1) / tiles - first);
    }
  }

  // The lines of an output row's taps. Input rows are kept as long as rows that follow read them.
  void load_rows(int64_t row) {
    const int64_t image = row / s_.oh, top = row % s_.oh, padded = s_.oh + s_.kh - 1;
    const int32_t** tap = taps_;
    for (int64_t ky = 0; ky < s_.kh; ++ky) {
      const int64_t slot = (top + ky) % s_.kh, key = image * padded + top + ky;
      int32_t* lines = lines_ + slot * s_.c * width_;
      if (keys_[slot] != key) load_row(image, top + ky - s_.pad_h, lines);
      keys_[slot] = key;
      for (int64_t c = 0; c < s_.c; ++c)
        for (int64_t i = 0; i < pairs_; ++i) *tap++ = lines + c * width_ + 2 * i;
    }
  }

  void load_row(int64_t image, int64_t y, int32_t* to) {
    const bool inside = y >= 0 && y < s_.h;
    const uint8_t* row = static_cast<const uint8_t*>(p_.x) + (image * s_.h + (inside ? y : 0)) * s_.w * s_.c;
    const int64_t begin = inside && s_.pad_w < width_ ? s_.pad_w : width_;
    const int64_t end = inside ? (s_.w + begin < width_ ? s_.w + begin : width_) : width_;
    for (int64_t c = 0; c < s_.c; ++c, to += width_) {
      for (int64_t x = 0; x < begin; ++x) line_[x] = p_.x_zero_point;
      if (s_.c == 1)
        for (int64_t x = begin; x < end; ++x) line_[x] = row[x - begin];
      else
        for (int64_t x = begin; x < end; ++x) line_[x] = row[(x - begin) * s_.c + c];
      for (int64_t x = end; x <= width_; ++x) line_[x] = p_.x_zero_point;
      for (int64_t x = 0; x < width_; ++x) to[x] = line_[x] | line_[x + 1] << 16;
    }
  }

  // ---- sums: [channel][pixel] ----

  void multiply(int64_t first, int64_t pixels) const {
    for_tiles([&](int channel, int rows) {
      for (int64_t x = 0; x < pixels; x += kTilePixels)
        dot_rows<kRows>(rows, taps_, count_, first + x, weight_ + channel * count_, sums_ + channel * kBlock + x);
    });
  }

  // ---- out: pixels ----

  void write(int64_t pixel, int64_t pixels) const {
    if (p_.y_float) return write_float(pixel, pixels);
    const Requantizer requantize(p_);
    constexpr int kWidth = Requantizer::kWidth;
    for (int o = 0; o < outputs_; ++o)
      for (int64_t x = 0; x < pixels; x += kWidth)
        requantize(sums_ + o * kBlock + x, bias_ + o * kWidth, scale_ + o * kWidth, bytes_ + o * kBlock + x);
    uint8_t* y = static_cast<uint8_t*>(p_.y) + pixel * s_.o;
    // What eight bytes hold beyond a pixel is overwritten by the next ones.
    const int64_t whole = pixels - ceil_div(8, s_.o);
    for (int64_t x = 0; x < pixels; x += 8) {
      uint64_t columns[kMostOutputs / 8][8];
      for (int64_t o = 0; o < s_.o; o += 8) transpose(bytes_ + o * kBlock + x, columns[o / 8]);
      for (int64_t i = 0; i < 8 && x + i < pixels; ++i, y += s_.o)
        for (int64_t o = 0; o < s_.o; o += 8) {
          if (x + i < whole || s_.o - o >= 8)
            __builtin_memcpy(y + o, &columns[o / 8][i], 8);
          else
            __builtin_memcpy(y + o, &columns[o / 8][i], static_cast<size_t>(s_.o - o));
        }
    }
  }

  void write_float(int64_t pixel, int64_t pixels) const {
    float* y = static_cast<float*>(p_.y) + pixel * s_.o;
    for (int64_t x = 0; x < pixels; ++x)
      for (int o = 0; o < outputs_; ++o) {
        const uint32_t sum = static_cast<uint32_t>(sums_[o * kBlock + x]) +
                             static_cast<uint32_t>(bias_[o * Requantizer::kWidth]);  // wraps
        *y++ = static_cast<float>(static_cast<int32_t>(sum)) * scale_[o * Requantizer::kWidth];
      }
  }

  const QConvArgs& p_;
  const ConvShape& s_;
  const int outputs_;
  const int64_t pairs_, count_;  // of taps in a row of the kernel; of all of them
  const int64_t width_;          // of a line
  int64_t used_ = 0;
  int64_t* keys_ = nullptr;   // the input rows in the slots of lines_
  int32_t* lines_ = nullptr;  // [slot][channel][pixel], pairs of int16
  int32_t* line_ = nullptr;
  const int32_t** taps_ = nullptr;
  int32_t* weight_ = nullptr;
  int32_t* sums_ = nullptr;
  uint8_t* bytes_ = nullptr;
  int32_t* bias_ = nullptr;  // of a channel, Requantizer::kWidth times
  float* scale_ = nullptr;
};

}  // namespace

bool planar_pays_u8s8(const QConvArgs& p) {
  const ConvShape& s = p.s;
  const bool dense = s.stride_h * s.stride_w * s.dilation_h * s.dilation_w * s.groups == 1;
  return dense && s.c * s.o <= 48 && s.o <= kMostOutputs && s.kw >= 3 && s.ow >= kTilePixels / 2;
}

int64_t planar_scratch_u8s8(const QConvArgs& p) { return Planar(p, nullptr).scratch_bytes(); }

void run_planar_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) { Planar(p, ctx.scratch).run(range); }

}  // namespace quernel::QUERNEL_ISA
