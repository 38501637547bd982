// Chains of products whose results stay in a block's shared memory: the layers of a multilayer perceptron, its loss,
// and the gradients of its parameters.
#pragma once
#include "kernels/args/epilogue.h"
#include "kernels/args/optim.h"
#include "kernels/args/softmax.h"

namespace quernel {

inline constexpr int64_t kMlpWidth = 128;  // most columns of x and of a layer
inline constexpr int kMlpLayers = 9;       // most of one call: five forward and four backward

// y = epilogue(x · B); B[K, N] lies as GemmArgs has it. Where c is null only the next layer reads the result.
struct MlpLayer : Epilogue {
  const void* b = nullptr;
  void* c = nullptr;
  int32_t n = 0;
  int32_t b_row = 0, b_col = 1;
  int32_t group = 0;
  bool pack = false;
};

// The mean of the cross-entropy of layer `after`'s results with labels, as CrossEntropyArgs has it: the losses of all
// rows, and the gradient of the mean, which is what the next layer multiplies. The mean itself is left to others.
struct MlpLoss {
  const void* labels = nullptr;  // int64 (M); null: there is no loss
  const void* g = nullptr;       // incoming gradient, one number; null: g_value
  void* losses = nullptr;        // (M)
  void* dx = nullptr;            // (M, N), or null
  double g_value = 0, smoothing = 0, scale = 1;
  int64_t ignore_index = 0;
  int32_t after = 0;
};

// x[M, K], rows that follow each other, through all layers, each of which has the columns of the one before as K; item
// = all of it.
struct MlpArgs {
  const void* a = nullptr;
  int64_t m = 0, k = 0;
  int32_t layers = 0;
  MlpLayer layer[kMlpLayers];
  MlpLoss loss;
  void* step = nullptr;  // int64, += 1; or null
};

// Rows of a batch that are added up at a time, for a weight and for a bias.
inline constexpr int64_t kGradPart = 512;
inline constexpr int kParamGrads = 16;            // most of one call
inline constexpr int64_t kGradRows = 1 << 14;     // most rows of a plan's step
inline constexpr int64_t kGradResults = 1 << 17;  // most of a weight; more fill a GPU by themselves, in larger tiles

// The gradient of a weight, y[n, k] = sum over rows of g[row][n] x[row][k], or of a bias, y[n] = sum of g[row][n],
// where x is null.
struct ParamGrad {
  const void* g = nullptr;  // (rows, n)
  const void* x = nullptr;  // (rows, k)
  void* parts = nullptr;    // sums over `split` rows each; null: all rows are one part
  void* y = nullptr;
  int32_t n = 0, k = 1;
};

// Gradients of parameters over one batch, and what may be done with them at once: update the parameters, whose
// gradients make up all of `update.grad`; and the mean of the losses, which has nothing to do with them but comes at
// the same time. Item = all of it.
enum class GradUpdate : int32_t { kNone, kSgd, kAdam };
struct ParamGradsArgs {
  int64_t rows = 0, split = 0;
  int32_t grads = 0;
  GradUpdate rule{};
  ParamGrad grad[kParamGrads];
  UpdateArgs update;
  CrossEntropyMeanArgs mean;  // where losses are null, none
};

}  // namespace quernel
