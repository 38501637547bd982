// Device memory shared with other libraries (CuPy, torch, Numba), in by __cuda_array_interface__ and out by it or by
// DLPack, whose C structures are declared here as its specification has them.
#include <array>

#include "bindings/bindings.h"
#include "core/error.h"
#include "runtime/cuda.h"

namespace quernel {
namespace {

constexpr int32_t kDlCuda = 2;
constexpr uint64_t kDlReadOnly = 1;

struct DlTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct DlManaged {  // before version 1.0
  static constexpr const char* kName = "dltensor";
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};

struct DlManagedVersioned {
  static constexpr const char* kName = "dltensor_versioned";
  uint32_t major, minor;
  void* context;
  void (*deleter)(DlManagedVersioned*);
  uint64_t flags;
  DlTensor tensor;
};

struct DlType {
  uint8_t code, bits;
};

DlType dl_type(DType dtype) {
  constexpr uint8_t kInt = 0, kUInt = 1, kFloat = 2, kBFloat = 4, kBool = 6;
  const auto bits = static_cast<uint8_t>(itemsize(dtype) * 8);
  switch (dtype) {
    case DType::kFloat32:
    case DType::kFloat64:
    case DType::kFloat16:
      return {kFloat, bits};
    case DType::kBFloat16:
      return {kBFloat, bits};
    case DType::kUInt8:
      return {kUInt, bits};
    case DType::kBool:
      return {kBool, bits};
    default:
      return {kInt, bits};
  }
}

using Stream = std::optional<uintptr_t>;

void* pointer_of(uintptr_t address) { return reinterpret_cast<void*>(address); }

// What either side does next with memory that the other lets go waits for what that has begun. Only the default streams
// are sure to be there still.
bool is_default(Stream stream) { return stream && (*stream == 1 || *stream == 2); }
template <class Wait>
void at_the_end(Stream stream, Wait wait) noexcept {
  if (!is_default(stream)) return;
  try {
    wait(pointer_of(*stream));
  } catch (const Error&) {  // the device failed, and says so at the next call
  }
}

// What a consumer holds until it calls the deleter.
template <class Managed>
struct Exported {
  Tensor tensor;
  Stream stream;
  std::array<int64_t, kMaxRank> dims{}, strides{};
  Managed managed{};
};

template <class Managed>
py::capsule exported(const Tensor& t, Stream stream) {
  auto* made = new Exported<Managed>{t, stream};
  int64_t stride = 1;
  for (int d = t.rank() - 1; d >= 0; --d) {
    made->dims[static_cast<size_t>(d)] = t.shape()[d];
    made->strides[static_cast<size_t>(d)] = stride;
    stride *= t.shape()[d];
  }
  const DlType type = dl_type(t.dtype());
  made->managed.tensor = {
      t.data(), kDlCuda, 0, t.rank(), type.code, type.bits, 1, made->dims.data(), made->strides.data(), 0};
  made->managed.context = made;
  made->managed.deleter = [](Managed* m) {
    auto* held = static_cast<Exported<Managed>*>(m->context);
    at_the_end(held->stream, [](void* theirs) { wait_for_stream(cuda_stream(), theirs); });
    delete held;
  };
  if constexpr (requires { made->managed.flags; }) {
    made->managed.major = 1;
    made->managed.flags = kDlReadOnly;
  }
  // A consumer renames the capsule; one that nobody took gives its memory back itself.
  return py::reinterpret_steal<py::capsule>(PyCapsule_New(&made->managed, Managed::kName, [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, Managed::kName)) return;
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, Managed::kName));
    managed->deleter(managed);
  }));
}

py::capsule to_dlpack(const Tensor& t, bool versioned, Stream stream) {
  check<DeviceError>(t.device() == Device::kCuda, "dlpack", "the tensor lies on 'cpu'");
  if (stream) wait_for_stream(pointer_of(*stream), cuda_stream());
  return versioned ? exported<DlManagedVersioned>(t, stream) : exported<DlManaged>(t, stream);
}

Tensor from_cuda(uintptr_t data, const std::vector<int64_t>& dims, const std::string& dtype, Stream stream,
                 py::object owner) {
  if (stream) wait_for_stream(cuda_stream(), pointer_of(*stream));
  const Shape shape(dims);
  const DType type = dtype_from_name(dtype.c_str());
  auto* keep = new py::object(std::move(owner));
  auto storage = Storage::borrow(
      pointer_of(data), static_cast<size_t>(shape.volume()) * itemsize(type), true,
      [keep, stream] {
        at_the_end(stream, [](void* theirs) { wait_for_stream(theirs, cuda_stream()); });
        py::gil_scoped_acquire gil;
        delete keep;
      },
      Device::kCuda);
  storage->mark_from_host();
  return Tensor(std::move(storage), 0, type, shape);
}

}  // namespace

void register_exchange(py::module_& m) {
  m.def("cuda_stream", [] { return reinterpret_cast<uintptr_t>(cuda_stream()); }, "The stream that kernels run on.");
  m.def("cuda_pointer", [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.data()); }, py::arg("tensor"));
  m.def("from_cuda", &from_cuda, py::arg("data"), py::arg("shape"), py::arg("dtype"), py::arg("stream"),
        py::arg("owner"), "A read-only tensor in memory of `owner`, once what its stream has begun is done.");
  m.def("to_dlpack", &to_dlpack, py::arg("tensor"), py::arg("versioned"), py::arg("stream"),
        "A DLPack capsule of memory on CUDA, read-only if versioned, ready for what the stream does next.");
}

}  // namespace quernel
