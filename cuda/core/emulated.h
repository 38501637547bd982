// As much of CUDA as the kernels use, on the CPU, so that the same sources are tested without a GPU. Blocks run one
// after another; each thread of a block is a fiber that runs until it meets a barrier. QUERNEL_CUDA_SCHEDULE chooses
// who goes on then: forward, reverse, random, greedy (a warp for as long as it can) or greedy-reverse. A missing
// barrier gives wrong results in some of them; one that not every thread reaches, or threads that wait at different
// ones, end the kernel with an error. The blocks of a cluster (core/cluster.h) run together. What goes on beside
// threads ends as late as it may, or at once: QUERNEL_CUDA_COPIES=early, QUERNEL_CUDA_PRODUCTS=early.
//
// What this cannot show: a weaker order of memory than the CPU's, and whatever depends on time.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
// Blocks run one at a time. One section holds all of it, to be filled with NaN before each block.
#define __shared__ static __attribute__((section("quernel_shared")))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

// Of the thread that runs now.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace quernel::emulated {

void run(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context);
void* shared_memory();
void block_barrier(const char* file, int line);
void warp_barrier(unsigned mask);
uint64_t exchange(unsigned mask, uint64_t value, int source);  // the value of another lane; own if that is none of them
unsigned ballot(unsigned mask, bool predicate);
int lane();
unsigned shared_address(const void* place);  // of dynamic shared memory, as instructions count it
void* shared_pointer(unsigned address);
void allow_shared(const void* kernel, size_t bytes);  // more than every kernel may have
void wait_on(const void* place);                      // until someone wakes those who wait there
void wake(const void* place);
void copy_apart(std::function<void()> land);  // lands when no thread can go on, or at once (copies_late)
bool products_late();  // whether products of warpgroups are done when they are waited for, or at once
bool copies_late();    // whether asynchronous copies land when they are waited for, or at once
bool reversed();       // loops over independent elements run backwards
void fail(const char* message);
const char* take_error();  // of the kernels since it was last called; null: none

// Launches between begin_capture and end_capture are kept instead of run, with their arguments of now.
using Graph = std::vector<std::function<void()>>;
void begin_capture();
Graph end_capture();
bool capturing();
void submit(std::function<void()> launch);

// Device memory can be reached while one of these lives, in kernels and copies (device_emulated.cpp).
class MemoryAccess {
 public:
  MemoryAccess();
  ~MemoryAccess();
};

template <class T>
T exchange_as(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace quernel::emulated

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  quernel::emulated::block_barrier(file, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { quernel::emulated::warp_barrier(mask); }
inline void __threadfence() {}
inline unsigned __ballot_sync(unsigned mask, int predicate) { return quernel::emulated::ballot(mask, predicate != 0); }
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// The source lane lies in the caller's part of `width` lanes, as on the device.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int own = quernel::emulated::lane();
  return quernel::emulated::exchange_as(mask, value, own / width * width + (source & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int own = quernel::emulated::lane(), source = own ^ bits;
  return quernel::emulated::exchange_as(mask, value, source / width > own / width ? own : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int own = quernel::emulated::lane(), source = own + static_cast<int>(delta);
  return quernel::emulated::exchange_as(mask, value, source / width == own / width ? source : own);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int own = quernel::emulated::lane(), source = own - static_cast<int>(delta);
  return quernel::emulated::exchange_as(mask, value, source >= own / width * width ? source : own);
}

template <class T>
T atomicAdd(T* address, T value) {
  const T old = *address;
  *address = static_cast<T>(old + value);
  return old;
}
template <class T>
T atomicMin(T* address, T value) {
  const T old = *address;
  if (value < old) *address = value;
  return old;
}
template <class T>
T atomicMax(T* address, T value) {
  const T old = *address;
  if (value > old) *address = value;
  return old;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
// Four products of bytes, added up.
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
