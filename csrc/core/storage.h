// An owned or borrowed block of memory. A Storage never moves: plans hold it and keep its address.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/device.h"

namespace quernel {

class Storage {
  struct Key {};  // only allocate() and borrow() make one

 public:
  static std::shared_ptr<Storage> allocate(size_t nbytes, Device device = Device::kCpu);  // contents undefined
  // Memory owned by someone else; `release` runs when the last view is gone.
  static std::shared_ptr<Storage> borrow(void* data, size_t nbytes, bool readonly, std::function<void()> release,
                                         Device device = Device::kCpu);

  Storage(Key, std::byte* data, size_t nbytes, Device device, bool readonly, std::function<void()> release);
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  ~Storage();

  std::byte* data() const { return data_; }
  size_t nbytes() const { return nbytes_; }
  Device device() const { return device_; }
  bool readonly() const { return readonly_; }

  // Storages are numbered in the order of their making: a recording tells its temporaries by that.
  uint64_t id() const { return id_; }
  static uint64_t next_id();

  // Filled from host memory rather than by kernels.
  bool from_host() const { return from_host_; }
  void mark_from_host() { from_host_ = true; }

  // Counts tensors that moved to another storage: whoever kept this one's address for them must look again.
  uint64_t departures() const { return departures_.load(std::memory_order_relaxed); }
  void note_departure() { departures_.fetch_add(1, std::memory_order_relaxed); }

  // Writes by tensors that were made on this storage; kept here because a counter of its own would be an allocation.
  std::atomic<uint64_t>& writes() { return writes_; }

  static int64_t live_count();  // storages alive now, for leak tests

 private:
  std::byte* data_;
  size_t nbytes_;
  Device device_;
  bool readonly_;
  bool from_host_ = false;
  uint64_t id_;
  std::atomic<uint64_t> departures_{0};
  std::atomic<uint64_t> writes_{0};
  std::function<void()> release_;  // empty: the allocator's own block
};

}  // namespace quernel
