// The table of the level bf16: what AVX512_BF16's dot products of two and its conversions speed up. The rest, int8 too,
// is null and falls to the levels below.
#include "kernels/table_entry.h"

namespace quernel::QUERNEL_ISA {

Fn<Bf16PackArgs> pack_bf16;
Fn<Bf16GemmArgs> gemm_bf16;
Fn<Bf16ConvArgs> conv2d_bf16;
ScratchFn<Bf16ConvArgs> conv2d_bf16_scratch;
Fn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16;
ScratchFn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16_scratch;
Fn<RecurrentArgs> recurrent_bf16;
ScratchFn<RecurrentArgs> recurrent_bf16_scratch;
Fn<RecurrentGradArgs> recurrent_grad_bf16;
ScratchFn<RecurrentGradArgs> recurrent_grad_bf16_scratch;

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .table =
        {
            .gemm_bf16 = entry<gemm_bf16>,
            .pack_bf16 = entry<pack_bf16>,
            .conv2d_bf16 = entry_with<conv2d_bf16, conv2d_bf16_scratch>,
            .conv2d_grad_weight_bf16 = entry_with<conv2d_grad_weight_bf16, conv2d_grad_weight_bf16_scratch>,
            .recurrent_bf16 = entry_with<recurrent_bf16, recurrent_bf16_scratch>,
            .recurrent_grad_bf16 = entry_with<recurrent_grad_bf16, recurrent_grad_bf16_scratch>,
        },
};

}  // namespace quernel::QUERNEL_ISA
