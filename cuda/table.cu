// The table of CUDA kernels: an entry that is missing is one that CUDA does not have, and the op that needs it says so.
#include "kernels/table_entry.h"

namespace quernel::cuda {

// elementwise
Fn<UnaryArgs> unary;
Fn<BinaryArgs> binary;
Fn<WhereArgs> where;
Fn<ClipArgs> clip;
Fn<CastArgs> cast;
Fn<FillArgs> fill;

// layout
Fn<StridedCopyArgs> strided_copy;

// embedding
Fn<CheckIndexArgs> check_index;
Fn<FoldIndexArgs> fold_index;
Fn<TakeRowsArgs> take_rows;
Fn<PutRowsArgs> put_rows;
Fn<GatherArgs> gather;
Fn<ScatterAddArgs> scatter_add;
Fn<IotaArgs> iota;

// random
Fn<DropoutArgs> dropout;
Fn<DropoutGradArgs> dropout_grad;
Fn<RandomFillArgs> random_fill;

// reduce
Fn<ReduceArgs> reduce;
Fn<CumsumArgs> cumsum;
Fn<ArgReduceArgs> arg_reduce;
Fn<TopkArgs> topk;
ScratchFn<TopkArgs> topk_scratch;
Fn<TopkGradArgs> topk_grad;

// softmax
Fn<SoftmaxArgs> softmax, softmax_grad;
Fn<CheckLabelsArgs> check_labels;
Fn<CrossEntropyArgs> cross_entropy, cross_entropy_grad;
Fn<CrossEntropyMeanArgs> cross_entropy_mean;

// loss
Fn<LossArgs> loss, loss_grad;
Fn<CheckProbabilitiesArgs> check_probabilities;

// norm
Fn<BatchNormStatsArgs> batch_norm_stats;
Fn<BatchNormMergeArgs> batch_norm_merge;
Fn<BatchNormArgs> batch_norm;
Fn<BatchNormUpdateArgs> batch_norm_update;
Fn<BatchNormGradParamsArgs> batch_norm_grad_params;
Fn<BatchNormGradInputArgs> batch_norm_grad_input;

// layer_norm
Fn<LayerNormArgs> layer_norm;
Fn<LayerNormGradArgs> layer_norm_grad;

// group_norm
Fn<GroupNormStatsArgs> group_norm_stats;
Fn<GroupNormMergeArgs> group_norm_merge;
Fn<GroupNormArgs> group_norm;
Fn<GroupNormGradSumsArgs> group_norm_grad_sums;
Fn<GroupNormGradArgs> group_norm_grad;
ScratchFn<GroupNormGradArgs> group_norm_grad_scratch;

// pool
Fn<PoolArgs> max_pool2d, max_pool2d_grad, avg_pool2d, avg_pool2d_grad;

// upsample
Fn<UpsampleArgs> upsample, upsample_grad;
ScratchFn<UpsampleArgs> upsample_scratch;

// optim
Fn<UpdateArgs> sgd, adagrad, rmsprop, adam, nadam, lion;
Fn<AdvanceStepArgs> advance_step;
Fn<MovingAverageArgs> moving_average;

// matmul
Fn<GemmArgs> gemm_f32, gemm_f64;
Fn<PackArgs> pack_f32, pack_f64;
Fn<Bf16GemmArgs> gemm_bf16, gemm_f16;
ScratchFn<Bf16GemmArgs> gemm_bf16_scratch, gemm_f16_scratch;
Fn<Bf16PackArgs> pack_bf16;
Fn<MlpArgs> mlp_f32;
Fn<ParamGradsArgs> param_grads_f32;

// conv
Fn<ConvArgs> conv2d_f32, conv2d_f64, conv2d_grad_input_f32, conv2d_grad_input_f64;
Fn<ConvGradWeightArgs> conv2d_grad_weight_f32, conv2d_grad_weight_f64;
Fn<SumSplitsArgs> sum_splits_f32, sum_splits_f64;
Fn<ConvArgs> depthwise2d_f32, depthwise2d_f64, depthwise2d_grad_input_f32, depthwise2d_grad_input_f64;
Fn<ConvGradWeightArgs> depthwise2d_grad_weight_f32, depthwise2d_grad_weight_f64;
Fn<Bf16ConvArgs> conv2d_bf16;
Fn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16;

// quant
Fn<QGemmArgs> gemm_u8s8;
Fn<PackArgs> pack_s8, pack_depthwise_s8;
Fn<QConvArgs> conv2d_u8s8, depthwise2d_u8s8;
Fn<QuantizeArgs> quantize, dequantize;
Fn<QAddArgs> qadd;
Fn<PoolArgs> max_pool2d_u8;
Fn<QAvgPoolArgs> avg_pool2d_u8;
Fn<QLookupArgs> qlookup;

extern const KernelTable table;
constinit const KernelTable table{
    // matmul
    .gemm_f32 = entry<gemm_f32>,
    .gemm_f64 = entry<gemm_f64>,
    .pack_f32 = entry<pack_f32>,
    .pack_f64 = entry<pack_f64>,
    .gemm_bf16 = entry_with<gemm_bf16, gemm_bf16_scratch>,
    .gemm_f16 = entry_with<gemm_f16, gemm_f16_scratch>,
    .pack_bf16 = entry<pack_bf16>,
    .mlp_f32 = entry<mlp_f32>,
    .param_grads_f32 = entry<param_grads_f32>,
    // conv
    .conv2d_f32 = entry<conv2d_f32>,
    .conv2d_f64 = entry<conv2d_f64>,
    .conv2d_grad_input_f32 = entry<conv2d_grad_input_f32>,
    .conv2d_grad_input_f64 = entry<conv2d_grad_input_f64>,
    .conv2d_grad_weight_f32 = entry<conv2d_grad_weight_f32>,
    .conv2d_grad_weight_f64 = entry<conv2d_grad_weight_f64>,
    .sum_splits_f32 = entry<sum_splits_f32>,
    .sum_splits_f64 = entry<sum_splits_f64>,
    .conv2d_bf16 = entry<conv2d_bf16>,
    .conv2d_grad_weight_bf16 = entry<conv2d_grad_weight_bf16>,
    .depthwise2d_f32 = entry<depthwise2d_f32>,
    .depthwise2d_f64 = entry<depthwise2d_f64>,
    .depthwise2d_grad_input_f32 = entry<depthwise2d_grad_input_f32>,
    .depthwise2d_grad_input_f64 = entry<depthwise2d_grad_input_f64>,
    .depthwise2d_grad_weight_f32 = entry<depthwise2d_grad_weight_f32>,
    .depthwise2d_grad_weight_f64 = entry<depthwise2d_grad_weight_f64>,
    // elementwise
    .unary = entry<unary>,
    .binary = entry<binary>,
    .where = entry<where>,
    .clip = entry<clip>,
    .cast = entry<cast>,
    .fill = entry<fill>,
    // layout
    .strided_copy = entry<strided_copy>,
    // embedding
    .check_index = entry<check_index>,
    .fold_index = entry<fold_index>,
    .take_rows = entry<take_rows>,
    .put_rows = entry<put_rows>,
    .gather = entry<gather>,
    .scatter_add = entry<scatter_add>,
    .iota = entry<iota>,
    // reduce
    .reduce = entry<reduce>,
    .cumsum = entry<cumsum>,
    .arg_reduce = entry<arg_reduce>,
    .topk = entry_with<topk, topk_scratch>,
    .topk_grad = entry<topk_grad>,
    // pool
    .max_pool2d = entry<max_pool2d>,
    .max_pool2d_grad = entry<max_pool2d_grad>,
    .avg_pool2d = entry<avg_pool2d>,
    .avg_pool2d_grad = entry<avg_pool2d_grad>,
    // upsample
    .upsample = entry_with<upsample, upsample_scratch>,
    .upsample_grad = entry_with<upsample_grad, upsample_scratch>,
    // softmax
    .softmax = entry<softmax>,
    .softmax_grad = entry<softmax_grad>,
    .check_labels = entry<check_labels>,
    .cross_entropy = entry<cross_entropy>,
    .cross_entropy_grad = entry<cross_entropy_grad>,
    .cross_entropy_mean = entry<cross_entropy_mean>,
    // loss
    .loss = entry<loss>,
    .loss_grad = entry<loss_grad>,
    .check_probabilities = entry<check_probabilities>,
    // norm
    .batch_norm_stats = entry<batch_norm_stats>,
    .batch_norm_merge = entry<batch_norm_merge>,
    .batch_norm = entry<batch_norm>,
    .batch_norm_update = entry<batch_norm_update>,
    .batch_norm_grad_params = entry<batch_norm_grad_params>,
    .batch_norm_grad_input = entry<batch_norm_grad_input>,
    // layer_norm
    .layer_norm = entry<layer_norm>,
    .layer_norm_grad = entry<layer_norm_grad>,
    // group_norm
    .group_norm_stats = entry<group_norm_stats>,
    .group_norm_merge = entry<group_norm_merge>,
    .group_norm = entry<group_norm>,
    .group_norm_grad_sums = entry<group_norm_grad_sums>,
    .group_norm_grad = entry_with<group_norm_grad, group_norm_grad_scratch>,
    // random
    .dropout = entry<dropout>,
    .dropout_grad = entry<dropout_grad>,
    .random_fill = entry<random_fill>,
    // optim
    .sgd = entry<sgd>,
    .adagrad = entry<adagrad>,
    .rmsprop = entry<rmsprop>,
    .adam = entry<adam>,
    .nadam = entry<nadam>,
    .lion = entry<lion>,
    .advance_step = entry<advance_step>,
    .moving_average = entry<moving_average>,
    // quant
    .gemm_u8s8 = entry<gemm_u8s8>,
    .pack_s8 = entry<pack_s8>,
    .pack_depthwise_s8 = entry<pack_depthwise_s8>,
    .conv2d_u8s8 = entry<conv2d_u8s8>,
    .depthwise2d_u8s8 = entry<depthwise2d_u8s8>,
    .quantize = entry<quantize>,
    .dequantize = entry<dequantize>,
    .qadd = entry<qadd>,
    .max_pool2d_u8 = entry<max_pool2d_u8>,
    .avg_pool2d_u8 = entry<avg_pool2d_u8>,
    .qlookup = entry<qlookup>,
    // sparse
    // measurement
};

}  // namespace quernel::cuda
