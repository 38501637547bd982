// The table of the level vnni: what dot products of four bytes speed up. The rest is null and falls to the levels
// below.
#include "kernels/table_entry.h"

namespace quernel::QUERNEL_ISA {

Fn<QGemmArgs> gemm_u8s8;
ScratchFn<QGemmArgs> gemm_u8s8_scratch;
Fn<PackArgs> pack_depthwise_s8, pack_winograd_s8;
Fn<QConvArgs> conv2d_u8s8, depthwise2d_u8s8, winograd_u8s8;
ScratchFn<QConvArgs> conv2d_u8s8_scratch, depthwise2d_u8s8_scratch, winograd_u8s8_scratch;
Fn<QSparseArgs> sparse_u8s8;

extern constinit const Level level{
    .name = QUERNEL_STRING(QUERNEL_ISA),
    .features = kRequiredFeatures,
    .table =
        {
            .gemm_u8s8 = entry_with<gemm_u8s8, gemm_u8s8_scratch>,
            .pack_depthwise_s8 = entry<pack_depthwise_s8>,
            .pack_winograd_s8 = entry<pack_winograd_s8>,
            .conv2d_u8s8 = entry_with<conv2d_u8s8, conv2d_u8s8_scratch>,
            .depthwise2d_u8s8 = entry_with<depthwise2d_u8s8, depthwise2d_u8s8_scratch>,
            .winograd_u8s8 = entry_with<winograd_u8s8, winograd_u8s8_scratch>,
            .sparse_u8s8 = entry<sparse_u8s8>,
        },
};

}  // namespace quernel::QUERNEL_ISA
