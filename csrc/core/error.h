// Errors name the op and both sides: "[conv2d] weight expects 32 input channels, x has 16 (…)".
// bindings/errors.cpp maps each class to a Python class of the same name.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace quernel {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ShapeError : Error {  // Python: ValueError
  using Error::Error;
};
struct ValueError : Error {  // Python: ValueError
  using Error::Error;
};
struct DTypeError : Error {  // Python: TypeError
  using Error::Error;
};
struct StateError : Error {  // Python: RuntimeError
  using Error::Error;
};
struct UnsupportedError : Error {  // Python: NotImplementedError
  using Error::Error;
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
