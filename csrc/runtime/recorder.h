// Records the kernels that run on this thread, as a Program. Ops run in ordinary memory meanwhile; what they launch is
// noted down with its operands. Storages made while recording are temporaries, older ones are arguments or external.
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/derived.h"
#include "runtime/program.h"

namespace quernel {

class Plan;

class Recorder {
 public:
  // `arguments` become the replay's arguments. With `constants`, everything external counts as constant: what ops
  // derive from it (packed weights) is computed once and kept there.
  explicit Recorder(std::vector<Tensor> arguments, std::shared_ptr<DerivedCache> constants = nullptr);
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  static Recorder* current();  // of this thread; null while paused

  // Suspends recording on this thread, for work that belongs to no replay.
  class Pause {
   public:
    Pause();
    ~Pause();

   private:
    Recorder* suspended_;
  };

  void note(const char* op, KernelRef kernel, const void* args, Work work, std::initializer_list<Operand> operands);
  void set_label(const std::string& label);  // of the steps to come: the layer they belong to
  void abandon(std::string reason);          // the first reason counts; ops go on eagerly

  // The op's offset in the stream of `state` relative to its base at the start of the call.
  uint64_t reserve(const Tensor& state, const Tensor& copy, uint64_t count);
  void note_grad_state(const Tensor& param, bool is_read);  // before `held` is read or changed
  void add_constant(const Tensor& derived);
  bool is_constant(const Tensor& tensor) const;  // not computed by this recording, nor an argument
  DerivedCache* constants() const { return constants_.get(); }

  // Ends the recording. `outputs` are tensors made while recording and handed to nobody else. Null if it was
  // abandoned; reason() then says why. Advances the random streams in either case.
  std::shared_ptr<Plan> finish(const std::vector<Tensor>& outputs);
  void stop();  // ends without a plan (an exception passed through)
  const std::string& reason() const { return reason_; }

 private:
  friend class Plan;
  struct GradState {
    Tensor param;
    int64_t initial;
    bool guarded;  // read before it was set: a replay needs the same value
    int64_t final;
  };
  struct Stream {
    Tensor state;
    Tensor copy;  // on CUDA, undefined elsewhere
    uint64_t total;
  };

  int segment_of(const Tensor& tensor);
  bool is_temporary(const Storage& storage) const;
  bool escapes(const std::vector<Tensor>& outputs) const;
  void check_program();
  void advance_streams();

  uint64_t first_storage_;
  std::vector<Tensor> arguments_;
  std::shared_ptr<DerivedCache> constants_;
  std::vector<Tensor> constants_kept_;  // made while recording, yet not temporary
  Program program_;
  std::unordered_map<const Storage*, int> segment_index_;
  std::vector<Tensor::VersionCounter> written_;  // of visible writes
  std::vector<GradState> grads_;
  std::vector<Stream> streams_;
  std::string reason_;
  const char* label_ = "";
};

// If this thread records, gives the op's offset and returns true (see Generator::reserve). Keeps an open transaction
// informed in either case.
bool recording_reserve(const Tensor& state, const Tensor& copy, uint64_t count, uint64_t* offset);

// Reading and changing what gradient a leaf has (Tensor::GradSlot::held), known to recordings and transactions.
int64_t read_held_grad(const Tensor& param);
void set_held_grad(const Tensor& param, int64_t held);

}  // namespace quernel
