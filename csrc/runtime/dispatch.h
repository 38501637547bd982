// Chooses the kernel table: the best compiled level that the CPU supports, or a lower one on request
// (QUERNEL_ISA=avx2, qn.runtime.isa("avx2")). Null entries are filled from lower levels once, here.
#pragma once
#include <string>
#include <vector>

#include "core/device.h"
#include "kernels/table.h"

namespace quernel {

const KernelTable& active_table();           // of the CPU
const KernelTable& table_of(Device device);  // of CUDA: its library must be loaded
const char* active_isa();
bool dots_bytes();  // whether the active level multiplies bytes without widening them: VNNI, and AMX, emulated or not
bool dots_tiles();  // whether it multiplies bytes by tiles: AMX, emulated or not
bool dots_pairs();  // whether it multiplies bfloat16 without widening them: AVX512_BF16, and AMX, emulated or not
bool is_wide();     // whether it has registers of 512 bits, 32 of them
void set_isa(const char* name);  // throws ArgumentError: unknown level, or absent from this CPU

std::vector<std::string> compiled_isas();   // lowest first
std::vector<std::string> supported_isas();  // those this CPU can run, without emulated ones

// The kernel's name and the level it was compiled for, from its entry's signature.
std::pair<std::string, std::string> kernel_name(const char* signature);

// "gemm_f32" -> "avx512": the level whose code serves each kernel now.
std::vector<std::pair<std::string, std::string>> kernel_coverage();

// "gemm_f32" -> whether CUDA has that kernel; its library must be loaded.
std::vector<std::pair<std::string, bool>> cuda_kernels();

// Changes with the ISA level: plans hold kernels of the level they were recorded at.
uint64_t isa_epoch();
void bump_isa_epoch();  // kernels will do something else

// Changes with it, and whenever a tensor moves to another storage.
uint64_t config_epoch();
void bump_config_epoch();

}  // namespace quernel
