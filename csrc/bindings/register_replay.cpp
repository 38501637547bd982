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
    served_.push_back({std::move(plan), shape, threads});
  }
  void clear() { served_.clear(); }

  py::object run(const py::handle x) const {
    if (!is_exact_array(x.ptr())) return py::none();
    for (const Served& candidate : served_) {
      std::byte* input = memory_of_array(x.ptr(), candidate.plan->input_dtype(0), candidate.shape);
      if (!input || candidate.threads != ThreadPool::instance().size()) continue;
      if (candidate.plan->stale()) break;
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
  // None where an argument is not simply an array, a tensor, a float, or a constant that identity tells.
  static std::optional<Replayer> make(std::shared_ptr<Plan> plan, std::shared_ptr<ArenaPool> arenas,
                                      const py::tuple& arguments, const py::type& tensor_class) {
    if (plan->device() != Device::kCpu) return std::nullopt;  // arrays must be copied there
    Replayer self(std::move(plan), std::move(arenas), tensor_class);
    for (const py::handle x : arguments) {
      const bool varies = is_exact_array(x.ptr()) || self.is_tensor(x) || PyFloat_CheckExact(x.ptr());
      const bool constant =
          x.is_none() || PyBool_Check(x.ptr()) || PyLong_CheckExact(x.ptr()) || PyUnicode_CheckExact(x.ptr());
      if (!varies && !constant) return std::nullopt;
      self.constants_.push_back(varies ? py::object() : py::reinterpret_borrow<py::object>(x));
      self.varying_ += varies;
    }
    const auto& specs = self.plan_->arguments();
    const bool writes = std::any_of(specs.begin(), specs.end(), [](const auto& spec) { return spec.written; });
    if (self.varying_ != specs.size() || writes) return std::nullopt;
    return self;
  }

  // The results, or none if the plan does not serve these arguments now.
  std::optional<std::vector<Tensor>> run(const py::tuple& arguments) const {
    if (arguments.size() != constants_.size() || default_device() != Device::kCpu) return std::nullopt;
    const auto& outputs = plan_->outputs();
    std::vector<std::byte*> bases(1 + varying_ + outputs.size());
    std::vector<double> numbers(varying_);
    std::vector<Tensor> kept;
    size_t at = 0;
    for (size_t i = 0; i < constants_.size(); ++i) {
      PyObject* x = PyTuple_GET_ITEM(arguments.ptr(), static_cast<Py_ssize_t>(i));
      if (constants_[i]) {
        if (x != constants_[i].ptr()) return std::nullopt;
        continue;
      }
      bases[1 + at] = memory_of(x, plan_->arguments()[at], numbers[at], kept);
      if (!bases[1 + at++]) return std::nullopt;
    }
    if (!plan_->valid_at(std::span(bases).subspan(1, varying_))) return std::nullopt;
    std::vector<Tensor> results;
    results.reserve(outputs.size());
    for (const auto& spec : outputs) {
      results.push_back(Tensor::empty(spec.dtype, spec.shape, Device::kCpu));
      bases[1 + at++] = results.back().data();
    }
    replay(*plan_, bases, *arenas_);
    return results;
  }

 private:
  Replayer(std::shared_ptr<Plan> plan, std::shared_ptr<ArenaPool> arenas, const py::type& tensor_class)
      : plan_(std::move(plan)), arenas_(std::move(arenas)), tensor_class_(tensor_class) {}

  bool is_tensor(py::handle x) const { return reinterpret_cast<PyObject*>(Py_TYPE(x.ptr())) == tensor_class_.ptr(); }

  std::byte* memory_of(PyObject* x, const Plan::TensorSpec& spec, double& number, std::vector<Tensor>& kept) const {
    if (is_exact_array(x)) return memory_of_array(x, spec.dtype, spec.shape);
    if (PyFloat_CheckExact(x)) {
      if (spec.dtype != DType::kFloat64 || spec.shape.rank() != 0) return nullptr;
      number = PyFloat_AS_DOUBLE(x);
      return reinterpret_cast<std::byte*>(&number);
    }
    if (!is_tensor(x)) return nullptr;
    static const std::array<PyObject*, 3> names{PyUnicode_InternFromString("_t"), PyUnicode_InternFromString("_spec"),
                                                PyUnicode_InternFromString("_requires_grad")};
    const auto get = [x](PyObject* name) { return py::reinterpret_steal<py::object>(PyObject_GetAttr(x, name)); };
    const py::object native = get(names[0]), traced = get(names[1]), requires_grad = get(names[2]);
    if (!native || !traced || !requires_grad) throw py::error_already_set();
    if (!traced.is_none() || requires_grad.ptr() == Py_True) return nullptr;
    const auto& t = native.cast<const Tensor&>();
    if (t.dtype() != spec.dtype || t.shape() != spec.shape) return nullptr;
    kept.push_back(t);
    return t.data();
  }

  std::shared_ptr<Plan> plan_;
  std::shared_ptr<ArenaPool> arenas_;
  py::object tensor_class_;
  std::vector<py::object> constants_;  // null: an argument of the plan
  size_t varying_ = 0;
};

}  // namespace

void register_replay(py::module_& m) {
  py::class_<BatchPlan, std::shared_ptr<BatchPlan>>(m, "BatchPlan", "A frozen model's plans for one batch size.")
      .def(py::init<std::shared_ptr<Plan>>(), py::arg("whole"))
      .def(py::init<std::shared_ptr<Plan>, int64_t, std::shared_ptr<Plan>, int64_t>(), py::arg("piece"),
           py::arg("count"), py::arg("rest"), py::arg("rows"), "`piece` `count` times, `rest` for the rows left over.")
      .def("stale", &BatchPlan::stale)
      .def("run", &run_arrays, py::arg("inputs"), py::arg("arenas"), "Fresh arrays computed from `inputs`.");
  py::class_<ArrayRunner>(m, "ArrayRunner", "Frozen batches of one input and one output, each of another size.")
      .def(py::init<std::shared_ptr<ArenaPool>>(), py::arg("arenas"))
      .def("add", &ArrayRunner::add, py::arg("plan"), py::arg("threads"), "For a pool of so many threads.")
      .def("clear", &ArrayRunner::clear)
      .def("run", &ArrayRunner::run, py::arg("x"), "A fresh array; None if `x` is none that a plan here serves.");
  py::class_<Replayer>(m, "Replayer", "A jitted function's plan for arguments like those it was replayed with.")
      .def_static("make", &Replayer::make, py::arg("plan"), py::arg("arenas"), py::arg("arguments"),
                  py::arg("tensor_class"), "None where an argument is no array, tensor, number, text or None.")
      .def("run", &Replayer::run, py::arg("arguments"), "The results; None if the plan does not serve these now.");
}

}  // namespace quernel
