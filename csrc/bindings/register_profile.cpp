// Profiling; quernel/profiler.py is the front.
#include "bindings/bindings.h"
#include "runtime/dispatch.h"
#include "runtime/profile.h"

namespace quernel {

void register_profile(py::module_& m) {
  py::class_<Profile>(m, "Profile", "Notes down the kernels of this thread from its making to stop().")
      .def(py::init<>())
      .def("stop", &Profile::stop)
      .def("clear", &Profile::clear)
      .def(
          "spans",
          [](const Profile& profile) {
            py::list rows;
            for (const Profile::Span& s : profile.spans()) {
              const auto [kernel, isa] = kernel_name(s.signature);
              rows.append(py::make_tuple(s.op, s.label, kernel, isa, s.work.flops, s.work.bytes, s.begin, s.end));
            }
            return rows;
          },
          "(op, label, kernel, isa, operations, bytes, begin ns, end ns) of each kernel so far.");
}

}  // namespace quernel
