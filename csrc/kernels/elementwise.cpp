// Elementwise kernels with one contiguous input: unary functions, clip, cast, fill; item = kElementBlock elements.
//
// A functor states each operation once, for a SIMD register (float32, float64) and for a plain integer; `map` is the
// loop around it. Float tails are one masked step, so that short rows cost one iteration; integer loops are left to
// the compiler's vectorizer. Functions that only floats have are in elementwise_float.cpp, two-operand kernels in
// elementwise_binary.cpp.
#include "kernels/args/elementwise.h"

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "kernels/elementwise_float.h"
#include "kernels/isa.h"
#include "kernels/simd/bf16.h"
#include "kernels/simd/f16.h"
#include "kernels/visit.h"

namespace quernel::QUERNEL_ISA {
namespace {

struct Neg {
  template <class X>
  static X apply(X x) {
    return -x;
  }
  template <class T>
  static T integer(T x) {
    return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(x));
  }
};
struct Abs {
  template <class X>
  static X apply(X x) {
    return abs(x);
  }
  template <class T>
  static T integer(T x) {
    return x < 0 ? Neg::integer(x) : x;
  }
};
struct Sign {
  template <class V>
  static V apply(V x) {
    const V zero = V::zero(), one = V::set(1);
    return select(x > zero, one, select(x < zero, -one, select(x == zero, zero, x)));  // NaN stays
  }
  template <class T>
  static T integer(T x) {
    return static_cast<T>((x > 0) - (x < 0));
  }
};
struct Square {
  template <class V>
  static V apply(V x) {
    return x * x;
  }
  template <class T>
  static T integer(T x) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(x) * static_cast<U>(x));
  }
};
struct Relu {
  template <class V>
  static V apply(V x) {
    return relu(x);
  }
  template <class T>
  static T integer(T x) {
    return x > 0 ? x : 0;
  }
};
struct LogicalNot {
  template <class V>
  static auto apply(V x) {
    return x == V::zero();
  }
  template <class T>
  static uint8_t integer(T x) {
    return x == 0;
  }
};
// y[i] = F(x[i])
template <class F, class T, class R>
void map(const void* x_, void* y_, int64_t n) {
  const T* x = static_cast<const T*>(x_);
  R* y = static_cast<R*>(y_);
  if constexpr (std::is_floating_point_v<T>) {
    using V = Vec<T>;
    int64_t i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) put(F::apply(V::load(x + i)), y + i, V::kWidth);
    if (i < n) put(F::apply(V::load(x + i, static_cast<int>(n - i))), y + i, static_cast<int>(n - i));
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = F::integer(x[i]);
  }
}

using Map = void (*)(const void*, void*, int64_t);

template <class T>
Map unary_map(UnaryOp op) {
  switch (op) {
    case UnaryOp::kNeg:
      return map<Neg, T, T>;
    case UnaryOp::kAbs:
      return map<Abs, T, T>;
    case UnaryOp::kSign:
      return map<Sign, T, T>;
    case UnaryOp::kSquare:
      return map<Square, T, T>;
    case UnaryOp::kRelu:
      return map<Relu, T, T>;
    case UnaryOp::kLogicalNot:
      return map<LogicalNot, T, uint8_t>;
    default:
      return nullptr;  // see unary()
  }
}

// min(max(x, lo), hi); lo and hi saturate to an integer type's range.
template <class T>
void clip_block(const T* x, T* y, double lo_, double hi_, int64_t n) {
  if constexpr (std::is_floating_point_v<T>) {
    using V = Vec<T>;
    const V lo = V::set(static_cast<T>(lo_)), hi = V::set(static_cast<T>(hi_));
    int64_t i = 0;
    for (; i + V::kWidth <= n; i += V::kWidth) min(max(V::load(x + i), lo), hi).store(y + i);
    if (i < n) min(max(V::load(x + i, static_cast<int>(n - i)), lo), hi).store(y + i, static_cast<int>(n - i));
  } else {
    const T lo = saturate<T>(lo_), hi = saturate<T>(hi_);
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T raised = x[i] < lo ? lo : x[i];
      y[i] = raised > hi ? hi : raised;
    }
  }
}

template <class From, class To>
void cast_block(const From* x, To* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = convert<To>(x[i]);
}

// bool is stored as uint8_t, but only 0 and 1.
template <class From>
void bool_block(const From* x, uint8_t* y, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] != 0;
}

