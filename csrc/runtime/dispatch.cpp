#include "runtime/dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "runtime/cpu_features.h"
#include "runtime/cuda.h"

namespace quernel {
namespace {

// Lowest first. The CPU's best level is the last supported one.
constexpr const Level* kLevels[] = {
    &scalar::level,
#if defined(__x86_64__)
    &avx2::level,   &amx_emulated::level, &avx512::level, &vnni::level, &bf16::level, &amx::level,
#endif
};

// Entries of all argument types look alike, so a table is an array of these.
using Entry = Kernel<void>;
constexpr size_t kEntries = sizeof(KernelTable) / sizeof(Entry);
static_assert(sizeof(KernelTable) == kEntries * sizeof(Entry));

void overlay(KernelTable& table, const KernelTable& upper) {
  for (size_t i = 0; i < kEntries; ++i) {
    Entry entry;
    std::memcpy(&entry, reinterpret_cast<const std::byte*>(&upper) + i * sizeof(Entry), sizeof(Entry));
    if (entry.run) std::memcpy(reinterpret_cast<std::byte*>(&table) + i * sizeof(Entry), &entry, sizeof(Entry));
  }
}

bool supported(const Level& level) { return (level.features & ~cpu_features()) == 0; }

struct Choice {
  const Level* level;
  KernelTable table;  // the level's own entries over those of all lower levels
};

Choice resolve(const Level& chosen) {
  Choice choice{&chosen, {}};
  for (const Level* level : kLevels) {
    if (level == &chosen || !level->emulated) overlay(choice.table, level->table);
    if (level == &chosen) break;
  }
  return choice;
}

const Level& level_by_name(std::string_view name) {
  std::string known;
  for (const Level* level : kLevels) {
    known += (known.empty() ? "" : ", ") + std::string(level->name);
    if (level->name != name) continue;
    check<ArgumentError>(supported(*level), "isa", "level '", name, "' needs CPU features that this machine lacks: ",
                         feature_names(level->features & ~cpu_features()),
                         "; supported_isas() lists the levels it has");
    return *level;
  }
  fail<ArgumentError>("isa", "unknown level '", name, "'; compiled levels: ", known);
}

const Level& initial_level() {
  if (const char* name = std::getenv("QUERNEL_ISA"); name && *name) return level_by_name(name);
  const Level* best = kLevels[0];
  for (const Level* level : kLevels) {
    if (supported(*level) && !level->emulated) best = level;
  }
  return *best;
}

// Choices are kept for ever: a kernel running on another thread may still read the previous one.
std::atomic<const Choice*> active{nullptr};
std::atomic<uint64_t> epoch{0};
std::atomic<uint64_t> level_changes{0};

const Choice& choice() {
  const Choice* current = active.load(std::memory_order_acquire);
  if (!current) [[unlikely]] {
    const auto* made = new Choice(resolve(initial_level()));
    if (active.compare_exchange_strong(current, made, std::memory_order_acq_rel)) return *made;
    delete made;
  }
  return *current;
}

}  // namespace

const KernelTable& active_table() { return choice().table; }

const KernelTable& table_of(Device device) { return device == Device::kCpu ? active_table() : *cuda_library()->table; }

const char* active_isa() { return choice().level->name; }

bool dots_bytes() {
  const Level& level = *choice().level;
  return level.emulated || (level.features & kCpuAvx512vnni) != 0;
}

bool dots_tiles() {
  const Level& level = *choice().level;
  return level.emulated || (level.features & kCpuAmxInt8) != 0;
}

bool dots_pairs() {
  const Level& level = *choice().level;
  return level.emulated || (level.features & kCpuAvx512bf16) != 0;
}

bool is_wide() { return (choice().level->features & kCpuAvx512f) != 0; }

void set_isa(const char* name) {
  const Level& level = level_by_name(name);
  if (&level == choice().level) return;
  active.store(new Choice(resolve(level)), std::memory_order_release);
  bump_isa_epoch();
}

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Level* level : kLevels) names.emplace_back(level->name);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Level* level : kLevels) {
    if (supported(*level) && !level->emulated) names.emplace_back(level->name);
  }
  return names;
}

std::pair<std::string, std::string> kernel_name(const char* signature) {
  // "… [with Args = …; Status (* F)(…) = quernel::avx512::gemm_f32]" names level and kernel.
  std::string_view text(signature);
  text.remove_suffix(1);
  const size_t name = text.rfind("::");
  const size_t level = text.rfind("::", name - 1);
  return {std::string(text.substr(name + 2)), std::string(text.substr(level + 2, name - level - 2))};
}

std::vector<std::pair<std::string, std::string>> kernel_coverage() {
  std::vector<std::pair<std::string, std::string>> rows;
  const KernelTable& table = active_table();
  for (size_t i = 0; i < kEntries; ++i) {
    Entry entry;
    std::memcpy(&entry, reinterpret_cast<const std::byte*>(&table) + i * sizeof(Entry), sizeof(Entry));
    if (!entry.run) continue;
    rows.push_back(kernel_name(entry.signature));
  }
  return rows;
}

std::vector<std::pair<std::string, bool>> cuda_kernels() {
  std::vector<std::pair<std::string, bool>> rows;
  const auto entry_of = [](const KernelTable& table, size_t i) {
    Entry entry;
    std::memcpy(&entry, reinterpret_cast<const std::byte*>(&table) + i * sizeof(Entry), sizeof(Entry));
    return entry;
  };
  for (size_t i = 0; i < kEntries; ++i) {
    const Entry cpu = entry_of(active_table(), i);
    if (cpu.run)
      rows.emplace_back(kernel_name(cpu.signature).first, entry_of(table_of(Device::kCuda), i).run != nullptr);
  }
  return rows;
}

uint64_t isa_epoch() { return level_changes.load(std::memory_order_acquire); }

void bump_isa_epoch() {
  level_changes.fetch_add(1, std::memory_order_acq_rel);
  bump_config_epoch();
}

uint64_t config_epoch() { return epoch.load(std::memory_order_acquire); }

void bump_config_epoch() { epoch.fetch_add(1, std::memory_order_acq_rel); }

}  // namespace quernel
