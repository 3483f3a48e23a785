/* dispatch.c: from a context's instruction set level to its table of kernels. Compiled without any
 * of the wide instruction sets. */
#include "tensor/kernels.h"

#include "base/ctx_private.h"

extern const km_kernels km__kernels_v1;
#if defined(__x86_64__)
extern const km_kernels km__kernels_v3, km__kernels_v4;
#endif

const km_kernels *km_ctx_kernels(const km_ctx *ctx) {
#if defined(__x86_64__)
    switch (km__ctx_cpu_level(ctx)) {
    case 4:
        return &km__kernels_v4;
    case 3:
        return &km__kernels_v3;
    default:
        return &km__kernels_v1;
    }
#else
    (void)ctx; /* the only level there is */
    return &km__kernels_v1;
#endif
}
