// Arguments of kernels: one trivially copyable struct per kernel. Pointers are `const void*` (read) or `void*`
// (written); ops/ fills them through runtime/launch.h, a plan patches them at each replay. Sizes and strides count
// elements unless a name says otherwise. This header declares data only: it is included by every ISA's objects.
// Longer than 400 lines: one struct per kernel of the engine, in one place to read and to mirror on a device.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace quernel {

inline constexpr int kArgsRank = 8;  // most dimensions a strided kernel sees

// A slice [begin, end) of a kernel's work items. Every item writes its own outputs, so splitting changes no bits.
struct Range {
  int64_t begin;
  int64_t end;
};

// What a kernel gets beside its arguments: scratch memory of the calling thread (64-byte aligned, contents undefined).
struct Ctx {
  void* scratch;
  int thread;
};

enum class StatusCode : int32_t { kOk = 0, kLabelOutOfRange };

// Kernels that look at data may refuse it; `index` and `value` say where and what.
struct Status {
  StatusCode code = StatusCode::kOk;
  int64_t index = 0;
  int64_t value = 0;
  int64_t limit = 0;  // the value had to be in [0, limit)
};

enum class Activation : int32_t { kNone, kRelu, kTanh, kSigmoid, kGelu, kSilu };

// y = activation(acc + bias + residual), and pre = acc + bias + residual where a backward pass will need it.
struct Epilogue {
  const void* bias = nullptr;      // (N)
  const void* residual = nullptr;  // laid out as the output
  void* pre = nullptr;             // laid out as the output
  Activation activation = Activation::kNone;
};

// ---- matmul -----------------------------------------------------------------------------------------------------

// Panels of packed B: [N/64][K/g][64][g], g = 4 / itemsize (1, 2, 4), the last panel and k-group padded with zeros.
inline constexpr int64_t kPanel = 64;

// C[b][M, N] = epilogue(A[b][M, K] · B[b][K, N]); item = (batch, panel of 64 columns, strip of `strip` rows), strips
// fastest. B is packed (ldb = 64, panel_stride = 64 K) or plain rows (ldb = N, panel_stride = 64). C is contiguous; A
// and B have a stride for each of the `batch_rank` batch dimensions, 0 where they broadcast.
struct GemmArgs : Epilogue {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t a_row = 0, a_col = 1;
  int64_t ldb = 0, panel_stride = 0;
  int64_t strip = 0;
  int32_t batch_rank = 0;
  int64_t batch_dims[kArgsRank] = {}, a_batch[kArgsRank] = {}, b_batch[kArgsRank] = {};
};

// B[K, N] with any strides into panels; item = (batch, tap, panel). With taps, B is a stack of blocks of k rows, each
// with its own place in the source; without, taps = 1 and dst_panel = 64 K.
struct PackArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  int64_t k = 0, n = 0;
  int64_t src_row = 0, src_col = 0;  // strides of k and of n
  int64_t batch = 1, src_batch = 0, dst_batch = 0;
  int64_t taps = 1, src_tap = 0;
  int64_t src_offset = 0;
};

// ---- conv -------------------------------------------------------------------------------------------------------

// Geometry of a 2-D convolution, NHWC; channels are per group.
struct ConvShape {
  int64_t n, h, w, c;  // input; c = channels of all groups
  int64_t oh, ow, o;   // output; o = channels of all groups
  int64_t kh, kw;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t groups;
};

// y = epilogue(conv(x, w)); w packed per group as B[KH·KW·C/g, O/g] in panels. Also its adjoint, dx from g: then x is
// g, y is dx, `s` still the forward shape, and w is packed as B[KH·KW·O/g, C/g] with both kernel axes reversed.
// Depthwise weights (groups = C = O) are packed as B[KH·KW, C]. Items: (group, panel, strip of `strip` pixels); in the
// adjoint for each phase (pixel coordinates modulo the strides).
struct ConvArgs : Epilogue {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  ConvShape s{};
  int64_t strip = 0;
};

// dw[split] (splits, O, KH·KW·C/g): each the sum over one range of the output pixels. Item = (split, group, panel of 64
// columns), depthwise (split, panel of 64 channels).
struct ConvGradWeightArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  void* dw = nullptr;
  ConvShape s{};
  int64_t splits = 1;
};

