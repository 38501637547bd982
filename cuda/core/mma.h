// What tensor cores add to CUDA C++: products of small tiles by a warp, their operands from shared memory, and copies
// into it that go on while the kernel works. PTX under nvcc; plain C++ under emulation, with the same places.
//
// A product is 16 x 8 results. Of lane l, with g = l / 4 and i = l % 4:
//   sums      c[0], c[1]: row g, columns 2i and 2i + 1; c[2], c[3]: the same of row g + 8
//   A, bf16   16 x 16, two along k in a register: a[0] row g, k = 2i; a[1] row g + 8; a[2], a[3]: the same of k + 8
//   B, bf16   16 x 8: b[0] column g, k = 2i and 2i + 1; b[1] of k + 8
//   A, int8   16 x 32, four along k in a register: as bf16's with k = 4i, a[2], a[3] of k + 16
//   B, int8   32 x 8: b[0] column g, k = 4i … 4i + 3; b[1] of k + 16
//   A, tf32   16 x 8, one in a register: as bf16's with k = i, a[2], a[3] of k + 4
//   B, tf32   8 x 8: b[0] column g, k = i; b[1] of k + 4
// f16's places are bf16's.
// So in each a register is a word of 32 bits along k, and a product takes eight of these.
// All 32 lanes take part in everything but copies.
#pragma once
#include <cstdint>

#include "core/launch.h"
#include "kernels/float16.h"

namespace quernel::cuda {

#ifndef __CUDACC__
namespace emulated_warp {

// What each thread of the block brings to the instruction that its warp is at.
struct Brought {
  unsigned a[4], b[2];
  const void* row;
};
inline Brought brought[1024];

inline int own() { return static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)); }
inline Brought* warp() { return brought + own() / kWarp * kWarp; }

// c + a b, over k in order; the bytes of a register are elements of A and B.
template <int kDepth, class A, class B, class C, class Element>
void multiply(C (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], Element element) {
  Brought& mine = brought[own()];
  for (int r = 0; r < 4; ++r) mine.a[r] = a[r];
  for (int r = 0; r < 2; ++r) mine.b[r] = b[r];
  emulated::warp_barrier(kAllLanes);
  constexpr int kOf = 4 / static_cast<int>(sizeof(A)), kHalf = kDepth / 2;  // elements of a register
  const int lane = own() % kWarp;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < kDepth; ++k) {
      const int place = k % kHalf, from = place / kOf, shift = place % kOf * 32 / kOf;
      const unsigned left = warp()[row * 4 + from].a[i / 2 + k / kHalf * 2] >> shift;
      const unsigned right = warp()[column * 4 + from].b[k / kHalf] >> shift;
      c[i] = element(static_cast<A>(left), static_cast<B>(right), c[i]);
    }
  }
  emulated::warp_barrier(kAllLanes);
}

}  // namespace emulated_warp
#endif

// The lower and the upper bfloat16 of a register.
__device__ inline float lower_bf16(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float upper_bf16(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// multiply_bf16 where there is no such instruction: terms come from the lanes that hold them, and are added one by one.
__device__ inline void multiply_bf16_by_shuffles(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll  // operands stay in registers
  for (int word = 0; word < 8; ++word) {
    unsigned left[2], right[2];
    for (int i = 0; i < 2; ++i) {
      left[i] = __shfl_sync(kAllLanes, a[i + word / 4 * 2], lane / 4 * 4 + word % 4);
      right[i] = __shfl_sync(kAllLanes, b[word / 4], (lane % 4 * 2 + i) * 4 + word % 4);
    }
    for (int i = 0; i < 4; ++i) {
      c[i] = fmaf(lower_bf16(left[i / 2]), lower_bf16(right[i % 2]), c[i]);
      c[i] = fmaf(upper_bf16(left[i / 2]), upper_bf16(right[i % 2]), c[i]);
    }
  }
}

// c += a b of bfloat16, added up in float. How the terms of one product are rounded is the device's affair; the
// emulation adds them one by one.
__device__ inline void multiply_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifndef __CUDACC__
  emulated_warp::multiply<16, uint16_t, uint16_t>(c, a, b, [](uint16_t x, uint16_t y, float sum) {
    return fmaf(__uint_as_float(unsigned{x} << 16), __uint_as_float(unsigned{y} << 16), sum);
  });
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  multiply_bf16_by_shuffles(c, a, b);
#endif
}

// The same of float16, in halves where an instruction takes eight along k.
__device__ inline void multiply_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifndef __CUDACC__
  emulated_warp::multiply<16, uint16_t, uint16_t>(
      c, a, b, [](uint16_t x, uint16_t y, float sum) { return fmaf(from_f16(x), from_f16(y), sum); });
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int half = 0; half < 2; ++half) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

// A float as tf32: 10 bits of mantissa, to nearest, ties away from zero.
__device__ inline unsigned to_tf32(unsigned x) {
#ifndef __CUDACC__
  return (x & 0x7f800000) == 0x7f800000 ? x : (x + 0x1000) & ~0x1fffu;
#elif __CUDA_ARCH__ >= 800
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(x)));
  return rounded;
#else
  return x;
#endif
}

// c += a b of tf32, added up in float as in multiply_bf16. On sm_80 and up: elsewhere the kernel ends with an error.
__device__ inline void multiply_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifndef __CUDACC__
  emulated_warp::multiply<8, unsigned, unsigned>(
      c, a, b, [](unsigned x, unsigned y, float sum) { return fmaf(__uint_as_float(x), __uint_as_float(y), sum); });
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// c += a b, bytes of A unsigned and of B signed; exact, sums wrap.
__device__ inline void multiply_u8s8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifndef __CUDACC__
  emulated_warp::multiply<32, uint8_t, int8_t>(c, a, b, [](uint8_t x, int8_t y, int sum) {
    return static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(x * y));
  });
