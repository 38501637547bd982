// Recording and replaying; quernel/jit.py is the front.
#include "bindings/bindings.h"
#include "ops/elementwise.h"
#include "runtime/plan.h"
#include "runtime/recorder.h"
#include "runtime/transaction.h"

namespace quernel {
namespace {

// Results are fresh copies: fusion removes the copy where the result was a temporary anyway.
Tensor fresh_copy(const Tensor& t) {
  const Tensor copy = Tensor::empty(t.dtype(), t.shape(), t.device());
  ops::copy_into(copy, t);
  return copy;
}

}  // namespace

void register_plan(py::module_& m) {
  py::class_<DerivedCache, std::shared_ptr<DerivedCache>>(m, "DerivedCache", "Constants derived from frozen weights.")
      .def(py::init<>())
      .def_property_readonly("nbytes", py::cpp_function(&DerivedCache::nbytes, Unlocked()));
  py::class_<ArenaPool, std::shared_ptr<ArenaPool>>(m, "ArenaPool", "Temporary memory shared by plans.")
      .def(py::init<>())
      .def_property_readonly("nbytes", &ArenaPool::nbytes);
  py::class_<Transaction>(m, "Transaction", "Makes a step that runs op by op happen whole or not at all.")
      .def(py::init<>())
      .def("open", &Transaction::open)
      .def("rollback", &Transaction::rollback)
      .def("close", &Transaction::close);
  py::class_<Recorder>(m, "Recorder", "Records the ops of this thread from its making to finish() or stop().")
      .def(py::init<std::vector<Tensor>, std::shared_ptr<DerivedCache>>(), py::arg("arguments"),
           py::arg("constants") = nullptr)
      .def("set_label", &Recorder::set_label, py::arg("label"))
      .def("abandon", &Recorder::abandon, py::arg("reason"))
      .def("stop", &Recorder::stop)
      .def("finish", &Recorder::finish, py::arg("outputs"))
      .def_property_readonly("reason", &Recorder::reason);
  py::class_<Plan, std::shared_ptr<Plan>>(m, "Plan", "A recorded step as one native call.")
      .def("stale", &Plan::stale)
      .def("valid", &Plan::valid, py::arg("arguments"))
      .def("replay", &Plan::replay, py::arg("arguments"), py::arg("arenas"), Unlocked())
      .def_property_readonly("arena_nbytes", &Plan::arena_nbytes)
      .def_property_readonly("graphs", &Plan::graphs, "CUDA graphs captured so far.")
      .def_property_readonly("steps", &Plan::step_names)
      .def_property_readonly("chains", &Plan::chain_names);
  m.def("fresh_copy", &fresh_copy, py::arg("x"), Unlocked());
}

}  // namespace quernel
