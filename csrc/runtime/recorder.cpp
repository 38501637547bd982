#include "runtime/recorder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/fuse.h"
#include "runtime/plan.h"
#include "runtime/profile.h"
#include "runtime/transaction.h"

namespace quernel {
namespace {

thread_local Recorder* active_recorder = nullptr;

uint64_t& stream_base(const Tensor& state) { return reinterpret_cast<uint64_t*>(state.data())[1]; }

}  // namespace

Recorder::Recorder(std::vector<Tensor> arguments, std::shared_ptr<DerivedCache> constants)
    : first_storage_(Storage::next_id()), arguments_(std::move(arguments)), constants_(std::move(constants)) {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const Tensor& t = arguments_[i];
    const int id = static_cast<int>(program_.segments.size());
    // Tensor::alias() gives each its own.
    if (!segment_index_.emplace(t.storage().get(), id).second) abandon("two arguments share a storage");
    program_.segments.push_back({Segment::Kind::kArgument, static_cast<int>(i), t.storage(), t.offset()});
  }
  if (active_recorder) abandon("a recording inside a recording");
  active_recorder = this;
}

Recorder::~Recorder() { stop(); }

void Recorder::stop() {
  if (active_recorder == this) active_recorder = nullptr;
}

Recorder* Recorder::current() { return active_recorder; }

Recorder::Pause::Pause() : suspended_(std::exchange(active_recorder, nullptr)) {}
Recorder::Pause::~Pause() { active_recorder = suspended_; }

void Recorder::set_label(const std::string& label) { label_ = interned(label); }

void Recorder::abandon(std::string reason) {
  if (reason_.empty()) reason_ = std::move(reason);
}

bool Recorder::is_temporary(const Storage& storage) const {
  if (storage.id() < first_storage_) return false;
  return std::none_of(constants_kept_.begin(), constants_kept_.end(),
                      [&](const Tensor& t) { return t.storage().get() == &storage; });
}

void Recorder::add_constant(const Tensor& derived) { constants_kept_.push_back(derived); }

bool Recorder::is_constant(const Tensor& tensor) const {
  if (is_temporary(*tensor.storage())) return false;
  return std::none_of(arguments_.begin(), arguments_.end(),
                      [&](const Tensor& t) { return t.storage() == tensor.storage(); });
}

int Recorder::segment_of(const Tensor& tensor) {
  const auto [it, is_new] = segment_index_.emplace(tensor.storage().get(), static_cast<int>(program_.segments.size()));
  if (is_new) {
    const bool temporary = is_temporary(*tensor.storage());
    if (temporary && tensor.storage()->from_host()) abandon("a host array that is not an argument is used");
    program_.segments.push_back(
        {temporary ? Segment::Kind::kTemporary : Segment::Kind::kExternal, 0, tensor.storage(), 0});
  }
  return it->second;
}

void Recorder::note(const char* op, KernelRef kernel, const void* args, Work work,
                    std::initializer_list<Operand> operands) {
  if (!reason_.empty() || work.items <= 0) return;
  const auto* bytes = static_cast<const std::byte*>(args);
  Step step{op, kernel, {bytes, bytes + kernel.args_size}, work, {}, label_};
  for (const Operand& operand : operands) {
    if (!operand.tensor->defined()) continue;
    const Tensor& t = *operand.tensor;
    if (program_.steps.empty()) program_.device = t.device();
    if (t.device() != program_.device) abandon("it computes on two devices");
    const int segment = segment_of(t);
    const Use use{operand.field, operand.access, segment, t.offset() - program_.segments[segment].origin,
                  static_cast<int64_t>(t.nbytes())};
    step.uses.push_back(use);
    // Each replay bumps the arguments that it is given itself.
    const bool is_argument = program_.segments[segment].kind == Segment::Kind::kArgument;
    if (!is_argument && program_.visible(use) &&
        std::find(written_.begin(), written_.end(), t.version_counter()) == written_.end()) {
      written_.push_back(t.version_counter());
    }
  }
  program_.steps.push_back(std::move(step));
}

