// The short ways into plans: memory of NumPy arrays and tensors that fit goes to the kernels as it lies, with nothing
// made around it. What does not fit is answered with None, and the caller goes the long way, which knows what is wrong.
#include <array>
#include <optional>
#include <span>

#include "bindings/bindings.h"
#include "core/error.h"
#include "runtime/batch.h"
#include "runtime/plan.h"
#include "runtime/thread_pool.h"

namespace quernel {
namespace {

// Below this a plan keeps the GIL: it forks no threads then, and would wait longer for the GIL than it runs.
constexpr double kBriefNs = 10e3;

bool is_exact_array(PyObject* x) { return Py_TYPE(x) == py::detail::npy_api::get().PyArray_Type_; }

// Where an array's elements lie; null unless it is a plain array (C-contiguous, aligned, native) of this dtype and
// shape.
std::byte* memory_of_array(PyObject* x, DType dtype, const Shape& shape) {
  constexpr int kPlain = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  const auto& array = *py::detail::array_proxy(x);
  const bool fits = array.descr == numpy_dtype(dtype).ptr() && (array.flags & kPlain) == kPlain &&
                    array.nd == shape.rank() && std::equal(shape.begin(), shape.end(), array.dimensions);
  return fits ? reinterpret_cast<std::byte*>(array.data) : nullptr;
}

py::object fresh_array(DType dtype, const Shape& shape) {
  auto& numpy = py::detail::npy_api::get();
  std::array<Py_intptr_t, kMaxRank> dims;
  std::copy(shape.begin(), shape.end(), dims.begin());
  PyObject* array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, numpy_dtype(dtype).inc_ref().ptr(), shape.rank(),
                                                dims.data(), nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(array);
}

void replay(const Plan& plan, std::span<std::byte*> bases, ArenaPool& arenas) {
  std::optional<py::gil_scoped_release> unlocked;
  if (plan.work_ns() >= kBriefNs) unlocked.emplace();
  plan.replay_into(bases, arenas);
}

void run_batch(const BatchPlan& plan, std::span<std::byte* const> arrays, ArenaPool& arenas) {
  std::optional<py::gil_scoped_release> unlocked;
  if (plan.work_ns() >= kBriefNs) unlocked.emplace();
  plan.run(arrays, arenas);
}

// Batches of a frozen model with one input and one output, each of another size, for a number of threads.
class ArrayRunner {
 public:
  explicit ArrayRunner(std::shared_ptr<ArenaPool> arenas) : arenas_(std::move(arenas)) {}

  void add(std::shared_ptr<BatchPlan> plan, int threads) {
    if (plan->device() != Device::kCpu) return;
    const Shape shape = plan->input_shape(0);
    const auto serves = [&](const Served& s) { return s.shape == shape && s.threads == threads; };
    std::erase_if(served_, serves);  // what is stale
    served_.push_back({std::move(plan), shape, threads});
  }
  void clear() { served_.clear(); }

  py::object run(const py::handle x) const {
    if (!is_exact_array(x.ptr())) return py::none();
    for (const Served& candidate : served_) {
      std::byte* input = memory_of_array(x.ptr(), candidate.plan->input_dtype(0), candidate.shape);
      if (!input || candidate.threads != ThreadPool::instance().size()) continue;
      if (candidate.plan->stale()) continue;
      const auto plan = candidate.plan;  // another thread may clear() while this one lets go of the GIL
      py::object y = fresh_array(plan->result_dtype(0), plan->result_shape(0));
      const std::array arrays{input, reinterpret_cast<std::byte*>(py::detail::array_proxy(y.ptr())->data)};
      try {
        run_batch(*plan, arrays, *arenas_);
      } catch (const ArgumentError&) {  // tells a place in a piece
        break;
      }
      return y;
    }
    return py::none();
  }

 private:
  struct Served {
    std::shared_ptr<BatchPlan> plan;
    Shape shape;
    int threads;
  };

