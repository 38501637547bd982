#include "runtime/generator.h"

#include "core/allocator.h"
#include "runtime/recorder.h"

namespace quernel {
namespace {

uint64_t* words(const Tensor& state) { return reinterpret_cast<uint64_t*>(state.data()); }

}  // namespace

Generator::Generator(uint64_t seed) : state_(Tensor::empty(DType::kInt64, {2}, Device::kCpu)) { set(seed, 0); }

uint64_t Generator::seed() const { return words(state_)[0]; }
uint64_t Generator::base() const { return words(state_)[1]; }

void Generator::set(uint64_t seed, uint64_t base) const {
  words(state_)[0] = seed;
  words(state_)[1] = base;
}

uint64_t Generator::reserve(uint64_t count, Device device) const {
  uint64_t offset;
  if (device == Device::kCuda && !copy_.defined()) copy_ = Tensor::empty(DType::kInt64, {2}, device);
  if (recording_reserve(state_, device == Device::kCuda ? copy_ : Tensor(), count, &offset)) return offset;
  words(state_)[1] += count;
  return uint64_t{0} - count;
}

const Tensor& Generator::state(Device device) const {
  if (device == Device::kCpu) return state_;
  allocator(device).upload(copy_.data(), state_.data(), state_.nbytes());
  return copy_;
}

}  // namespace quernel
