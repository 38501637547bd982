#include "core/tensor.h"

#include <cstring>
#include <utility>

#include "core/error.h"

namespace quernel {

Tensor::Tensor(std::shared_ptr<Storage> storage, int64_t offset_bytes, DType dtype, const Shape& shape)
    : impl_(std::make_shared<Impl>(
          Impl{std::move(storage), offset_bytes, dtype, shape, std::make_shared<std::atomic<uint64_t>>(0), {}})) {}

Tensor Tensor::empty(DType dtype, const Shape& shape) {
  return Tensor(Storage::allocate(static_cast<size_t>(shape.volume()) * itemsize(dtype)), 0, dtype, shape);
}

Tensor Tensor::reshape(const Shape& shape) const {
  check<ShapeError>(shape.volume() == size(), "reshape", "cannot view ", this->shape(), " (", size(), " elements) as ",
                    shape, " (", shape.volume(), " elements)");
  Tensor view(storage(), offset(), dtype(), shape);
  view.impl_->version = impl_->version;
  return view;
}

void Tensor::rehome(std::shared_ptr<Storage> storage, int64_t offset) const {
  std::memcpy(storage->data() + offset, data(), nbytes());
  impl_->storage = std::move(storage);
  impl_->offset = offset;
}

}  // namespace quernel