// sum[i] = parts[0][i] + parts[1][i] + …, in this order; item = block of kElementBlock elements.
struct SumSplitsArgs {
  const void* parts = nullptr;
  void* sum = nullptr;
  int64_t splits = 1, size = 0;
};

// ---- elementwise ------------------------------------------------------------------------------------------------

// clang-format off
enum class UnaryOp : int32_t {
  kCopy, kNeg, kAbs, kSign, kSquare, kSqrt, kReciprocal, kExp, kLog, kTanh, kSigmoid, kRelu, kGelu, kSilu, kLogicalNot
};
enum class BinaryOp : int32_t {
  kAdd, kSub, kMul, kDiv, kPow, kMaximum, kMinimum,
  kEq, kNe, kLt, kLe, kGt, kGe, kLogicalAnd, kLogicalOr,  // bool results
  // Gradients: first operand is what the forward pass saved, second the incoming gradient.
  kReluGrad, kTanhGrad, kSigmoidGrad,  // from the output y
  kGeluGrad, kSiluGrad, kAbsGrad       // from the input x
};
// clang-format on

// Strided operands of up to kArgsRank collapsed dimensions, the output contiguous; item = block of kElementBlock
// output elements. Strides count elements; 0 broadcasts.
inline constexpr int64_t kElementBlock = 4096;
struct StridedShape {
  int32_t rank = 0;
  int64_t size = 0;
  int64_t dims[kArgsRank] = {};
};

struct UnaryArgs {
  const void* x = nullptr;
  void* y = nullptr;
  UnaryOp op{};
  DType dtype{};  // of x; y has it too, or bool for kLogicalNot
  int64_t size = 0;
};

// `scalar` replaces the operand whose pointer is null.
struct BinaryArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  BinaryOp op{};
  DType dtype{};  // of a and b; y has it too, or bool for comparisons
  double scalar = 0;
  StridedShape shape;
  int64_t a_strides[kArgsRank] = {}, b_strides[kArgsRank] = {};
};

struct WhereArgs {
  const void* condition = nullptr;  // bool
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  DType dtype{};
  double a_scalar = 0, b_scalar = 0;  // where a pointer is null
  StridedShape shape;
  int64_t c_strides[kArgsRank] = {}, a_strides[kArgsRank] = {}, b_strides[kArgsRank] = {};
};

// y = min(max(x, lo), hi); NaN stays.
struct ClipArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType dtype{};
  double lo = 0, hi = 0;
  int64_t size = 0;
};

struct CastArgs {
  const void* x = nullptr;
  void* y = nullptr;
  DType from{}, to{};
  int64_t size = 0;
};

struct FillArgs {
  void* y = nullptr;
  DType dtype{};
  double value = 0;
  int64_t size = 0;
};

// ---- layout -----------------------------------------------------------------------------------------------------

// Copies between two strided views of one shape (transpose, slice, concat, pad, broadcast, assignment). Offsets are
// part of the strides' origin, in elements. Rows: item = block of kElementBlock elements in the order of `shape`.
// Tiles (`tiled`): the last two dimensions are walked in squares of kTransposeTile, as dst is contiguous in the last
// and src in the one before; item = square.
inline constexpr int64_t kTransposeTile = 64;
struct StridedCopyArgs {
  const void* src = nullptr;
  void* dst = nullptr;
  int32_t itemsize = 0;
  bool tiled = false;
  StridedShape shape;
  int64_t src_offset = 0, dst_offset = 0;
  int64_t src_strides[kArgsRank] = {}, dst_strides[kArgsRank] = {};
};

// ---- reduce -----------------------------------------------------------------------------------------------------

enum class ReduceOp : int32_t { kSum, kMax };

// x viewed as (outer, reduced, inner) -> y (outer, blocks, inner), one result per `block` of the reduced length; ops/
// reduces again until one is left, so that the order of summation depends on `reduced` alone. Sums are divided by
// `divisor`; integer sums are int64. item = (outer, block, tile of kReduceTile columns).
inline constexpr int64_t kReduceTile = 64;
struct ReduceArgs {
  const void* x = nullptr;
  void* y = nullptr;
  ReduceOp op{};
  DType dtype{};
  double divisor = 1;
  int64_t outer = 0, reduced = 0, inner = 0, block = 0;
};

// ---- pool -------------------------------------------------------------------------------------------------------

