// The index of the engine: one pointer per kernel. Every ISA level (and CUDA) fills a KernelTable; a null entry falls
// to the next lower CPU level (runtime/dispatch.h) and raises on CUDA.
#pragma once
#include "kernels/args/attention.h"
#include "kernels/args/bf16.h"
#include "kernels/args/conv.h"
#include "kernels/args/ctc.h"
#include "kernels/args/elementwise.h"
#include "kernels/args/embedding.h"
#include "kernels/args/embedding_bag.h"
#include "kernels/args/group_norm.h"
#include "kernels/args/layer_norm.h"
#include "kernels/args/layout.h"
#include "kernels/args/loss.h"
#include "kernels/args/matmul.h"
#include "kernels/args/mlp.h"
#include "kernels/args/norm.h"
#include "kernels/args/optim.h"
#include "kernels/args/peak.h"
#include "kernels/args/pool.h"
#include "kernels/args/quant.h"
#include "kernels/args/random.h"
#include "kernels/args/recurrent.h"
#include "kernels/args/reduce.h"
#include "kernels/args/softmax.h"
#include "kernels/args/sparse.h"
#include "kernels/args/upsample.h"

namespace quernel {

using KernelFn = Status (*)(const void* args, Range, const Ctx&);

// An entry remembers its argument struct by type. `scratch` bytes per thread are wanted for the given arguments.
template <class Args>
struct Kernel {
  KernelFn run = nullptr;
  int64_t (*scratch)(const void* args) = nullptr;  // may be null: none wanted
  const char* signature = nullptr;                 // ends in "::<level>::<name>]", for kernel_coverage()
};

struct KernelTable {
  // matmul
  Kernel<GemmArgs> gemm_f32, gemm_f64;
  Kernel<PackArgs> pack_f32, pack_f64;
  Kernel<Bf16GemmArgs> gemm_bf16;
  Kernel<Bf16GemmArgs> gemm_f16;  // CUDA alone: elsewhere ops/bf16.cpp multiplies in float32
  Kernel<Bf16PackArgs> pack_bf16;
  // CUDA alone, for plans (runtime/fuse_layers.cpp, fuse_gradients.cpp); the second for a single weight, too
  // (ops/matmul.cpp)
  Kernel<MlpArgs> mlp_f32;
  Kernel<ParamGradsArgs> param_grads_f32;
  // conv
  Kernel<ConvArgs> conv2d_f32, conv2d_f64;
  Kernel<ConvArgs> conv2d_grad_input_f32, conv2d_grad_input_f64;
  Kernel<ConvGradWeightArgs> conv2d_grad_weight_f32, conv2d_grad_weight_f64;
  Kernel<SumSplitsArgs> sum_splits_f32, sum_splits_f64;
  Kernel<WinogradArgs> winograd_f32;
  Kernel<WinogradPackArgs> winograd_pack_f32;
  Kernel<WinogradGradWeightArgs> winograd_grad_weight_f32;
  Kernel<WinogradSumArgs> winograd_sum_f32;
  Kernel<Bf16ConvArgs> conv2d_bf16;
  Kernel<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16;
  Kernel<ConvArgs> depthwise2d_f32, depthwise2d_f64;
  Kernel<ConvArgs> depthwise2d_grad_input_f32, depthwise2d_grad_input_f64;
  Kernel<ConvGradWeightArgs> depthwise2d_grad_weight_f32, depthwise2d_grad_weight_f64;
  // elementwise
  Kernel<UnaryArgs> unary;
  Kernel<BinaryArgs> binary;
  Kernel<WhereArgs> where;
  Kernel<ClipArgs> clip;
  Kernel<CastArgs> cast;
  Kernel<FillArgs> fill;
  // layout
  Kernel<StridedCopyArgs> strided_copy;
  // embedding
  Kernel<CheckIndexArgs> check_index;
  Kernel<FoldIndexArgs> fold_index;
  Kernel<TakeRowsArgs> take_rows;
  Kernel<PutRowsArgs> put_rows;
  Kernel<GatherArgs> gather;
  Kernel<ScatterAddArgs> scatter_add;
  Kernel<IotaArgs> iota;
  // embedding_bag
  Kernel<CheckOffsetsArgs> check_offsets;
  Kernel<EmbeddingBagArgs> embedding_bag;
  Kernel<GroupRowsArgs> group_rows;
  Kernel<SumRowsArgs> sum_rows;
  Kernel<BagWeightsGradArgs> bag_weights_grad;
  // reduce
  Kernel<ReduceArgs> reduce;
  Kernel<CumsumArgs> cumsum;
  Kernel<ArgReduceArgs> arg_reduce;
  Kernel<TopkArgs> topk;
  Kernel<TopkGradArgs> topk_grad;
  // pool
  Kernel<PoolArgs> max_pool2d, max_pool2d_grad, avg_pool2d, avg_pool2d_grad;
  // upsample
  Kernel<UpsampleArgs> upsample, upsample_grad;
  // softmax
  Kernel<SoftmaxArgs> softmax, softmax_grad;
  Kernel<CheckLabelsArgs> check_labels;
  Kernel<CrossEntropyArgs> cross_entropy, cross_entropy_grad;
  Kernel<CrossEntropyMeanArgs> cross_entropy_mean;
  // loss
  Kernel<LossArgs> loss, loss_grad;
  Kernel<CheckProbabilitiesArgs> check_probabilities;
  // ctc
  Kernel<CtcArgs> ctc_loss;
  Kernel<CheckCtcLabelsArgs> check_ctc_labels;
  // norm
  Kernel<BatchNormStatsArgs> batch_norm_stats;
  Kernel<BatchNormMergeArgs> batch_norm_merge;
  Kernel<BatchNormArgs> batch_norm;
  Kernel<BatchNormUpdateArgs> batch_norm_update;
  Kernel<BatchNormGradParamsArgs> batch_norm_grad_params;
  Kernel<BatchNormGradInputArgs> batch_norm_grad_input;
  // layer_norm
  Kernel<LayerNormArgs> layer_norm;
  Kernel<LayerNormGradArgs> layer_norm_grad;
  // group_norm
  Kernel<GroupNormStatsArgs> group_norm_stats;
  Kernel<GroupNormMergeArgs> group_norm_merge;
  Kernel<GroupNormArgs> group_norm;
  Kernel<GroupNormGradSumsArgs> group_norm_grad_sums;
  Kernel<GroupNormGradArgs> group_norm_grad;
  // recurrent
  Kernel<RecurrentArgs> recurrent;
  Kernel<RecurrentGradArgs> recurrent_grad;
  Kernel<RecurrentArgs> recurrent_bf16;
  Kernel<RecurrentGradArgs> recurrent_grad_bf16;
  Kernel<CheckLengthsArgs> check_lengths;
  // attention
  Kernel<AttentionArgs> attention;
  Kernel<AttentionGradArgs> attention_grad, attention_grad_queries, attention_grad_keys, attention_grad_mask;
  Kernel<AppendRowsArgs> append_rows;
  // random
  Kernel<DropoutArgs> dropout;
  Kernel<DropoutGradArgs> dropout_grad;
  Kernel<RandomFillArgs> random_fill;
  // optim
  Kernel<UpdateArgs> sgd, adagrad, rmsprop, adam, nadam, lion;
  Kernel<UpdateRowsArgs> sgd_rows, adam_rows;
  Kernel<AdvanceStepArgs> advance_step;
  Kernel<MovingAverageArgs> moving_average;
  // quant
  Kernel<QGemmArgs> gemm_u8s8;
  Kernel<PackArgs> pack_s8, pack_depthwise_s8, pack_winograd_s8;  // the last with VNNI alone
  Kernel<QConvArgs> conv2d_u8s8, depthwise2d_u8s8, winograd_u8s8;
  Kernel<QuantizeArgs> quantize, dequantize;
  Kernel<QAddArgs> qadd;
  Kernel<PoolArgs> max_pool2d_u8;
  Kernel<QAvgPoolArgs> avg_pool2d_u8;
  Kernel<QLookupArgs> qlookup;
  // sparse
  Kernel<SparseArgs> sparse_rows;
  Kernel<SparseLanesArgs> sparse_lanes;
  Kernel<SpreadArgs> sparse_spread;
  Kernel<SparsePanelArgs> sparse_panels, sparse_panel_rows;
  Kernel<SparseGradArgs> sparse_grad, sparse_panel_grad;
  Kernel<QSparseArgs> sparse_u8s8;
  Kernel<CheckSparseArgs> check_sparse;
  // measurement
  Kernel<PeakArgs> fma_peak;
};

struct Level {
  const char* name;
  uint32_t features;      // CpuFeature bits the objects were compiled for
  bool emulated = false;  // for tests: runs only if asked for by name
  KernelTable table;
};

// Defined by kernels/table.cpp once per level, constant-initialised.
namespace scalar {
extern const Level level;
}
namespace avx2 {
extern const Level level;
}
namespace avx512 {
extern const Level level;
}
namespace vnni {
extern const Level level;
}
namespace bf16 {
extern const Level level;
}
namespace amx {
extern const Level level;
}
namespace amx_emulated {
extern const Level level;
}

}  // namespace quernel
