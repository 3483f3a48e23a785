/* lens_private.h: what the logit lens and the affine lens share. */
#ifndef KM_MEASURE_LENS_PRIVATE_H
#define KM_MEASURE_LENS_PRIVATE_H

#include "km/interpretability.h"

/* Reduce one row of logits to the figures of `slot`, which is prompt * (L + 1) + layer. */
void km__lens_row(const km_lens_arrays *out, const km_model *model, int64_t slot, int32_t target,
                  int top_k, const float *logits, int64_t vocab);
/* What km_lens_run_into refuses. */
KM_NODISCARD km_status km__lens_check(const km_model *model, const int64_t *offsets, int64_t n,
                                      const int32_t *targets, int top_k, km_error *err);

#endif
