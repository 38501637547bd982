// int8 convolution with VNNI that produces few channels: too few to fill a panel, so lanes run over the pixels of an
// output row (simd/pixel_quads.h), two vectors at a time. Input rows are copied between paddings (quant_lines.h), and a
// pixel's run in one is read by whole groups of four from there, as long as neighbours lie up to four bytes apart.
// Weights are broadcast from their panel.
//
// A group of four takes one vpdpbusd per output channel and 16 pixels, in panels 16 whatever the channels: 28x28x1 -> 6
// by 5x5 took four times as long there.
#include "kernels/integers.h"
#include "kernels/quant_lines.h"
#include "kernels/quant_planar.h"
#include "kernels/scratch.h"
#include "kernels/simd/pixel_quads.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kMostOutputs = 12;

class Planar {
 public:
  Planar(const QConvArgs& p, void* scratch)
      : p_(p),
        s_(p.s),
        quads_(s_.stride_w * s_.c),
        layer_{static_cast<const int8_t*>(p.w), static_cast<const int32_t*>(p.bias), s_.kh,
               column_bytes(s_.kw * s_.c) / 4},
        lines_(p, least((s_.kh - 1) * s_.dilation_h + 1, s_.n * s_.h), kSlack) {
    Carver carver(scratch);
    carver.take(rows_, s_.kh);
    lines_.carve(carver);
    used_ = carver.used();
    if (scratch) lines_.begin();
  }

  int64_t scratch_bytes() const { return used_; }

  template <int R = kMostOutputs>
  void run(Range range) const {
    if constexpr (R > 1) {
      if (s_.o < R) return run<R - 1>(range);
    }
    const int64_t total = s_.n * s_.oh * s_.ow, end = least(range.end * p_.strip, total);
    const QuadWriter<R> writer(p_);
    for (int64_t pixel = range.begin * p_.strip; pixel < end;) {
      const int64_t row = pixel / s_.ow, ox = pixel % s_.ow, here = least(s_.ow - ox, end - pixel);
      for (int64_t ky = 0; ky < s_.kh; ++ky)
        rows_[ky] = lines_.row(row / s_.oh, row % s_.oh * s_.stride_h - s_.pad_h + ky * s_.dilation_h);
      for (int64_t x = 0; x < here; x += 2 * kLanePixels) {
        // A last vector that is not full begins earlier.
        const int64_t left = here - x, back = left < kLanePixels ? least(kLanePixels - left, x) : 0;
        if (left > kLanePixels)
          block<R, 2>(writer, ox + x, least(left, 2 * kLanePixels), pixel + x, end);
        else
          block<R, 1>(writer, ox + x - back, left + back, pixel + x - back, end);
      }
      pixel += here;
    }
  }

 private:
  // Of the last pixel of a row: its last group, and a whole vector from there.
  static constexpr int64_t kSlack = 3 + 64;

  // `pixels` neighbours from column ox on, up to V vectors; of two, the second overlaps the first if it is not full.
  template <int R, int V>
  [[gnu::noinline]] void block(const QuadWriter<R>& writer, int64_t ox, int64_t pixels, int64_t to, int64_t end) const {
    const int64_t second = V == 2 ? pixels - kLanePixels : 0, step = s_.stride_w * s_.c;
    __m512i sum[R][V];
    dot_pixels<R, V>(quads_, layer_, rows_, ox * step, (ox + second) * step, sum);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const int64_t first = to + (v > 0 ? second : 0);
      if (p_.y_float)
        write_float<R, V>(sum, v, least(kLanePixels, pixels), static_cast<float*>(p_.y) + first * R);
      else
        write_bytes<R, V>(writer, sum, v, least(kLanePixels, pixels), static_cast<uint8_t*>(p_.y) + first * R,
                          (end - first) * R);
    }
  }

  // `left` bytes may be written: what follows the pixels is overwritten by what comes next.
  template <int R, int V>
  [[gnu::always_inline]] void write_bytes(const QuadWriter<R>& writer, const __m512i (&sum)[R][V], int v,
                                          int64_t pixels, uint8_t* y, int64_t left) const {
    const auto* scale = static_cast<const float*>(p_.scale);
    uint8_t last[kLanePixels * R + QuadWriter<R>::kOverrun];
    const bool room = left >= static_cast<int64_t>(sizeof(last));
    writer.write(sum, v, scale, room ? y : last);
    if (!room) __builtin_memcpy(y, last, static_cast<size_t>(pixels * R));
  }

  template <int R, int V>
  [[gnu::always_inline]] void write_float(const __m512i (&sum)[R][V], int v, int64_t pixels, float* y) const {
    const auto* scale = static_cast<const float*>(p_.scale);
    alignas(64) float values[R][kLanePixels];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
      _mm512_store_ps(values[r], _mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][v]), _mm512_set1_ps(scale[r])));
    for (int64_t i = 0; i < pixels; ++i)
      for (int r = 0; r < R; ++r) *y++ = values[r][i];
  }

  const QConvArgs& p_;
  const ConvShape& s_;
  const PixelQuads quads_;
  const PixelLayer layer_;
  PaddedLines lines_;
  int64_t used_ = 0;
  const uint8_t** rows_ = nullptr;  // of the kernel's rows
};

}  // namespace

bool planar_pays_u8s8(const QConvArgs& p) {
  const ConvShape& s = p.s;
  return s.groups == 1 && s.dilation_w == 1 && s.stride_w * s.c <= kMostPixelStep && s.o <= kMostOutputs;
}

int64_t planar_scratch_u8s8(const QConvArgs& p) { return Planar(p, nullptr).scratch_bytes(); }

void run_planar_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) { Planar(p, ctx.scratch).run(range); }

}  // namespace quernel::QUERNEL_ISA