uint64_t Recorder::reserve(const Tensor& state, const Tensor& copy, uint64_t count) {
  for (Stream& stream : streams_) {
    if (stream.state.same_as(state)) return std::exchange(stream.total, stream.total + count);
  }
  streams_.push_back({state, copy, count});
  return 0;
}

void Recorder::advance_streams() {
  for (const Stream& stream : streams_) stream_base(stream.state) += stream.total;
}

void Recorder::note_grad_state(const Tensor& param, bool is_read) {
  for (const GradState& g : grads_) {
    if (g.param.same_as(param)) return;
  }
  grads_.push_back({param, param.grad_slot().held, is_read, 0});
}

// A temporary that someone outside still holds would not be renewed by a replay.
bool Recorder::escapes(const std::vector<Tensor>& outputs) const {
  for (const Segment& segment : program_.segments) {
    if (segment.kind != Segment::Kind::kTemporary) continue;
    const bool is_output =
        std::any_of(outputs.begin(), outputs.end(), [&](const Tensor& t) { return t.storage() == segment.storage; });
    if (!is_output && segment.storage.use_count() > 1) return true;
  }
  return false;
}

// What a program may not contain although each of its steps could be noted.
void Recorder::check_program() {
  struct Bytes {
    const std::byte* begin;
    const std::byte* end;
    int segment;
    bool is_written;
  };
  std::vector<Bytes> seen;  // outside the arena
  std::vector<bool> is_written(program_.segments.size(), false);
  for (const Step& step : program_.steps) {
    for (const Use& use : step.uses) {
      const Segment& segment = program_.segments[use.segment];
      if (segment.kind == Segment::Kind::kTemporary) {
        // Perhaps another thread's tensor, or one filled by other means than kernels.
        if (!is_written[use.segment] && use.access == Access::kRead) abandon("a tensor of unknown origin is read");
        is_written[use.segment] = is_written[use.segment] || use.writes();
      } else {
        const std::byte* begin = segment.storage->data() + segment.origin + use.offset;
        seen.push_back({begin, begin + use.nbytes, use.segment, use.writes()});
      }
    }
  }
  // Ordering and fusion look at segments: what is written must be reachable through one of them only.
  for (const Bytes& a : seen) {
    if (!a.is_written) continue;
    for (const Bytes& b : seen) {
      if (a.segment != b.segment && a.begin < b.end && b.begin < a.end)
        abandon("an argument shares memory with a tensor that is written");
    }
  }
}

std::shared_ptr<Plan> Recorder::finish(const std::vector<Tensor>& outputs) {
  stop();
  advance_streams();
  if (reason_.empty() && escapes(outputs)) abandon("a tensor computed inside is kept outside");
  if (reason_.empty()) check_program();
  if (!reason_.empty()) return nullptr;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto it = segment_index_.find(outputs[i].storage().get());
    // An output of zero elements has no step; give it a segment of its own.
    const int id = it == segment_index_.end() ? static_cast<int>(program_.segments.size()) : it->second;
    if (it == segment_index_.end()) program_.segments.push_back({});
    program_.segments[id] = {Segment::Kind::kOutput, static_cast<int>(i), outputs[i].storage(), 0};
  }
  if (!order_for_atomicity(program_)) {
    abandon("a check on data depends on a value written in place before it");
    return nullptr;
  }
  fuse(program_);
  for (GradState& g : grads_) g.final = g.param.grad_slot().held;
  return std::make_shared<Plan>(*this, outputs);
}

bool recording_reserve(const Tensor& state, const Tensor& copy, uint64_t count, uint64_t* offset) {
  if (Transaction* transaction = Transaction::current()) transaction->before_write(state);
  Recorder* recorder = Recorder::current();
  if (recorder) *offset = recorder->reserve(state, copy, count);
  return recorder != nullptr;
}

int64_t read_held_grad(const Tensor& param) {
  if (Recorder* recorder = Recorder::current()) recorder->note_grad_state(param, true);
  return param.grad_slot().held;
}

void set_held_grad(const Tensor& param, int64_t held) {
  if (Recorder* recorder = Recorder::current()) recorder->note_grad_state(param, false);
  if (Transaction* transaction = Transaction::current()) transaction->before_grad_change(param);
  param.grad_slot().held = held;
}

}  // namespace quernel
