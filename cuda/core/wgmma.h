// Products by a warpgroup: four warps that begin at a multiple of 128 threads multiply tiles from shared memory, as
// tma.h lays them there, while they go on. PTX under nvcc, for sm_90a; plain C++ under emulation, with the same places.
//
// A product is 64 x N results, N = 64, 128 or 256, and eight words of 32 bits along k: 16 bfloat16 or float16, or 32
// bytes. A is rows along k, B columns along k. Of thread t, with w = t / 32 % 4, g = t % 32 / 4 and i = t % 4, sums
// c[4 j + e]: row 16 w + g, column 8 j + 2 i + e for e < 2; row 16 w + g + 8, column 8 j + 2 i + e - 2 for the others.
#pragma once
#include "core/tma.h"
#include "kernels/float16.h"

#ifndef __CUDACC__
#include <deque>
#endif

namespace quernel::cuda {

inline constexpr int kWarpgroup = 128;

#ifdef __CUDACC__
namespace ptx {

// The registers of 32, 64 and 128 sums, as PTX numbers them and as operands, and a product of either kind.
#define QUERNEL_NAMES_32                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define QUERNEL_NAMES_64                                                                         \
  QUERNEL_NAMES_32                                                                               \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define QUERNEL_NAMES_128                                                                        \
  QUERNEL_NAMES_64                                                                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "   \
  "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "   \
  "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define QUERNEL_SUMS_32(kind)                                                                                 \
  kind(c[0]), kind(c[1]), kind(c[2]), kind(c[3]), kind(c[4]), kind(c[5]), kind(c[6]), kind(c[7]), kind(c[8]), \
      kind(c[9]), kind(c[10]), kind(c[11]), kind(c[12]), kind(c[13]), kind(c[14]), kind(c[15]), kind(c[16]),  \
      kind(c[17]), kind(c[18]), kind(c[19]), kind(c[20]), kind(c[21]), kind(c[22]), kind(c[23]), kind(c[24]), \
      kind(c[25]), kind(c[26]), kind(c[27]), kind(c[28]), kind(c[29]), kind(c[30]), kind(c[31])
#define QUERNEL_SUMS_64(kind)                                                                                       \
  QUERNEL_SUMS_32(kind), kind(c[32]), kind(c[33]), kind(c[34]), kind(c[35]), kind(c[36]), kind(c[37]), kind(c[38]), \
      kind(c[39]), kind(c[40]), kind(c[41]), kind(c[42]), kind(c[43]), kind(c[44]), kind(c[45]), kind(c[46]),       \
      kind(c[47]), kind(c[48]), kind(c[49]), kind(c[50]), kind(c[51]), kind(c[52]), kind(c[53]), kind(c[54]),       \
      kind(c[55]), kind(c[56]), kind(c[57]), kind(c[58]), kind(c[59]), kind(c[60]), kind(c[61]), kind(c[62]),       \
      kind(c[63])
#define QUERNEL_SUMS_128(kind)                                                                                        \
  QUERNEL_SUMS_64(kind), kind(c[64]), kind(c[65]), kind(c[66]), kind(c[67]), kind(c[68]), kind(c[69]), kind(c[70]),   \
      kind(c[71]), kind(c[72]), kind(c[73]), kind(c[74]), kind(c[75]), kind(c[76]), kind(c[77]), kind(c[78]),         \
      kind(c[79]), kind(c[80]), kind(c[81]), kind(c[82]), kind(c[83]), kind(c[84]), kind(c[85]), kind(c[86]),         \
      kind(c[87]), kind(c[88]), kind(c[89]), kind(c[90]), kind(c[91]), kind(c[92]), kind(c[93]), kind(c[94]),         \
      kind(c[95]), kind(c[96]), kind(c[97]), kind(c[98]), kind(c[99]), kind(c[100]), kind(c[101]), kind(c[102]),      \
      kind(c[103]), kind(c[104]), kind(c[105]), kind(c[106]), kind(c[107]), kind(c[108]), kind(c[109]), kind(c[110]), \
      kind(c[111]), kind(c[112]), kind(c[113]), kind(c[114]), kind(c[115]), kind(c[116]), kind(c[117]), kind(c[118]), \
      kind(c[119]), kind(c[120]), kind(c[121]), kind(c[122]), kind(c[123]), kind(c[124]), kind(c[125]), kind(c[126]), \
      kind(c[127])
#define QUERNEL_WGMMA_64(types, kind, rest)                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned.m64n64" types \
               " {" QUERNEL_NAMES_32 "}, %32, %33, p" rest ";\n}"                                  \
               : QUERNEL_SUMS_32(kind)                                                             \
               : "l"(a), "l"(b))
#define QUERNEL_WGMMA_128(types, kind, rest)                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned.m64n128" types \
               " {" QUERNEL_NAMES_64 "}, %64, %65, p" rest ";\n}"                                   \
               : QUERNEL_SUMS_64(kind)                                                              \
               : "l"(a), "l"(b))
