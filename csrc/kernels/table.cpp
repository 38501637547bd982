// The full table, compiled once per level (scalar, avx2, avx512). Higher levels have tables of what they speed up.
#include "kernels/table_entry.h"

namespace quernel::QUERNEL_ISA {

// matmul
Fn<GemmArgs> gemm_f32, gemm_f64;
ScratchFn<GemmArgs> gemm_f32_scratch, gemm_f64_scratch;
Fn<PackArgs> pack_f32, pack_f64;
Fn<Bf16GemmArgs> gemm_bf16;
Fn<Bf16PackArgs> pack_bf16;

// conv
Fn<ConvArgs> conv2d_f32, conv2d_f64;
ScratchFn<ConvArgs> conv2d_f32_scratch, conv2d_f64_scratch;
Fn<ConvArgs> conv2d_grad_input_f32, conv2d_grad_input_f64;
ScratchFn<ConvArgs> conv2d_grad_input_f32_scratch, conv2d_grad_input_f64_scratch;
Fn<ConvGradWeightArgs> conv2d_grad_weight_f32, conv2d_grad_weight_f64;
ScratchFn<ConvGradWeightArgs> conv2d_grad_weight_f32_scratch, conv2d_grad_weight_f64_scratch;
Fn<SumSplitsArgs> sum_splits_f32, sum_splits_f64;
Fn<WinogradArgs> winograd_f32;
ScratchFn<WinogradArgs> winograd_f32_scratch;
Fn<WinogradPackArgs> winograd_pack_f32;
ScratchFn<WinogradPackArgs> winograd_pack_f32_scratch;
Fn<WinogradGradWeightArgs> winograd_grad_weight_f32;
ScratchFn<WinogradGradWeightArgs> winograd_grad_weight_f32_scratch;
Fn<WinogradSumArgs> winograd_sum_f32;
Fn<Bf16ConvArgs> conv2d_bf16;
ScratchFn<Bf16ConvArgs> conv2d_bf16_scratch;
Fn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16;
ScratchFn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16_scratch;
Fn<ConvArgs> depthwise2d_f32, depthwise2d_f64;
ScratchFn<ConvArgs> depthwise2d_f32_scratch, depthwise2d_f64_scratch;
Fn<ConvArgs> depthwise2d_grad_input_f32, depthwise2d_grad_input_f64;
ScratchFn<ConvArgs> depthwise2d_grad_input_f32_scratch, depthwise2d_grad_input_f64_scratch;
Fn<ConvGradWeightArgs> depthwise2d_grad_weight_f32, depthwise2d_grad_weight_f64;
ScratchFn<ConvGradWeightArgs> depthwise2d_grad_weight_f32_scratch, depthwise2d_grad_weight_f64_scratch;

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

// embedding_bag
Fn<CheckOffsetsArgs> check_offsets;
Fn<EmbeddingBagArgs> embedding_bag;
Fn<GroupRowsArgs> group_rows;
ScratchFn<GroupRowsArgs> group_rows_scratch;
Fn<SumRowsArgs> sum_rows;
Fn<BagWeightsGradArgs> bag_weights_grad;

// reduce
Fn<ReduceArgs> reduce;
Fn<CumsumArgs> cumsum;
Fn<ArgReduceArgs> arg_reduce;
Fn<TopkArgs> topk;
ScratchFn<TopkArgs> topk_scratch;
Fn<TopkGradArgs> topk_grad;

// pool
Fn<PoolArgs> max_pool2d, max_pool2d_grad, avg_pool2d, avg_pool2d_grad;

// upsample
Fn<UpsampleArgs> upsample, upsample_grad;
ScratchFn<UpsampleArgs> upsample_scratch, upsample_grad_scratch;

// softmax
Fn<SoftmaxArgs> softmax, softmax_grad;
Fn<CheckLabelsArgs> check_labels;
Fn<CrossEntropyArgs> cross_entropy, cross_entropy_grad;
Fn<CrossEntropyMeanArgs> cross_entropy_mean;

// loss
Fn<LossArgs> loss, loss_grad;
Fn<CheckProbabilitiesArgs> check_probabilities;

// ctc
Fn<CtcArgs> ctc_loss;
ScratchFn<CtcArgs> ctc_loss_scratch;
Fn<CheckCtcLabelsArgs> check_ctc_labels;

// norm
Fn<BatchNormStatsArgs> batch_norm_stats;
Fn<BatchNormMergeArgs> batch_norm_merge;
Fn<BatchNormArgs> batch_norm;
ScratchFn<BatchNormArgs> batch_norm_scratch;
Fn<BatchNormUpdateArgs> batch_norm_update;
Fn<BatchNormGradParamsArgs> batch_norm_grad_params;
Fn<BatchNormGradInputArgs> batch_norm_grad_input;
ScratchFn<BatchNormGradInputArgs> batch_norm_grad_input_scratch;

// layer_norm
Fn<LayerNormArgs> layer_norm;
Fn<LayerNormGradArgs> layer_norm_grad;

// group_norm
Fn<GroupNormStatsArgs> group_norm_stats;
Fn<GroupNormMergeArgs> group_norm_merge;
Fn<GroupNormArgs> group_norm;
ScratchFn<GroupNormArgs> group_norm_scratch;
Fn<GroupNormGradSumsArgs> group_norm_grad_sums;
Fn<GroupNormGradArgs> group_norm_grad;
ScratchFn<GroupNormGradArgs> group_norm_grad_scratch;

// recurrent
Fn<RecurrentArgs> recurrent;
ScratchFn<RecurrentArgs> recurrent_scratch;
Fn<RecurrentGradArgs> recurrent_grad;
ScratchFn<RecurrentGradArgs> recurrent_grad_scratch;
Fn<RecurrentArgs> recurrent_bf16;
ScratchFn<RecurrentArgs> recurrent_bf16_scratch;
Fn<RecurrentGradArgs> recurrent_grad_bf16;
ScratchFn<RecurrentGradArgs> recurrent_grad_bf16_scratch;
Fn<CheckLengthsArgs> check_lengths;

// attention
Fn<AttentionArgs> attention;
ScratchFn<AttentionArgs> attention_scratch;
Fn<AttentionGradArgs> attention_grad, attention_grad_queries, attention_grad_keys, attention_grad_mask;
ScratchFn<AttentionGradArgs> attention_grad_scratch;
Fn<AppendRowsArgs> append_rows;

// random
Fn<DropoutArgs> dropout;
Fn<DropoutGradArgs> dropout_grad;
Fn<RandomFillArgs> random_fill;

// optim
Fn<UpdateArgs> sgd, adagrad, rmsprop, adam, nadam, lion;
Fn<UpdateRowsArgs> sgd_rows, adam_rows;
Fn<AdvanceStepArgs> advance_step;
Fn<MovingAverageArgs> moving_average;

// quant
Fn<QGemmArgs> gemm_u8s8;
ScratchFn<QGemmArgs> gemm_u8s8_scratch;
Fn<PackArgs> pack_s8, pack_depthwise_s8;
Fn<QConvArgs> conv2d_u8s8, depthwise2d_u8s8, winograd_u8s8;
ScratchFn<QConvArgs> conv2d_u8s8_scratch, depthwise2d_u8s8_scratch, winograd_u8s8_scratch;
Fn<QuantizeArgs> quantize, dequantize;
Fn<QAddArgs> qadd;
Fn<PoolArgs> max_pool2d_u8;
Fn<QAvgPoolArgs> avg_pool2d_u8;
Fn<QLookupArgs> qlookup;

// sparse
Fn<SparseArgs> sparse_rows;
Fn<SparseLanesArgs> sparse_lanes;
Fn<SpreadArgs> sparse_spread;
Fn<SparsePanelArgs> sparse_panels, sparse_panel_rows;
Fn<SparseGradArgs> sparse_grad, sparse_panel_grad;
Fn<QSparseArgs> sparse_u8s8;
Fn<CheckSparseArgs> check_sparse;

// measurement
Fn<PeakArgs> fma_peak;

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .table =
        {
            // matmul
            .gemm_f32 = entry_with<gemm_f32, gemm_f32_scratch>,
            .gemm_f64 = entry_with<gemm_f64, gemm_f64_scratch>,
            .pack_f32 = entry<pack_f32>,
            .pack_f64 = entry<pack_f64>,
            .gemm_bf16 = entry<gemm_bf16>,
            .pack_bf16 = entry<pack_bf16>,
            // conv
            .conv2d_f32 = entry_with<conv2d_f32, conv2d_f32_scratch>,
            .conv2d_f64 = entry_with<conv2d_f64, conv2d_f64_scratch>,
            .conv2d_grad_input_f32 = entry_with<conv2d_grad_input_f32, conv2d_grad_input_f32_scratch>,
            .conv2d_grad_input_f64 = entry_with<conv2d_grad_input_f64, conv2d_grad_input_f64_scratch>,
            .conv2d_grad_weight_f32 = entry_with<conv2d_grad_weight_f32, conv2d_grad_weight_f32_scratch>,
            .conv2d_grad_weight_f64 = entry_with<conv2d_grad_weight_f64, conv2d_grad_weight_f64_scratch>,
            .sum_splits_f32 = entry<sum_splits_f32>,
            .sum_splits_f64 = entry<sum_splits_f64>,
            .winograd_f32 = entry_with<winograd_f32, winograd_f32_scratch>,
            .winograd_pack_f32 = entry_with<winograd_pack_f32, winograd_pack_f32_scratch>,
            .winograd_grad_weight_f32 = entry_with<winograd_grad_weight_f32, winograd_grad_weight_f32_scratch>,
            .winograd_sum_f32 = entry<winograd_sum_f32>,
            .conv2d_bf16 = entry_with<conv2d_bf16, conv2d_bf16_scratch>,
            .conv2d_grad_weight_bf16 = entry_with<conv2d_grad_weight_bf16, conv2d_grad_weight_bf16_scratch>,
            .depthwise2d_f32 = entry_with<depthwise2d_f32, depthwise2d_f32_scratch>,
            .depthwise2d_f64 = entry_with<depthwise2d_f64, depthwise2d_f64_scratch>,
            .depthwise2d_grad_input_f32 = entry_with<depthwise2d_grad_input_f32, depthwise2d_grad_input_f32_scratch>,
            .depthwise2d_grad_input_f64 = entry_with<depthwise2d_grad_input_f64, depthwise2d_grad_input_f64_scratch>,
            .depthwise2d_grad_weight_f32 = entry_with<depthwise2d_grad_weight_f32, depthwise2d_grad_weight_f32_scratch>,
            .depthwise2d_grad_weight_f64 = entry_with<depthwise2d_grad_weight_f64, depthwise2d_grad_weight_f64_scratch>,
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
            // embedding_bag
            .check_offsets = entry<check_offsets>,
            .embedding_bag = entry<embedding_bag>,
            .group_rows = entry_with<group_rows, group_rows_scratch>,
            .sum_rows = entry<sum_rows>,
            .bag_weights_grad = entry<bag_weights_grad>,
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
            .upsample_grad = entry_with<upsample_grad, upsample_grad_scratch>,
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
            .ctc_loss = entry_with<ctc_loss, ctc_loss_scratch>,
            .check_ctc_labels = entry<check_ctc_labels>,
            // norm
            .batch_norm_stats = entry<batch_norm_stats>,
            .batch_norm_merge = entry<batch_norm_merge>,
            .batch_norm = entry_with<batch_norm, batch_norm_scratch>,
            .batch_norm_update = entry<batch_norm_update>,
            .batch_norm_grad_params = entry<batch_norm_grad_params>,
            .batch_norm_grad_input = entry_with<batch_norm_grad_input, batch_norm_grad_input_scratch>,
            // layer_norm
            .layer_norm = entry<layer_norm>,
            .layer_norm_grad = entry<layer_norm_grad>,
            // group_norm
            .group_norm_stats = entry<group_norm_stats>,
            .group_norm_merge = entry<group_norm_merge>,
            .group_norm = entry_with<group_norm, group_norm_scratch>,
            .group_norm_grad_sums = entry<group_norm_grad_sums>,
            .group_norm_grad = entry_with<group_norm_grad, group_norm_grad_scratch>,
            // recurrent
            .recurrent = entry_with<recurrent, recurrent_scratch>,
            .recurrent_grad = entry_with<recurrent_grad, recurrent_grad_scratch>,
            .recurrent_bf16 = entry_with<recurrent_bf16, recurrent_bf16_scratch>,
            .recurrent_grad_bf16 = entry_with<recurrent_grad_bf16, recurrent_grad_bf16_scratch>,
            .check_lengths = entry<check_lengths>,
            // attention
            .attention = entry_with<attention, attention_scratch>,
            .attention_grad = entry_with<attention_grad, attention_grad_scratch>,
            .attention_grad_queries = entry_with<attention_grad_queries, attention_grad_scratch>,
            .attention_grad_keys = entry_with<attention_grad_keys, attention_grad_scratch>,
            .attention_grad_mask = entry_with<attention_grad_mask, attention_grad_scratch>,
            .append_rows = entry<append_rows>,
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
            .sgd_rows = entry<sgd_rows>,
            .adam_rows = entry<adam_rows>,
            .advance_step = entry<advance_step>,
            .moving_average = entry<moving_average>,
            // quant
            .gemm_u8s8 = entry_with<gemm_u8s8, gemm_u8s8_scratch>,
            .pack_s8 = entry<pack_s8>,
            .pack_depthwise_s8 = entry<pack_depthwise_s8>,
            .conv2d_u8s8 = entry_with<conv2d_u8s8, conv2d_u8s8_scratch>,
            .depthwise2d_u8s8 = entry_with<depthwise2d_u8s8, depthwise2d_u8s8_scratch>,
            .winograd_u8s8 = entry_with<winograd_u8s8, winograd_u8s8_scratch>,
            .quantize = entry<quantize>,
            .dequantize = entry<dequantize>,
            .qadd = entry<qadd>,
            .max_pool2d_u8 = entry<max_pool2d_u8>,
            .avg_pool2d_u8 = entry<avg_pool2d_u8>,
            .qlookup = entry<qlookup>,
            // sparse
            .sparse_rows = entry<sparse_rows>,
            .sparse_lanes = entry<sparse_lanes>,
            .sparse_spread = entry<sparse_spread>,
            .sparse_panels = entry<sparse_panels>,
            .sparse_panel_rows = entry<sparse_panel_rows>,
            .sparse_grad = entry<sparse_grad>,
            .sparse_panel_grad = entry<sparse_panel_grad>,
            .sparse_u8s8 = entry<sparse_u8s8>,
            .check_sparse = entry<check_sparse>,
            // measurement
            .fma_peak = entry<fma_peak>,
        },
};

}  // namespace quernel::QUERNEL_ISA