// Item = row of the output: of y (n, oh), or of dx (n, h) backward.
struct PoolArgs {
  const void* x = nullptr;      // input (forward) or incoming gradient (backward)
  const void* index = nullptr;  // max backward: argmax of the forward pass, int32 tap numbers
  void* y = nullptr;
  void* index_out = nullptr;  // max forward
  DType dtype{};
  int64_t n = 0, h = 0, w = 0, c = 0, oh = 0, ow = 0;
  int64_t kh = 0, kw = 0, stride_h = 0, stride_w = 0, pad_h = 0, pad_w = 0;
  bool count_include_pad = true;
};

// ---- softmax ----------------------------------------------------------------------------------------------------

struct SoftmaxArgs {
  const void* x = nullptr;  // logits (forward) or the forward's output (backward)
  const void* g = nullptr;  // backward: incoming gradient
  void* y = nullptr;
  DType dtype{};
  bool log = false;
  int64_t rows = 0, cols = 0;
};

// Refuses labels outside [0, classes).
struct CheckLabelsArgs {
  const void* labels = nullptr;  // int64
  int64_t size = 0, classes = 0;
};

// loss[row] = logsumexp(x[row]) - x[row, label]; backward: dx = (softmax(x) - onehot(label)) · g[row].
struct CrossEntropyArgs {
  const void* x = nullptr;
  const void* labels = nullptr;  // int64
  const void* g = nullptr;       // backward: incoming gradient (rows)
  void* y = nullptr;
  DType dtype{};
  int64_t rows = 0, cols = 0;
};

// ---- norm -------------------------------------------------------------------------------------------------------

// Statistics and gradient sums go over fixed blocks of rows; item = (block of kNormRows rows, tile of kNormTile
// channels). Their partial results have shape (blocks, channels).
inline constexpr int64_t kNormRows = 128;
inline constexpr int64_t kNormTile = 64;

// Of each block of x (rows, channels): the mean, and the sum of squared distances from it.
struct BatchNormStatsArgs {
  const void* x = nullptr;
  void* mean = nullptr;
  void* squares = nullptr;
  DType dtype{};
  int64_t rows = 0, channels = 0;
};

// From those, mean and biased variance of all rows, in float64 within; item = tile of channels.
struct BatchNormMergeArgs {
  const void* block_mean = nullptr;
  const void* block_squares = nullptr;
  void* mean = nullptr;
  void* var = nullptr;
  DType dtype{};
  int64_t rows = 0, channels = 0;
};

// y = (x - mean) / sqrt(var + eps) * weight + bias; item = row. weight and bias may be null.
struct BatchNormArgs {
  const void* x = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* y = nullptr;
  DType dtype{};
  double eps = 0;
  int64_t rows = 0, channels = 0;
};

// running = (1 - momentum) * running + momentum * batch, the batch variance unbiased; one item.
struct BatchNormUpdateArgs {
  const void* mean = nullptr;
  const void* var = nullptr;
  void* running_mean = nullptr;
  void* running_var = nullptr;
  DType dtype{};
  double momentum = 0;
  int64_t rows = 0, channels = 0;
};

// Partial sums of dweight = g · (x - mean) / sqrt(var + eps) and dbias = g; item as above.
struct BatchNormGradParamsArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  void* dweight = nullptr;
  void* dbias = nullptr;
  DType dtype{};
  double eps = 0;
  int64_t rows = 0, channels = 0;
};

// dx of training mode, from the complete sums; item = row.
struct BatchNormGradInputArgs {
  const void* x = nullptr;
  const void* g = nullptr;
  const void* mean = nullptr;
  const void* var = nullptr;
  const void* weight = nullptr;
  const void* dweight = nullptr;
  const void* dbias = nullptr;
  void* dx = nullptr;
  DType dtype{};
  double eps = 0;
  int64_t rows = 0, channels = 0;
};

// ---- random -----------------------------------------------------------------------------------------------------

// Philox4x32-10 with key `seed` over counters base + offset + element / n, where a block of four draws serves n
// elements: 4 of float32, 2 of float64. `state` holds {seed, base} as two uint64. Dropout takes one draw per element.
struct DropoutArgs {
  const void* state = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
  void* mask = nullptr;  // uint8: 1 = kept
  DType dtype{};
  uint64_t offset = 0;
  double p = 0;
  int64_t size = 0;
};

struct DropoutGradArgs {
  const void* g = nullptr;
  const void* mask = nullptr;
  void* dx = nullptr;
  DType dtype{};
  double p = 0;
  int64_t size = 0;
};

