// B into groups of columns, the last one padded with zeros, so that tiles read whole vectors at a fixed distance and a
// group's pages are few. An item takes the groups of 64 columns: it reads 256 bytes of a row at a time. Rows are
// copied; columns (a weight stored by output channel) are transposed in registers, a square of lanes at a time.
#include "kernels/args/matmul.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

inline int lanes_left(int64_t left, int width) { return static_cast<int>(left < 0 ? 0 : left < width ? left : width); }

// The first of `cols` columns at dst, groups `group` elements apart.
template <class T>
struct Packed {
  T* dst;
  int64_t group;
  int64_t cols;

  static constexpr int64_t kWidth = kPackWidth<T>;
  T* at(int64_t k, int64_t col) const { return dst + col / kWidth * group + k * kWidth + col % kWidth; }
  int64_t padded() const { return (cols + kWidth - 1) / kWidth * kWidth; }
};

// Rows of B lie contiguously.
template <class V>
void copy_rows(const PackArgs& p, const typename V::Scalar* src, const Packed<typename V::Scalar>& packed) {
  for (int64_t k = 0; k < p.k; ++k, src += p.src_row) {
    for (int64_t j = 0; j < packed.padded(); j += V::kWidth) {
      const int lanes = lanes_left(packed.cols - j, V::kWidth);
      (lanes == V::kWidth ? V::load(src + j) : lanes ? V::load(src + j, lanes) : V::zero()).store(packed.at(k, j));
    }
  }
}

// Columns of B lie contiguously.
template <class V>
void copy_columns(const PackArgs& p, const typename V::Scalar* src, const Packed<typename V::Scalar>& packed) {
  for (int64_t j = 0; j < packed.padded(); j += V::kWidth) {
    const int columns = lanes_left(packed.cols - j, V::kWidth);
    for (int64_t k = 0; k < p.k; k += V::kWidth) {
      const int rows = lanes_left(p.k - k, V::kWidth);
      V square[V::kWidth];
      if (columns == V::kWidth && rows == V::kWidth) {
        for (int i = 0; i < V::kWidth; ++i) square[i] = V::load(src + (j + i) * p.src_col + k);
      } else {
        for (int i = 0; i < V::kWidth; ++i)
          square[i] = i < columns ? V::load(src + (j + i) * p.src_col + k, rows) : V::zero();
      }
      transpose(square);
      for (int i = 0; i < rows; ++i) square[i].store(packed.at(k + i, j));
    }
  }
}

template <class T>
void copy_any(const PackArgs& p, const T* src, const Packed<T>& packed) {
  for (int64_t k = 0; k < p.k; ++k)
    for (int64_t j = 0; j < packed.padded(); ++j)
      *packed.at(k, j) = j < packed.cols ? src[k * p.src_row + j * p.src_col] : T(0);
}

template <class V>
Status run(const PackArgs& p, Range range) {
  using T = typename V::Scalar;
  const int64_t panels = (p.n + kPanel - 1) / kPanel;
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t panel = item % panels, tap = item / panels % p.taps, batch = item / panels / p.taps;
    const T* src = static_cast<const T*>(p.src) + p.src_offset + batch * p.src_batch + tap * p.src_tap +
                   panel * kPanel * p.src_col;
    const int64_t rows = p.taps * p.k, left = p.n - panel * kPanel;
    T* dst = static_cast<T*>(p.dst) + batch * p.dst_batch + panel * kPanel * rows + tap * p.k * kPackWidth<T>;
    const Packed<T> packed{dst, rows * kPackWidth<T>, left < kPanel ? left : kPanel};
    if (p.src_col == 1)
      copy_rows<V>(p, src, packed);
    else if (p.src_row == 1)
      copy_columns<V>(p, src, packed);
    else
      copy_any<T>(p, src, packed);
  }
  return {};
}

}  // namespace

Status pack_f32(const PackArgs& args, Range range, const Ctx&) { return run<VecF32>(args, range); }
Status pack_f64(const PackArgs& args, Range range, const Ctx&) { return run<VecF64>(args, range); }

}  // namespace quernel::QUERNEL_ISA
