// Reading, adding and overwriting by index. A thread an element where nothing is added. Additions need no atomics and
// have one order: of the source rows with one index, the first one's block adds all of them, in their order (put_rows);
// a thread owns a column of single elements (scatter_add).
//
// Indices are checked before any of these kernels runs (check_index).
#include <type_traits>

#include "core/launch.h"
#include "core/types.h"
#include "kernels/args/embedding.h"

namespace quernel::cuda {
namespace {

// The index counted from the front.
__device__ inline int64_t wrapped(int64_t index, int64_t rows) { return index < 0 ? index + rows : index; }

template <class T>
__device__ T plus(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a + b;
  } else {
    return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));  // integers wrap
  }
}

// Calls f with a value of the unsigned type of that many bytes.
template <class F>
void visit_size(int64_t itemsize, F f) {
  switch (itemsize) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

struct IsOutside {
  const int64_t* index;
  int64_t least, limit;

  __device__ bool operator()(int64_t i) const { return index[i] < least || index[i] >= limit; }
};

struct Fold {
  const int64_t* index;
  const int64_t* high;
  int64_t* y;
  int64_t rows;

  __device__ void operator()(int64_t i) const { y[i] = (high ? high[i] * rows : 0) + wrapped(index[i], rows); }
};

// Rows as `width` words each.
template <class T>
struct Take {
  const T* x;
  const int64_t* index;
  T* y;
  int64_t rows, n, width;

  __device__ void operator()(int64_t i) const {
    const int64_t row = i / width, o = row / n;
    y[i] = x[(o * rows + wrapped(index[row % n], rows)) * width + i % width];
  }
};

template <class T>
void take(const TakeRowsArgs& a, int64_t items, const Ctx& ctx) {
  const int64_t width = a.row_bytes / static_cast<int64_t>(sizeof(T));
  for_each(ctx, items * width,
           Take<T>{static_cast<const T*>(a.x), static_cast<const int64_t*>(a.index), static_cast<T*>(a.y), a.rows, a.n,
                   width});
}

// What y holds before anything is put there: zeros or the base.
template <class T>
struct Start {
  const T* base;
  T* y;

  __device__ void operator()(int64_t i) const { y[i] = base ? base[i] : T(0); }
};

// A block a source row. If it is the first with its index it puts all rows with that index, a thread a column: the
// block looks at kThreads indices at a time and notes the matching ones as bits, so that threads visit only those.
template <class T, bool kAdd>
__global__ void __launch_bounds__(kThreads) put_rows_kernel(PutRowsArgs a) {
  __shared__ int earlier;
  __shared__ unsigned matches[kThreads / kWarp];
  const int64_t* index = static_cast<const int64_t*>(a.index);
  const int64_t o = blockIdx.x / a.n, j = blockIdx.x % a.n;
  const int64_t row = wrapped(index[j], a.rows);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) earlier = 0;
  __syncthreads();
  for (int64_t before = thread; before < j; before += kThreads) {
    if (wrapped(index[before], a.rows) == row) earlier = 1;
  }
  __syncthreads();
  if (earlier || row == a.skip) return;
  const T* src = static_cast<const T*>(a.src) + o * a.n * a.inner;
  T* y = static_cast<T*>(a.y) + (o * a.rows + row) * a.inner;
  for (int64_t first = 0; first < a.inner; first += kThreads) {
    const int64_t i = first + thread;
    T value = i < a.inner ? y[i] : T(0);
    for (int64_t begin = j; begin < a.n; begin += kThreads) {
      const int64_t k = begin + thread;
      const unsigned same = __ballot_sync(kAllLanes, k < a.n && wrapped(index[k], a.rows) == row);
      __syncthreads();  // what was read from `matches` before has been read
      if (thread % kWarp == 0) matches[thread / kWarp] = same;
      __syncthreads();
      if (i >= a.inner) continue;
      for (int w = 0; w < kThreads / kWarp; ++w) {
        for (unsigned left = matches[w]; left != 0; left &= left - 1) {
          const int64_t at = begin + w * kWarp + __ffs(static_cast<int>(left)) - 1;
          value = kAdd ? plus(value, src[at * a.inner + i]) : src[at * a.inner + i];
        }
      }
    }
    if (i < a.inner) y[i] = value;
  }
}

