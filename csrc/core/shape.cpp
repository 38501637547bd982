#include "core/shape.h"

#include <algorithm>

#include "core/error.h"

namespace quernel {

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  check<ShapeError>(dims.size() <= kMaxRank, "shape", "rank ", dims.size(), " exceeds the maximum of ", kMaxRank);
  std::copy(dims.begin(), dims.end(), dims_.begin());
  bool empty = false;
  for (int64_t d : dims) {
    check<ShapeError>(d >= 0, "shape", "negative dimension ", d);
    empty |= d == 0;
  }
  for (int64_t d : dims) {
    // Zero-size shapes still reject dimensions whose product with the item size could not be addressed.
    if (__builtin_mul_overflow(volume_, std::max<int64_t>(d, 1), &volume_) || volume_ > (int64_t{1} << 59)) {
      fail<ShapeError>("shape", "the product of dimensions ", *this, " overflows");
    }
  }
  if (empty) volume_ = 0;
}

Shape Shape::with(int i, int64_t size) const {
  auto dims = dims_;
  dims[i < 0 ? i + rank_ : i] = size;
  return Shape(std::span(dims.data(), static_cast<size_t>(rank_)));
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '(';
  for (int i = 0; i < shape.rank(); ++i) out << (i ? ", " : "") << shape[i];
  return out << (shape.rank() == 1 ? ",)" : ")");
}

Shape broadcast(const char* op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  std::array<int64_t, kMaxRank> dims{};
  for (int i = 1; i <= rank; ++i) {
    const int64_t x = i <= a.rank() ? a[-i] : 1;
    const int64_t y = i <= b.rank() ? b[-i] : 1;
    if (x != y && x != 1 && y != 1) {
      fail<ShapeError>(op, "shapes ", a, " and ", b, " do not broadcast: sizes ", x, " and ", y, " in dimension -", i);
    }
    dims[rank - i] = x == 1 ? y : x;
  }
  return Shape(std::span(dims.data(), static_cast<size_t>(rank)));
}

}  // namespace quernel
