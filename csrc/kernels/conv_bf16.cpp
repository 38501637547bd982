// Convolutions in bfloat16: products with matrices of patches that exist a few rows at a time (conv_patch.h), so that
// one dot object serves them and gemm_bf16. Forward and towards the images the sums are those of a product with the
// whole matrix, bit for bit; the gradient of the weights adds up blocks of pixels.
//
// Forward, and each phase of an adjoint: an item gathers the patches of its strips once for all columns, K copied
// elements per row against K · O / 16 tile cycles for 32 of them. Several strips share the passage of the weights,
// which for many channels come from L2 or beyond. Patches that are whole pixels are read where they lie.
//
// Gradient of the weights: a sum over pixels. An item owns a few panels of 64 columns of dW, gathers them for a block
// of pixels, interleaved in pairs as B wants them, and multiplies them by the gradients, rows of pixels. dW is added to
// once per block: one of kBf16GradPixels is long beside that, and its patches stay in L2.
#include "kernels/args/bf16.h"
#include "kernels/conv_patch.h"
#include "kernels/scratch.h"
#include "kernels/simd/bf16.h"
#include "kernels/strip_bf16.h"

namespace quernel::QUERNEL_ISA {
namespace {

int64_t depth_of(const ConvShape& s) { return s.kh * s.kw * s.c; }
int64_t pixels_of(const ConvShape& s) { return s.n * s.oh * s.ow; }
int64_t padded(int64_t k) { return ceil_div(k, kBf16Block) * kBf16Block; }

// ---- forward ----------------------------------------------------------------------------------------------------

// Elements from one row of patches to the next: an odd number of cache lines, so that rows spread over the L1's sets.
int64_t pitch_of(const ConvShape& s) { return padded(depth_of(s) + Patches::kOverrun) | kBf16Block; }

// Whether the matrix of patches is x itself.
bool is_matrix(const ConvShape& s) {
  return s.kh == 1 && s.kw == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0 && s.oh == s.h &&
         s.ow == s.w && s.c == padded(s.c);
}

struct ConvScratch {
  float** places = nullptr;  // of the item's result pixels
  uint16_t* patches = nullptr;
  int64_t used = 0;

  ConvScratch(const Bf16ConvArgs& args, void* at) {
    Carver carver(at);
    carver.take(places, args.strips * kBf16Strip);
    if (!is_matrix(args.s)) carver.take(patches, args.strips * kBf16Strip * pitch_of(args.s));
    used = carver.used();
  }
};

void find_places(const Bf16ConvArgs& args, int64_t pixel, int64_t count, float** places) {
  const ConvShape& s = args.s;
  int64_t j = pixel % s.ow, i = pixel / s.ow % s.oh, n = pixel / s.ow / s.oh;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t row = n * args.y_h + args.first_h + i * args.step_h;
    places[p] = static_cast<float*>(args.y) + (row * args.y_w + args.first_w + j * args.step_w) * s.o;
    if (++j < s.ow) continue;
    j = 0;
    if (++i == s.oh) i = 0, ++n;
  }
}

// The item's rows: patches, or the pixels themselves.
struct Rows {
  const uint16_t* first;
  int64_t pitch;
};

Rows load_rows(const Bf16ConvArgs& args, int64_t pixel, int64_t count, const ConvScratch& scratch) {
  const ConvShape& s = args.s;
  const int64_t depth = depth_of(s), pitch = pitch_of(s);
  const uint16_t* x = static_cast<const uint16_t*>(args.x);
  if (is_matrix(s)) return {x + pixel * depth, depth};
  Patches(s, x).copy(pixel, count, 0, depth, scratch.patches, pitch);
  for (int64_t p = 0; p < count; ++p)
    __builtin_memset(scratch.patches + p * pitch + depth, 0, static_cast<size_t>(padded(depth) - depth) * 2);
  return {scratch.patches, pitch};
}

// ---- gradient of the weights --------------------------------------------------------------------------------------

constexpr int64_t kGradPitch = kBf16Columns + Patches::kOverrun;

// Columns [first, last), at most a panel, of the patches of `count` pixels as B: groups of 16, each [k / 2][16][2].
void pack_patches(const Patches& patches, int64_t pixel, int64_t count, int64_t first, int64_t last, uint16_t* b) {
  alignas(64) uint16_t rows[kBf16Block * kGradPitch] = {};
  const int64_t k = padded(count);
  for (int64_t at = 0; at < k; at += kBf16Block) {
    const int64_t here = least(count - at, kBf16Block);
    patches.copy(pixel + at, here, first, last, rows, kGradPitch);
    for (int64_t i = here; i < kBf16Block; ++i) __builtin_memset(rows + i * kGradPitch, 0, kGradPitch * 2);
    for (int64_t column = 0; column < last - first; column += kBf16Group) {
      uint16_t* to = b + column * k + at * kBf16Group;
      for (int64_t i = 0; i < kBf16Block; i += 2, to += 2 * kBf16Group)
        interleave(rows + i * kGradPitch + column, rows + (i + 1) * kGradPitch + column, to, kBf16Group);
    }
  }
}

void put_sums(const float* acc, int rows, int64_t cols, bool accumulate, float* dw, int64_t pitch) {
  for (int r = 0; r < rows; ++r, acc += kBf16Columns, dw += pitch)
    for (int64_t j = 0; j < cols; ++j) dw[j] = accumulate ? dw[j] + acc[j] : acc[j];
}

// What a block of pixels adds to columns [first, last) of dW.
void add_block(const Bf16ConvGradWeightArgs& args, StripDot& dot, int64_t split, int64_t first, int64_t last,
               int64_t block, bool accumulate, uint16_t* b) {
  alignas(64) float acc[kBf16Strip * kBf16Columns];
  const ConvShape& s = args.s;
  const int64_t depth = depth_of(s), pixels = pixels_of(s), lda = padded(pixels), pixel = block * kBf16GradPixels;
  const int64_t count = least(kBf16GradPixels, pixels - pixel), k = padded(count);
  const Patches patches(s, static_cast<const uint16_t*>(args.x));
  for (int64_t q = first; q < last; q += kBf16Columns)
    pack_patches(patches, pixel, count, q, least(q + kBf16Columns, last), b + (q - first) * k);
  const uint16_t* g = static_cast<const uint16_t*>(args.g) + pixel;
  float* dw = static_cast<float*>(args.dw) + split * s.o * depth;
  for (int64_t o = 0; o < s.o; o += kBf16Strip) {
    const int rows = static_cast<int>(least(s.o - o, kBf16Strip));
    for (int64_t q = first; q < last; q += kBf16Columns) {
      const int64_t cols = least(kBf16Columns, last - q);
      dot(g + o * lda, lda, rows, b + (q - first) * k, k, static_cast<int>(ceil_div(cols, kBf16Group)), acc);
      put_sums(acc, rows, cols, accumulate, dw + o * depth + q, depth);
    }
  }
}

}  // namespace

