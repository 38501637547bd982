// Reading, adding and overwriting by index. Whole rows (embedding, index_select, arrays in brackets) move by memcpy or
// by vectors; single elements (gather, scatter_add) one by one.
//
// Additions: whoever owns an output adds to it in the order of the source, so no split changes a bit, and repeated
// indices need no atomics. Rows: an item owns a block of output rows and looks through the whole index for them, which
// costs 8 bytes read for each source row that is added once anyway; ops/embedding.cpp chooses the number of blocks so
// that this stays small. Elements: an item owns a tile of columns with all of its rows.
//
// Indices are checked before any of these kernels runs (check_index): nothing is written if one is refused.
#include "kernels/args/embedding.h"

#include <cstring>
#include <type_traits>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

// The index counted from the front.
int64_t wrapped(int64_t index, int64_t rows) { return index < 0 ? index + rows : index; }

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

// Calls f(outer, begin, end) for the runs of the second index in items `r` of (outer, n).
template <class F>
void for_runs(Range r, int64_t n, F f) {
  for (int64_t item = r.begin; item < r.end;) {
    const int64_t outer = item / n, begin = item % n;
    const int64_t end = n - begin < r.end - item ? n : begin + r.end - item;
    f(outer, begin, end);
    item += end - begin;
  }
}

template <class T>
void take_items(const TakeRowsArgs& a, Range r) {
  const int64_t* index = static_cast<const int64_t*>(a.index);
  for_runs(r, a.n, [&](int64_t o, int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(a.x) + o * a.rows;
    T* y = static_cast<T*>(a.y) + o * a.n;
    for (int64_t j = begin; j < end; ++j) y[j] = x[wrapped(index[j], a.rows)];
  });
}

void take_bytes(const TakeRowsArgs& a, Range r) {
  const int64_t* index = static_cast<const int64_t*>(a.index);
  for_runs(r, a.n, [&](int64_t o, int64_t begin, int64_t end) {
    const char* x = static_cast<const char*>(a.x) + o * a.rows * a.row_bytes;
    char* y = static_cast<char*>(a.y) + o * a.n * a.row_bytes;
    for (int64_t j = begin; j < end; ++j)
      std::memcpy(y + j * a.row_bytes, x + wrapped(index[j], a.rows) * a.row_bytes, static_cast<size_t>(a.row_bytes));
  });
}

template <class T>
T plus(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a + b;
  } else {
    using U = std::make_unsigned_t<T>;  // integers wrap
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  }
}

template <class T>
void add_row(const T* x, T* y, int64_t n) {
  if constexpr (std::is_floating_point_v<T>) {
    using V = Vec<T>;
    for_lanes<V>(n, [&](int64_t i, int k) { put(get<V>(y + i, k) + get<V>(x + i, k), y + i, k); });
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = plus(y[i], x[i]);
  }
}

template <class T>
void copy_row(const T* x, T* y, int64_t n) {
  std::memcpy(y, x, static_cast<size_t>(n) * sizeof(T));
}

template <class T, class PutRow>
void put_block(const PutRowsArgs& a, int64_t item, PutRow put_row) {
  const int64_t o = item / a.blocks, block = (a.rows + a.blocks - 1) / a.blocks;
  const int64_t begin = item % a.blocks * block, end = begin + block < a.rows ? begin + block : a.rows;
  if (begin >= end) return;
  const int64_t* index = static_cast<const int64_t*>(a.index);
  const T* src = static_cast<const T*>(a.src) + o * a.n * a.inner;
  T* y = static_cast<T*>(a.y) + o * a.rows * a.inner;
  const auto bytes = static_cast<size_t>((end - begin) * a.inner) * sizeof(T);
  if (a.onto == PutOnto::kZeros) {
    std::memset(y + begin * a.inner, 0, bytes);
  } else if (a.onto == PutOnto::kBase) {
    std::memcpy(y + begin * a.inner, static_cast<const T*>(a.base) + (o * a.rows + begin) * a.inner, bytes);
  }
  for (int64_t j = 0; j < a.n; ++j) {
    const int64_t row = wrapped(index[j], a.rows);
    if (row >= begin && row < end && row != a.skip) put_row(src + j * a.inner, y + row * a.inner, a.inner);
  }
}

// Sets `columns` of all rows to those of the base, or to 0.
template <class T>
void start_tile(const ScatterAddArgs& a, const T* base, T* y, int64_t columns) {
  const bool whole = columns == a.inner;  // then the rows are one run
  const int64_t runs = whole ? 1 : a.rows;
  const auto bytes = static_cast<size_t>(whole ? a.rows * a.inner : columns) * sizeof(T);
  for (int64_t run = 0; run < runs; ++run) {
    if (base) {
      std::memcpy(y + run * a.inner, base + run * a.inner, bytes);
    } else {
      std::memset(y + run * a.inner, 0, bytes);
    }
  }
}

