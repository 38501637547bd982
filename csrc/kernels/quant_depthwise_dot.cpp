// int8 depthwise convolution with VNNI: the same as quant_depthwise.cpp, by dot products of four taps for 64 bytes of
// an output row. Those are 64 channels of a pixel, the last 64 overlapping those before; or all channels of as many
// neighbours as fit, if pixels are one apart. Input rows are copied between paddings (quant_lines.h). Sums start from
// the bias, and are requantized in registers.
//
// Weights come packed, [blocks of 64 lanes][groups of four taps][64][4], permuted as QuadTaps has its sums, padded with
// zeros.
#include "kernels/args/quant.h"
#include "kernels/integers.h"
#include "kernels/quant_lines.h"
#include "kernels/scratch.h"
#include "kernels/simd/quad_taps.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int64_t kLanes = QuadTaps::kLanes;
constexpr int kTile = 4;  // vectors that share the loads of weights

// First channel of a block: whole blocks, the last one moved back to end with the last channel.
int64_t first_channel(int64_t block, int64_t channels) {
  return channels < kLanes ? 0 : least(block * kLanes, channels - kLanes);
}

class DepthwiseDot {
 public:
  DepthwiseDot(const QConvArgs& args, void* at)
      : p_(args),
        s_(args.s),
        quads_(ceil_div(s_.kh * s_.kw, 4)),
        blocks_(ceil_div(s_.c, kLanes)),
        pixels_(s_.stride_w == 1 ? most(kLanes / s_.c, 1) : 1),
        lines_(args, least((s_.kh - 1) * s_.dilation_h + 1, s_.h), pixels_ * s_.c + kLanes),
        write_(args) {
    Carver carver(at);
    carver.take(taps_, quads_ * 4);
    carver.take(bias_, blocks_ * kLanes);
    carver.take(scale_, blocks_ * kLanes);
    lines_.carve(carver);
    used_ = carver.used();
  }

  int64_t scratch_bytes() const { return used_; }

  void run(Range range) {
    prepare();
    for (int64_t row = range.begin; row < range.end; ++row) {
      find_taps(row / s_.oh, row % s_.oh * s_.stride_h - s_.pad_h);
      for (int64_t block = 0; block < blocks_; ++block) run_block(row, block);
    }
  }

 private:
  void prepare() const {
    lines_.begin();
    for (int64_t block = 0; block < blocks_; ++block) {
      const int64_t first = first_channel(block, s_.c);
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t c = first + (s_.c < kLanes ? lane % s_.c : lane), to = block * kLanes + QuadTaps::permuted(lane);
        bias_[to] = static_cast<const int32_t*>(p_.bias)[c];
        scale_[to] = static_cast<const float*>(p_.scale)[c];
      }
    }
  }

  // Where the taps of an output row begin; the last are repeated, since their weights are zero.
  void find_taps(int64_t image, int64_t iy0) const {
    int64_t tap = 0;
    for (int64_t ky = 0; ky < s_.kh; ++ky) {
      const uint8_t* at = lines_.row(image, iy0 + ky * s_.dilation_h);
      for (int64_t kx = 0; kx < s_.kw; ++kx) taps_[tap++] = at + kx * s_.dilation_w * s_.c;
    }
    for (; tap < quads_ * 4; ++tap) taps_[tap] = taps_[0];
  }

  void run_block(int64_t row, int64_t block) const {
    int64_t ox = 0;
    for (; ox + (kTile - 1) * pixels_ < s_.ow; ox += kTile * pixels_) run_tile<kTile>(row, block, ox);
    for (; ox < s_.ow; ox += pixels_) run_tile<1>(row, block, ox);
  }

  // P vectors from pixel ox on; the last may reach over the end of the row.
  template <int P>
  [[gnu::always_inline]] void run_tile(int64_t row, int64_t block, int64_t ox) const {
    const int64_t c = first_channel(block, s_.c), step = pixels_ * s_.stride_w * s_.c,
                  start = ox * s_.stride_w * s_.c + c;
    const int8_t* w = static_cast<const int8_t*>(p_.w) + block * quads_ * 4 * kLanes;
    QuadTaps::Sum sum[P];
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i) sum[i] = QuadTaps::start(bias_ + block * kLanes);
    const uint8_t* const* taps = taps_;
    for (int64_t quad = quads_; quad > 0; --quad, taps += 4, w += 4 * kLanes) {
      const uint8_t* const x[4] = {taps[0] + start, taps[1] + start, taps[2] + start, taps[3] + start};
      QuadTaps::add<P>(sum, x, step, w);
    }
    const float* scale = scale_ + block * kLanes;
    const int64_t row_end = (row + 1) * s_.ow * s_.c;
    int64_t to = (row * s_.ow + ox) * s_.c + c;
#pragma GCC unroll 4
    for (int i = 0; i < P; ++i, to += pixels_ * s_.c) {
      const int64_t left = row_end - to, count = least(least(pixels_ * s_.c, kLanes), left);
      if (p_.y_float)
        QuadTaps::write_float(sum[i], scale, static_cast<float*>(p_.y) + to, count);
      else  // what is written beyond a vector is overwritten by the next
        write_.write(sum[i], scale, static_cast<uint8_t*>(p_.y) + to, count, left >= kLanes);
    }
  }

  const QConvArgs& p_;
  const ConvShape& s_;
  const int64_t quads_, blocks_;
  const int64_t pixels_;  // of a vector
  PaddedLines lines_;     // as many as an output row reaches over
  const QuadTaps write_;
  int64_t used_ = 0;
  const uint8_t** taps_ = nullptr;
  int32_t* bias_ = nullptr;  // [block][64], permuted
  float* scale_ = nullptr;
};

}  // namespace

// Weights (C, taps): src_col = taps, n = C, k = taps; item = 64 channels.
Status pack_depthwise_s8(const PackArgs& p, Range range, const Ctx&) {
  const int8_t* src = static_cast<const int8_t*>(p.src);
  const int64_t quads = ceil_div(p.k, 4);
  for (int64_t block = range.begin; block < range.end; ++block) {
    const int64_t first = first_channel(block, p.n);
    for (int64_t quad = 0; quad < quads; ++quad) {
      int8_t* dst = static_cast<int8_t*>(p.dst) + (block * quads + quad) * 4 * kLanes;
      for (int lane = 0; lane < kLanes; ++lane)
        for (int64_t i = 0; i < 4; ++i) {
          const int64_t c = first + (p.n < kLanes ? lane % p.n : lane), tap = 4 * quad + i;
          dst[4 * QuadTaps::permuted(lane) + i] = tap < p.k ? src[c * p.src_col + tap] : int8_t{0};
        }
    }
  }
  return {};
}

int64_t depthwise2d_u8s8_scratch(const QConvArgs& p) { return DepthwiseDot(p, nullptr).scratch_bytes(); }

// Item = output row.
Status depthwise2d_u8s8(const QConvArgs& p, Range range, const Ctx& ctx) {
  DepthwiseDot(p, ctx.scratch).run(range);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
