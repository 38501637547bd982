#include "core/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace quernel {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Size classes: four per power of two, so that at most 25 % is wasted.
size_t class_size(size_t nbytes) {
  nbytes = round_up(nbytes < kAlign ? kAlign : nbytes, kAlign);
  const size_t unit = std::max(kAlign, std::bit_floor(nbytes) / 4);
  return round_up(nbytes, unit);
}

int class_index(size_t size) {
  const int log = std::bit_width(size) - 1;
  return log * 4 + static_cast<int>((size - (size_t{1} << log)) * 4 >> log);
}

// A block that is not among the cached ones. Large ones ask for huge pages, as NumPy's do: products walk down columns
// of rows that lie a page apart, more of them than the TLB knows.
void* fresh(size_t size) {
  if (size < 2 * kHugePage) return std::aligned_alloc(kAlign, size);
  size = round_up(size, kHugePage);
  void* data = std::aligned_alloc(kHugePage, size);
#ifdef MADV_HUGEPAGE                             // Linux
  if (data) madvise(data, size, MADV_HUGEPAGE);  // a wish: where there are none, small ones do
#endif
  return data;
}

class HostAllocator : public Allocator {
 public:
  void upload(void* to, const void* host, size_t nbytes) final { std::memcpy(to, host, nbytes); }
  void download(void* host, const void* from, size_t nbytes) final { std::memcpy(host, from, nbytes); }
  void copy(void* to, const void* from, size_t nbytes) final { std::memcpy(to, from, nbytes); }
};

class CachingAllocator final : public HostAllocator {
 public:
  void* allocate(size_t nbytes) override {
    const size_t size = class_size(nbytes);
    {
      std::lock_guard lock(mutex_);
      auto& blocks = free_[class_index(size)];
      if (!blocks.empty()) {
        void* data = blocks.back();
        blocks.pop_back();
        cached_ -= size;
        return data;
      }
    }
    void* data = fresh(size);
    if (!data) {
      trim();
      data = fresh(size);
    }
    if (!data) throw OutOfMemory(nbytes);
    return data;
  }

  void release(void* data, size_t nbytes) noexcept override {
    const size_t size = class_size(nbytes);
    {
      std::lock_guard lock(mutex_);
      if (size <= kMaxCached) {
        if (cached_ + size > kMaxCached) drop_all();  // of sizes that were wanted once; this one is wanted now
        try {
          free_[class_index(size)].push_back(data);
          cached_ += size;
          return;
        } catch (const std::bad_alloc&) {  // no room to remember the block: give it back
        }
      }
    }
    std::free(data);
  }

  void trim() noexcept override {
    std::lock_guard lock(mutex_);
    drop_all();
  }

 private:
  void drop_all() noexcept {
    for (auto& blocks : free_) {
      for (void* data : blocks) std::free(data);
      blocks.clear();
    }
    cached_ = 0;
  }

  static constexpr size_t kMaxCached = size_t{256} << 20;
  std::mutex mutex_;
  std::vector<void*> free_[64 * 4];
  size_t cached_ = 0;
};

class GuardAllocator final : public HostAllocator {
 public:
  void* allocate(size_t nbytes) override {
    const size_t body = round_up(std::max<size_t>(nbytes, 1), kPage);
    void* map = mmap(nullptr, body + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) throw OutOfMemory(nbytes);
    auto* first = static_cast<std::byte*>(map) + kPage;
    if (mprotect(first, body, PROT_READ | PROT_WRITE) != 0) throw OutOfMemory(nbytes);
    std::memset(first, 0xFF, body);  // NaN in every floating type
    // The end of the block meets the guard page to within the alignment of a float.
    return first + (body - round_up(nbytes, 8));
  }

  void release(void* data, size_t nbytes) noexcept override {
    const size_t body = round_up(std::max<size_t>(nbytes, 1), kPage);
    auto* first = static_cast<std::byte*>(data) - (body - round_up(nbytes, 8));
    munmap(first - kPage, body + 2 * kPage);
  }

  void trim() noexcept override {}

 private:
  const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
};

Allocator& cpu_allocator() {
  // Never destroyed: tensors may outlive static destruction at interpreter exit.
  static Allocator& allocator = []() -> Allocator& {
    const char* mode = std::getenv("QUERNEL_DEBUG_ALLOC");
    if (mode && std::strcmp(mode, "guard") == 0) return *new GuardAllocator;
    return *new CachingAllocator;
  }();
  return allocator;
}

std::atomic<Allocator*> cuda_allocator{nullptr};

}  // namespace

Allocator& allocator(Device device) {
  if (device == Device::kCpu) return cpu_allocator();
  Allocator* cuda = cuda_allocator.load(std::memory_order_acquire);
  check<DeviceError>(cuda != nullptr, "allocate", "the CUDA library is not loaded");
  return *cuda;
}

void set_cuda_allocator(Allocator& allocator) { cuda_allocator.store(&allocator, std::memory_order_release); }

}  // namespace quernel
