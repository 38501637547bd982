// Rows behind those that a cache of keys and values holds.
#include <cstring>

#include "kernels/args/attention.h"
#include "kernels/isa.h"

namespace quernel::QUERNEL_ISA {

Status append_rows(const AppendRowsArgs& a, Range, const Ctx&) {
  int64_t at;
  std::memcpy(&at, a.length, sizeof at);
  std::memcpy(a.at, &at, sizeof at);
  const auto bytes = static_cast<size_t>(a.row_bytes);
  for (int64_t n = 0; n < a.batch; ++n) {
    const char* x = static_cast<const char*>(a.x) + n * a.rows * a.x_row_bytes + a.x_row_bytes - a.row_bytes;
    char* y = static_cast<char*>(a.y) + (n * a.capacity + at) * a.row_bytes;
    for (int64_t i = 0; i < a.rows; ++i) std::memcpy(y + i * a.row_bytes, x + i * a.x_row_bytes, bytes);
  }
  at += a.rows;
  std::memcpy(a.length, &at, sizeof at);
  return {};
}

}  // namespace quernel::QUERNEL_ISA
