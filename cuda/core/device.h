// What the driver needs of the device, real (device.cu) or emulated (device_emulated.cpp). Functions return null, or a
// message that says what failed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace quernel::cuda {

struct PixelGrid;
struct TensorMap;

extern const bool kEmulated;

// Whether a variable of the environment is set, and not to 0.
inline bool is_switched_on(const char* variable) {
  const char* text = std::getenv(variable);
  return text && *text && std::strcmp(text, "0") != 0;
}

bool device_keeps_blocks();  // whether the driver is to keep freed blocks for others; else each goes back at once

const char* device_open();
const char* device_describe(char* text, size_t size);
int device_capability();       // 80 for sm_80
int device_multiprocessors();  // blocks that run at the same time, at least
bool device_has_warpgroups();  // and code for them: core/tma.h, core/wgmma.h
// Describes a matrix of 32-bit words for copies of tiles; its address and row_bytes are multiples of 16. False: it
// cannot, as the next launch error says.
bool device_encode(TensorMap* map, const void* data, int64_t words, int64_t rows, int64_t row_bytes, int tile_rows);
// The same of images, for copies of so many pixels; axes are within what copies know.
bool device_encode_pixels(TensorMap* map, const void* data, const PixelGrid& grid, int tile_pixels);
const char* device_allocate(void** data, size_t nbytes);
void device_release(void* data, size_t nbytes);
void device_trim();  // gives the system what the device itself keeps of released memory
const char* device_upload(void* device, const void* host, size_t nbytes);
const char* device_download(void* host, const void* device, size_t nbytes);
const char* device_copy(void* to, const void* from, size_t nbytes);
const char* device_synchronize();
void* device_stream();
const char* device_wait(void* stream, void* other);  // work on `stream` from now on for that on `other` until now
// Launches in between are kept, not run (runtime/cuda_library.h).
const char* device_begin_capture();
const char* device_end_capture(void** graph);
const char* device_launch_graph(void* graph);
void device_release_graph(void* graph);
const char* device_launch_error();

}  // namespace quernel::cuda