template <class T, bool kAdd>
void put(const PutRowsArgs& a, int64_t outer, const Ctx& ctx) {
  if (a.onto != PutOnto::kItself) {
    const T* base = a.onto == PutOnto::kBase ? static_cast<const T*>(a.base) : nullptr;
    for_each(ctx, outer * a.rows * a.inner, Start<T>{base, static_cast<T*>(a.y)});
  }
  if (outer * a.n * a.inner > 0)
    launch(ctx, put_rows_kernel<T, kAdd>, static_cast<unsigned>(outer * a.n), kThreads, 0, a);
}

template <class T>
struct Gather {
  GatherArgs a;

  __device__ void operator()(int64_t at) const {
    const int64_t i = at % a.inner, o = at / a.inner / a.n;
    const int64_t row = wrapped(static_cast<const int64_t*>(a.index)[at], a.rows);
    static_cast<T*>(a.y)[at] = static_cast<const T*>(a.x)[(o * a.rows + row) * a.inner + i];
  }
};

template <class T>
struct ScatterAdd {
  ScatterAddArgs a;

  __device__ void operator()(int64_t column) const {
    const int64_t o = column / a.inner, i = column % a.inner;
    const int64_t* index = static_cast<const int64_t*>(a.index) + o * a.n * a.inner + i;
    const T* src = static_cast<const T*>(a.src) + o * a.n * a.inner + i;
    T* y = static_cast<T*>(a.y) + o * a.rows * a.inner + i;
    for (int64_t j = 0; j < a.n; ++j) {
      T& sum = y[wrapped(index[j * a.inner], a.rows) * a.inner];
      sum = plus(sum, src[j * a.inner]);
    }
  }
};

template <class T>
struct Iota {
  IotaArgs a;

  __device__ void operator()(int64_t i) const {
    T* y = static_cast<T*>(a.y);
    if constexpr (std::is_same_v<T, int64_t>) {
      y[i] = a.whole_start + i * a.whole_step;
    } else {
      y[i] = convert<T>(a.start + static_cast<double>(i) * a.step);
    }
  }
};

}  // namespace

Status check_index(const CheckIndexArgs& a, Range, const Ctx& ctx) {
  const auto* index = static_cast<const int64_t*>(a.index);
  const int64_t i = first_refused(ctx, a.size, IsOutside{index, a.wrap ? -a.limit : 0, a.limit});
  if (i < 0) return {};
  return {StatusCode::kIndexOutOfRange, i, read_back(ctx, index + i), a.limit, &a.place};
}

Status fold_index(const FoldIndexArgs& a, Range, const Ctx& ctx) {
  for_each(ctx, a.size,
           Fold{static_cast<const int64_t*>(a.index), static_cast<const int64_t*>(a.high), static_cast<int64_t*>(a.y),
                a.rows});
  return {};
}

Status take_rows(const TakeRowsArgs& a, Range items, const Ctx& ctx) {
  const auto places = reinterpret_cast<uintptr_t>(a.x) | reinterpret_cast<uintptr_t>(a.y);
  const int64_t word = (static_cast<int64_t>(places) | a.row_bytes) & 7;
  visit_size(word == 0 ? 8 : word & -word, [&]<class T>(T) { take<T>(a, items.end, ctx); });
  return {};
}

Status put_rows(const PutRowsArgs& a, Range items, const Ctx& ctx) {
  const int64_t outer = items.end / a.blocks;
  if (a.add) {
    visit(a.dtype, [&]<class T>(T) { put<T, true>(a, outer, ctx); });
  } else {
    visit_size(a.itemsize, [&]<class T>(T) { put<T, false>(a, outer, ctx); });
  }
  return {};
}

Status gather(const GatherArgs& a, Range items, const Ctx& ctx) {
  visit_size(a.itemsize, [&]<class T>(T) { for_each(ctx, items.end * a.inner, Gather<T>{a}); });
  return {};
}

Status scatter_add(const ScatterAddArgs& a, Range items, const Ctx& ctx) {
  const int64_t outer = a.inner == 0 ? 0 : items.end / ceil_div(a.inner, kScatterTile);
  visit(a.dtype, [&]<class T>(T) {
    for_each(ctx, outer * a.rows * a.inner, Start<T>{static_cast<const T*>(a.base), static_cast<T*>(a.y)});
    for_each(ctx, outer * a.inner, ScatterAdd<T>{a});
  });
  return {};
}

Status iota(const IotaArgs& a, Range, const Ctx& ctx) {
  visit(a.dtype, [&]<class T>(T) { for_each(ctx, a.size, Iota<T>{a}); });
  return {};
}

}  // namespace quernel::cuda
