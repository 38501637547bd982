// What a recording produces and a plan is made from: kernel calls in order, their operands as (segment, offset).
// Recorder writes a Program, fuse() rewrites it bit-neutrally, Plan compiles it.
#pragma once
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "runtime/launch.h"

namespace quernel {

// A block of memory that operands lie in.
struct Segment {
  enum class Kind : uint8_t {
    kExternal,   // existed before: parameters, optimizer state, constants; kept alive, addressed directly
    kArgument,   // argument `index` of the call
    kOutput,     // freshly allocated for each replay, result `index`
    kTemporary,  // lives in the plan's arena
  };
  Kind kind;
  int index = 0;
  std::shared_ptr<Storage> storage;
  int64_t origin = 0;  // arguments: where the argument starts in its storage, bytes
};

struct Use {
  uint32_t field;  // byte offset of the pointer in the step's arguments
  Access access;
  int segment;
  int64_t offset;  // bytes in the segment
  int64_t nbytes;

  bool writes() const { return access != Access::kRead; }
  bool reads() const { return access != Access::kWrite; }
  bool is_same_place(const Use& o) const { return segment == o.segment && offset == o.offset && nbytes == o.nbytes; }
  bool overlaps(const Use& o) const {
    return segment == o.segment && offset < o.offset + o.nbytes && o.offset < offset + nbytes;
  }
};

struct Step {
  const char* op;
  KernelRef kernel;
  std::vector<std::byte> args;
  Work work;
  std::vector<Use> uses;
  const char* label = "";  // of the layer; lives for ever

  template <class Args>
  bool is(Kernel<Args> KernelTable::* entry) const {
    return kernel.entry == kernel_ref(entry).entry;
  }
  template <class Args>
  Args& as() {
    return *reinterpret_cast<Args*>(args.data());
  }
  template <class Args>
  const Args& as() const {
    return *reinterpret_cast<const Args*>(args.data());
  }
  // The use of a pointer field, or null where it is absent.
  const Use* use(uint32_t field) const {
    for (const Use& u : uses) {
      if (u.field == field) return &u;
    }
    return nullptr;
  }
};

// A kernel that may refuse its data and writes nothing.
inline bool is_check(const Step& step) {
  for (const Use& u : step.uses) {
    if (u.writes()) return false;
  }
  return true;
}

// Short beside a program of so many nanoseconds: such a step may wait for its end.
inline bool is_brief(const Step& step, double program_ns) {
  return step.work.ns_per_item * static_cast<double>(step.work.items) <= 0.1 * program_ns;
}

struct Program {
  std::vector<Step> steps;
  std::vector<Segment> segments;
  Device device = Device::kCpu;  // of all of them

  // Estimated nanoseconds on one thread.
  double work_ns() const {
    double total = 0;
    for (const Step& step : steps) total += step.work.ns_per_item * static_cast<double>(step.work.items);
    return total;
  }

  // Long enough for someone to press Ctrl-C: visible writes then wait for the end, since nothing can be undone after
  // the first one. It costs copies of the gradients. On CUDA a replay is one graph, which nobody stops.
  bool is_long() const { return device == Device::kCpu && work_ns() > 30e6; }

  // A write that others can see, and that must not happen in a step that is refused.
  bool visible(const Use& use) const {
    const auto kind = segments[static_cast<size_t>(use.segment)].kind;
    return use.writes() && (kind == Segment::Kind::kExternal || kind == Segment::Kind::kArgument);
  }
};

}  // namespace quernel
