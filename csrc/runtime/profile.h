// Times of the kernels that run on this thread, in plans and out of them, while a Profile is open. A closed one costs
// a thread-local look-up per kernel, an open one two readings of the clock.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/launch.h"

namespace quernel {

class Profile {
 public:
  struct Span {
    const char* op;
    const char* label;      // of the layer, "" where unknown
    const char* signature;  // of the kernel, see kernel_name()
    Work work;
    int64_t begin, end;  // nanoseconds of the monotonic clock
  };

  Profile();  // throws StateError inside another one
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  static Profile* current();  // of this thread
  void stop();

  void set_label(const char* label) { label_ = label; }  // of what runs next; must live for ever
  void add(const char* op, const ResolvedKernel& kernel, const Work& work, int64_t begin, int64_t end) {
    spans_.push_back({op, label_, kernel.signature, work, begin, end});
  }
  const std::vector<Span>& spans() const { return spans_; }
  void clear() { spans_.clear(); }

 private:
  const char* label_ = "";
  std::vector<Span> spans_;
};

// A copy of `text` that lives for ever, one for equal texts.
const char* interned(const std::string& text);

}  // namespace quernel
