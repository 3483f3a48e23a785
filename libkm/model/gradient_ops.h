/* gradient_ops.h: derivatives of norms, softmax and soft cap.
 *
 * One row at a time. Sums over a row are taken in double precision in rising order, so results do
 * not depend on the CPU variant. */
#ifndef KM_MODEL_GRADIENT_OPS_H
#define KM_MODEL_GRADIENT_OPS_H

#include "model/model_private.h"

/* What a norm subtracts from x and multiplies with, before its gain. */
void km__norm_moments(double *mean, double *factor, const float *x, const km_config *config,
                      int64_t n);
/* dx = (d norm(x) / dx)' dy, added to dx when `add`. dx may be dy. */
void km__norm_backward(float *dx, const float *dy, const float *x, const km_norm_weights *norm,
                       const km_config *config, int64_t n, bool add);

/* ds (n) becomes dL/ds of scores p = softmax(s), given dL/dp in ds. */
void km__softmax_backward(float *ds, const float *p, int64_t n);
/* d becomes dL/dx of y = cap tanh(x / cap), given dL/dy in d. */
void km__softcap_backward(float *d, const float *y, float cap, int64_t n);

#endif
