// DotS8 in portable C++: eight columns in an array, which any compiler can vectorize.
#pragma once
#include <cstdint>

namespace quernel::QUERNEL_ISA {
namespace {

struct DotS8 {
  static constexpr int kWidth = 8, kRows = 2, kVectors = 1;
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

}  // namespace
}  // namespace quernel::QUERNEL_ISA
