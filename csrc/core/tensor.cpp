#include "core/tensor.h"

#include <utility>

#include "core/allocator.h"
#include "core/error.h"

namespace quernel {

Tensor::Tensor(std::shared_ptr<Storage> storage, int64_t offset_bytes, DType dtype, const Shape& shape)
    : impl_(std::make_shared<Impl>()) {
  impl_->version = VersionCounter(storage, &storage->writes());
  impl_->storage = std::move(storage);
  impl_->offset = offset_bytes;
  impl_->dtype = dtype;
  impl_->shape = shape;
}

Tensor Tensor::empty(DType dtype, const Shape& shape, Device device) {
  return Tensor(Storage::allocate(static_cast<size_t>(shape.volume()) * itemsize(dtype), device), 0, dtype, shape);
}

Tensor Tensor::reshape(const Shape& shape) const {
  check<ShapeError>(shape.volume() == size(), "reshape", "cannot view ", this->shape(), " (", size(), " elements) as ",
                    shape, " (", shape.volume(), " elements)");
  Tensor view(storage(), offset(), dtype(), shape);
  view.impl_->version = impl_->version;
  view.impl_->segment = impl_->segment;
  return view;
}

Tensor Tensor::flat_view(int64_t begin, int64_t size) const {
  check<ShapeError>(begin >= 0 && size >= 0 && begin <= this->size() && size <= this->size() - begin, "flat_view", "[",
                    begin, ", ", begin, "+", size, ") exceeds ", this->size(), " elements");
  Tensor view(storage(), offset() + begin * static_cast<int64_t>(itemsize(dtype())), dtype(), {size});
  view.impl_->version = impl_->version;
  view.impl_->segment = impl_->segment;
  return view;
}

Tensor Tensor::alias() const {
  auto borrowed = Storage::borrow(data(), nbytes(), storage()->readonly(), [keep = storage()] {}, device());
  Tensor view(std::move(borrowed), 0, dtype(), shape());
  view.impl_->version = impl_->version;
  view.impl_->segment = impl_->segment;
  return view;
}

void Tensor::rehome(const Tensor& segment, int64_t begin) const {
  const Tensor place = segment.flat_view(begin, size());
  allocator(device()).copy(place.data(), data(), nbytes());
  // A counter of its own from here on: views made before share the old memory. It never repeats an earlier version.
  impl_->version = std::make_shared<std::atomic<uint64_t>>(version() + 1);
  impl_->segment = segment.version_counter();
  impl_->storage->note_departure();
  impl_->storage = place.storage();
  impl_->offset = place.offset();
}

}  // namespace quernel
