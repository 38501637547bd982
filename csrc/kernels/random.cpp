// Dropout and random fills from Philox4x32-10.
//
// The stream is a function of (seed, counter) alone, so any split over threads draws the same numbers; libm gives the
// same results at every level.
#include "kernels/args/random.h"

#include <math.h>

#include "kernels/isa.h"
#include "kernels/philox.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kLanes = kPhiloxLanes;
constexpr int kDraws = 4 * kLanes;

// Blocks `counter`, …, `counter` + 15 of four draws each, in their order.
void philox(Stream s, uint32_t (&out)[kDraws]) {
  uint32_t draws[4][kLanes];
  philox(s, 1, draws);
#pragma GCC unroll 1
  for (int i = 0; i < kLanes; ++i) {
    out[4 * i] = draws[0][i];
    out[4 * i + 1] = draws[1][i];
    out[4 * i + 2] = draws[2][i];
    out[4 * i + 3] = draws[3][i];
  }
}

// Calls f(begin, n, draws) for the elements [begin, begin + n) that sixteen blocks serve.
template <int kPerBlock, class F>
void for_draws(Stream s, Range e, F f) {
  constexpr int64_t kStep = kPerBlock * kLanes;
  uint32_t draws[kDraws];
  for (int64_t i = e.begin; i < e.end; i += kStep) {
    philox({s.seed, s.counter + static_cast<uint64_t>(i / kPerBlock)}, draws);
    f(i, e.end - i < kStep ? e.end - i : kStep, draws);
  }
}

template <class T>
void drop(const DropoutArgs& a, Range e) {
  const Dropout<T> rule(a.p);
  for_draws<4>(stream_of(a.state, a.offset), e, [&](int64_t begin, int64_t n, const uint32_t* draws) {
    const T* x = static_cast<const T*>(a.x) + begin;
    T* y = static_cast<T*>(a.y) + begin;
    uint8_t* mask = static_cast<uint8_t*>(a.mask) + begin;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const bool kept = rule.keeps(draws[i]);
      mask[i] = kept;
      y[i] = kept ? x[i] * rule.scale : T{0};
    }
  });
}

// Uniform in [0, 1), of as many bits as the type has.
float unit(uint32_t draw) { return static_cast<float>(draw >> 8) * 0x1p-24f; }
double unit(uint32_t high, uint32_t low) {
  return (static_cast<double>(high >> 5) * 0x1p26 + static_cast<double>(low >> 6)) * 0x1p-53;
}

template <class T>
T uniform_between(double u, double lo, double hi) {
  const T value = static_cast<T>(lo + (hi - lo) * u);
  return value < static_cast<T>(hi) ? value : static_cast<T>(lo);  // rounded up to the excluded end
}

// Box and Muller: two normal numbers from two uniform ones, the first of them in (0, 1].
void normal_pair(double u, double v, double mean, double sd, double (&out)[2]) {
  const double radius = sd * ::sqrt(-2 * ::log(u)), angle = 2 * M_PI * v;
  out[0] = mean + radius * ::cos(angle);
  out[1] = mean + radius * ::sin(angle);
}

void fill_uniform(const RandomFillArgs& a, Range e, float) {
  for_draws<4>(stream_of(a.state, a.offset), e, [&](int64_t begin, int64_t n, const uint32_t* draws) {
    float* y = static_cast<float*>(a.y) + begin;
    for (int64_t i = 0; i < n; ++i) y[i] = uniform_between<float>(static_cast<double>(unit(draws[i])), a.lo, a.hi);
  });
}
void fill_uniform(const RandomFillArgs& a, Range e, double) {
  for_draws<2>(stream_of(a.state, a.offset), e, [&](int64_t begin, int64_t n, const uint32_t* draws) {
    double* y = static_cast<double*>(a.y) + begin;
    for (int64_t i = 0; i < n; ++i) y[i] = uniform_between<double>(unit(draws[2 * i], draws[2 * i + 1]), a.lo, a.hi);
  });
}

void fill_normal(const RandomFillArgs& a, Range e, float) {
  for_draws<4>(stream_of(a.state, a.offset), e, [&](int64_t begin, int64_t n, const uint32_t* draws) {
    float* y = static_cast<float*>(a.y) + begin;
    for (int64_t i = 0; i < n; i += 2) {
      double pair[2];
      normal_pair((draws[i] + 1.0) * 0x1p-32, draws[i + 1] * 0x1p-32, a.lo, a.hi, pair);
      y[i] = static_cast<float>(pair[0]);
      if (i + 1 < n) y[i + 1] = static_cast<float>(pair[1]);
    }
  });
}
void fill_normal(const RandomFillArgs& a, Range e, double) {
  for_draws<2>(stream_of(a.state, a.offset), e, [&](int64_t begin, int64_t n, const uint32_t* draws) {
    double* y = static_cast<double*>(a.y) + begin;
    for (int64_t i = 0; i < n; i += 2) {
      const uint32_t* d = draws + 2 * i;
      double pair[2];
      normal_pair(unit(d[0], d[1]) + 0x1p-53, unit(d[2], d[3]), a.lo, a.hi, pair);
      y[i] = pair[0];
      if (i + 1 < n) y[i + 1] = pair[1];
    }
  });
}

}  // namespace

Status dropout(const DropoutArgs& a, Range r, const Ctx&) {
  visit_floating(a.dtype, [&]<class T>(T) { drop<T>(a, elements(r, a.size)); });
  return {};
}

Status dropout_grad(const DropoutGradArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit_floating(a.dtype, [&]<class T>(T) {
    const T scale = static_cast<T>(1 / (1 - a.p));
    const T* g = static_cast<const T*>(a.g);
    const uint8_t* mask = static_cast<const uint8_t*>(a.mask);
    T* dx = static_cast<T*>(a.dx);
#pragma GCC ivdep
    for (int64_t i = e.begin; i < e.end; ++i) dx[i] = mask[i] ? g[i] * scale : T{0};
  });
  return {};
}

Status random_fill(const RandomFillArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit_floating(a.dtype, [&]<class T>(T zero) { a.normal ? fill_normal(a, e, zero) : fill_uniform(a, e, zero); });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
