// The full table, compiled once per level (scalar, avx2, avx512). Dot-product levels fill table_dot.cpp.
#include "kernels/table.h"

#include "kernels/isa.h"

#define QUERNEL_STRING_(x) #x
#define QUERNEL_STRING(x) QUERNEL_STRING_(x)

namespace quernel::QUERNEL_ISA {

template <class Args>
using Fn = Status(const Args&, Range, const Ctx&);
template <class Args>
using ScratchFn = int64_t(const Args&);

// matmul
Fn<GemmArgs> gemm_f32, gemm_f64;
Fn<PackArgs> pack_f32, pack_f64;

namespace {

// Adapts a typed kernel to the table's untyped signature.
template <auto F>
struct Erased;
template <class Args, Fn<Args>* F>
struct Erased<F> {
  static Status run(const void* args, Range range, const Ctx& ctx) {
    return F(*static_cast<const Args*>(args), range, ctx);
  }
  static constexpr Kernel<Args> entry{run};
};

template <auto F>
constexpr auto entry = Erased<F>::entry;

}  // namespace

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .table =
        {
            .gemm_f32 = entry<gemm_f32>,
            .gemm_f64 = entry<gemm_f64>,
        },
};

}  // namespace quernel::QUERNEL_ISA
