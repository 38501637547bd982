// Sums, products and maxima over one axis of (outer, reduced, inner), a fixed block of the reduced axis at a time; and
// running sums.
//
// inner = 1: a warp takes a short block, a block of threads a long one (core/rows.h). inner > 1: up to kFewRows rows, a
// thread takes a column; more, a block of threads takes 32 (of narrow tensors 8) columns, its rows in phases
// (core/columns.h). Integers add up in 64 bits and wrap around.
//
// A running sum of floats adds up in double. Along contiguous rows, threads of a warp or a block take neighbouring
// elements and the sums before them come from a scan; across wide rows a thread runs down each column.
#include <limits>
#include <type_traits>

#include "core/columns.h"
#include "core/math.h"
#include "core/rows.h"
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

template <int kGroup, class Op, class T>
__global__ void __launch_bounds__(kThreads) reduce_rows(ReduceArgs a, int64_t results) {
  using A = Total<Op, T>;
  const RowGroup<kGroup> group;  // its row is a block of x's
  if (group.row >= results) return;
  const Op op;
  const int64_t blocks = ceil_div(a.reduced, a.block);
  const int64_t begin = group.row % blocks * a.block, end = least(begin + a.block, a.reduced);
  const T* x = static_cast<const T*>(a.x) + group.row / blocks * a.reduced;
  A total[2] = {Op::template identity<A>(), Op::template identity<A>()};
  int64_t i = begin + group.lane;
  for (; i + kGroup < end; i += 2 * kGroup) {
    total[0] = op(total[0], static_cast<A>(x[i]));
    total[1] = op(total[1], static_cast<A>(x[i + kGroup]));
  }
  if (i < end) total[0] = op(total[0], static_cast<A>(x[i]));
  const A all = group.reduce(op(total[0], total[1]), op);
  if (group.lane == 0) put_result<Op, T>(a, group.row, all);
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
    const auto term = [&](int64_t r) { return static_cast<A>(x[r * a.inner]); };
    put_result<Op, T>(a, at, reduce_few(rows, Op::template identity<A>(), op, term));
  }
};

template <int kColumns, class Op, class T>
__global__ void __launch_bounds__(kThreads) reduce_columns(ReduceArgs a) {
  using A = Total<Op, T>;
  const ColumnGroup<kColumns> group;
  const Op op;
  const int64_t tiles = ceil_div(a.inner, kColumns), blocks = ceil_div(a.reduced, a.block);
  const int64_t column = blockIdx.x % tiles * kColumns + group.column, item = blockIdx.x / tiles;
  const int64_t first = item % blocks * a.block;
  const int64_t rows = column < a.inner ? least(a.block, a.reduced - first) : 0;
  const T* x = static_cast<const T*>(a.x) + (item / blocks * a.reduced + first) * a.inner + column;
  A total = Op::template identity<A>();
  for (int64_t r = group.phase; r < rows; r += group.kPhases) total = op(total, static_cast<A>(x[r * a.inner]));
  total = group.reduce(total, op);
  if (rows > 0 && group.phase == 0) put_result<Op, T>(a, item * a.inner + column, total);
}

template <int kColumns, class Op, class T>
void run_columns(const ReduceArgs& a, const Ctx& ctx) {
  const int64_t grid = a.outer * ceil_div(a.reduced, a.block) * ceil_div(a.inner, kColumns);
  if (grid > 0) launch(ctx, reduce_columns<kColumns, Op, T>, static_cast<unsigned>(grid), kThreads, 0, a);
}

template <class Op, class T>
void run(const ReduceArgs& a, const Ctx& ctx) {
  const int64_t results = a.outer * ceil_div(a.reduced, a.block) * a.inner;
  if (a.inner > 1 && (std::is_integral_v<T> || a.reduced <= kFewRows))
    return for_each(ctx, results, ReduceColumn<Op, T>{a});
  if constexpr (std::is_integral_v<T>) {
    launch_rows(ctx, results, 1, reduce_rows<kWarp, Op, T>, reduce_rows<kWarp, Op, T>, a, results);
  } else if (a.inner == 1) {
    launch_rows(ctx, results, least(a.reduced, a.block), reduce_rows<kWarp, Op, T>, reduce_rows<kThreads, Op, T>, a,
                results);
  } else if (a.inner <= 8) {
    run_columns<8, Op, T>(a, ctx);
  } else {
    run_columns<32, Op, T>(a, ctx);
  }
}

