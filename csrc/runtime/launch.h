// The one way in which ops run kernels. launch() fills the argument struct's pointers from tensors, notes the call
// down if this thread is recording a plan, splits the work items over the pool and turns a kernel's refusal into an
// exception.
//
//   GemmArgs args;
//   args.m = …;
//   launch("matmul", &KernelTable::gemm_f32, args, {items, ns_per_item},
//          {read(&GemmArgs::a, x), read(&GemmArgs::b, w), write(&GemmArgs::c, y)});
#pragma once
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "core/tensor.h"
#include "kernels/table.h"
#include "runtime/dispatch.h"

namespace quernel {

inline constexpr size_t kMaxArgsSize = 1024;

enum class Access : uint8_t { kRead, kWrite, kUpdate };

struct Operand {
  const Tensor* tensor;  // undefined: the field stays null
  uint32_t field;        // byte offset of the pointer in the argument struct
  Access access;
};

// Bytes from the start of Args to a member.
template <class Args, class Field>
uint32_t field_offset(Field Args::* field) {
  alignas(Args) static const Args probe{};
  return static_cast<uint32_t>(reinterpret_cast<const char*>(&(probe.*field)) - reinterpret_cast<const char*>(&probe));
}

template <class Args>
Operand read(const void* Args::* field, const Tensor& t) {
  return {&t, field_offset<Args>(field), Access::kRead};
}
template <class Args>
Operand write(void* Args::* field, const Tensor& t) {  // overwrites all of t, reads none of it
  return {&t, field_offset<Args>(field), Access::kWrite};
}
template <class Args>
Operand update(void* Args::* field, const Tensor& t) {  // in place, or part of t
  return {&t, field_offset<Args>(field), Access::kUpdate};
}

// How a call may be split. Choose `ns_per_item` so that items x ns_per_item estimates the single-threaded time at
// AVX-512 speed: it decides whether threads pay (above ~10 us) and how many items make a chunk. Arithmetic and memory
// traffic are for profiles only; launch() fills in the latter.
struct Work {
  int64_t items = 1;
  double ns_per_item = 0;
  double flops = 0;   // a multiply-add is two; 0 where memory sets the pace
  int64_t bytes = 0;  // of all operands
};

struct KernelRef {
  uint32_t entry;  // byte offset in KernelTable
  uint32_t args_size;
};

template <class Args>
KernelRef kernel_ref(Kernel<Args> KernelTable::* entry) {
  return {field_offset<KernelTable>(entry), sizeof(Args)};
}

// A kernel of a device's table.
struct ResolvedKernel {
  Device device = Device::kCpu;
  KernelFn run = nullptr;
  int64_t (*scratch)(const void* args) = nullptr;
  const char* signature = nullptr;
};
ResolvedKernel resolve(const char* op, KernelRef kernel, Device device);  // throws DeviceError: CUDA has none

// Whether a device has this kernel: ops with several ways choose by that.
template <class Args>
bool has_kernel(Kernel<Args> KernelTable::* entry, Device device) {
  return (table_of(device).*entry).run != nullptr;
}

// Runs a kernel whose pointers are filled in. Throws what its status means (`op` names the message), or Interrupted.
void execute(const char* op, const ResolvedKernel& kernel, const void* args, Work work, bool interruptible = true);

void launch(const char* op, KernelRef kernel, void* args, Work work, std::initializer_list<Operand> operands);

template <class Args>
void launch(const char* op, Kernel<Args> KernelTable::* entry, Args args, Work work,
            std::initializer_list<Operand> operands) {
  static_assert(std::is_trivially_copyable_v<Args> && sizeof(Args) <= kMaxArgsSize);
  launch(op, kernel_ref(entry), &args, work, operands);
}

}  // namespace quernel