template <class T>
void scatter_tile(const ScatterAddArgs& a, int64_t item) {
  const int64_t tiles = (a.inner + kScatterTile - 1) / kScatterTile;
  const int64_t o = item / tiles, first = item % tiles * kScatterTile;
  const int64_t columns = a.inner - first < kScatterTile ? a.inner - first : kScatterTile;
  const int64_t to = o * a.rows * a.inner + first, from = o * a.n * a.inner + first;
  T* y = static_cast<T*>(a.y) + to;
  start_tile(a, a.base ? static_cast<const T*>(a.base) + to : nullptr, y, columns);
  const int64_t* index = static_cast<const int64_t*>(a.index) + from;
  const T* src = static_cast<const T*>(a.src) + from;
  for (int64_t j = 0; j < a.n; ++j) {
    for (int64_t i = 0; i < columns; ++i) {
      T& sum = y[wrapped(index[j * a.inner + i], a.rows) * a.inner + i];
      sum = plus(sum, src[j * a.inner + i]);
    }
  }
}

template <class T>
void gather_run(const GatherArgs& a, int64_t o, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(a.x) + o * a.rows * a.inner;
  const int64_t* index = static_cast<const int64_t*>(a.index) + o * a.n * a.inner;
  T* y = static_cast<T*>(a.y) + o * a.n * a.inner;
  if (a.inner == 1) {
    for (int64_t j = begin; j < end; ++j) y[j] = x[wrapped(index[j], a.rows)];
    return;
  }
  for (int64_t j = begin; j < end; ++j) {
    const int64_t at = j * a.inner;
    for (int64_t i = 0; i < a.inner; ++i) y[at + i] = x[wrapped(index[at + i], a.rows) * a.inner + i];
  }
}

}  // namespace

Status check_index(const CheckIndexArgs& a, Range r, const Ctx&) {
  const int64_t* index = static_cast<const int64_t*>(a.index);
  const int64_t least = a.wrap ? -a.limit : 0;
  const Range e = elements(r, a.size);
  bool fits = true;
  for (int64_t i = e.begin; i < e.end; ++i) fits &= (index[i] >= least) & (index[i] < a.limit);
  if (fits) [[likely]]
    return {};
  for (int64_t i = e.begin; i < e.end; ++i) {
    if (index[i] < least || index[i] >= a.limit) return {StatusCode::kIndexOutOfRange, i, index[i], a.limit, &a.place};
  }
  return {};
}

Status fold_index(const FoldIndexArgs& a, Range r, const Ctx&) {
  const int64_t* index = static_cast<const int64_t*>(a.index);
  const int64_t* high = static_cast<const int64_t*>(a.high);
  int64_t* y = static_cast<int64_t*>(a.y);
  const Range e = elements(r, a.size);
  for (int64_t i = e.begin; i < e.end; ++i) y[i] = (high ? high[i] * a.rows : 0) + wrapped(index[i], a.rows);
  return {};
}

Status take_rows(const TakeRowsArgs& a, Range r, const Ctx&) {
  switch (a.row_bytes) {
    case 1:
    case 2:
    case 4:
    case 8:
      visit_size(a.row_bytes, [&]<class T>(T) { take_items<T>(a, r); });
      break;
    default:
      take_bytes(a, r);
  }
  return {};
}

Status put_rows(const PutRowsArgs& a, Range r, const Ctx&) {
  if (a.add) {
    visit(a.dtype, [&]<class T>(T) {
      for (int64_t item = r.begin; item < r.end; ++item) put_block<T>(a, item, add_row<T>);
    });
  } else {
    visit_size(a.itemsize, [&]<class T>(T) {
      for (int64_t item = r.begin; item < r.end; ++item) put_block<T>(a, item, copy_row<T>);
    });
  }
  return {};
}

Status gather(const GatherArgs& a, Range r, const Ctx&) {
  visit_size(a.itemsize, [&]<class T>(T) {
    for_runs(r, a.n, [&](int64_t o, int64_t begin, int64_t end) { gather_run<T>(a, o, begin, end); });
  });
  return {};
}

Status scatter_add(const ScatterAddArgs& a, Range r, const Ctx&) {
  visit(a.dtype, [&]<class T>(T) {
    for (int64_t item = r.begin; item < r.end; ++item) scatter_tile<T>(a, item);
  });
  return {};
}

Status iota(const IotaArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit(a.dtype, [&]<class T>(T) {
    T* y = static_cast<T*>(a.y);
    for (int64_t i = e.begin; i < e.end; ++i) {
      if constexpr (std::is_same_v<T, int64_t>) {
        y[i] = a.whole_start + i * a.whole_step;
      } else {
        y[i] = convert<T>(a.start + static_cast<double>(i) * a.step);
      }
    }
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
