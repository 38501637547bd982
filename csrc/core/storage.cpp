#include "core/storage.h"

#include <atomic>
#include <utility>

#include "core/allocator.h"

namespace quernel {
namespace {
std::atomic<int64_t> live{0};
std::atomic<uint64_t> next{0};
}  // namespace

Storage::Storage(Key, std::byte* data, size_t nbytes, Device device, bool readonly, std::function<void()> release)
    : data_(data),
      nbytes_(nbytes),
      device_(device),
      readonly_(readonly),
      id_(next.fetch_add(1, std::memory_order_relaxed)),
      release_(std::move(release)) {
  live.fetch_add(1, std::memory_order_relaxed);
}

Storage::~Storage() {
  live.fetch_sub(1, std::memory_order_relaxed);
  if (release_) {
    release_();
  } else {
    allocator(device_).release(data_, nbytes_);
  }
}

std::shared_ptr<Storage> Storage::allocate(size_t nbytes, Device device) {
  auto* data = static_cast<std::byte*>(allocator(device).allocate(nbytes));
  return std::make_shared<Storage>(Key{}, data, nbytes, device, false, nullptr);
}

std::shared_ptr<Storage> Storage::borrow(void* data, size_t nbytes, bool readonly, std::function<void()> release,
                                         Device device) {
  if (!release) release = [] {};
  return std::make_shared<Storage>(Key{}, static_cast<std::byte*>(data), nbytes, device, readonly, std::move(release));
}

uint64_t Storage::next_id() { return next.load(std::memory_order_relaxed); }

int64_t Storage::live_count() { return live.load(std::memory_order_relaxed); }

}  // namespace quernel