#elif __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  // Turing has 8 x 8 results, 16 deep: the same places, in four products.
  for (int half = 0; half < 2; ++half) {
    for (int r = 0; r < 2; ++r) {
      asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
          : "+r"(c[2 * r]), "+r"(c[2 * r + 1])
          : "r"(a[2 * half + r]), "r"(b[half]));
    }
  }
#endif
}

// c + the four products of a byte of `a`, unsigned, and one of `b`, signed. Of one thread.
__device__ inline int dot_u8s8(unsigned a, unsigned b, int c) {
#ifndef __CUDACC__
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 4; ++i)
    sum += static_cast<unsigned>(static_cast<uint8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i));
  return static_cast<int>(sum);
#else
  int sum;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
#endif
}

// Four 8 x 8 tiles of 16-bit elements from shared memory; lane l says where row l % 8 of tile l / 8 begins (16 bytes,
// aligned so). r[t] gets elements 2i and 2i + 1 of row g of tile t. So for A the tiles are (rows, k): upper left, lower
// left, upper right, lower right; for B (columns, k).
__device__ inline void load_tiles(unsigned (&r)[4], const void* row) {
#ifndef __CUDACC__
  emulated_warp::brought[emulated_warp::own()].row = row;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulated::fail("load_tiles: a row is not aligned to 16 bytes");
  emulated::warp_barrier(kAllLanes);
  const int lane = emulated_warp::own() % kWarp;
  for (int t = 0; t < 4; ++t) {
    const auto* from = static_cast<const unsigned char*>(emulated_warp::warp()[t * 8 + lane / 4].row);
    std::memcpy(&r[t], from + lane % 4 * 4, 4);
  }
  emulated::warp_barrier(kAllLanes);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

// The same of turned tiles: r[t] gets elements g of rows 2i and 2i + 1. So for B with k along the rows.
__device__ inline void load_tiles_turned(unsigned (&r)[4], const void* row) {
#ifndef __CUDACC__
  emulated_warp::brought[emulated_warp::own()].row = row;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulated::fail("load_tiles_turned: a row is not aligned to 16 bytes");
  emulated::warp_barrier(kAllLanes);
  const int lane = emulated_warp::own() % kWarp;
  for (int t = 0; t < 4; ++t) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const auto* from = static_cast<const unsigned char*>(emulated_warp::warp()[t * 8 + lane % 4 * 2 + e].row);
      std::memcpy(&pair[e], from + lane / 4 * 2, 2);
    }
    r[t] = pair[0] | unsigned{pair[1]} << 16;
  }
  emulated::warp_barrier(kAllLanes);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
#endif
}

// A thread's copies into shared memory: begun, closed into groups, and waited for by the number of groups that may
// still be under way. They are seen by the thread that waits; by others after a barrier too. Before sm_80 they are done
// at once. Under emulation they land as late as they may, or at once (QUERNEL_CUDA_COPIES=early): each shows what the
// other hides.
class AsyncCopies {
 public:
  // kBytes (4, 8 or 16, both sides aligned so) from global memory; zeros where `valid` is false, and nothing is read.
  template <int kBytes>
  __device__ void copy(void* shared, const void* global, bool valid = true) {
    static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifndef __CUDACC__
    if (reinterpret_cast<uintptr_t>(shared) % kBytes != 0 ||
        (valid && reinterpret_cast<uintptr_t>(global) % kBytes != 0))
      emulated::fail("AsyncCopies: an address is not aligned to the size of the copy");
    if (end_ - begin_ == kMost) {
      emulated::fail("AsyncCopies: too many copies under way");
      land(begin_ + 1);
    }
    queue_[end_++ % kMost] = {shared, valid ? global : nullptr, kBytes};
    if (!emulated::copies_late()) land(end_);
#elif __CUDA_ARCH__ >= 800
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int read = valid ? kBytes : 0;
    if constexpr (kBytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(read) : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes), "r"(read)
                   : "memory");
    }
#else
    using Word = std::conditional_t<kBytes == 4, unsigned, std::conditional_t<kBytes == 8, uint2, uint4> >;
    *static_cast<Word*>(shared) = valid ? *static_cast<const Word*>(global) : Word{};
#endif
  }

  __device__ void close_group() {
#ifndef __CUDACC__
    if (groups_ == kMost) {
      emulated::fail("AsyncCopies: too many groups under way");
      wait_all();
    }
    ends_[groups_++] = end_;
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }

  // Until at most the latest kUnderWay groups are not done.
  template <int kUnderWay>
  __device__ void wait() {
#ifndef __CUDACC__
    const int done = groups_ - kUnderWay;
    if (done <= 0) return;
    land(ends_[done - 1]);
    for (int i = done; i < groups_; ++i) ends_[i - done] = ends_[i];
    groups_ = kUnderWay;
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kUnderWay) : "memory");
#endif
  }

  // For all copies, those of no group too.
  __device__ void wait_all() {
#ifndef __CUDACC__
    land(end_);
    groups_ = 0;
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
  }

#ifndef __CUDACC__
  ~AsyncCopies() {
    if (begin_ != end_) emulated::fail("AsyncCopies: a thread ends without waiting for its copies");
  }

 private:
  static constexpr int64_t kMost = 128;
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    int bytes;
  };

  void land(int64_t end) {
    for (; begin_ < end; ++begin_) {
      const Copy& copy = queue_[begin_ % kMost];
      if (copy.from)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    }
  }

  Copy queue_[kMost];
  int64_t begin_ = 0, end_ = 0;  // of the copies that have not landed
  int64_t ends_[kMost];          // of the closed groups
  int groups_ = 0;
#endif
};

}  // namespace quernel::cuda
