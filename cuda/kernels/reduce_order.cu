// What depends on the order of elements: the place of an extreme, the k first of a row, sorting (k = the whole row).
//
// argmax: a warp takes a contiguous row, a thread a column otherwise.
//
// Top-k turns each element and its column into one whole number that sorts as wanted, so that all numbers differ and
// ties need no care. In short rows a thread counts the numbers before its own, which is its place; long rows are sorted
// in scratch memory by a bitonic network, one launch a stage.
#include <type_traits>

#include "core/launch.h"
#include "core/types.h"
#include "kernels/args/reduce.h"

namespace quernel::cuda {
namespace {

// ---- argmax, argmin ---------------------------------------------------------------------------------------------

template <class T>
__device__ bool better(T t, T best, bool smallest) {
  return (smallest ? t < best : t > best) || (t != t && best == best);
}

template <class T>
__global__ void __launch_bounds__(kThreads) arg_rows(ArgReduceArgs a) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= a.outer) return;  // a whole warp
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const T* x = static_cast<const T*>(a.x) + row * a.reduced;
  int64_t index = lane < a.reduced ? lane : 0;  // lanes without elements repeat the first
  T best = x[index];
  for (int64_t i = lane + kWarp; i < a.reduced; i += kWarp) {
    if (better(x[i], best, a.smallest)) best = x[i], index = i;
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, best, distance);
    const int64_t place = __shfl_xor_sync(kAllLanes, index, distance);
    const bool wins = better(other, best, a.smallest), loses = better(best, other, a.smallest);
    if (wins || (!loses && place < index)) best = other, index = place;
  }
  if (lane == 0) static_cast<int64_t*>(a.y)[row] = index;
}

template <class T>
struct ArgColumn {
  ArgReduceArgs a;

  __device__ void operator()(int64_t column) const {
    const T* x = static_cast<const T*>(a.x) + column / a.inner * a.reduced * a.inner + column % a.inner;
    T best = x[0];
    int64_t index = 0;
    for (int64_t i = 1; i < a.reduced; ++i) {
      if (better(x[i * a.inner], best, a.smallest)) best = x[i * a.inner], index = i;
    }
    static_cast<int64_t*>(a.y)[column] = index;
  }
};

// ---- top-k ------------------------------------------------------------------------------------------------------

// Whole numbers in the order of the elements: -0 equals 0, every NaN is the largest.
template <class T>
__device__ uint64_t order_key(T x) {
  if constexpr (std::is_floating_point_v<T>) {
    using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    constexpr U kSign = U{1} << (8 * sizeof(U) - 1);
    if (x != x) return static_cast<U>(~U{0});
    if (x == 0) return kSign;
    const U bits = __builtin_bit_cast(U, x);
    return bits & kSign ? static_cast<U>(~bits) : static_cast<U>(bits | kSign);
  } else {
    return static_cast<uint64_t>(static_cast<int64_t>(x)) ^ (uint64_t{1} << 63);
  }
}

// A smaller one comes earlier.
struct Ranked {
  uint64_t key, column;

  __device__ bool before(const Ranked& o) const { return key < o.key || (key == o.key && column < o.column); }
};

template <class T>
__device__ Ranked ranked(T x, int64_t column, bool largest) {
  const uint64_t key = order_key(x);
  return {largest ? ~key : key, static_cast<uint64_t>(column)};
}

template <class T>
struct CountBefore {
  TopkArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t row = at / a.cols, column = at % a.cols;
    const T* x = static_cast<const T*>(a.x) + row * a.cols;
    const Ranked own = ranked(x[column], column, a.largest);
    int64_t place = 0;
    for (int64_t i = 0; i < a.cols; ++i) place += ranked(x[i], i, a.largest).before(own);
    if (place >= a.k) return;
    static_cast<T*>(a.values)[row * a.k + place] = x[column];
    static_cast<int64_t*>(a.indices)[row * a.k + place] = column;
  }
};

