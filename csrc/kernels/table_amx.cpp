// The table of a level with tiles (amx, amx_emulated): only what they speed up. The rest is null and falls to the
// levels below.
#include "kernels/table_entry.h"

namespace quernel::QUERNEL_ISA {

Fn<Bf16GemmArgs> gemm_bf16;
Fn<Bf16ConvArgs> conv2d_bf16;
ScratchFn<Bf16ConvArgs> conv2d_bf16_scratch;
Fn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16;
ScratchFn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16_scratch;
Fn<RecurrentArgs> recurrent_bf16;
ScratchFn<RecurrentArgs> recurrent_bf16_scratch;
Fn<RecurrentGradArgs> recurrent_grad_bf16;
ScratchFn<RecurrentGradArgs> recurrent_grad_bf16_scratch;
Fn<QGemmArgs> gemm_u8s8;
ScratchFn<QGemmArgs> gemm_u8s8_scratch;
Fn<QConvArgs> conv2d_u8s8;
ScratchFn<QConvArgs> conv2d_u8s8_scratch;

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .emulated = kEmulatedTiles,
    .table =
        {
            .gemm_bf16 = entry<gemm_bf16>,
            .conv2d_bf16 = entry_with<conv2d_bf16, conv2d_bf16_scratch>,
            .conv2d_grad_weight_bf16 = entry_with<conv2d_grad_weight_bf16, conv2d_grad_weight_bf16_scratch>,
            .recurrent_bf16 = entry_with<recurrent_bf16, recurrent_bf16_scratch>,
            .recurrent_grad_bf16 = entry_with<recurrent_grad_bf16, recurrent_grad_bf16_scratch>,
            .gemm_u8s8 = entry_with<gemm_u8s8, gemm_u8s8_scratch>,
            .conv2d_u8s8 = entry_with<conv2d_u8s8, conv2d_u8s8_scratch>,
        },
};

}  // namespace quernel::QUERNEL_ISA
