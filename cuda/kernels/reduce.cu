// Sums, products and maxima over one axis of (outer, reduced, inner), a fixed block of the reduced axis at a time; and
// running sums.
//
// inner = 1: a warp takes a block; lane l combines elements l, l + 32, … and the lanes are combined by halves.
// inner > 1: a thread takes a column, its rows in four phases (row r in phase r mod 4), so that no operation waits for
// the one before. Integers add up in 64 bits and wrap around.
//
// A running sum is one chain by definition: a thread each; floats add up in double.
#include <limits>
#include <type_traits>

#include "core/launch.h"
#include "core/math.h"
#include "kernels/args/reduce.h"

namespace quernel::cuda {
namespace {

struct Sum {
  template <class A>
  static constexpr __host__ __device__ A identity() {
    return A(0);
  }
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct Prod {
  template <class A>
  static constexpr __host__ __device__ A identity() {
    return A(1);
  }
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a * b;
  }
};
struct Max {
  template <class A>
  static constexpr __host__ __device__ A identity() {
    if constexpr (std::is_floating_point_v<A>) {
      return -std::numeric_limits<A>::infinity();
    } else {
      return std::numeric_limits<A>::min();
    }
  }
  template <class A>
  __device__ A operator()(A a, A b) const {
    return maximum(a, b);  // NaN wins
  }
};

// What T is combined in (lanes exchange 4 bytes or 8), and what comes out.
template <class T>
using Word = std::conditional_t<(sizeof(T) < 4), int32_t, T>;
template <class Op, class T>
using Total = std::conditional_t<std::is_floating_point_v<T> || std::is_same_v<Op, Max>, Word<T>, uint64_t>;
template <class Op, class T>
using Result = std::conditional_t<std::is_same_v<Total<Op, T>, uint64_t>, int64_t, T>;

template <class Op, class T>
__device__ void put_result(const ReduceArgs& a, int64_t at, Total<Op, T> total) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a.divisor != 1) total = total / static_cast<T>(a.divisor);
  }
  static_cast<Result<Op, T>*>(a.y)[at] = static_cast<Result<Op, T>>(total);
}

template <class Op, class T>
__global__ void __launch_bounds__(kThreads) reduce_contiguous(ReduceArgs a, int64_t results) {
  using A = Total<Op, T>;
  const Op op;
  const int64_t blocks = ceil_div(a.reduced, a.block);
  const int64_t result = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (result >= results) return;  // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t begin = result % blocks * a.block, end = least(begin + a.block, a.reduced);
  const T* x = static_cast<const T*>(a.x) + result / blocks * a.reduced;
  A total[2] = {Op::template identity<A>(), Op::template identity<A>()};
  int64_t i = begin + lane;
  for (; i + kWarp < end; i += 2 * kWarp) {
    total[0] = op(total[0], static_cast<A>(x[i]));
    total[1] = op(total[1], static_cast<A>(x[i + kWarp]));
  }
  if (i < end) total[0] = op(total[0], static_cast<A>(x[i]));
  const A all = warp_reduce(op(total[0], total[1]), op);
  if (lane == 0) put_result<Op, T>(a, result, all);
}

template <class Op, class T>
struct ReduceColumn {
  ReduceArgs a;

  __device__ void operator()(int64_t at) const {
    using A = Total<Op, T>;
    const Op op;
    const int64_t blocks = ceil_div(a.reduced, a.block);
    const int64_t column = at % a.inner, block = at / a.inner % blocks, outer = at / a.inner / blocks;
    const int64_t first = block * a.block, rows = least(a.block, a.reduced - first);
    const T* x = static_cast<const T*>(a.x) + (outer * a.reduced + first) * a.inner + column;
    const A identity = Op::template identity<A>();
    A total[4] = {identity, identity, identity, identity};
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4)
      for (int k = 0; k < 4; ++k) total[k] = op(total[k], static_cast<A>(x[(r + k) * a.inner]));
    for (int k = 0; k < 3; ++k)
      if (r + k < rows) total[k] = op(total[k], static_cast<A>(x[(r + k) * a.inner]));
    put_result<Op, T>(a, at, op(op(total[0], total[1]), op(total[2], total[3])));
  }
};

template <class Op, class T>
void run(const ReduceArgs& a, const Ctx& ctx) {
  const int64_t results = a.outer * ceil_div(a.reduced, a.block) * a.inner;
  if (a.inner > 1) return for_each(ctx, results, ReduceColumn<Op, T>{a});
  if (results > 0)
    launch(ctx, reduce_contiguous<Op, T>, static_cast<unsigned>(ceil_div(results, kThreads / kWarp)), kThreads, 0, a,
           results);
}

template <class T>
struct RunningSum {
  CumsumArgs a;

  __device__ void operator()(int64_t column) const {
    using A = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
    using Y = std::conditional_t<std::is_floating_point_v<T>, T, int64_t>;
    const int64_t start = column / a.inner * a.length * a.inner + column % a.inner;
    A total = 0;
    for (int64_t i = 0; i < a.length; ++i) {
      const int64_t at = start + (a.reverse ? a.length - 1 - i : i) * a.inner;
      total += static_cast<A>(static_cast<const T*>(a.x)[at]);
      static_cast<Y*>(a.y)[at] = static_cast<Y>(total);
    }
  }
};

}  // namespace

Status reduce(const ReduceArgs& a, Range, const Ctx& ctx) {
  visit(a.dtype, [&]<class T>(T) {
    if (a.op == ReduceOp::kSum) run<Sum, T>(a, ctx);
    if (a.op == ReduceOp::kProd) run<Prod, T>(a, ctx);
    if (a.op == ReduceOp::kMax) run<Max, T>(a, ctx);
  });
  return {};
}

Status cumsum(const CumsumArgs& a, Range, const Ctx& ctx) {
  visit(a.dtype, [&]<class T>(T) { for_each(ctx, a.outer * a.inner, RunningSum<T>{a}); });
  return {};
}

}  // namespace quernel::cuda
