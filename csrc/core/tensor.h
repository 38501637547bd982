// A tensor: dtype, shape and a place in a Storage, always C-contiguous (transposing and slicing copy, reshaping
// shares). `Tensor` is a handle: copies share one impl, so an optimizer can move a parameter into its flat arena
// (`rehome`) under every holder's feet.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>

#include "core/dtype.h"
#include "core/shape.h"
#include "core/storage.h"

namespace quernel {

class Tensor {
 public:
  Tensor() = default;  // undefined: stands for an absent optional operand
  Tensor(std::shared_ptr<Storage> storage, int64_t offset_bytes, DType dtype, const Shape& shape);

  static Tensor empty(DType dtype, const Shape& shape, Device device);  // contents undefined; throws std::bad_alloc

  bool defined() const { return impl_ != nullptr; }
  DType dtype() const { return impl_->dtype; }
  Device device() const { return impl_->storage->device(); }
  const Shape& shape() const { return impl_->shape; }
  int rank() const { return impl_->shape.rank(); }
  int64_t dim(int i) const { return impl_->shape[i]; }
  int64_t size() const { return impl_->shape.volume(); }
  size_t nbytes() const { return static_cast<size_t>(size()) * itemsize(dtype()); }
  std::byte* data() const { return impl_->storage->data() + impl_->offset; }
  int64_t offset() const { return impl_->offset; }  // bytes from the start of the storage
  const std::shared_ptr<Storage>& storage() const { return impl_->storage; }

  Tensor reshape(const Shape& shape) const;             // same memory and version; the volumes must agree
  Tensor flat_view(int64_t begin, int64_t size) const;  // elements [begin, begin + size), same memory and version
  // The same memory through a storage of its own: plans tell an argument by that from the same tensor in a closure.
  Tensor alias() const;
  // Moves the contents into `segment`, `begin` elements in, for every holder of this tensor. Views made before stay.
  void rehome(const Tensor& segment, int64_t begin) const;

  // Counts writes. Views share the counter of what they view; a rehomed tensor sees its own writes and those to its
  // segment, which sees none of its tensors'.
  uint64_t version() const {
    const uint64_t own = impl_->version->load(std::memory_order_relaxed);
    return impl_->segment ? own + impl_->segment->load(std::memory_order_relaxed) : own;
  }
  void bump_version() const { impl_->version->fetch_add(1, std::memory_order_relaxed); }
  using VersionCounter = std::shared_ptr<std::atomic<uint64_t>>;
  const VersionCounter& version_counter() const { return impl_->version; }

  // Gradient state of a leaf. `grad` may be allocated while nothing is held: zero_grad only clears `held`, the next
  // backward stores instead of adding. A gradient by rows has `rows`: row i of `grad` belongs to row rows[i] of the
  // leaf, and to none where that is -1.
  struct GradSlot {
    std::shared_ptr<Tensor> grad;
    std::shared_ptr<Tensor> rows;
    int64_t held = 0;  // 0: no gradient, 1: a dense one; by rows: how many of them are in use, at least 1
  };
  GradSlot& grad_slot() const { return impl_->grad; }

  bool same_as(const Tensor& other) const { return impl_ == other.impl_; }
  const void* identity() const { return impl_.get(); }

 private:
  struct Impl {
    std::shared_ptr<Storage> storage;
    int64_t offset = 0;
    DType dtype = DType::kFloat32;
    Shape shape;
    VersionCounter version;
    VersionCounter segment;  // of the segment that this tensor was rehomed into, if any
    GradSlot grad;
  };
  std::shared_ptr<Impl> impl_;
};

}  // namespace quernel
