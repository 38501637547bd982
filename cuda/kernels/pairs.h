// Results as a warpgroup stores them (warpgroup_tile.h): two neighbouring columns of a row at a time.
#pragma once
#include "core/math.h"

namespace quernel::cuda {

// Neighbouring results of a row.
template <class Sum>
struct alignas(2 * sizeof(Sum)) Pair {
  Sum first, second;
};

// Whether pairs of elements of so many bytes may be written at p and at multiples of `pitch` elements from it.
inline bool are_pairs(const void* p, int64_t bytes, int64_t pitch) {
  return pitch % 2 == 0 && reinterpret_cast<uintptr_t>(p) % static_cast<uint64_t>(2 * bytes) == 0;
}

// Writes neighbours: as one, where their place is aligned to both, or the second one only if there is one.
template <class T>
__device__ void put_two(T* to, Pair<T> two, bool in_pairs, bool has_second) {
  if (in_pairs) {
    *reinterpret_cast<Pair<T>*>(to) = two;
  } else {
    to[0] = two.first;
    if (has_second) to[1] = two.second;
  }
}

// Where a row of results begins.
struct RowPlace {
  int64_t start;
};

// What a thread remembers of two columns of floats.
struct TwoFloats {
  float bias[2];
  bool has_second;
};
__device__ inline TwoFloats two_floats(const Epilogue& e, int64_t column, int64_t n) {
  const auto* bias = static_cast<const float*>(e.bias);
  const int64_t next = column + 1 < n ? column + 1 : column;
  return {{bias ? bias[column] : 0.f, bias ? bias[next] : 0.f}, next > column};
}

__device__ inline bool is_light(const Epilogue& e) {
  return e.activation == Activation::kNone || e.activation == Activation::kRelu;
}
template <bool kLight>
__device__ float activated(const Epilogue& e, float v) {
  return !kLight ? activate(e.activation, v) : e.activation == Activation::kRelu ? relu(v) : v;
}

// As `finished` (core/math.h) of elements i and i + 1; there is no gate.
template <bool kLight>
__device__ void put_two_floats(const Epilogue& e, void* y, int64_t i, const TwoFloats& c, Pair<float> sums,
                               bool in_pairs) {
  const auto* residual = static_cast<const float*>(e.residual);
  const auto added = [&](float sum, float bias, int64_t at) {
    if (e.bias) sum = sum + bias;
    return residual ? sum + residual[at] : sum;
  };
  const Pair<float> v{added(sums.first, c.bias[0], i), added(sums.second, c.bias[1], i + c.has_second)};
  if (e.pre) put_two(static_cast<float*>(e.pre) + i, v, in_pairs, c.has_second);
  put_two(static_cast<float*>(y) + i, {activated<kLight>(e, v.first), activated<kLight>(e, v.second)}, in_pairs,
          c.has_second);
}

}  // namespace quernel::cuda