int64_t conv2d_bf16_scratch(const Bf16ConvArgs& args) { return ConvScratch(args, nullptr).used; }

Status conv2d_bf16(const Bf16ConvArgs& args, Range range, const Ctx& ctx) {
  alignas(64) float acc[kBf16Strip * kBf16Columns];
  const ConvShape& s = args.s;
  const int64_t pixels = pixels_of(s), k = padded(depth_of(s)), block = args.strips * kBf16Strip;
  const ConvScratch scratch(args, ctx.scratch);
  StripDot dot(ctx);
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t pixel = item * block, count = least(block, pixels - pixel);
    const Rows a = load_rows(args, pixel, count, scratch);
    find_places(args, pixel, count, scratch.places);
    for (int64_t column = 0; column < s.o; column += kBf16Columns) {
      const int cols = static_cast<int>(least(s.o - column, kBf16Columns));
      const uint16_t* b = static_cast<const uint16_t*>(args.w) + column * k;
      for (int64_t p = 0; p < count; p += kBf16Strip) {
        const int rows = static_cast<int>(least(count - p, kBf16Strip));
        dot(a.first + p * a.pitch, a.pitch, rows, b, k, static_cast<int>(ceil_div(cols, kBf16Group)), acc);
        float* c[kBf16Strip];
        for (int r = 0; r < rows; ++r) c[r] = scratch.places[p + r] + column;
        finish_strip(args, static_cast<float*>(args.y), c, rows, cols, column, acc);
      }
    }
  }
  return {};
}

int64_t conv2d_grad_weight_bf16_scratch(const Bf16ConvGradWeightArgs& args) {
  return kBf16GradPixels * args.panels * kBf16Columns * static_cast<int64_t>(sizeof(uint16_t));
}

Status conv2d_grad_weight_bf16(const Bf16ConvGradWeightArgs& args, Range range, const Ctx& ctx) {
  const int64_t width = args.panels * kBf16Columns, parts = ceil_div(depth_of(args.s), width);
  const int64_t blocks = most(1, ceil_div(pixels_of(args.s), kBf16GradPixels));
  StripDot dot(ctx);
  for (int64_t item = range.begin; item < range.end; ++item) {
    const int64_t first = item % parts * width, split = item / parts;
    const int64_t begin = blocks * split / args.splits, end = blocks * (split + 1) / args.splits;
    for (int64_t block = begin; block < end; ++block)
      add_block(args, dot, split, first, least(first + width, depth_of(args.s)), block, block > begin,
                static_cast<uint16_t*>(ctx.scratch));
  }
  return {};
}

}  // namespace quernel::QUERNEL_ISA
