// Columns of B into groups of one cache line, the last one padded with zeros: the layout of args/matmul.h. Rows are
// copied; columns (a weight stored by output channel) are transposed in registers, a square of lanes at a time.
#pragma once
#include "kernels/args/matmul.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

// `cols` columns from `dst` on, their groups `group` elements apart.
template <class T>
struct Packed {
  T* dst;
  int64_t group;
  int64_t cols;

  static constexpr int64_t kWidth = kPackWidth<T>;
  T* at(int64_t k, int64_t col) const { return dst + col / kWidth * group + k * kWidth + col % kWidth; }
  int64_t padded() const { return (cols + kWidth - 1) / kWidth * kWidth; }
};

// `rows` rows of B, with any strides.
template <class T>
struct Unpacked {
  const T* src;
  int64_t rows;
  int64_t row, col;
};

inline int lanes_left(int64_t left, int width) { return static_cast<int>(left < 0 ? 0 : left < width ? left : width); }

// Rows of B lie contiguously.
template <class V, class T = typename V::Scalar>
inline void copy_rows(const Unpacked<T>& b, const Packed<T>& packed) {
  constexpr int64_t kAhead = 8;  // rows fetched before they are read: they lie too far apart for the CPU to see it
  const T* src = b.src;
  for (int64_t k = 0; k < b.rows; ++k, src += b.row) {
    for (int64_t j = 0; j < packed.padded(); j += V::kWidth) {
      const int lanes = lanes_left(packed.cols - j, V::kWidth);
      if (j % Packed<T>::kWidth == 0) __builtin_prefetch(src + kAhead * b.row + j);
      (lanes == V::kWidth ? V::load(src + j) : lanes ? V::load(src + j, lanes) : V::zero()).store(packed.at(k, j));
    }
  }
}

// Columns of B lie contiguously.
template <class V, class T = typename V::Scalar>
inline void copy_columns(const Unpacked<T>& b, const Packed<T>& packed) {
  for (int64_t j = 0; j < packed.padded(); j += V::kWidth) {
    const int columns = lanes_left(packed.cols - j, V::kWidth);
    for (int64_t k = 0; k < b.rows; k += V::kWidth) {
      const int rows = lanes_left(b.rows - k, V::kWidth);
      if (columns == V::kWidth && rows == V::kWidth) {
        for (int64_t from = k; from < k + V::kWidth; from += V::kWidth / 2) {
          V half[V::kWidth / 2];
          load_transposed(b.src + j * b.col + from, b.col, half);
          for (int i = 0; i < V::kWidth / 2; ++i) half[i].store(packed.at(from + i, j));
        }
        continue;
      }
      V square[V::kWidth];
      for (int i = 0; i < V::kWidth; ++i)
        square[i] = i < columns ? V::load(b.src + (j + i) * b.col + k, rows) : V::zero();
      transpose(square);
      for (int i = 0; i < rows; ++i) square[i].store(packed.at(k + i, j));
    }
  }
}

template <class T>
inline void copy_any(const Unpacked<T>& b, const Packed<T>& packed) {
  for (int64_t k = 0; k < b.rows; ++k)
    for (int64_t j = 0; j < packed.padded(); ++j)
      *packed.at(k, j) = j < packed.cols ? b.src[k * b.row + j * b.col] : T(0);
}

template <class V, class T = typename V::Scalar>
inline void pack_block(const Unpacked<T>& b, const Packed<T>& packed) {
  if (b.col == 1)
    copy_rows<V>(b, packed);
  else if (b.row == 1)
    copy_columns<V>(b, packed);
  else
    copy_any<T>(b, packed);
}

}  // namespace
}  // namespace quernel::QUERNEL_ISA
