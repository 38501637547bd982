// One copy kernel for all of layout: transpose, slice, concat, pad, broadcast, assignment. Dimensions arrive collapsed.
//
// Rows: runs of the innermost dimension, by memcpy where both sides are contiguous. Tiles: where the source is
// contiguous in another dimension than the destination, squares are transposed, so that both sides are read and
// written by whole cache lines; 4-byte items go through registers, four rows at a time.
#include "kernels/args/layout.h"

#include <cstring>
#include <type_traits>

#include "kernels/isa.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

template <class T>
void copy_run(const T* src, int64_t src_step, T* dst, int64_t dst_step, int64_t n) {
  if (dst_step == 1 && src_step == 1) {
    std::memcpy(dst, src, static_cast<size_t>(n) * sizeof(T));
  } else if (dst_step == 1 && src_step == 0) {
    const T value = *src;
    for (int64_t i = 0; i < n; ++i) dst[i] = value;
  } else if (dst_step == 1) {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[i * src_step];
  } else {
    for (int64_t i = 0; i < n; ++i) dst[i * dst_step] = src[i * src_step];
  }
}

template <class T>
void copy_rows(const StridedCopyArgs& a, Range e) {
  const int last = a.shape.rank - 1;
  const int64_t inner = a.shape.dims[last];
  const T* src = static_cast<const T*>(a.src) + a.src_offset;
  T* dst = static_cast<T*>(a.dst) + a.dst_offset;
  int64_t index[kArgsRank] = {};
  int64_t row = e.begin / inner, column = e.begin % inner;
  for (int d = last - 1; d >= 0; --d) {
    index[d] = row % a.shape.dims[d];
    row /= a.shape.dims[d];
    src += index[d] * a.src_strides[d];
    dst += index[d] * a.dst_strides[d];
  }
  for (int64_t left = e.end - e.begin; left > 0; column = 0) {
    const int64_t n = inner - column < left ? inner - column : left;
    copy_run(src + column * a.src_strides[last], a.src_strides[last], dst + column * a.dst_strides[last],
             a.dst_strides[last], n);
    left -= n;
    for (int d = last - 1; d >= 0; --d) {
      src += a.src_strides[d];
      dst += a.dst_strides[d];
      if (++index[d] < a.shape.dims[d]) break;
      src -= a.shape.dims[d] * a.src_strides[d];
      dst -= a.shape.dims[d] * a.dst_strides[d];
      index[d] = 0;
    }
  }
}

using Quad [[gnu::vector_size(16)]] = uint32_t;

Quad load_quad(const uint32_t* p) {
  Quad q;
  std::memcpy(&q, p, sizeof(q));
  return q;
}
void store_quad(Quad q, uint32_t* p) { std::memcpy(p, &q, sizeof(q)); }

// dst[j * dst_step + i] = src[i * src_step + j]
template <class T>
void transpose_tile(const T* src, int64_t src_step, T* dst, int64_t dst_step, int64_t rows, int64_t columns) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 4) {
    for (; i + 4 <= rows; i += 4) {
      const T* s = src + i * src_step;
      int64_t j = 0;
      for (; j + 4 <= columns; j += 4) {
        const Quad a = load_quad(s + j), b = load_quad(s + src_step + j);
        const Quad c = load_quad(s + 2 * src_step + j), d = load_quad(s + 3 * src_step + j);
        const Quad ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
        const Quad ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
        T* t = dst + j * dst_step + i;
        store_quad(__builtin_shufflevector(ab, cd, 0, 1, 4, 5), t);
        store_quad(__builtin_shufflevector(ab, cd, 2, 3, 6, 7), t + dst_step);
        store_quad(__builtin_shufflevector(ef, gh, 0, 1, 4, 5), t + 2 * dst_step);
        store_quad(__builtin_shufflevector(ef, gh, 2, 3, 6, 7), t + 3 * dst_step);
      }
      for (; j < columns; ++j)
        for (int k = 0; k < 4; ++k) dst[j * dst_step + i + k] = s[k * src_step + j];
    }
  }
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t k = i; k < rows; ++k) dst[j * dst_step + k] = src[k * src_step + j];
}

int64_t tiles(int64_t n) { return (n + kTransposeTile - 1) / kTransposeTile; }

template <class T>
void copy_tiles(const StridedCopyArgs& a, Range r) {
  const int x = a.shape.rank - 1, y = x - 1;  // dst is contiguous in x, src in y
  const int64_t across = tiles(a.shape.dims[x]), down = tiles(a.shape.dims[y]);
  for (int64_t item = r.begin; item < r.end; ++item) {
    const int64_t i = item % across * kTransposeTile, j = item / across % down * kTransposeTile;
    int64_t from = a.src_offset + i * a.src_strides[x] + j, to = a.dst_offset + j * a.dst_strides[y] + i;
    int64_t outer = item / across / down;
    for (int d = y - 1; d >= 0; --d) {
      from += outer % a.shape.dims[d] * a.src_strides[d];
      to += outer % a.shape.dims[d] * a.dst_strides[d];
      outer /= a.shape.dims[d];
    }
    const int64_t rows = a.shape.dims[x] - i < kTransposeTile ? a.shape.dims[x] - i : kTransposeTile;
    const int64_t columns = a.shape.dims[y] - j < kTransposeTile ? a.shape.dims[y] - j : kTransposeTile;
    transpose_tile(static_cast<const T*>(a.src) + from, a.src_strides[x], static_cast<T*>(a.dst) + to, a.dst_strides[y],
                   rows, columns);
  }
}

template <class T>
void copy(const StridedCopyArgs& a, Range r) {
  if (a.tiled) {
    copy_tiles<T>(a, r);
  } else {
    copy_rows<T>(a, elements(r, a.shape.size));
  }
}

}  // namespace

Status strided_copy(const StridedCopyArgs& a, Range r, const Ctx&) {
  switch (a.itemsize) {
    case 1:
      copy<uint8_t>(a, r);
      break;
    case 2:
      copy<uint16_t>(a, r);
      break;
    case 4:
      copy<uint32_t>(a, r);
      break;
    default:
      copy<uint64_t>(a, r);
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
