#include "runtime/capture.h"

#include <algorithm>

#include "core/error.h"
#include "runtime/cuda.h"

namespace quernel {

Captures::~Captures() {
  for (const Graph& graph : graphs_) {
    if (graph.executable) release_graph(graph.executable);
  }
}

void Captures::run(std::span<std::byte* const> addresses, const std::function<void()>& launches) {
  check_cuda_process("replay");
  const CudaLock lock;
  const auto found = std::find_if(graphs_.begin(), graphs_.end(),
                                  [&](const Graph& g) { return std::ranges::equal(g.addresses, addresses); });
  if (found == graphs_.end()) {
    launches();
    if (graphs_.size() == kMost) {
      if (graphs_.front().executable) release_graph(graphs_.front().executable);
      graphs_.erase(graphs_.begin());
    }
    graphs_.push_back({{addresses.begin(), addresses.end()}});
    return;
  }
  std::rotate(found, found + 1, graphs_.end());
  Graph& graph = graphs_.back();
  if (!graph.executable && !graph.refused) capture(graph, launches);
  if (graph.executable)
    launch_graph(graph.executable);
  else
    launches();
}

int Captures::count() const {
  if (!cuda_library()) return 0;
  check_cuda_process("graphs");
  const CudaLock lock;
  return static_cast<int>(
      std::count_if(graphs_.begin(), graphs_.end(), [](const Graph& g) { return g.executable != nullptr; }));
}

void Captures::capture(Graph& graph, const std::function<void()>& launches) {
  graph.refused = true;
  if (!begin_capture()) return;
  try {
    launches();
  } catch (const StateError&) {  // the device refused; nothing has run
    if (void* made = end_capture()) release_graph(made);
    return;
  } catch (...) {
    if (void* made = end_capture()) release_graph(made);
    throw;
  }
  graph.executable = end_capture();
  graph.refused = !graph.executable;
}

}  // namespace quernel
