#include "runtime/derived.h"

#include <utility>

#include "runtime/recorder.h"

namespace quernel {

Tensor DerivedCache::get(const Tensor& source, const std::string& kind, const std::function<Tensor()>& make) {
  const auto key = std::make_tuple(source.identity(), source.version(), kind);
  {
    std::lock_guard lock(mutex_);
    if (const auto found = entries_.find(key); found != entries_.end()) return found->second.derived;
  }
  // Made without the lock, which must not be held while kernels run (they may wait for the GIL). Two threads may make
  // the same one; the first counts.
  Entry made{source, make()};
  std::lock_guard lock(mutex_);
  return entries_.try_emplace(key, std::move(made)).first->second.derived;
}

int64_t DerivedCache::nbytes() const {
  std::lock_guard lock(mutex_);
  int64_t total = 0;
  for (const auto& [key, entry] : entries_) total += static_cast<int64_t>(entry.derived.nbytes());
  return total;
}

bool keeps_derived(const Tensor& source) {
  const Recorder* recorder = Recorder::current();
  return recorder && recorder->constants() && recorder->is_constant(source);
}

Tensor derived(const Tensor& source, const char* kind, const std::function<Tensor()>& make) {
  if (!keeps_derived(source)) return make();
  Recorder* recorder = Recorder::current();
  Tensor result;
  {
    Recorder::Pause pause;
    result = recorder->constants()->get(source, kind, make);
  }
  recorder->add_constant(result);
  return result;
}

}  // namespace quernel
