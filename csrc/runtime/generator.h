// A random stream: Philox4x32-10 keyed by `seed`, whose counter starts at `base` and grows by what every op draws.
// Both live in a tensor that kernels read when they run, so that a replay draws on from where the stream then is.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace quernel {

class Generator {
 public:
  explicit Generator(uint64_t seed);

  uint64_t seed() const;
  uint64_t base() const;
  void set(uint64_t seed, uint64_t base) const;

  // Takes `count` blocks of four draws. An op's counters start at base, as its kernel finds it, plus the returned
  // offset: eagerly base has advanced already and the offset is -count; while a plan is recorded base stands still
  // and the offset is what the recording has taken so far. One generator serves one thread at a time.
  // `device` is where the op runs.
  uint64_t reserve(uint64_t count, Device device) const;

  // What kernels read there, as it is now: int64 (2), the bits of {seed, base}.
  const Tensor& state(Device device) const;

 private:
  Tensor state_;
  mutable Tensor copy_;  // of it on CUDA, once it was needed there; renewed before it is read, by replays too
};

}  // namespace quernel
