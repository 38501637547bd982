// The table of a dot-product level (vnni, amx, amx_emulated): only what VNNI or tiles speed up. The rest is null and
// falls to the levels below.
#include "kernels/table_entry.h"

namespace quernel::QUERNEL_ISA {

Fn<Bf16GemmArgs> gemm_bf16;
Fn<Bf16ConvArgs> conv2d_bf16;
ScratchFn<Bf16ConvArgs> conv2d_bf16_scratch;
Fn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16;
ScratchFn<Bf16ConvGradWeightArgs> conv2d_grad_weight_bf16_scratch;
Fn<QGemmArgs> gemm_u8s8;
ScratchFn<QGemmArgs> gemm_u8s8_scratch;
Fn<QConvArgs> conv2d_u8s8;
ScratchFn<QConvArgs> conv2d_u8s8_scratch;
Fn<QSparseArgs> sparse_u8s8;
#if defined(__AVX512VNNI__)
Fn<PackArgs> pack_depthwise_s8;
Fn<QConvArgs> depthwise2d_u8s8;
ScratchFn<QConvArgs> depthwise2d_u8s8_scratch;
#endif

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .emulated = kEmulatedTiles,
    .table =
        {
            .gemm_bf16 = entry<gemm_bf16>,
            .conv2d_bf16 = entry_with<conv2d_bf16, conv2d_bf16_scratch>,
            .conv2d_grad_weight_bf16 = entry_with<conv2d_grad_weight_bf16, conv2d_grad_weight_bf16_scratch>,
            .gemm_u8s8 = entry_with<gemm_u8s8, gemm_u8s8_scratch>,
#if defined(__AVX512VNNI__)
            .pack_depthwise_s8 = entry<pack_depthwise_s8>,
#endif
            .conv2d_u8s8 = entry_with<conv2d_u8s8, conv2d_u8s8_scratch>,
#if defined(__AVX512VNNI__)
            .depthwise2d_u8s8 = entry_with<depthwise2d_u8s8, depthwise2d_u8s8_scratch>,
#endif
            .sparse_u8s8 = entry<sparse_u8s8>,
        },
};

}  // namespace quernel::QUERNEL_ISA