// Fills y from the same stream: uniform in [lo, hi) or normal(mean lo, sd hi).
struct RandomFillArgs {
  const void* state = nullptr;
  void* y = nullptr;
  DType dtype{};
  bool normal = false;
  uint64_t offset = 0;
  double lo = 0, hi = 1;
  int64_t size = 0;
};

// ---- optim ------------------------------------------------------------------------------------------------------

// Flat segments of one dtype. `hyper` is a float64 buffer that the optimizer's Python attributes write and replays
// read: its layout is given per optimizer. `step` is an int64 buffer, already advanced.
struct SgdArgs {
  const void* grad = nullptr;
  const void* hyper = nullptr;  // {lr, momentum, weight_decay, dampening, nesterov}
  const void* step = nullptr;
  void* param = nullptr;
  void* momentum = nullptr;  // null without momentum
  DType dtype{};
  int64_t size = 0;
};

struct AdamArgs {
  const void* grad = nullptr;
  const void* hyper = nullptr;  // {lr, beta1, beta2, eps, weight_decay, decoupled (AdamW)}
  const void* step = nullptr;
  void* param = nullptr;
  void* m = nullptr;
  void* v = nullptr;
  DType dtype{};
  int64_t size = 0;
};

struct AdvanceStepArgs {
  void* step = nullptr;  // int64, += 1
};

// ---- quant ------------------------------------------------------------------------------------------------------

// q = rint_even(clamp(float(acc + bias) * scale, lo - zero_point, hi - zero_point)) + zero_point, in fp32.
// The input's zero point is folded into `bias` at pack time; relu is lo = zero_point.
struct Requantize {
  const void* bias = nullptr;   // int32 (N)
  const void* scale = nullptr;  // float (N)
  int32_t zero_point = 0, lo = 0, hi = 255;
};

// Rows of one work item of the int8 kernels: two AMX tiles.
inline constexpr int64_t kQStrip = 32;

// u8 [M, K] · s8 packed [N/64][K/4][64][4] -> u8; item = (panel, strip of kQStrip rows), strips fastest. `y_float`:
// dequantized output instead, float(acc + bias) * scale.
struct QGemmArgs : Requantize {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  bool y_float = false;
  int64_t m = 0, n = 0, k = 0, lda = 0, ldc = 0;
};

// The same for a convolution, K = KH·KW·C/g per group, N = O/g; w holds the groups' panels one after another. Item =
// (group, strip of kQStrip output pixels), strips fastest. Depthwise (C = O = groups): w as it is, item = output row.
struct QConvArgs : Requantize {
  const void* x = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  bool y_float = false;
  ConvShape s{};
  int32_t x_zero_point = 0;  // padding value
};

// quantize: y = clamp(rint_even(x / scale) + zero_point, 0, 255), NaN -> zero_point; dequantize:
// y = float(q - zero_point) * scale. Item = block of kElementBlock elements, as for qadd and qlookup.
struct QuantizeArgs {
  const void* x = nullptr;
  void* y = nullptr;
  float scale = 1;
  int32_t zero_point = 0;
  int64_t size = 0;
};

// y = rint_even(clamp(t / y_scale, lo - zy, hi - zy)) + zy with t = (a - za) * a_scale + (b - zb) * b_scale, each step
// rounded to fp32: dequantize both, add, quantize.
struct QAddArgs {
  const void* a = nullptr;
  const void* b = nullptr;
  void* y = nullptr;
  float a_scale = 1, b_scale = 1, y_scale = 1;
  int32_t a_zero_point = 0, b_zero_point = 0, y_zero_point = 0, lo = 0, hi = 255;
  int64_t size = 0;
};

// Mean of each window, rounded half to even; taps in the padding count as zero_point, or not at all. Item = output row.
struct QAvgPoolArgs : PoolArgs {
  int32_t zero_point = 0;
};

// Maps u8 to u8 through a table of 256 bytes: requantization to another scale, relu, clip, any unary.
struct QLookupArgs {
  const void* x = nullptr;
  const void* table = nullptr;
  void* y = nullptr;
  int64_t size = 0;
};

// ---- measurement ------------------------------------------------------------------------------------------------

// y (items, 2): a result that keeps the work alive, and the operations per round.
struct PeakArgs {
  void* y = nullptr;
  int64_t rounds = 0;
};

}  // namespace quernel
