#include "runtime/profile.h"

#include <mutex>
#include <unordered_set>

#include "core/error.h"

namespace quernel {
namespace {

thread_local Profile* active_profile = nullptr;

}  // namespace

Profile::Profile() {
  check<StateError>(!active_profile, "profile", "this thread is being profiled already");
  active_profile = this;
}

Profile::~Profile() { stop(); }

void Profile::stop() {
  if (active_profile == this) active_profile = nullptr;
}

Profile* Profile::current() { return active_profile; }

const char* interned(const std::string& text) {
  static std::mutex mutex;
  static auto* texts = new std::unordered_set<std::string>;  // never freed: a thread may outlive static objects
  std::lock_guard lock(mutex);
  return texts->insert(text).first->c_str();
}

}  // namespace quernel
