// A recorded program made ready to run: one native call, one base address per segment, no allocation but the results.
//
// Elementwise steps in a row run as chains, block by block (runtime/chain.h).
//
// Replay copies each step's arguments (a few hundred bytes) to the stack, patches the pointers that lie in arguments,
// outputs or the arena, and runs the kernel; addresses of external tensors are fixed. So any number of threads may
// replay one plan, each on an arena of its own. Steps up to the first visible write may be interrupted or refused and
// leave no trace; from there on the plan runs to its end.
#pragma once
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "runtime/capture.h"
#include "runtime/chain.h"
#include "runtime/program.h"

namespace quernel {

class Recorder;

// Blocks of temporary memory, lent to one replay at a time and shared by the plans of one function or frozen model.
class ArenaPool {
 public:
  std::shared_ptr<Storage> acquire(int64_t nbytes, Device device);
  void release(std::shared_ptr<Storage> arena);
  int64_t nbytes() const;  // of the largest arena handed out

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Storage>> free_[2];  // by device
  int64_t size_ = 0;
};

class Plan {
 public:
  Plan(const Recorder& recorder, const std::vector<Tensor>& outputs);

  // Whether kernels and addresses are no longer the right ones: the ISA level changed, or tensors moved.
  bool stale() const;
  // Whether it may run now: not stale, the same leaves have gradients as when it was recorded, and no argument shares
  // memory with something that is written.
  bool valid(const std::vector<Tensor>& arguments) const;

  // `arguments` must have the recorded dtypes and shapes.
  std::vector<Tensor> replay(const std::vector<Tensor>& arguments, ArenaPool& arenas) const;

  // What an argument or a result was recorded as.
  struct TensorSpec {
    DType dtype;
    Shape shape;
    bool written;  // an argument, in place

    size_t nbytes() const { return static_cast<size_t>(shape.volume()) * itemsize(dtype); }
  };
  const std::vector<TensorSpec>& arguments() const { return arguments_; }
  const std::vector<TensorSpec>& outputs() const { return outputs_; }

  // valid() and replay() for callers that have memory of the recorded sizes in hand. `bases` holds a place for the
  // arena's address, then those of the arguments and of the results. Of arguments that are written the caller tells the
  // versions on.
  bool valid_at(std::span<std::byte* const> arguments) const;
  void replay_into(std::span<std::byte*> bases, ArenaPool& arenas) const;

  int64_t arena_nbytes() const { return arena_nbytes_; }
  Device device() const { return device_; }
  double work_ns() const { return work_ns_; }  // estimated, on one thread
  int graphs() const { return captures_.count(); }
  std::vector<std::string> step_names() const;   // ops in order, after fusion
  std::vector<std::string> chain_names() const;  // "op+op+…" of each chain

 private:
  struct Patch {
    uint32_t field;
    int32_t base;  // 0: arena, 1 + i: argument i, 1 + arguments + i: output i
    int64_t offset;
  };
  struct CompiledChain;
  struct CompiledStep {
    const char* op;
    const char* label;
    ResolvedKernel kernel;
    Work work;
    size_t args, args_size;
    size_t patches, patches_end;
    bool check;
    const CompiledChain* chain = nullptr;  // that begins here
  };
  struct CompiledChain {
    Chain chain;
    const char* name;
    Work work;
  };
  struct GradGuard {
    Tensor param;
    int64_t initial;
    bool guarded;
    int64_t final;
  };

  struct External {
    std::shared_ptr<Storage> storage;
    uint64_t departures;
  };
  struct Bytes {
    const std::byte* begin;
    const std::byte* end;

    bool overlaps(const Bytes& o) const { return begin < o.end && o.begin < end; }
  };

  void compile(const Program& program, const std::vector<int64_t>& offsets);
  void add_patches(const Program& program, const Step& step, CompiledStep& compiled,
                   const std::vector<int64_t>& offsets);
  void add_chains(const Program& program, std::vector<Chain> chains);
  void keep(const std::shared_ptr<Storage>& storage);
  static void merge(std::vector<Bytes>& ranges);
  bool shares_memory(std::span<std::byte* const> arguments) const;
  void check_arguments(const std::vector<Tensor>& arguments) const;
  void run(std::span<std::byte* const> bases) const;
  void patch(const CompiledStep& step, std::span<std::byte* const> bases, std::byte* args) const;
  void run_step(size_t i, std::span<std::byte* const> bases, bool interruptible) const;
  void run_chain_from(size_t i, std::span<std::byte* const> bases, bool interruptible) const;
  void run_captured(std::span<std::byte* const> bases) const;
  void commit() const;

  Device device_;
  uint64_t epoch_;
  std::vector<CompiledStep> steps_;
  std::vector<CompiledChain> chains_;
  std::vector<std::byte> args_;
  std::vector<Patch> patches_;
  size_t first_visible_write_ = 0;  // step index
  bool capturable_ = false;
  mutable Captures captures_;
  int64_t arena_nbytes_ = 0;
  double work_ns_;
  std::vector<TensorSpec> arguments_, outputs_;
  std::vector<External> externals_;
  std::vector<Bytes> external_reads_, external_writes_;  // disjoint, in order
  std::vector<Tensor::VersionCounter> written_;
  std::vector<GradGuard> grads_;
  // Random streams: the state on the host, its copy on CUDA, what a replay takes.
  struct Stream {
    Tensor state, copy;
    uint64_t total;
  };
  std::vector<Stream> streams_;
};

}  // namespace quernel
