// How many threads this process may use. A container with a quota of 2 CPUs on a host of 64 shows 64 in every other
// way of asking; running 64 threads there means being throttled for most of each period.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/error.h"
#include "runtime/thread_pool.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace quernel {
namespace {

constexpr int kNoLimit = std::numeric_limits<int>::max();

std::vector<std::string> words(const std::string& line, char separator = ' ') {
  std::vector<std::string> parts;
  std::istringstream stream(line);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool lists(const std::string& comma_separated, std::string_view wanted) {
  const std::vector<std::string> parts = words(comma_separated, ',');
  return std::find(parts.begin(), parts.end(), wanted) != parts.end();
}

// Whole CPUs that a quota needs; a missing or unlimited one is none.
int cpus(double quota, double period) {
  if (!(quota > 0) || !(period > 0)) return kNoLimit;
  return static_cast<int>(std::clamp(std::ceil(quota / period), 1.0, static_cast<double>(kNoLimit)));
}

int quota_v2(const std::string& folder) {
  std::ifstream file(folder + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return kNoLimit;
  return cpus(std::strtod(quota.c_str(), nullptr), period);
}

int quota_v1(const std::string& folder) {
  double quota = 0, period = 0;
  if (!(std::ifstream(folder + "/cpu.cfs_quota_us") >> quota)) return kNoLimit;
  if (!(std::ifstream(folder + "/cpu.cfs_period_us") >> period)) return kNoLimit;
  return cpus(quota, period);  // -1: unlimited
}

// A quota on any group above ours binds too.
int smallest_quota(const std::string& mount, std::string path, int (*quota)(const std::string&)) {
  int least = quota(mount);
  while (path.size() > 1) {
    least = std::min(least, quota(mount + path));
    path.resize(path.find_last_of('/'));
  }
  return least;
}

// Where the mount shows our group: `path` below the part of the hierarchy that is mounted (`root`), or the mount
// itself if a container shows only that.
std::string below(const std::string& path, const std::string& root) {
  if (root == "/") return path;
  if (path.compare(0, root.size(), root) == 0) return path.substr(root.size());
  return "";
}

int affinity() {
#if defined(__linux__)
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 4) {
    cpu_set_t* set = CPU_ALLOC(capacity);
    const size_t bytes = CPU_ALLOC_SIZE(capacity);
    const int count = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

// QUERNEL_NUM_THREADS, or no limit.
int requested() {
  const char* text = std::getenv("QUERNEL_NUM_THREADS");
  if (text == nullptr || *text == '\0') return kNoLimit;
  int count = 0;
  const char* end = text + std::string_view(text).size();
  const auto [stop, error] = std::from_chars(text, end, count);
  check<ArgumentError>(error == std::errc() && stop == end && count >= 1, "threads",
                       "QUERNEL_NUM_THREADS expects an integer of at least 1, got \"", text, '"');
  return count;
}

}  // namespace

int cgroup_cpu_limit(const std::string& root) {
  std::string v1_path, v2_path;
  std::ifstream groups(root + "/proc/self/cgroup");  // "4:cpu,cpuacct:/path", v2: "0::/path"
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) v2_path = path;
    if (lists(controllers, "cpu")) v1_path = path;
  }
  int least = kNoLimit;
  std::ifstream mounts(root + "/proc/self/mountinfo");  // id parent dev root mount options … - type source options
  for (std::string line; std::getline(mounts, line);) {
    const std::vector<std::string> fields = words(line);
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    const std::string &type = dash[1], &options = dash[3], mount = root + fields[4];
    if (type == "cgroup2" && !v2_path.empty())
      least = std::min(least, smallest_quota(mount, below(v2_path, fields[3]), quota_v2));
    if (type == "cgroup" && lists(options, "cpu") && !v1_path.empty())
      least = std::min(least, smallest_quota(mount, below(v1_path, fields[3]), quota_v1));
  }
  return least == kNoLimit ? 0 : least;
}

int default_thread_count(const char** reason) {
  struct Limit {
    int count;
    const char* name;
  };
  const int quota = cgroup_cpu_limit("");
  const Limit limits[] = {
      {affinity(), "CPUs of this process"},
      {quota > 0 ? quota : kNoLimit, "cgroup CPU quota"},
      {requested(), "QUERNEL_NUM_THREADS"},
  };
  const Limit least = *std::min_element(std::begin(limits), std::end(limits),
                                        [](const Limit& a, const Limit& b) { return a.count < b.count; });
  if (reason != nullptr) *reason = least.name;
  return least.count;
}

}  // namespace quernel
