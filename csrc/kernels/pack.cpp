// B into panels of 64 columns, the last one padded with zeros, so that tiles read whole vectors at a fixed distance
// and a panel's pages are few. Rows are copied; columns (a weight stored by output channel) are transposed in
// registers, a square of lanes at a time.
#include "kernels/args/matmul.h"
#include "kernels/simd/vec.h"

namespace quernel::QUERNEL_ISA {
namespace {

inline int lanes_left(int64_t left, int width) { return static_cast<int>(left < 0 ? 0 : left < width ? left : width); }

// Rows of B lie contiguously.
template <class V>
void copy_rows(const PackArgs& p, const typename V::Scalar* src, typename V::Scalar* dst, int64_t cols) {
  for (int64_t k = 0; k < p.k; ++k, src += p.src_row, dst += kPanel) {
    for (int64_t j = 0; j < kPanel; j += V::kWidth) {
      const int lanes = lanes_left(cols - j, V::kWidth);
      (lanes == V::kWidth ? V::load(src + j) : lanes ? V::load(src + j, lanes) : V::zero()).store(dst + j);
    }
  }
}

// Columns of B lie contiguously.
template <class V>
void copy_columns(const PackArgs& p, const typename V::Scalar* src, typename V::Scalar* dst, int64_t cols) {
  for (int64_t j = 0; j < kPanel; j += V::kWidth) {
    const int columns = lanes_left(cols - j, V::kWidth);
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
      for (int i = 0; i < rows; ++i) square[i].store(dst + (k + i) * kPanel + j);
    }
  }
}

template <class T>
void copy_any(const PackArgs& p, const T* src, T* dst, int64_t cols) {
  for (int64_t k = 0; k < p.k; ++k)
    for (int64_t j = 0; j < kPanel; ++j) dst[k * kPanel + j] = j < cols ? src[k * p.src_row + j * p.src_col] : T(0);
}

template <class V>
Status run(const PackArgs& p, Range range) {
  using T = typename V::Scalar;
  const int64_t panels = (p.n + kPanel - 1) / kPanel;
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t panel = item % panels, tap = item / panels % p.taps, batch = item / panels / p.taps;
    const T* src = static_cast<const T*>(p.src) + p.src_offset + batch * p.src_batch + tap * p.src_tap +
                   panel * kPanel * p.src_col;
    T* dst = static_cast<T*>(p.dst) + batch * p.dst_batch + (panel * p.taps + tap) * p.k * kPanel;
    const int64_t cols = p.n - panel * kPanel < kPanel ? p.n - panel * kPanel : kPanel;
    if (p.src_col == 1)
      copy_rows<V>(p, src, dst, cols);
    else if (p.src_row == 1)
      copy_columns<V>(p, src, dst, cols);
    else
      copy_any<T>(p, src, dst, cols);
  }
  return {};
}

}  // namespace

Status pack_f32(const PackArgs& args, Range range, const Ctx&) { return run<VecF32>(args, range); }
Status pack_f64(const PackArgs& args, Range range, const Ctx&) { return run<VecF64>(args, range); }

}  // namespace quernel::QUERNEL_ISA
