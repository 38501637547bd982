#include "runtime/derived.h"

#include "runtime/recorder.h"

namespace quernel {

Tensor DerivedCache::get(const Tensor& source, const std::string& kind, const std::function<Tensor()>& make) {
  std::lock_guard lock(mutex_);
  Entry& entry = entries_[{source.identity(), source.version(), kind}];
  if (!entry.derived.defined()) entry = {source, make()};
  return entry.derived;
}

int64_t DerivedCache::nbytes() const {
  std::lock_guard lock(mutex_);
  int64_t total = 0;
  for (const auto& [key, entry] : entries_) total += static_cast<int64_t>(entry.derived.nbytes());
  return total;
}

Tensor derived(const Tensor& source, const char* kind, const std::function<Tensor()>& make) {
  Recorder* recorder = Recorder::current();
  if (!recorder || !recorder->constants() || !recorder->is_constant(source)) return make();
  Tensor result;
  {
    Recorder::Pause pause;
    result = recorder->constants()->get(source, kind, make);
  }
  recorder->add_constant(result);
  return result;
}

}  // namespace quernel
