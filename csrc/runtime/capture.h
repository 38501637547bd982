// A plan's kernels as CUDA graphs: launched once more at the same addresses they are one launch.
#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace quernel {

class Captures {
 public:
  Captures() = default;
  ~Captures();
  Captures(const Captures&) = delete;
  Captures& operator=(const Captures&) = delete;

  // Calls `launches`, which launches kernels on CUDA at these addresses and does nothing else: the first time as it is,
  // the second time to capture a graph, which is launched then and from there on.
  void run(std::span<std::byte* const> addresses, const std::function<void()>& launches);

  int count() const;  // graphs there are

 private:
  // Memory comes back to the same addresses in a loop. An eager program may alternate between a few places.
  static constexpr size_t kMost = 8;

  struct Graph {
    std::vector<std::byte*> addresses;
    void* executable = nullptr;  // null: not captured so far
    bool refused = false;        // by the driver
  };

  static void capture(Graph& graph, const std::function<void()>& launches);

  std::vector<Graph> graphs_;  // the latest last
};

}  // namespace quernel
