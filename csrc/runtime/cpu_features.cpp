#include "runtime/cpu_features.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace quernel {
namespace {

struct Name {
  uint32_t bit;
  const char* text;
};
constexpr Name kNames[] = {
    {kCpuAvx2, "avx2"},         {kCpuFma, "fma"},           {kCpuF16c, "f16c"},         {kCpuBmi2, "bmi2"},
    {kCpuAvx512f, "avx512f"},   {kCpuAvx512bw, "avx512bw"}, {kCpuAvx512vl, "avx512vl"}, {kCpuAvx512dq, "avx512dq"},
    {kCpuAvx512cd, "avx512cd"}, {kCpuAvx512vnni, "vnni"},   {kCpuAvx512bf16, "bf16"},   {kCpuAmxTile, "amx_tile"},
    {kCpuAmxInt8, "amx_int8"},  {kCpuAmxBf16, "amx_bf16"},
};

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero if the CPU has no such leaf.
Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

bool bit(unsigned value, int n) { return (value >> n & 1) != 0; }

// The register states that the system saves on a context switch (XCR0). Needs OSXSAVE.
uint64_t saved_states() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Linux hands out the 8 KiB of tile state only to processes that ask. Some virtual machines advertise AMX without
// a palette to configure.
bool amx_permitted() {
#if defined(__linux__)
  constexpr long kGetPermission = 0x1022, kRequestPermission = 0x1023, kTileData = 18;
  if (cpuid(0x1d).eax == 0) return false;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return false;
  uint64_t granted = 0;
  if (syscall(SYS_arch_prctl, kGetPermission, &granted) != 0) return false;
  return (granted >> kTileData & 1) != 0;
#else
  return false;
#endif
}

uint32_t detect() {
  constexpr uint64_t kAvxState = 0x6, kAvx512State = 0xe0, kTileState = 0x60000;
  const Registers one = cpuid(1);
  if (!bit(one.ecx, 27) || !bit(one.ecx, 28)) return 0;  // OSXSAVE, AVX
  const uint64_t saved = saved_states();
  if ((saved & kAvxState) != kAvxState) return 0;
  const Registers seven = cpuid(7), seven_one = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
  uint32_t found = 0;
  const auto add = [&found](bool present, uint32_t feature) {
    if (present) found |= feature;
  };
  add(bit(one.ecx, 12), kCpuFma);
  add(bit(one.ecx, 29), kCpuF16c);
  add(bit(seven.ebx, 5), kCpuAvx2);
  add(bit(seven.ebx, 8), kCpuBmi2);
  if ((saved & kAvx512State) != kAvx512State) return found;
  add(bit(seven.ebx, 16), kCpuAvx512f);
  add(bit(seven.ebx, 30), kCpuAvx512bw);
  add(bit(seven.ebx, 31), kCpuAvx512vl);
  add(bit(seven.ebx, 17), kCpuAvx512dq);
  add(bit(seven.ebx, 28), kCpuAvx512cd);
  add(bit(seven.ecx, 11), kCpuAvx512vnni);
  add(bit(seven_one.eax, 5), kCpuAvx512bf16);
  if (!bit(seven.edx, 24) || (saved & kTileState) != kTileState || !amx_permitted()) return found;
  found |= kCpuAmxTile;
  add(bit(seven.edx, 25), kCpuAmxInt8);
  add(bit(seven.edx, 22), kCpuAmxBf16);
  return found;
}

std::string detect_model() {
  char text[49] = {};
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i);
    std::memcpy(text + 16 * i, &r, sizeof r);
  }
  const std::string model(text);
  const size_t first = model.find_first_not_of(' ');
  if (first == std::string::npos) return "unknown";
  return model.substr(first, model.find_last_not_of(' ') - first + 1);
}

#else

uint32_t detect() { return 0; }
std::string detect_model() { return "unknown"; }

#endif

}  // namespace

uint32_t cpu_features() {
  static const uint32_t features = detect();
  return features;
}

std::string cpu_model() { return detect_model(); }

std::string feature_names(uint32_t features) {
  std::string text;
  for (const Name& name : kNames) {
    if ((features & name.bit) == 0) continue;
    if (!text.empty()) text += ' ';
    text += name.text;
  }
  return text;
}

}  // namespace quernel