  std::shared_ptr<ArenaPool> arenas_;
  std::vector<Served> served_;
};

// Any number of inputs and outputs, on any device; the inputs must have the dtypes and shapes of the plan's.
std::vector<py::array> run_arrays(const BatchPlan& plan, const std::vector<py::array>& inputs, ArenaPool& arenas) {
  check<ShapeError>(inputs.size() == plan.inputs(), "plan", "expected ", plan.inputs(), " arguments, got ",
                    inputs.size());
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    tensors.push_back(from_numpy(inputs[i], false, plan.device()));
    check<ShapeError>(tensors[i].shape() == plan.input_shape(i) && tensors[i].dtype() == plan.input_dtype(i), "plan",
                      "argument ", i, " was recorded as ", name(plan.input_dtype(i)), ' ', plan.input_shape(i),
                      ", got ", name(tensors[i].dtype()), ' ', tensors[i].shape());
  }
  for (size_t i = 0; i < plan.results(); ++i)
    tensors.push_back(Tensor::empty(plan.result_dtype(i), plan.result_shape(i), plan.device()));
  std::vector<std::byte*> arrays;
  for (const Tensor& t : tensors) arrays.push_back(t.data());
  run_batch(plan, arrays, arenas);
  std::vector<py::array> results;
  for (size_t i = plan.inputs(); i < tensors.size(); ++i) results.push_back(to_numpy(tensors[i], true));
  return results;
}

// A plan of a jitted function, called again with arguments like those that it was replayed with.
class Replayer {
 public:
  // None where an argument is not simply an array, a tensor, a float, a constant that identity tells, or a tuple, list
  // or `state` (recording.State) of these.
  static std::optional<Replayer> make(std::shared_ptr<Plan> plan, std::shared_ptr<ArenaPool> arenas,
                                      const py::tuple& arguments, const py::type& tensor_class,
                                      const py::type& state_class) {
    if (plan->device() != Device::kCpu) return std::nullopt;  // arrays must be copied there
    Replayer self(std::move(plan), std::move(arenas), tensor_class);
    if (!self.add(arguments.ptr(), state_class) || self.varying_ != self.plan_->arguments().size()) return std::nullopt;
    return self;
  }

  // The results, or none if the plan does not serve these arguments now.
  std::optional<std::vector<Tensor>> run(const py::tuple& arguments) const {
    if (default_device() != Device::kCpu) return std::nullopt;
    const auto& outputs = plan_->outputs();
    Call call{std::vector<std::byte*>(1 + varying_ + outputs.size()), std::vector<double>(varying_), {}, {}, {}};
    if (!take(arguments.ptr(), call)) return std::nullopt;
    if (!plan_->valid_at(std::span(call.bases).subspan(1, varying_))) return std::nullopt;
    std::vector<Tensor> results;
    results.reserve(outputs.size());
    for (const auto& spec : outputs) {
      results.push_back(Tensor::empty(spec.dtype, spec.shape, Device::kCpu));
      call.bases[1 + call.at++] = results.back().data();
    }
    replay(*plan_, call.bases, *arenas_);
    for (const Tensor& t : call.written) t.bump_version();
    return results;
  }

 private:
  // What stands at a place of the arguments, parents before what they hold.
  struct Place {
    enum class Kind : uint8_t { kVaries, kConstant, kSequence, kState } kind;
    py::object constant;  // kSequence and kState: the type
    Py_ssize_t count = 0;
  };
  struct Call {
    std::vector<std::byte*> bases;
    std::vector<double> numbers;
    std::vector<Tensor> kept, written;
    std::vector<py::object> held;  // arrays in a list, which another thread may empty meanwhile
    size_t place = 0, at = 0;
  };

  Replayer(std::shared_ptr<Plan> plan, std::shared_ptr<ArenaPool> arenas, const py::type& tensor_class)
      : plan_(std::move(plan)), arenas_(std::move(arenas)), tensor_class_(tensor_class) {}

  static py::object type_of(PyObject* x) {
    return py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(Py_TYPE(x)));
  }
  bool is_tensor(PyObject* x) const { return reinterpret_cast<PyObject*>(Py_TYPE(x)) == tensor_class_.ptr(); }

  static py::object attribute(PyObject* x, PyObject* name) {
    PyObject* value = PyObject_GetAttr(x, name);
    if (!value) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(value);
  }
  static py::object parts_of(PyObject* state) {
    static PyObject* const name = PyUnicode_InternFromString("parts");
    return attribute(state, name);
  }

