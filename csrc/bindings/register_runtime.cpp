#include "bindings/bindings.h"
#include "core/allocator.h"
#include "runtime/cpu_features.h"
#include "runtime/cuda.h"
#include "runtime/dispatch.h"
#include "runtime/thread_pool.h"

#ifndef QUERNEL_VERSION
#define QUERNEL_VERSION "0.0.0"
#endif

namespace quernel {

void register_runtime(py::module_& m) {
  m.attr("__version__") = QUERNEL_VERSION;
  m.def("active_isa", &active_isa, "The level whose kernels run.");
  m.def(
      "set_isa", [](const std::string& name) { set_isa(name.c_str()); }, py::arg("name"),
      "Chooses a level; ArgumentError if unknown or absent from this CPU.");
  m.def("compiled_isas", &compiled_isas, "Levels in this build, lowest first.");
  m.def("supported_isas", &supported_isas, "Levels that this CPU can run, lowest first.");
  m.def("kernel_coverage", &kernel_coverage, "(kernel, level that serves it) pairs.");
  m.def("config_epoch", &config_epoch, "Changes when plans must be recorded anew.");
  m.def("bump_config_epoch", &bump_config_epoch);
  m.def("cpu_model", &cpu_model);
  m.def("cpu_features", [] { return feature_names(cpu_features()); });
  m.def("num_threads", [] { return ThreadPool::instance().size(); });
  m.def("set_num_threads", [](int n) { ThreadPool::instance().resize(n); }, py::arg("n"), Unlocked());
  m.def(
      "default_thread_count",
      [] {
        const char* reason = "";
        const int n = default_thread_count(&reason);
        return std::make_pair(n, std::string(reason));
      },
      "(threads, what decided).");
  m.def(
      "release_memory",
      [] {
        for (const Device device : {Device::kCpu, Device::kCuda}) {
          if (device == Device::kCpu || cuda_library()) allocator(device).trim();
        }
      },
      "Gives cached blocks back to the system.");
}

}  // namespace quernel
