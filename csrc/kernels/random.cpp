// Dropout and random fills from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
//
// The stream is a function of (seed, counter) alone, so any split over threads draws the same numbers. Sixteen
// counters go through the ten rounds side by side, as loops that the compiler turns into vector code; integers and
// libm give the same results at every level.
#include "kernels/args/random.h"

#include <math.h>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

constexpr int kLanes = 16;          // counters at a time
constexpr int kDraws = 4 * kLanes;  // and the numbers they give

// {seed, base} as ops/ keep it.
struct Stream {
  uint64_t seed, counter;
};

Stream stream_of(const void* state, uint64_t offset) {
  const uint64_t* s = static_cast<const uint64_t*>(state);
  return {s[0], s[1] + offset};
}

// Blocks `counter`, …, `counter` + 15 of four draws each.
void philox(Stream s, uint32_t (&out)[kDraws]) {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes] = {}, c3[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t counter = s.counter + static_cast<uint64_t>(i);
    c0[i] = static_cast<uint32_t>(counter);
    c1[i] = static_cast<uint32_t>(counter >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(s.seed), k1 = static_cast<uint32_t>(s.seed >> 32);
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 1  // unrolled, the loop would no longer be vectorized
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = uint64_t{0xD2511F53} * c0[i], p1 = uint64_t{0xCD9E8D57} * c2[i];
      c0[i] = static_cast<uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = static_cast<uint32_t>(p1);
      c2[i] = static_cast<uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
#pragma GCC unroll 1
  for (int i = 0; i < kLanes; ++i) {
    out[4 * i] = c0[i];
    out[4 * i + 1] = c1[i];
    out[4 * i + 2] = c2[i];
    out[4 * i + 3] = c3[i];
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

// An element is kept if its draw reaches p · 2^32.
template <class T>
void drop(const DropoutArgs& a, Range e) {
  const double threshold = a.p * 0x1p32;
  const bool all = threshold >= 0x1p32;
  const uint32_t limit = all ? 0 : static_cast<uint32_t>(threshold);
  const T scale = static_cast<T>(1 / (1 - a.p));
  for_draws<4>(stream_of(a.state, a.offset), e, [&](int64_t begin, int64_t n, const uint32_t* draws) {
    const T* x = static_cast<const T*>(a.x) + begin;
    T* y = static_cast<T*>(a.y) + begin;
    uint8_t* mask = static_cast<uint8_t*>(a.mask) + begin;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const bool kept = !all & (draws[i] >= limit);
      mask[i] = kept;
      y[i] = kept ? x[i] * scale : T{0};
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
