#include <array>
#include <cstring>

#include "bindings/bindings.h"
#include "core/allocator.h"
#include "core/dtype.h"
#include "core/error.h"
#include "ops/grad.h"
#include "runtime/dispatch.h"
#include "runtime/recorder.h"
#include "runtime/transaction.h"

namespace quernel {
namespace {

// One text per dtype, for ever: comparing and hashing them again costs Python nothing.
py::str dtype_text(DType dtype) {
  static std::array<PyObject*, kDTypes> known{};
  PyObject*& text = known[static_cast<size_t>(dtype)];
  if (!text) text = PyUnicode_InternFromString(name(dtype));
  return py::reinterpret_borrow<py::str>(text);
}

DType to_dtype(const py::dtype& dtype) {
  switch (dtype.num()) {
    case py::dtype::num_of<float>():
      return DType::kFloat32;
    case py::dtype::num_of<double>():
      return DType::kFloat64;
    case py::dtype::num_of<int64_t>():
      return DType::kInt64;
    case py::dtype::num_of<uint8_t>():
      return DType::kUInt8;
    default:
      return dtype_from_name(dtype.attr("name").cast<std::string>().c_str());
  }
}

py::tuple shape_tuple(const Shape& shape) {
  py::tuple result(shape.rank());
  for (int i = 0; i < shape.rank(); ++i) result[static_cast<size_t>(i)] = shape[i];
  return result;
}

void rehome(const Tensor& t, const Tensor& flat, int64_t offset) {
  check<ShapeError>(t.dtype() == flat.dtype() && offset >= 0 && offset + t.size() <= flat.size(), "rehome",
                    "a tensor of ", t.size(), " ", name(t.dtype()), " does not fit at ", offset, " of a segment of ",
                    flat.size(), " ", name(flat.dtype()));
  if (Recorder* recorder = Recorder::current()) recorder->abandon("a tensor moves to another storage");
  if (Transaction* transaction = Transaction::current()) transaction->save(t);
  t.rehome(flat, offset);
  bump_config_epoch();
}

}  // namespace

// NumPy's type objects, looked up once each: making one from its name costs a microsecond.
const py::dtype& numpy_dtype(DType dtype) {
  static std::array<PyObject*, kDTypes> known{};
  PyObject*& object = known[static_cast<size_t>(dtype)];
  if (!object) {
    // ml_dtypes' bfloat16 is imported only when such a tensor meets NumPy.
    object = (dtype == DType::kBFloat16 ? py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"))
                                        : py::dtype(name(dtype)))
                 .release()
                 .ptr();
  }
  return *reinterpret_cast<const py::dtype*>(&object);
}

// A copy elsewhere.
Tensor to_device(const Tensor& t, Device device) {
  if (Recorder* recorder = Recorder::current()) recorder->abandon("a tensor moves between devices");
  const Tensor copy = Tensor::empty(t.dtype(), t.shape(), device);
  Allocator& cuda = allocator(Device::kCuda);
  if (t.device() == device)
    allocator(device).copy(copy.data(), t.data(), t.nbytes());
  else if (device == Device::kCuda)
    cuda.upload(copy.data(), t.data(), t.nbytes());
  else
    cuda.download(copy.data(), t.data(), t.nbytes());
  copy.storage()->mark_from_host();
  return copy;
}

// A view of the tensor's memory that keeps the storage alive; of a copy if it lies on another device.
py::array to_numpy(const Tensor& t, bool writable) {
  if (Recorder* recorder = Recorder::current()) recorder->abandon("values are read on the host");
  if (t.device() != Device::kCpu) return to_numpy(to_device(t, Device::kCpu), writable);
  auto* owner = new std::shared_ptr<Storage>(t.storage());
  const py::capsule keep(owner, [](void* p) { delete static_cast<std::shared_ptr<Storage>*>(p); });
  const std::vector<py::ssize_t> dims(t.shape().begin(), t.shape().end());
  py::array array(numpy_dtype(t.dtype()), dims, t.data(), keep);
  if (!writable) py::detail::array_proxy(array.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return array;
}

// Borrows C-contiguous native-endian memory if asked to, else copies.
Tensor from_numpy(const py::array& given, bool copy, Device device) {
  const py::dtype given_dtype = given.dtype();
  const DType dtype = to_dtype(given_dtype);
  constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  const bool is_native = given_dtype.byteorder() == '=' || given_dtype.byteorder() == '|';
  py::array array = given;
  if ((given.flags() & kPlain) != kPlain || !is_native) {
    array = py::module_::import("numpy").attr("require")(given, given_dtype.attr("newbyteorder")("="), "CA");
  }
  const Shape shape(std::span<const int64_t>(array.shape(), static_cast<size_t>(given.ndim())));
  const auto nbytes = static_cast<size_t>(array.nbytes());
  if (copy || device != Device::kCpu) {
    Tensor t = Tensor::empty(dtype, shape, device);
    allocator(device).upload(t.data(), array.data(), nbytes);
    t.storage()->mark_from_host();
    return t;
  }
  auto* keep = new py::array(array);
  auto storage = Storage::borrow(const_cast<void*>(array.data()), nbytes, true, [keep] {
    py::gil_scoped_acquire gil;
    delete keep;
  });
  storage->mark_from_host();
  return Tensor(std::move(storage), 0, dtype, shape);
}

void register_tensor(py::module_& m) {
  py::class_<Tensor>(m, "Tensor", "A contiguous tensor: dtype, shape and a place in a storage.")
      .def_property_readonly("shape", [](const Tensor& t) { return shape_tuple(t.shape()); })
      .def_property_readonly("dtype", [](const Tensor& t) { return dtype_text(t.dtype()); })
      .def_property_readonly("device", [](const Tensor& t) { return name(t.device()); })
      .def_property_readonly("ndim", &Tensor::rank)
      .def_property_readonly("size", &Tensor::size)
      .def_property_readonly("nbytes", &Tensor::nbytes)
      .def_property_readonly("version", &Tensor::version)
      .def_property_readonly("storage_id", [](const Tensor& t) { return t.storage()->id(); })
      .def_property_readonly("readonly", [](const Tensor& t) { return t.storage()->readonly(); })
      .def_property_readonly("identity", [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.identity()); })
      .def_property_readonly("has_grad", [](const Tensor& t) { return read_held_grad(t) != 0; })
      .def_property_readonly(
          "grad",
          [](const Tensor& t) -> std::optional<Tensor> {
            if (!t.grad_slot().grad) return std::nullopt;
            return *t.grad_slot().grad;
          },
          "The gradient's memory, valid while has_grad is true.")
      .def_property_readonly(
          "has_row_grad", [](const Tensor& t) { return t.grad_slot().rows != nullptr; },
          "Whether its gradients come by rows.")
      .def_property_readonly("row_grad", &ops::row_grad, "The rows and values of a gradient by rows.")
      .def(
          "numpy", [](const Tensor& t) { return to_numpy(t, false); }, "A read-only NumPy view of the same memory.")
      .def(
          "take_numpy", [](const Tensor& t) { return to_numpy(t, true); },
          "A writable NumPy view, for tensors that nobody else holds.")
      .def(
          "reshape", [](const Tensor& t, const std::vector<int64_t>& shape) { return t.reshape(Shape(shape)); },
          py::arg("shape"), "The same memory under another shape.")
      .def("alias", &Tensor::alias, "The same memory through a storage of its own.")
      .def("rehome", &rehome, py::arg("flat"), py::arg("offset"),
           "Moves the contents into `flat`, `offset` elements in, for every holder of this tensor.");
  m.def(
      "empty",
      [](const std::vector<int64_t>& shape, const std::string& dtype, const std::optional<std::string>& device) {
        return Tensor::empty(dtype_from_name(dtype.c_str()), Shape(shape), or_default(device));
      },
      py::arg("shape"), py::arg("dtype"), py::arg("device") = py::none(), "A tensor of undefined contents.");
  m.def(
      "from_numpy",
      [](const py::array& array, bool copy, const std::optional<std::string>& device) {
        return from_numpy(array, copy, or_default(device));
      },
      py::arg("array"), py::arg("copy") = true, py::arg("device") = py::none(),
      "A tensor with an array's values; copy=False borrows C-contiguous memory on the CPU, read-only.");
  m.def(
      "to_device",
      [](const Tensor& t, const std::string& device) { return to_device(t, device_from_name(device.c_str())); },
      py::arg("tensor"), py::arg("device"), Unlocked(), "A copy on that device.");
  m.def("flat_view", &Tensor::flat_view, py::arg("tensor"), py::arg("begin"), py::arg("size"),
        "Elements [begin, begin + size) as a 1-D view of the same memory and version.");
  m.def("accumulate_grad_", &ops::accumulate_grad, py::arg("param"), py::arg("g"), Unlocked(),
        "Stores the first gradient of a leaf, adds later ones.");
  m.def("zero_grads_", &ops::zero_grads, py::arg("params"), "Forgets gradients; their memory stays.");
  m.def("live_storages", &Storage::live_count, "Storages alive now.");
}

}  // namespace quernel
