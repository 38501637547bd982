#include "runtime/plan.h"

#include <algorithm>
#include <cstring>

#include "core/allocator.h"
#include "core/error.h"
#include "runtime/arena.h"
#include "runtime/dispatch.h"
#include "runtime/profile.h"
#include "runtime/recorder.h"
#include "runtime/thread_pool.h"

namespace quernel {

std::shared_ptr<Storage> ArenaPool::acquire(int64_t nbytes, Device device) {
  {
    std::lock_guard lock(mutex_);
    size_ = std::max(size_, nbytes);
    auto& free = free_[static_cast<size_t>(device)];
    while (!free.empty()) {
      auto arena = std::move(free.back());
      free.pop_back();
      if (static_cast<int64_t>(arena->nbytes()) >= nbytes) return arena;
    }
    nbytes = size_;  // one that fits every plan seen so far
  }
  return Storage::allocate(static_cast<size_t>(nbytes), device);
}

void ArenaPool::release(std::shared_ptr<Storage> arena) {
  std::lock_guard lock(mutex_);
  free_[static_cast<size_t>(arena->device())].push_back(std::move(arena));
}

int64_t ArenaPool::nbytes() const {
  std::lock_guard lock(mutex_);
  return size_;
}

namespace {

// Whether checks, which the host waits for, may all run before everything else: none looks at what a step has written.
bool checks_come_first(const Program& program) {
  std::vector<Use> written;
  for (const Step& step : program.steps) {
    for (const Use& use : step.uses) {
      if (use.writes()) written.push_back(use);
      const auto touches = [&](const Use& other) { return use.overlaps(other); };
      if (is_check(step) && std::any_of(written.begin(), written.end(), touches)) return false;
    }
  }
  return true;
}

}  // namespace

Plan::Plan(const Recorder& recorder, const std::vector<Tensor>& outputs)
    : device_(recorder.program_.device),
      epoch_(isa_epoch()),
      work_ns_(recorder.program_.work_ns()),
      written_(recorder.written_) {
  const Program& program = recorder.program_;
  for (const Tensor& t : recorder.arguments_) arguments_.push_back({t.dtype(), t.shape(), false});
  for (const Tensor& t : outputs) outputs_.push_back({t.dtype(), t.shape(), false});
  for (const auto& g : recorder.grads_) grads_.push_back({g.param, g.initial, g.guarded, g.final});
  for (const auto& s : recorder.streams_) streams_.push_back({s.state, s.copy, s.total});
  std::vector<Chain> chains = find_chains(program);
  const ArenaLayout layout = lay_out_arena(program, chains);
  arena_nbytes_ = layout.nbytes;
  compile(program, layout.offsets);
  add_chains(program, std::move(chains));
}

void Plan::compile(const Program& program, const std::vector<int64_t>& offsets) {
  first_visible_write_ = program.steps.size();
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& step = program.steps[i];
    CompiledStep compiled{step.op,
                          step.label,
                          resolve(step.op, step.kernel, device_),
                          step.work,
                          args_.size(),
                          step.args.size(),
                          patches_.size(),
                          0,
                          is_check(step)};
    compiled.work.bytes = 0;  // fusion has changed it
    args_.insert(args_.end(), step.args.begin(), step.args.end());
    for (const Use& use : step.uses) {
      compiled.work.bytes += use.nbytes;
      if (program.visible(use)) first_visible_write_ = std::min(first_visible_write_, i);
    }
    add_patches(program, step, compiled, offsets);
    compiled.patches_end = patches_.size();
    steps_.push_back(compiled);
  }
  merge(external_reads_);
  merge(external_writes_);
  capturable_ = device_ == Device::kCuda && checks_come_first(program);
}

// Writes fixed addresses into the step's arguments, and notes down those that a replay brings.
void Plan::add_patches(const Program& program, const Step& step, CompiledStep& compiled,
                       const std::vector<int64_t>& offsets) {
  for (const Use& use : step.uses) {
    const Segment& segment = program.segments[use.segment];
    switch (segment.kind) {
      case Segment::Kind::kExternal: {
        const void* address = segment.storage->data() + use.offset;
        std::memcpy(args_.data() + compiled.args + use.field, &address, sizeof(address));
        const auto* begin = static_cast<const std::byte*>(address);
        (use.writes() ? external_writes_ : external_reads_).push_back({begin, begin + use.nbytes});
        keep(segment.storage);
        break;
      }
      case Segment::Kind::kArgument:
        arguments_[segment.index].written |= use.writes();
        patches_.push_back({use.field, 1 + segment.index, use.offset});
        break;
      case Segment::Kind::kOutput:
        patches_.push_back({use.field, 1 + static_cast<int32_t>(arguments_.size()) + segment.index, use.offset});
        break;
      case Segment::Kind::kTemporary:
        patches_.push_back({use.field, 0, offsets[use.segment] + use.offset});
        break;
    }
  }
}

