// Winograd's minimal filtering F(E x E, 3 x 3): E x E results of a 3 x 3 correlation from P x P source pixels, P = E +
// 2, by P x P products where the sum over taps takes 9 E x E: with the transforms below along both axes,
//
//   y = A' ((G w G') . (B' d B)) A        (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015)
//
// and, as the product is bilinear, dw = G' ((A dy A') . (B' d B)) G summed over tiles. The matrices evaluate
// polynomials at P - 1 points and infinity. E = 2 takes 0 and ±1. E = 4 takes 0, ±5/8 and ±3/2, whose constants are
// exact in float: the error of 64 channels is then 1.7 times that of the sum over taps; with the usual 0, ±1 and ±2 it
// is 3.8 times.
//
// With stride 2 pixels at even places meet the taps 0 and 2, those at odd places tap 1. Two results along an axis take
// three products for the former, of F(2, 2) at the points 0, 1 and infinity, and two for the latter: 5 where the sum
// takes 6, 25 for 36 of a square, and no constant but ±1. In the adjoint four results come from three gradients, by the
// same products; whether the first one is of tap 1 is the parity of the padding.
#pragma once
#include <cstdint>

#include "kernels/args/conv.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// Along an axis: a tile's results, its points, its source pixels, and how many of these it lies behind the one before.
template <WinogradTiles kTiles>
struct TileSizes {
  static constexpr int kEdge = static_cast<int>(tile_edge(kTiles)), kPoints = static_cast<int>(tile_points(kTiles));
  static constexpr bool kSpreads = kTiles == WinogradTiles::kSpreadOdd || kTiles == WinogradTiles::kSpreadEven;
  static constexpr int kSource = kSpreads ? 3 : kPoints;
  static constexpr int kAdvance = kSpreads ? 2 : kTiles == WinogradTiles::kStrided ? 4 : kEdge;
};

template <class V, WinogradTiles kTiles>
struct Winograd;

template <class V>
struct Winograd<V, WinogradTiles::kTwo> : TileSizes<WinogradTiles::kTwo> {
  // B' d
  static void source(const V* d, V* v) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  // G w
  static void weight(const V* w, V* u) {
    const V half = V::set(0.5f), even = half * (w[0] + w[2]), odd = half * w[1];
    u[0] = w[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = w[2];
  }
  // A' m
  static void result(const V* m, V* y) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }
  // A dy
  static void result_grad(const V* dy, V* m) {
    m[0] = dy[0];
    m[1] = dy[0] + dy[1];
    m[2] = dy[0] - dy[1];
    m[3] = dy[1];
  }
  // G' m
  static void weight_grad(const V* m, V* dw) {
    const V half = V::set(0.5f), even = half * (m[1] + m[2]);
    dw[0] = m[0] + even;
    dw[1] = half * (m[1] - m[2]);
    dw[2] = m[3] + even;
  }
};

template <class V>
struct Winograd<V, WinogradTiles::kFour> : TileSizes<WinogradTiles::kFour> {
  static constexpr float kA = 0.625f, kB = 1.5f, kA2 = kA * kA, kB2 = kB * kB;
  // 1 / prod (p - q) over the other points q, for p = 0, ±kA, ±kB
  static constexpr float kZero = static_cast<float>(1 / (0.390625 * 2.25));
  static constexpr float kNear = static_cast<float>(1 / (2 * 0.390625 * (0.390625 - 2.25)));
  static constexpr float kFar = static_cast<float>(1 / (2 * 2.25 * (2.25 - 0.390625)));

  static void source(const V* d, V* v) {
    const V product = V::set(kA2 * kB2), sum = V::set(-(kA2 + kB2)), a2 = V::set(-kA2), b2 = V::set(-kB2);
    v[0] = fma(product, d[0], fma(sum, d[2], d[4]));
    pair(fma(b2, d[2], d[4]), fma(b2, d[1], d[3]), kA, v + 1);
    pair(fma(a2, d[2], d[4]), fma(a2, d[1], d[3]), kB, v + 3);
    v[5] = fma(product, d[1], fma(sum, d[3], d[5]));
  }
  static void weight(const V* w, V* u) {
    u[0] = V::set(kZero) * w[0];
    pair(V::set(kNear) * fma(V::set(kA2), w[2], w[0]), V::set(kNear) * w[1], kA, u + 1);
    pair(V::set(kFar) * fma(V::set(kB2), w[2], w[0]), V::set(kFar) * w[1], kB, u + 3);
    u[5] = w[2];
  }
  static void result(const V* m, V* y) {
    const V near = m[1] + m[2], far = m[3] + m[4], near_odd = m[1] - m[2], far_odd = m[3] - m[4];
    y[0] = m[0] + (near + far);
    y[1] = fma(V::set(kB), far_odd, V::set(kA) * near_odd);
    y[2] = fma(V::set(kB2), far, V::set(kA2) * near);
    y[3] = fma(V::set(kB2 * kB), far_odd, fma(V::set(kA2 * kA), near_odd, m[5]));
  }
  static void result_grad(const V* dy, V* m) {
    m[0] = dy[0];
    pair(fma(V::set(kA2), dy[2], dy[0]), fma(V::set(kA2), dy[3], dy[1]), kA, m + 1);
    pair(fma(V::set(kB2), dy[2], dy[0]), fma(V::set(kB2), dy[3], dy[1]), kB, m + 3);
    m[5] = dy[3];
  }
  static void weight_grad(const V* m, V* dw) {
    const V near = V::set(kNear) * (m[1] + m[2]), far = V::set(kFar) * (m[3] + m[4]);
    dw[0] = fma(V::set(kZero), m[0], near + far);
    dw[1] = fma(V::set(kNear * kA), m[1] - m[2], V::set(kFar * kB) * (m[3] - m[4]));
    dw[2] = fma(V::set(kA2), near, fma(V::set(kB2), far, m[5]));
  }

