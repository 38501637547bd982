// Errors name the op and both sides: "[conv2d] weight expects 32 input channels, x has 16 (…)".
// bindings/errors.cpp maps each class to a Python class of the same name, which derives from a builtin one, too.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace quernel {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ShapeError : Error {  // a ValueError too
  using Error::Error;
};
struct ArgumentError : Error {  // a ValueError too
  using Error::Error;
};
struct OutOfRangeError : ArgumentError {  // an IndexError too
  using ArgumentError::ArgumentError;
};
struct DTypeError : Error {  // a TypeError too
  using Error::Error;
};
struct StateError : Error {  // a RuntimeError too
  using Error::Error;
};
struct UnsupportedError : Error {  // a NotImplementedError too
  using Error::Error;
};
struct DeviceError : UnsupportedError {  // the device cannot be used, or operands lie on several
  using UnsupportedError::UnsupportedError;
};

// Throws E with "[op] " and the streamed parts.
template <class E, class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream s;
  s << '[' << op << "] ";
  (s << ... << parts);
  throw E(s.str());
}

template <class E, class... Parts>
void check(bool condition, const char* op, const Parts&... parts) {
  if (!condition) [[unlikely]]
    fail<E>(op, parts...);
}

}  // namespace quernel
