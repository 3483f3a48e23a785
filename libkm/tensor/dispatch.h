/* dispatch.h: from a context to the variant of a kernels file its CPU level runs. Each
 * tensor/kernels*.c is compiled once an instruction set and defines one table,
 * km__<family>_<instruction set>:
 *
 *     KM_VARIANTS(km_kernels, kernels);
 *     const km_kernels *km_ctx_kernels(const km_ctx *ctx) {
 *         return KM_VARIANT(kernels, ctx);
 *     }
 */
#ifndef KM_TENSOR_DISPATCH_H
#define KM_TENSOR_DISPATCH_H

#include "base/ctx_private.h"

#if defined(__x86_64__)
#define KM_VARIANTS(type, family)                                                                  \
    extern const type km__##family##_v1, km__##family##_v3, km__##family##_v4
#define KM_VARIANT(family, ctx)                                                                    \
    (km__ctx_cpu_level(ctx) == 4   ? &km__##family##_v4                                            \
     : km__ctx_cpu_level(ctx) == 3 ? &km__##family##_v3                                            \
                                   : &km__##family##_v1)
#else
#define KM_VARIANTS(type, family) extern const type km__##family##_neon
#define KM_VARIANT(family, ctx) ((void)(ctx), &km__##family##_neon)
#endif

#endif