#define QUERNEL_WGMMA_256(types, kind, rest)                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\nwgmma.mma_async.sync.aligned.m64n256" types \
               " {" QUERNEL_NAMES_128 "}, %128, %129, p" rest ";\n}"                                \
               : QUERNEL_SUMS_128(kind)                                                             \
               : "l"(a), "l"(b))

__device__ inline void wgmma_bf16(float (&c)[32], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_64("k16.f32.bf16.bf16", "+f", ", 1, 1, 0, 0");
}
__device__ inline void wgmma_bf16(float (&c)[64], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_128("k16.f32.bf16.bf16", "+f", ", 1, 1, 0, 0");
}
__device__ inline void wgmma_bf16(float (&c)[128], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_256("k16.f32.bf16.bf16", "+f", ", 1, 1, 0, 0");
}
__device__ inline void wgmma_f16(float (&c)[32], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_64("k16.f32.f16.f16", "+f", ", 1, 1, 0, 0");
}
__device__ inline void wgmma_f16(float (&c)[64], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_128("k16.f32.f16.f16", "+f", ", 1, 1, 0, 0");
}
__device__ inline void wgmma_f16(float (&c)[128], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_256("k16.f32.f16.f16", "+f", ", 1, 1, 0, 0");
}
__device__ inline void wgmma_u8s8(int (&c)[32], uint64_t a, uint64_t b) { QUERNEL_WGMMA_64("k32.s32.u8.s8", "+r", ""); }
__device__ inline void wgmma_u8s8(int (&c)[64], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_128("k32.s32.u8.s8", "+r", "");
}
__device__ inline void wgmma_u8s8(int (&c)[128], uint64_t a, uint64_t b) {
  QUERNEL_WGMMA_256("k32.s32.u8.s8", "+r", "");
}

#undef QUERNEL_NAMES_32
#undef QUERNEL_NAMES_64
#undef QUERNEL_NAMES_128
#undef QUERNEL_SUMS_32
#undef QUERNEL_SUMS_64
#undef QUERNEL_SUMS_128
#undef QUERNEL_WGMMA_64
#undef QUERNEL_WGMMA_128
#undef QUERNEL_WGMMA_256

}  // namespace ptx
#endif

#ifndef __CUDACC__
namespace emulated_warpgroup {

// The words of a row of a tile that a product takes.
inline void read_words(unsigned (&words)[8], uint64_t descriptor, int row) {
  if (descriptor >> 62 != 1) emulated::fail("a descriptor names another exchange of chunks");
  const auto field = [&](int from) { return static_cast<unsigned>(descriptor >> from & 0x3fff) << 4; };
  for (int half = 0; half < 2; ++half) {
    const unsigned place =
        field(0) + static_cast<unsigned>(row) / 8 * field(32) + static_cast<unsigned>(row % 8 * 128 + half * 16);
    std::memcpy(words + half * 4, emulated::shared_pointer(place ^ place / 128 % 8 * 16), 16);
  }
}

template <class Sum, int kSums, class Element>
void multiply(Sum (&c)[kSums], uint64_t a, uint64_t b, Element element) {
  const int t = static_cast<int>(threadIdx.x) % kWarpgroup, row = t / kWarp * 16 + t % kWarp / 4;
  unsigned left[2][8], right[8];
  for (int r = 0; r < 2; ++r) read_words(left[r], a, row + r * 8);
  for (int column = 0; column < kSums / 2; ++column) {
    read_words(right, b, column / 2 * 8 + t % 4 * 2 + column % 2);
    for (int r = 0; r < 2; ++r) {
      Sum& sum = c[column / 2 * 4 + r * 2 + column % 2];
      for (int k = 0; k < 8; ++k) sum = element(left[r][k], right[k], sum);
    }
  }
}

}  // namespace emulated_warpgroup
#endif

