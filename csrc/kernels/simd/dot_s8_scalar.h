// DotS8 in portable C++. Four columns of one row at a time: GCC makes a mess (20 times the code, a fifth of the speed)
// of larger register tiles written as arrays.
#pragma once
#include <cstdint>

#include "kernels/args/quant.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct DotS8 {
  static constexpr int kWidth = 4, kRows = 1, kVectors = 1, kStep = 4;
  static constexpr bool kWidens = false;
  struct Sum {
    int32_t lane[kWidth];
  };
  using Weights = const int8_t*;
  struct Inputs {
    int32_t k[4];
  };

  static Sum zero() { return {}; }
  static Weights load(const int8_t* b) { return b; }
  static Inputs spread(const uint8_t* x) { return {{x[0], x[1], x[2], x[3]}}; }
  static Inputs spread_row(const uint8_t* x) { return spread(x); }
  static Sum dot(Sum s, const Inputs& x, Weights w) {
    // Unsigned: a sum past int32 wraps, as NumPy's does.
    for (int j = 0; j < kWidth; ++j, w += 4)
      s.lane[j] =
          static_cast<int32_t>(static_cast<uint32_t>(s.lane[j]) +
                               static_cast<uint32_t>(x.k[0] * w[0] + x.k[1] * w[1] + x.k[2] * w[2] + x.k[3] * w[3]));
    return s;
  }
  static void store(const Sum& s, int32_t* out) {
    for (int j = 0; j < kWidth; ++j) out[j] = s.lane[j];
  }
};

// Requantizes kWidth columns: see Requantize in args/quant.h.
class Requantizer {
 public:
  static constexpr int kWidth = 4;
  explicit Requantizer(const Requantize& p)
      : lo_(static_cast<float>(p.lo - p.zero_point)),
        hi_(static_cast<float>(p.hi - p.zero_point)),
        zero_point_(p.zero_point) {}

  void operator()(const int32_t* acc, const int32_t* bias, const float* scale, uint8_t* y) const {
    constexpr float kRound = 0x1.8p23f;  // adding and taking away rounds to the nearest integer, ties to even
    for (int j = 0; j < kWidth; ++j) {
      const uint32_t sum = static_cast<uint32_t>(acc[j]) + static_cast<uint32_t>(bias[j]);  // wraps
      float v = static_cast<float>(static_cast<int32_t>(sum)) * scale[j];
      v = v > lo_ ? v : lo_;
      v = v < hi_ ? v : hi_;
      y[j] = static_cast<uint8_t>(static_cast<int32_t>((v + kRound) - kRound) + zero_point_);
    }
  }

 private:
  float lo_, hi_;
  int32_t zero_point_;
};

}  // namespace
}  // namespace quernel::QUERNEL_ISA
