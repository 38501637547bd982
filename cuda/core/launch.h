// How kernels are run: one functor per element, or a grid of blocks. The same under nvcc and under emulation.
#pragma once
#include <tuple>
#include <type_traits>

#include "core/cuda.h"
#include "kernels/args/common.h"

namespace quernel::cuda {

inline constexpr int kThreads = 256;  // of a block, unless a kernel says otherwise
inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
__host__ __device__ constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Lets a kernel have more dynamic shared memory than 48 KB; what a device has, the kernel's caller knows.
template <class... P>
void allow_shared(void (*kernel)(P...), size_t bytes) {
#ifdef __CUDACC__
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
#else
  emulated::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
#endif
}

// Runs a __global__ kernel on a grid of blocks, with so much dynamic shared memory (at most 48 KB, or what was
// allowed).
template <class... P>
void launch(const Ctx& ctx, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
            std::type_identity_t<P>... args) {
#ifdef __CUDACC__
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(ctx.stream)>>>(args...);
#else
  (void)ctx;
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> args;
  };
  emulated::submit([grid, block, shared_bytes, call = Call{kernel, {args...}}]() mutable {
    emulated::run(
        reinterpret_cast<const void*>(call.kernel), grid, block, shared_bytes,
        [](void* c) {
          Call& call = *static_cast<Call*>(c);
          std::apply(call.kernel, call.args);
        },
        &call);
  });
#endif
}

template <class F>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t n, F f) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) f(i);
}

// Calls f(i) for each i in [0, n), in any order; F has `__device__ void operator()(int64_t i) const` and no barriers.
template <class F>
void for_each(const Ctx& ctx, int64_t n, const F& f) {
  if (n <= 0) return;
#ifdef __CUDACC__
  constexpr int64_t kMostBlocks = 1 << 16;
  launch(ctx, for_each_kernel<F>, static_cast<unsigned>(least(ceil_div(n, kThreads), kMostBlocks)), kThreads, 0, n, f);
#else
  (void)ctx;
  emulated::submit([n, f] {
    const emulated::MemoryAccess access;
    for (int64_t i = 0; i < n; ++i) f(emulated::reversed() ? n - 1 - i : i);
  });
#endif
}

template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char quernel_shared_memory[];
  return reinterpret_cast<T*>(quernel_shared_memory);
#else
  return static_cast<T*>(emulated::shared_memory());
#endif
}

bool uses_tf32();  // for products of float32 (driver.cu)

// ---- values on the host; each waits for the device ----------------------------------------------------------------

// Copies to and from the host, ordered after the kernels before them (driver.cu).
void copy_to_host(const Ctx& ctx, void* host, const void* device, size_t nbytes);
void copy_from_host(const Ctx& ctx, void* device, const void* host, size_t nbytes);
unsigned long long* status_word();  // device memory for first_refused

template <class T>
T read_back(const Ctx& ctx, const T* device) {
  T value{};
  copy_to_host(ctx, &value, device, sizeof value);
  return value;
}

template <class F>
struct NoteRefused {
  F f;
  unsigned long long* first;

  __device__ void operator()(int64_t i) const {
    if (f(i)) atomicMin(first, static_cast<unsigned long long>(i));
  }
};

// The lowest i in [0, n) for which f(i) is true (`__device__ bool operator()(int64_t) const`), or -1.
template <class F>
int64_t first_refused(const Ctx& ctx, int64_t n, const F& f) {
  constexpr unsigned long long kNone = ~0ull;
  unsigned long long* word = status_word();
  copy_from_host(ctx, word, &kNone, sizeof kNone);
  for_each(ctx, n, NoteRefused<F>{f, word});
  return static_cast<int64_t>(read_back(ctx, word));
}

// ---- sums over threads, in a fixed order ----------------------------------------------------------------------------

struct Plus {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// All lanes get the result of combining the values of `width` lanes (a power of 2), by halves.
template <int kWidth = kWarp, class T, class Op>
__device__ T warp_reduce(T value, Op op) {
  for (int distance = kWidth / 2; distance > 0; distance /= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

// All threads of a block of kBlock (whole warps) get the result; `partial` is shared memory for kBlock / 32 values.
template <int kBlock, class T, class Op>
__device__ T block_reduce(T value, T* partial, Op op) {
  constexpr int kWarps = kBlock / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warp_reduce(value, op);
  if (kWarps == 1) return value;
  __syncthreads();  // what was read from `partial` before has been read
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = partial[0];
  for (int i = 1; i < kWarps; ++i) value = op(value, partial[i]);
  return value;
}

}  // namespace quernel::cuda
