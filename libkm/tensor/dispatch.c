/* dispatch.c: from a context's instruction set level to its tables of kernels. Compiled without any
 * of the wide instruction sets. */
#include "tensor/dispatch.h"

#include "tensor/kernels.h"
#include "tensor/kernels_attention.h"
#include "tensor/kernels_gradient.h"
#include "tensor/kernels_optimizer.h"
#include "tensor/kernels_recurrent.h"
#include "tensor/linear_private.h"

KM_VARIANTS(km_kernels, kernels);
KM_VARIANTS(km_attention_kernels, attention);
KM_VARIANTS(km_linear_kernels, linear);
KM_VARIANTS(km_dequant_kernels, dequant);
KM_VARIANTS(km_gradient_kernels, gradient);
KM_VARIANTS(km_optimizer_kernels, optimizer);
KM_VARIANTS(km_recurrent_kernels, recurrent);

const km_kernels *km_ctx_kernels(const km_ctx *ctx) {
    return KM_VARIANT(kernels, ctx);
}

const km_linear_kernels *km__linear_kernels(const km_ctx *ctx) {
    return KM_VARIANT(linear, ctx);
}

const km_attention_kernels *km_ctx_attention_kernels(const km_ctx *ctx) {
    return KM_VARIANT(attention, ctx);
}

const km_dequant_kernels *km__dequant_kernels(const km_ctx *ctx) {
    return KM_VARIANT(dequant, ctx);
}

const km_gradient_kernels *km_ctx_gradient_kernels(const km_ctx *ctx) {
    return KM_VARIANT(gradient, ctx);
}

const km_optimizer_kernels *km_ctx_optimizer_kernels(const km_ctx *ctx) {
    return KM_VARIANT(optimizer, ctx);
}

const km_recurrent_kernels *km_ctx_recurrent_kernels(const km_ctx *ctx) {
    return KM_VARIANT(recurrent, ctx);
}