// Where a tile lies, for products: 14 bits of an address, the distance of groups of eight rows, the kind of exchange.
// All addresses and distances count 16 bytes.
__device__ inline uint64_t tile_descriptor(const void* shared) {
#ifndef __CUDACC__
  const unsigned address = emulated::shared_address(shared);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
#endif
  constexpr uint64_t kGroup = 8 * kTileWords * 4 / 16, kExchange128 = 1;
  return kExchange128 << 62 | kGroup << 32 | uint64_t{1} << 16 | (address >> 4 & 0x3fff);
}
// The same tile from so many words along k on, a multiple of eight.
__device__ inline uint64_t advanced(uint64_t descriptor, int words) { return descriptor + words / 4; }

// Gives registers that a warpgroup does not need to others, or takes them; all of its threads call this. kRegisters is
// what a thread has then, a multiple of eight.
template <int kRegisters>
__device__ void give_registers() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ void take_registers() {
#ifdef __CUDACC__
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// Products under way of a thread of a warpgroup: begun, closed into groups, and waited for by the number of groups that
// may still be under way. Until then shared memory may be read, and sums may be written, at any time; the emulation
// does both as late as it may, or at once (QUERNEL_CUDA_PRODUCTS=early).
class WarpgroupProducts {
 public:
  // Before the first product, and after the sums were touched by anything but products.
  __device__ void begin() {
#ifndef __CUDACC__
    begun_ = true;
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
  }

  // c += a b.
  template <int kSums>
  __device__ void multiply_bf16(float (&c)[kSums], uint64_t a, uint64_t b) {
#ifndef __CUDACC__
    add(c, a, b, [](unsigned x, unsigned y, float sum) {
      sum = fmaf(__uint_as_float(x << 16), __uint_as_float(y << 16), sum);
      return fmaf(__uint_as_float(x & 0xffff0000u), __uint_as_float(y & 0xffff0000u), sum);
    });
#else
    ptx::wgmma_bf16(c, a, b);
#endif
  }
  template <int kSums>
  __device__ void multiply_f16(float (&c)[kSums], uint64_t a, uint64_t b) {
#ifndef __CUDACC__
    add(c, a, b, [](unsigned x, unsigned y, float sum) {
      sum = fmaf(from_f16(static_cast<uint16_t>(x)), from_f16(static_cast<uint16_t>(y)), sum);
      return fmaf(from_f16(static_cast<uint16_t>(x >> 16)), from_f16(static_cast<uint16_t>(y >> 16)), sum);
    });
#else
    ptx::wgmma_f16(c, a, b);
#endif
  }
  // Bytes of A unsigned and of B signed; exact, sums wrap.
  template <int kSums>
  __device__ void multiply_u8s8(int (&c)[kSums], uint64_t a, uint64_t b) {
#ifndef __CUDACC__
    add(c, a, b, [](unsigned x, unsigned y, int sum) {
      for (int shift = 0; shift < 32; shift += 8)
        sum = static_cast<int>(static_cast<unsigned>(sum) + static_cast<unsigned>(static_cast<uint8_t>(x >> shift) *
                                                                                  static_cast<int8_t>(y >> shift)));
      return sum;
    });
#else
    ptx::wgmma_u8s8(c, a, b);
#endif
  }

  __device__ void close_group() {
#ifndef __CUDACC__
    groups_.push_back(open_);
    open_ = 0;
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
  }

  // Until at most the latest kUnderWay groups are not done.
  template <int kUnderWay>
  __device__ void wait() {
#ifndef __CUDACC__
    while (groups_.size() > kUnderWay) {
      run(groups_.front());
      groups_.pop_front();
    }
    emulated::warp_barrier(kAllLanes);  // lanes go on together
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kUnderWay) : "memory");
#endif
  }

#ifndef __CUDACC__
  ~WarpgroupProducts() {
    if (!queue_.empty()) emulated::fail("WarpgroupProducts: a thread ends without waiting for its products");
  }

 private:
  // c += a b; `element` adds the products of a word of each.
  template <class Sum, int kSums, class Element>
  void add(Sum (&c)[kSums], uint64_t a, uint64_t b, Element element) {
    if (!begun_) emulated::fail("WarpgroupProducts: products before begin()");
    queue_.push_back([&c, a, b, element] { emulated_warpgroup::multiply(c, a, b, element); });
    ++open_;
    if (!emulated::products_late()) run(open_);
  }

  void run(size_t& products) {
    for (; products > 0; --products) {
      queue_.front()();
      queue_.pop_front();
    }
  }

  std::deque<std::function<void()>> queue_;
  std::deque<size_t> groups_;  // products of each closed one
  size_t open_ = 0;            // products of none yet
  bool begun_ = false;
#endif
};

}  // namespace quernel::cuda