// The formats of 16 bits. bfloat16 is converted through float, whatever the other dtype, as ml_dtypes and PyTorch do.
struct BFloat16 {
  template <class From>
  static uint16_t from(From x) {
    return to_bf16(static_cast<float>(x));
  }
  template <class To>
  static To to(uint16_t x) {
    return convert<To>(from_bf16(x));
  }
  static void narrow_row(const float* x, uint16_t* y, int64_t n) { narrow(x, y, n); }
  static void widen_row(const uint16_t* x, float* y, int64_t n) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = from_bf16(x[i]);
  }
};
struct Float16 {
  template <class From>
  static uint16_t from(From x) {
    if constexpr (std::is_same_v<From, double>) {
      return to_f16(x);
    } else {
      return to_f16(static_cast<float>(x));
    }
  }
  template <class To>
  static To to(uint16_t x) {
    if constexpr (std::is_same_v<To, double>) {
      return f64_from_f16(x);
    } else {
      return convert<To>(from_f16(x));
    }
  }
  static void narrow_row(const float* x, uint16_t* y, int64_t n) { narrow_f16(x, y, n); }
  static void widen_row(const uint16_t* x, float* y, int64_t n) { widen_f16(x, y, n); }
};

template <class F>
void visit_half(DType dtype, F f) {
  if (dtype == DType::kBFloat16) {
    f(BFloat16{});
  } else {
    f(Float16{});
  }
}

template <class Format, class From>
void narrow_block(const From* x, uint16_t* y, int64_t n) {
  if constexpr (std::is_same_v<From, float>) {
    Format::narrow_row(x, y, n);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = Format::from(x[i]);
  }
}

template <class Format, class To>
void widen_block(const uint16_t* x, To* y, int64_t n) {
  if constexpr (std::is_same_v<To, float>) {
    Format::widen_row(x, y, n);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = Format::template to<To>(x[i]);
  }
}

template <class Format>
void cast_half(const CastArgs& a, Range e) {
  const int64_t n = e.end - e.begin;
  const uint16_t* x = static_cast<const uint16_t*>(a.x) + e.begin;
  if (a.to == DType::kBool) {
    uint8_t* y = static_cast<uint8_t*>(a.y) + e.begin;
    for (int64_t i = 0; i < n; ++i) y[i] = Format::template to<float>(x[i]) != 0;
  } else if (is_half(a.to)) {
    uint16_t* y = static_cast<uint16_t*>(a.y) + e.begin;
    visit_half(a.to, [&]<class To>(To) {
      for (int64_t i = 0; i < n; ++i) y[i] = To::from(Format::template to<float>(x[i]));
    });
  } else {
    visit(a.to, [&]<class To>(To) { widen_block<Format>(x, static_cast<To*>(a.y) + e.begin, n); });
  }
}

}  // namespace

Status unary(const UnaryArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  if (a.op == UnaryOp::kCopy) {
    const int64_t item = static_cast<int64_t>(itemsize(a.dtype)), from = e.begin * item;
    std::memcpy(static_cast<std::byte*>(a.y) + from, static_cast<const std::byte*>(a.x) + from,
                static_cast<size_t>((e.end - e.begin) * item));
    return {};
  }
  visit(a.dtype, [&]<class T>(T) {
    const int64_t n = e.end - e.begin;
    const T* x = static_cast<const T*>(a.x) + e.begin;
    T* y = static_cast<T*>(a.y) + e.begin;
    if (a.op >= UnaryOp::kFloor) {
      if constexpr (std::is_floating_point_v<T>) unary_floating(a.op, x, y, n, a.params);  // ops/ refuses integers
    } else if (a.op == UnaryOp::kLogicalNot) {
      unary_map<T>(a.op)(x, static_cast<uint8_t*>(a.y) + e.begin, n);
    } else {
      unary_map<T>(a.op)(x, y, n);
    }
  });
  return {};
}

Status clip(const ClipArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit(a.dtype, [&]<class T>(T) {
    clip_block(static_cast<const T*>(a.x) + e.begin, static_cast<T*>(a.y) + e.begin, a.lo, a.hi, e.end - e.begin);
  });
  return {};
}

Status cast(const CastArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  if (is_half(a.from)) {
    visit_half(a.from, [&]<class Format>(Format) { cast_half<Format>(a, e); });
    return {};
  }
  visit(a.from, [&]<class From>(From) {
    const From* x = static_cast<const From*>(a.x) + e.begin;
    if (a.to == DType::kBool) {
      bool_block(x, static_cast<uint8_t*>(a.y) + e.begin, e.end - e.begin);
      return;
    }
    if (is_half(a.to)) {
      uint16_t* y = static_cast<uint16_t*>(a.y) + e.begin;
      visit_half(a.to, [&]<class Format>(Format) { narrow_block<Format>(x, y, e.end - e.begin); });
      return;
    }
    visit(a.to, [&]<class To>(To) { cast_block(x, static_cast<To*>(a.y) + e.begin, e.end - e.begin); });
  });
  return {};
}

Status fill(const FillArgs& a, Range r, const Ctx&) {
  const Range e = elements(r, a.size);
  visit(a.dtype, [&]<class T>(T) {
    const T value = a.dtype == DType::kBool ? static_cast<T>(a.value != 0) : convert<T>(a.value);
    T* y = static_cast<T*>(a.y);
    for (int64_t i = e.begin; i < e.end; ++i) y[i] = value;
  });
  return {};
}

}  // namespace quernel::QUERNEL_ISA