void Plan::add_chains(const Program& program, std::vector<Chain> chains) {
  for (Chain& chain : chains) {
    std::string name;
    Work work = steps_[chain.begin].work;
    work.ns_per_item = 0;
    work.bytes = 0;
    for (size_t s = 0; s < chain.size(); ++s) {
      const CompiledStep& step = steps_[chain.begin + s];
      if (!name.empty()) name += '+';
      name += step.op;
      work.ns_per_item += step.work.ns_per_item;
      work.bytes += step.work.bytes;
      for (const TilePatch& tile : chain.tiles[s]) work.bytes -= program.steps[chain.begin + s].use(tile.field)->nbytes;
    }
    chains_.push_back({std::move(chain), interned(name), work});
  }
  for (const CompiledChain& made : chains_) steps_[made.chain.begin].chain = &made;
}

void Plan::keep(const std::shared_ptr<Storage>& storage) {
  const auto same = [&](const External& e) { return e.storage == storage; };
  if (std::none_of(externals_.begin(), externals_.end(), same)) externals_.push_back({storage, storage->departures()});
}

void Plan::merge(std::vector<Bytes>& ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Bytes& a, const Bytes& b) { return a.begin < b.begin; });
  std::vector<Bytes> merged;
  for (const Bytes& range : ranges) {
    if (merged.empty() || range.begin > merged.back().end) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  ranges = std::move(merged);
}

bool Plan::stale() const {
  return epoch_ != isa_epoch() || std::any_of(externals_.begin(), externals_.end(), [](const External& e) {
           return e.storage->departures() != e.departures;
         });
}

bool Plan::shares_memory(std::span<std::byte* const> arguments) const {
  const auto bytes = [&](size_t i) { return Bytes{arguments[i], arguments[i] + arguments_[i].nbytes()}; };
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto touches = [range = bytes(i)](const Bytes& other) { return range.overlaps(other); };
    if (std::any_of(external_writes_.begin(), external_writes_.end(), touches)) return true;
    if (!arguments_[i].written) continue;
    if (std::any_of(external_reads_.begin(), external_reads_.end(), touches)) return true;
    for (size_t j = 0; j < arguments.size(); ++j) {
      if (j != i && touches(bytes(j))) return true;
    }
  }
  return false;
}

bool Plan::valid(const std::vector<Tensor>& arguments) const {
  if (arguments.size() != arguments_.size()) return false;
  std::vector<std::byte*> memory;
  memory.reserve(arguments.size());
  for (const Tensor& t : arguments) memory.push_back(t.data());
  return valid_at(memory);
}

bool Plan::valid_at(std::span<std::byte* const> arguments) const {
  if (stale() || shares_memory(arguments)) return false;
  return std::all_of(grads_.begin(), grads_.end(),
                     [](const GradGuard& g) { return !g.guarded || g.param.grad_slot().held == g.initial; });
}

void Plan::check_arguments(const std::vector<Tensor>& arguments) const {
  check<ShapeError>(arguments.size() == arguments_.size(), "plan", "expected ", arguments_.size(), " arguments, got ",
                    arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    const TensorSpec& want = arguments_[i];
    check<DeviceError>(arguments[i].device() == device_, "plan", "argument ", i, " was recorded on ", name(device_),
                       ", got one on ", name(arguments[i].device()));
    check<ShapeError>(arguments[i].shape() == want.shape, "plan", "argument ", i, " was recorded with shape ",
                      want.shape, ", got ", arguments[i].shape());
    check<DTypeError>(arguments[i].dtype() == want.dtype, "plan", "argument ", i, " was recorded as ", name(want.dtype),
                      ", got ", name(arguments[i].dtype()));
    check<StateError>(!want.written || !arguments[i].storage()->readonly(), "plan", "argument ", i,
                      " is written in place, but it is a read-only array");
  }
}

