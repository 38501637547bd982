// Arrays on the device, and small integers to fill them with, whose sums are exact in any order.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/device.h"
#include "core/launch.h"

namespace quernel::cuda {

inline void require(const char* failed) {
  if (!failed) return;
  std::fprintf(stderr, "%s\n", failed);
  std::exit(1);
}

template <class T>
struct DeviceArray {
  T* data = nullptr;
  size_t size;

  explicit DeviceArray(const std::vector<T>& host) : size(host.size()) {
    void* block = nullptr;
    require(device_allocate(&block, (size * sizeof(T) + 255) / 256 * 256));
    data = static_cast<T*>(block);
    require(device_upload(data, host.data(), size * sizeof(T)));
  }
  std::vector<T> host() const {
    std::vector<T> values(size);
    require(device_download(values.data(), data, size * sizeof(T)));
    return values;
  }
};

inline Ctx context() { return {nullptr, 0, device_stream()}; }

// In [-bound, bound], the same in every run.
inline std::vector<int> small_integers(size_t n, int bound, unsigned seed) {
  std::vector<int> values(n);
  for (int& v : values) {
    seed = seed * 1664525u + 1013904223u;
    v = static_cast<int>((seed >> 16) % static_cast<unsigned>(2 * bound + 1)) - bound;
  }
  return values;
}

inline uint16_t bf16_of(int value) {  // of at most 8 bits: exact
  return static_cast<uint16_t>(__builtin_bit_cast(uint32_t, static_cast<float>(value)) >> 16);
}

}  // namespace quernel::cuda
