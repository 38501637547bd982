// B packed as a whole, in the layout of args/matmul.h; a thread an element of the result, padding included.
#include "core/launch.h"
#include "kernels/args/matmul.h"

namespace quernel::cuda {
namespace {

template <class T>
struct Pack {
  PackArgs p;
  int64_t padded;  // columns

  __device__ void operator()(int64_t at) const {
    constexpr int64_t kWidth = kPackWidth<T>;
    const int64_t rows = p.taps * p.k, batch = at / (padded * rows), rest = at % (padded * rows);
    const int64_t column = rest / (rows * kWidth) * kWidth + rest % kWidth, row = rest / kWidth % rows;
    const T* src = static_cast<const T*>(p.src) + p.src_offset + batch * p.src_batch + row / p.k * p.src_tap;
    static_cast<T*>(p.dst)[batch * p.dst_batch + rest] =
        column < p.n ? src[row % p.k * p.src_row + column * p.src_col] : T(0);
  }
};

template <class T>
Status run(const PackArgs& p, const Ctx& ctx) {
  const int64_t padded = ceil_div(p.n, kPackWidth<T>) * kPackWidth<T>;
  for_each(ctx, p.batch * padded * p.taps * p.k, Pack<T>{p, padded});
  return {};
}

}  // namespace

Status pack_f32(const PackArgs& p, Range, const Ctx& ctx) { return run<float>(p, ctx); }
Status pack_f64(const PackArgs& p, Range, const Ctx& ctx) { return run<double>(p, ctx); }

}  // namespace quernel::cuda
