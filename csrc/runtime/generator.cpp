#include "runtime/generator.h"

#include "runtime/recorder.h"

namespace quernel {
namespace {

uint64_t* words(const Tensor& state) { return reinterpret_cast<uint64_t*>(state.data()); }

}  // namespace

Generator::Generator(uint64_t seed) : state_(Tensor::empty(DType::kInt64, {2})) { set(seed, 0); }

uint64_t Generator::seed() const { return words(state_)[0]; }
uint64_t Generator::base() const { return words(state_)[1]; }

void Generator::set(uint64_t seed, uint64_t base) const {
  words(state_)[0] = seed;
  words(state_)[1] = base;
}

uint64_t Generator::reserve(uint64_t count) const {
  uint64_t offset;
  if (recording_reserve(state_, count, &offset)) return offset;
  words(state_)[1] += count;
  return uint64_t{0} - count;
}

}  // namespace quernel
