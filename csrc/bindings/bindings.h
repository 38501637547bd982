// Shared by the register_F.cpp files, which are the only sources that know pybind11.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "core/tensor.h"

namespace quernel {

namespace py = pybind11;

// Releases the GIL while an op runs.
using Unlocked = py::call_guard<py::gil_scoped_release>;

using Optional = std::optional<Tensor>;  // an operand that Python may leave None
inline Tensor or_none(const Optional& t) { return t.value_or(Tensor()); }
inline Optional optional(const Tensor& t) { return t.defined() ? Optional(t) : std::nullopt; }

// The device of that name, or where tensors are made by default.
inline Device or_default(const std::optional<std::string>& device) {
  return device ? device_from_name(device->c_str()) : default_device();
}

// NumPy in and out; defined in register_tensor.cpp.
Tensor from_numpy(const py::array& array, bool copy, Device device);
py::array to_numpy(const Tensor& t, bool writable);
const py::dtype& numpy_dtype(DType dtype);

void register_errors(py::module_& m);
void register_tensor(py::module_& m);
void register_runtime(py::module_& m);
void register_cuda(py::module_& m);
void register_exchange(py::module_& m);
void register_probe(py::module_& m);
void register_plan(py::module_& m);
void register_replay(py::module_& m);
void register_profile(py::module_& m);
void register_elementwise(py::module_& m);
void register_layout(py::module_& m);
void register_embedding(py::module_& m);
void register_embedding_bag(py::module_& m);
void register_matmul(py::module_& m);
void register_conv(py::module_& m);
void register_pool(py::module_& m);
void register_upsample(py::module_& m);
void register_reduce(py::module_& m);
void register_norm(py::module_& m);
void register_layer_norm(py::module_& m);
void register_group_norm(py::module_& m);
void register_softmax(py::module_& m);
void register_loss(py::module_& m);
void register_ctc(py::module_& m);
void register_recurrent(py::module_& m);
void register_attention(py::module_& m);
void register_random(py::module_& m);
void register_op(py::module_& m);
void register_tape(py::module_& m);
void register_optim(py::module_& m);
void register_quant(py::module_& m);
void register_sparse(py::module_& m);

}  // namespace quernel