 private:
  // A polynomial's values at ±point, from its even and odd part.
  static void pair(V even, V odd, float point, V* values) {
    values[0] = fma(V::set(point), odd, even);
    values[1] = fma(V::set(-point), odd, even);
  }
};

template <class V>
struct StrideTwo {
  static void weight(const V* w, V* u) {
    u[0] = w[0];
    u[1] = w[0] + w[2];
    u[2] = w[2];
    u[3] = u[4] = w[1];
  }
  static void weight_grad(const V* m, V* dw) {
    dw[0] = m[0] + m[1];
    dw[1] = m[3] + m[4];
    dw[2] = m[1] + m[2];
  }
};

template <class V>
struct Winograd<V, WinogradTiles::kStrided> : TileSizes<WinogradTiles::kStrided>, StrideTwo<V> {
  static void source(const V* d, V* v) {
    v[0] = d[0] - d[2];
    v[1] = d[2];
    v[2] = d[4] - d[2];
    v[3] = d[1];
    v[4] = d[3];
  }
  static void result(const V* m, V* y) {
    y[0] = (m[0] + m[1]) + m[3];
    y[1] = (m[1] + m[2]) + m[4];
  }
  static void result_grad(const V* dy, V* m) {
    m[0] = m[3] = dy[0];
    m[1] = dy[0] + dy[1];
    m[2] = m[4] = dy[1];
  }
};

// The weights' order is that of the adjoint: reversed.
template <class V>
struct Winograd<V, WinogradTiles::kSpreadOdd> : TileSizes<WinogradTiles::kSpreadOdd>, StrideTwo<V> {
  static void source(const V* d, V* v) {
    v[0] = d[0] - d[1];
    v[1] = d[1];
    v[2] = d[2] - d[1];
    v[3] = d[0];
    v[4] = d[1];
  }
  static void result(const V* m, V* y) {
    y[0] = m[3];
    y[1] = m[0] + m[1];
    y[2] = m[4];
    y[3] = m[1] + m[2];
  }
};

template <class V>
struct Winograd<V, WinogradTiles::kSpreadEven> : TileSizes<WinogradTiles::kSpreadEven>, StrideTwo<V> {
  static void source(const V* d, V* v) {
    v[0] = d[0] - d[1];
    v[1] = v[3] = d[1];
    v[2] = d[2] - d[1];
    v[4] = d[2];
  }
  static void result(const V* m, V* y) {
    y[0] = m[0] + m[1];
    y[1] = m[3];
    y[2] = m[1] + m[2];
    y[3] = m[4];
  }
};

// f(the tiles as a constant); first those of which there are gradients of weights. Levels of narrower registers than
// AVX-512's know those of stride 1 alone.
template <class F>
inline void with_weight_tiles(WinogradTiles tiles, F f) {
  using enum WinogradTiles;
  if (tiles == kTwo) f.template operator()<kTwo>();
  if (tiles == kFour) f.template operator()<kFour>();
#if defined(__AVX512F__)
  if (tiles == kStrided) f.template operator()<kStrided>();
#endif
}

template <class F>
inline void with_tiles(WinogradTiles tiles, F f) {
  using enum WinogradTiles;
  with_weight_tiles(tiles, f);
#if defined(__AVX512F__)
  if (tiles == kSpreadOdd) f.template operator()<kSpreadOdd>();
  if (tiles == kSpreadEven) f.template operator()<kSpreadEven>();
#endif
}

// Applies kAlong, which makes kTo vectors of kFrom, to the columns and then to the rows of a square.
// load(i, j) gives the square's elements, store(i, j, v) takes the result's.
template <class V, int kFrom, int kTo, auto kAlong, class Load, class Store>
inline void transform_square(Load load, Store store) {
  V half[kTo][kFrom];
#pragma GCC unroll 8
  for (int j = 0; j < kFrom; ++j) {
    V column[kFrom], made[kTo];
#pragma GCC unroll 8
    for (int i = 0; i < kFrom; ++i) column[i] = load(i, j);
    kAlong(column, made);
#pragma GCC unroll 8
    for (int i = 0; i < kTo; ++i) half[i][j] = made[i];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kTo; ++i) {
    V made[kTo];
    kAlong(half[i], made);
#pragma GCC unroll 8
    for (int j = 0; j < kTo; ++j) store(i, j, made[j]);
  }
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
