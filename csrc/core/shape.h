// A shape: up to eight dimensions held inline. Sizes are int64; volumes are computed with overflow checks.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>
#include <vector>

namespace quernel {

inline constexpr int kMaxRank = 8;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(const std::vector<int64_t>& dims) : Shape(std::span(dims)) {}
  explicit Shape(std::span<const int64_t> dims);  // throws ShapeError: rank > 8, negative size, volume overflow

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i < 0 ? i + rank_ : i]; }
  int64_t volume() const { return volume_; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  std::span<const int64_t> dims() const { return {begin(), end()}; }

  Shape with(int i, int64_t size) const;  // a copy with dimension i replaced

  friend bool operator==(const Shape& a, const Shape& b) {
    return a.rank_ == b.rank_ && std::equal(a.begin(), a.end(), b.begin());
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
  int64_t volume_ = 1;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);  // "(8, 28, 28, 16)"

// NumPy's broadcasting; throws ShapeError naming `op` and both shapes.
Shape broadcast(const char* op, const Shape& a, const Shape& b);

}  // namespace quernel