__host__ __device__ inline int64_t power_of_2(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

template <class T>
struct MakeRanked {
  TopkArgs a;
  Ranked* keys;
  int64_t width;

  __device__ void operator()(int64_t at) const {
    const int64_t row = at / width, column = at % width;
    keys[at] = column < a.cols ? ranked(static_cast<const T*>(a.x)[row * a.cols + column], column, a.largest)
                               : Ranked{~uint64_t{0}, ~uint64_t{0}};
  }
};

// One stage: sequences of `length` are sorted up and down in turn, by exchanges over `distance`.
struct Exchange {
  Ranked* keys;
  int64_t width, length, distance;

  __device__ void operator()(int64_t pair) const {
    const int64_t half = width / 2, row = pair / half, at = pair % half;
    const int64_t i = at / distance * 2 * distance + at % distance;
    Ranked& a = keys[row * width + i];
    Ranked& b = keys[row * width + i + distance];
    const bool up = (i & length) == 0;
    if (up ? b.before(a) : a.before(b)) {
      const Ranked swapped = a;
      a = b;
      b = swapped;
    }
  }
};

template <class T>
struct TakeFirst {
  TopkArgs a;
  const Ranked* keys;
  int64_t width;

  __device__ void operator()(int64_t at) const {
    const int64_t row = at / a.k;
    const auto column = static_cast<int64_t>(keys[row * width + at % a.k].column);
    static_cast<T*>(a.values)[at] = static_cast<const T*>(a.x)[row * a.cols + column];
    static_cast<int64_t*>(a.indices)[at] = column;
  }
};

constexpr int64_t kCounted = 2048;  // columns up to which counting is quicker than sorting

template <class T>
void sorted(const TopkArgs& a, const Ctx& ctx) {
  const int64_t width = power_of_2(a.cols);
  auto* keys = static_cast<Ranked*>(ctx.scratch);
  for_each(ctx, a.rows * width, MakeRanked<T>{a, keys, width});
  for (int64_t length = 2; length <= width; length *= 2)
    for (int64_t distance = length / 2; distance > 0; distance /= 2)
      for_each(ctx, a.rows * width / 2, Exchange{keys, width, length, distance});
  for_each(ctx, a.rows * a.k, TakeFirst<T>{a, keys, width});
}

template <class T>
struct SpreadGradient {
  TopkGradArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t row = at / a.k, column = static_cast<const int64_t*>(a.indices)[at];
    static_cast<T*>(a.y)[row * a.cols + column] = static_cast<const T*>(a.g)[at];
  }
};

template <class T>
struct Zero {
  T* y;

  __device__ void operator()(int64_t i) const { y[i] = 0; }
};

}  // namespace

Status arg_reduce(const ArgReduceArgs& a, Range, const Ctx& ctx) {
  visit(a.dtype, [&]<class T>(T) {
    if (a.inner == 1) {
      launch(ctx, arg_rows<T>, static_cast<unsigned>(ceil_div(a.outer, kThreads / kWarp)), kThreads, 0, a);
    } else {
      for_each(ctx, a.outer * a.inner, ArgColumn<T>{a});
    }
  });
  return {};
}

int64_t topk_scratch(const TopkArgs& a) {
  return a.cols <= kCounted ? 0 : a.rows * power_of_2(a.cols) * static_cast<int64_t>(sizeof(Ranked));
}

Status topk(const TopkArgs& a, Range, const Ctx& ctx) {
  if (a.k == 0) return {};
  visit(a.dtype, [&]<class T>(T) {
    if (a.cols <= kCounted) {
      for_each(ctx, a.rows * a.cols, CountBefore<T>{a});
    } else {
      sorted<T>(a, ctx);
    }
  });
  return {};
}

Status topk_grad(const TopkGradArgs& a, Range, const Ctx& ctx) {
  visit_floating(a.dtype, [&]<class T>(T) {
    for_each(ctx, a.rows * a.cols, Zero<T>{static_cast<T*>(a.y)});
    for_each(ctx, a.rows * a.k, SpreadGradient<T>{a});
  });
  return {};
}

}  // namespace quernel::cuda
