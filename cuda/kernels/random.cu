// Dropout and random fills from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11):
// the stream that the CPU draws. A thread a block of four draws.
#include "core/launch.h"
#include "core/types.h"
#include "kernels/args/random.h"

namespace quernel::cuda {
namespace {

struct Draws {
  uint32_t d[4];
};

__device__ inline Draws philox(const void* state, uint64_t offset, int64_t block) {
  const uint64_t* s = static_cast<const uint64_t*>(state);
  const uint64_t counter = s[1] + offset + static_cast<uint64_t>(block);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(s[0]), k1 = static_cast<uint32_t>(s[0] >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// An element is kept if its draw reaches p 2^32.
template <class T>
struct Dropout {
  DropoutArgs a;
  uint32_t limit;
  bool all;
  T scale;

  __device__ void operator()(int64_t block) const {
    const Draws draws = philox(a.state, a.offset, block);
    for (int k = 0; k < 4; ++k) {
      const int64_t i = 4 * block + k;
      if (i >= a.size) return;
      const bool kept = !all && draws.d[k] >= limit;
      static_cast<uint8_t*>(a.mask)[i] = kept;
      static_cast<T*>(a.y)[i] = kept ? static_cast<const T*>(a.x)[i] * scale : T(0);
    }
  }
};

template <class T>
struct DropoutGrad {
  DropoutGradArgs a;
  T scale;

  __device__ void operator()(int64_t i) const {
    static_cast<T*>(a.dx)[i] = static_cast<const uint8_t*>(a.mask)[i] ? static_cast<const T*>(a.g)[i] * scale : T(0);
  }
};

// Uniform in [0, 1), of as many bits as the type has.
__device__ inline float unit(uint32_t draw) { return static_cast<float>(draw >> 8) * 0x1p-24f; }
__device__ inline double unit(uint32_t high, uint32_t low) {
  return (static_cast<double>(high >> 5) * 0x1p26 + static_cast<double>(low >> 6)) * 0x1p-53;
}

template <class T>
__device__ T uniform_between(double u, double lo, double hi) {
  const T value = static_cast<T>(lo + (hi - lo) * u);
  return value < static_cast<T>(hi) ? value : static_cast<T>(lo);  // rounded up to the excluded end
}

struct UniformFloat {
  RandomFillArgs a;

  __device__ void operator()(int64_t block) const {
    const Draws draws = philox(a.state, a.offset, block);
    for (int k = 0; k < 4; ++k) {
      const int64_t i = 4 * block + k;
      if (i < a.size)
        static_cast<float*>(a.y)[i] = uniform_between<float>(static_cast<double>(unit(draws.d[k])), a.lo, a.hi);
    }
  }
};
struct UniformDouble {
  RandomFillArgs a;

  __device__ void operator()(int64_t block) const {
    const Draws draws = philox(a.state, a.offset, block);
    for (int k = 0; k < 2; ++k) {
      const int64_t i = 2 * block + k;
      if (i < a.size)
        static_cast<double*>(a.y)[i] = uniform_between<double>(unit(draws.d[2 * k], draws.d[2 * k + 1]), a.lo, a.hi);
    }
  }
};

// Box and Muller: two normal numbers from two uniform ones, the first of them in (0, 1].
template <class T>
__device__ void put_normal_pair(const RandomFillArgs& a, int64_t i, double u, double v) {
  const double radius = a.hi * sqrt(-2 * log(u)), angle = 2 * 3.14159265358979323846 * v;
  T* y = static_cast<T*>(a.y);
  if (i < a.size) y[i] = static_cast<T>(a.lo + radius * cos(angle));
  if (i + 1 < a.size) y[i + 1] = static_cast<T>(a.lo + radius * sin(angle));
}

struct NormalFloat {
  RandomFillArgs a;

  __device__ void operator()(int64_t block) const {
    const Draws draws = philox(a.state, a.offset, block);
    for (int k = 0; k < 4; k += 2)
      put_normal_pair<float>(a, 4 * block + k, (draws.d[k] + 1.0) * 0x1p-32, draws.d[k + 1] * 0x1p-32);
  }
};

struct NormalDouble {
  RandomFillArgs a;

  __device__ void operator()(int64_t block) const {
    const Draws draws = philox(a.state, a.offset, block);
    put_normal_pair<double>(a, 2 * block, unit(draws.d[0], draws.d[1]) + 0x1p-53, unit(draws.d[2], draws.d[3]));
  }
};

}  // namespace

Status dropout(const DropoutArgs& a, Range, const Ctx& ctx) {
  const double threshold = a.p * 0x1p32;
  const bool all = threshold >= 0x1p32;
  const uint32_t limit = all ? 0 : static_cast<uint32_t>(threshold);
  visit_floating(a.dtype, [&]<class T>(T) {
    for_each(ctx, ceil_div(a.size, 4), Dropout<T>{a, limit, all, static_cast<T>(1 / (1 - a.p))});
  });
  return {};
}

Status dropout_grad(const DropoutGradArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) { for_each(ctx, a.size, DropoutGrad<T>{a, static_cast<T>(1 / (1 - a.p))}); });
  return {};
}

Status random_fill(const RandomFillArgs& a, Range, const Ctx& ctx) {
  const int64_t blocks = ceil_div(a.size, a.dtype == DType::kFloat32 ? 4 : 2);
  if (a.dtype == DType::kFloat32) {
    a.normal ? for_each(ctx, blocks, NormalFloat{a}) : for_each(ctx, blocks, UniformFloat{a});
  } else {
    a.normal ? for_each(ctx, blocks, NormalDouble{a}) : for_each(ctx, blocks, UniformDouble{a});
  }
  return {};
}

}  // namespace quernel::cuda