  // Notes down what an argument is; false where the short way cannot tell it from another.
  bool add(PyObject* x, const py::type& state_class) {
    const auto all = [&](PyObject* items) {
      for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(items); ++i)
        if (!add(PySequence_Fast_GET_ITEM(items, i), state_class)) return false;
      return true;
    };
    nested_ |= !places_.empty() && !PyTuple_CheckExact(x) && (PyList_CheckExact(x) || py::isinstance(x, state_class));
    if (PyTuple_CheckExact(x) || PyList_CheckExact(x)) {
      places_.push_back({Place::Kind::kSequence, type_of(x), PySequence_Fast_GET_SIZE(x)});
      return all(x);
    }
    if (py::isinstance(x, state_class)) {
      const py::object parts = parts_of(x);
      if (!PyTuple_Check(parts.ptr())) return false;
      places_.push_back({Place::Kind::kState, type_of(x), PyTuple_GET_SIZE(parts.ptr())});
      return all(parts.ptr());
    }
    const bool varies = is_exact_array(x) || is_tensor(x) || PyFloat_CheckExact(x);
    const bool constant = x == Py_None || PyBool_Check(x) || PyLong_CheckExact(x) || PyUnicode_CheckExact(x);
    if (varies) {
      places_.push_back({Place::Kind::kVaries, {}});
      ++varying_;
    } else if (constant) {
      places_.push_back({Place::Kind::kConstant, py::reinterpret_borrow<py::object>(x)});
    }
    return varies || constant;
  }

  // Adds the memory of an argument to the call; false if it is not like the one noted down here.
  bool take(PyObject* x, Call& call) const {
    const Place& place = places_[call.place++];
    if (place.kind == Place::Kind::kConstant) return x == place.constant.ptr();
    if (place.kind == Place::Kind::kVaries) {
      const Plan::TensorSpec& spec = plan_->arguments()[call.at];
      std::byte* memory = memory_of(x, spec, call);
      call.bases[1 + call.at++] = memory;
      return memory != nullptr;
    }
    if (reinterpret_cast<PyObject*>(Py_TYPE(x)) != place.constant.ptr()) return false;
    if (place.kind == Place::Kind::kState) {
      const py::object parts = parts_of(x);
      return PyTuple_Check(parts.ptr()) && take_all(parts.ptr(), place.count, call);
    }
    return take_all(x, place.count, call);
  }

  bool take_all(PyObject* items, Py_ssize_t count, Call& call) const {
    if (PySequence_Fast_GET_SIZE(items) != count) return false;
    for (Py_ssize_t i = 0; i < count; ++i)
      if (!take(PySequence_Fast_GET_ITEM(items, i), call)) return false;
    return true;
  }

  std::byte* memory_of(PyObject* x, const Plan::TensorSpec& spec, Call& call) const {
    if (is_exact_array(x)) {
      if (nested_) call.held.push_back(py::reinterpret_borrow<py::object>(x));
      return spec.written ? nullptr : memory_of_array(x, spec.dtype, spec.shape);
    }
    if (PyFloat_CheckExact(x)) {
      if (spec.dtype != DType::kFloat64 || spec.shape.rank() != 0 || spec.written) return nullptr;
      double& number = call.numbers[call.at];
      number = PyFloat_AS_DOUBLE(x);
      return reinterpret_cast<std::byte*>(&number);
    }
    if (!is_tensor(x)) return nullptr;
    static const std::array<PyObject*, 3> names{PyUnicode_InternFromString("_t"), PyUnicode_InternFromString("_spec"),
                                                PyUnicode_InternFromString("_requires_grad")};
    const py::object native = attribute(x, names[0]), traced = attribute(x, names[1]),
                     requires_grad = attribute(x, names[2]);
    if (!traced.is_none() || requires_grad.ptr() == Py_True) return nullptr;
    const auto& t = native.cast<const Tensor&>();
    if (t.device() != Device::kCpu || t.dtype() != spec.dtype || t.shape() != spec.shape ||
        (spec.written && t.storage()->readonly()))
      return nullptr;
    (spec.written ? call.written : call.kept).push_back(t);
    return t.data();
  }

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<ArenaPool> arenas_;
  py::object tensor_class_;
  std::vector<Place> places_;
  size_t varying_ = 0;
  bool nested_ = false;  // arguments within arguments
};

}  // namespace

void register_replay(py::module_& m) {
  using PlanOrNone = std::optional<std::shared_ptr<Plan>>;
  py::class_<BatchPlan, std::shared_ptr<BatchPlan>>(m, "BatchPlan", "A frozen model's plans for one batch size.")
      .def(py::init<std::shared_ptr<Plan>>(), py::arg("whole"))
      .def(py::init([](const PlanOrNone& piece, int64_t count, const PlanOrNone& rest, int64_t rows) {
             return std::make_shared<BatchPlan>(piece.value_or(nullptr), count, rest.value_or(nullptr), rows);
           }),
           py::arg("piece"), py::arg("count"), py::arg("rest"), py::arg("rows"),
           "`piece` `count` times, `rest` for the rows left over.")
      .def("nbytes", &BatchPlan::nbytes, py::arg("threads"), "Of temporary memory, at most.")
      .def("stale", &BatchPlan::stale)
      .def("run", &run_arrays, py::arg("inputs"), py::arg("arenas"), "Fresh arrays computed from `inputs`.");
  py::class_<ArrayRunner>(m, "ArrayRunner", "Frozen batches of one input and one output, each of another size.")
      .def(py::init<std::shared_ptr<ArenaPool>>(), py::arg("arenas"))
      .def("add", &ArrayRunner::add, py::arg("plan"), py::arg("threads"), "For a pool of so many threads.")
      .def("clear", &ArrayRunner::clear)
      .def("run", &ArrayRunner::run, py::arg("x"), "A fresh array; None if `x` is none that a plan here serves.");
  py::class_<Replayer>(m, "Replayer", "A jitted function's plan for arguments like those it was replayed with.")
      .def_static("make", &Replayer::make, py::arg("plan"), py::arg("arenas"), py::arg("arguments"),
                  py::arg("tensor_class"), py::arg("state_class"),
                  "None where an argument is no array, tensor, number, text, None, or tuple, list or state of these.")
      .def("run", &Replayer::run, py::arg("arguments"), "The results; None if the plan does not serve these now.");
}

}  // namespace quernel
