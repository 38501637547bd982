// Measurements of the engine itself, for bench/ and tests/.
#include "bindings/bindings.h"
#include "runtime/probe.h"
#include "runtime/thread_pool.h"

namespace quernel {

void register_probe(py::module_& m) {
  m.def("fma_peak", &fma_peak, py::arg("threads") = 1, Unlocked(),
        "GFLOP/s of float32 multiply-adds in registers, at the active level.");
  m.def("copy_peak", &copy_peak, py::arg("nbytes"), py::arg("threads") = 1, Unlocked(),
        "Gigabytes a second, read and written, of copies within this much memory.");
  m.def("fork_join_ns", &fork_join_ns, py::arg("calls"), Unlocked(),
        "Nanoseconds of calls in which every thread took one empty chunk.");
  m.def(
      "pool_calls",
      [](int calls, int64_t chunks, int64_t chunk_ns, int64_t pause_ns, bool serial, bool interruptible) {
        std::vector<std::pair<double, int64_t>> pairs;
        for (const PoolCall& call : pool_calls(calls, chunks, chunk_ns, pause_ns, serial, interruptible))
          pairs.emplace_back(call.ns, call.by_workers);
        return pairs;
      },
      py::arg("calls"), py::arg("chunks"), py::arg("chunk_ns"), py::arg("pause_ns") = 0, py::arg("serial") = false,
      py::arg("interruptible") = true, Unlocked(), "(nanoseconds, chunks run by workers) of calls on the pool.");
  m.def("cgroup_cpu_limit", &cgroup_cpu_limit, py::arg("root") = "",
        "CPUs granted by cgroup quotas, 0 without a limit; `root` stands before the paths read.");
}

}  // namespace quernel