void Plan::patch(const CompiledStep& step, std::span<std::byte* const> bases, std::byte* args) const {
  std::memcpy(args, args_.data() + step.args, step.args_size);
  for (size_t p = step.patches; p < step.patches_end; ++p) {
    const void* address = bases[static_cast<size_t>(patches_[p].base)] + patches_[p].offset;
    std::memcpy(args + patches_[p].field, &address, sizeof(address));
  }
}

void Plan::run_step(size_t i, std::span<std::byte* const> bases, bool interruptible) const {
  alignas(64) std::byte args[kMaxArgsSize];
  const CompiledStep& step = steps_[i];
  patch(step, bases, args);
  execute(step.op, step.kernel, args, step.work, interruptible);
}

void Plan::run_chain_from(size_t i, std::span<std::byte* const> bases, bool interruptible) const {
  alignas(64) std::byte args[kChainSteps][kMaxArgsSize];
  const auto& [chain, name, work] = *steps_[i].chain;
  ChainCall call;
  call.count = chain.size();
  call.tile_bytes = chain.tile_bytes;
  for (size_t s = 0; s < chain.size(); ++s) {
    const CompiledStep& step = steps_[i + s];
    const std::vector<TilePatch>& tiles = chain.tiles[s];
    patch(step, bases, args[s]);
    call.steps[s] = {step.kernel.run, args[s], step.args_size, tiles.data(), tiles.size()};
  }
  const ResolvedKernel kernel{device_, run_chain, chain_scratch, steps_[i].kernel.signature};
  execute(name, kernel, &call, work, interruptible);
}

void Plan::run(std::span<std::byte* const> bases) const {
  Profile* profile = Profile::current();
  if (capturable_ && !profile) return run_captured(bases);
  for (size_t i = 0; i < steps_.size();) {
    if (profile) profile->set_label(steps_[i].label);
    const CompiledChain* made = steps_[i].chain;
    const size_t next = i + (made ? made->chain.size() : 1);
    const bool interruptible = next <= first_visible_write_;
    made ? run_chain_from(i, bases, interruptible) : run_step(i, bases, interruptible);
    i = next;
  }
  if (profile) profile->set_label("");
}

void Plan::run_captured(std::span<std::byte* const> bases) const {
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].check) run_step(i, bases, true);
  }
  captures_.run(bases, [&] {
    for (size_t i = 0; i < steps_.size(); ++i) {
      if (!steps_[i].check) run_step(i, bases, false);
    }
  });
}

void Plan::commit() const {
  for (const auto& version : written_) version->fetch_add(1, std::memory_order_relaxed);
  for (const GradGuard& g : grads_) g.param.grad_slot().held = g.final;
  for (const Stream& s : streams_) reinterpret_cast<uint64_t*>(s.state.data())[1] += s.total;
}

void Plan::replay_into(std::span<std::byte*> bases, ArenaPool& arenas) const {
  // Returns the arena and lets the workers park, also when a step throws.
  struct Scope {
    ArenaPool& arenas;
    std::shared_ptr<Storage> arena;
    ~Scope() {
      ThreadPool::instance().leave();
      arenas.release(std::move(arena));
    }
  };
  auto arena = arenas.acquire(arena_nbytes_, device_);
  ThreadPool::instance().enter();
  const Scope scope{arenas, std::move(arena)};
  bases[0] = scope.arena->data();
  for (const Stream& s : streams_) {
    if (s.copy.defined()) allocator(device_).upload(s.copy.data(), s.state.data(), s.state.nbytes());
  }
  run(bases);
  commit();
}

std::vector<Tensor> Plan::replay(const std::vector<Tensor>& arguments, ArenaPool& arenas) const {
  check_arguments(arguments);
  std::vector<Tensor> outputs;
  std::vector<std::byte*> bases{nullptr};
  bases.reserve(1 + arguments.size() + outputs_.size());
  for (const Tensor& t : arguments) bases.push_back(t.data());
  for (const TensorSpec& spec : outputs_) {
    outputs.push_back(Tensor::empty(spec.dtype, spec.shape, device_));
    bases.push_back(outputs.back().data());
  }
  replay_into(bases, arenas);
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments_[i].written) arguments[i].bump_version();
  }
  return outputs;
}

std::vector<std::string> Plan::chain_names() const {
  std::vector<std::string> names;
  for (const CompiledChain& made : chains_) names.emplace_back(made.name);
  return names;
}

std::vector<std::string> Plan::step_names() const {
  std::vector<std::string> names;
  for (const CompiledStep& step : steps_) names.emplace_back(step.op);
  return names;
}

}  // namespace quernel