// ---- running sums ---------------------------------------------------------------------------------------------------

template <class T>
using Running = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
template <class T>
using RunningResult = std::conditional_t<std::is_floating_point_v<T>, T, int64_t>;

// A row or column of elements: (outer, inner) number `row`, its element i in the direction of the sum.
struct Line {
  int64_t start, stride, length;
  bool reverse;

  __device__ Line(const CumsumArgs& a, int64_t row)
      : start(row / a.inner * a.length * a.inner + row % a.inner),
        stride(a.inner),
        length(a.length),
        reverse(a.reverse) {}
  __device__ int64_t at(int64_t i) const { return start + (reverse ? length - 1 - i : i) * stride; }
};

template <class T>
struct RunningSum {
  CumsumArgs a;

  __device__ void operator()(int64_t row) const {
    const Line line(a, row);
    Running<T> total = 0;
    for (int64_t i = 0; i < a.length; ++i) {
      total += static_cast<Running<T>>(static_cast<const T*>(a.x)[line.at(i)]);
      static_cast<RunningResult<T>*>(a.y)[line.at(i)] = static_cast<RunningResult<T>>(total);
    }
  }
};

// What the threads of the group before this one hold together, and all of them.
template <class A>
struct Scanned {
  A before, all;
};
template <int kGroup, class A>
__device__ Scanned<A> scan(const RowGroup<kGroup>& group, A value) {
  const int lane = group.lane % kWarp;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const A left = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
    if (lane >= distance) value = left + value;
  }
  const A left = __shfl_up_sync(kAllLanes, value, 1u);
  Scanned<A> result{lane > 0 ? left : A(0), __shfl_sync(kAllLanes, value, kWarp - 1)};
  if constexpr (kGroup > kWarp) {
    __shared__ A warps[kGroup / kWarp];
    const int warp = group.lane / kWarp;
    __syncthreads();  // what was read from `warps` before has been read
    if (lane == 0) warps[warp] = result.all;
    __syncthreads();
    A before = 0, all = 0;
    for (int w = 0; w < kGroup / kWarp; ++w) {
      if (w == warp) before = all;
      all += warps[w];
    }
    result = {before + result.before, all};
  }
  return result;
}

template <int kGroup, class T>
__global__ void __launch_bounds__(kThreads) running_rows(CumsumArgs a) {
  constexpr int kEach = 4;  // neighbouring elements of a thread
  const RowGroup<kGroup> group;
  if (group.row >= a.outer * a.inner) return;
  const Line line(a, group.row);
  Running<T> earlier = 0;
  for (int64_t begin = 0; begin < a.length; begin += kGroup * kEach) {
    const int64_t first = begin + group.lane * kEach;
    Running<T> sums[kEach], own = 0;
    for (int k = 0; k < kEach; ++k) {
      if (first + k < a.length) own += static_cast<Running<T>>(static_cast<const T*>(a.x)[line.at(first + k)]);
      sums[k] = own;
    }
    const Scanned<Running<T>> scanned = scan(group, own);
    for (int k = 0; k < kEach; ++k) {
      if (first + k < a.length)
        static_cast<RunningResult<T>*>(a.y)[line.at(first + k)] =
            static_cast<RunningResult<T>>(earlier + (scanned.before + sums[k]));
    }
    earlier += scanned.all;
  }
}

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
  const int64_t lines = a.outer * a.inner;
  visit(a.dtype, [&]<class T>(T) {
    if (a.inner >= kWarp || a.length <= kWarp) return for_each(ctx, lines, RunningSum<T>{a});
    launch_rows(ctx, lines, a.length, running_rows<kWarp, T>, running_rows<kThreads, T>, a);
  });
  return {};
}

}  // namespace quernel::cuda
