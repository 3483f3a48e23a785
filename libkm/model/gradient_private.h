/* gradient_private.h: what the files of the backward pass share. Letters as in km/model.h; P
 * positions (greatest depth + 1). */
#ifndef KM_MODEL_GRADIENT_PRIVATE_H
#define KM_MODEL_GRADIENT_PRIVATE_H

#include "km/gradient.h"
#include "model/forward_private.h"
#include "model/gradient_ops.h"

/* Values (T, heads, width) that patches have changed at one point, as the forward pass used them.
 */
typedef struct km__kept {
    km_point point;
    int32_t layer;
    float *values;
} km__kept;

/* Activations of one layer, computed again from resid_pre, and the derivatives on the way back. */
typedef struct km__layer_state {
    float *h;           /* (T, D) normed input of a product; its derivative on the way back */
    float *q, *k, *v;   /* (T, H*Dh), (T, K*Dh) projections */
    float *qr, *kr;     /* the same after head norm and rotary turn */
    float *z;           /* (T, H*Dh) attn_head_out */
    float *attn_branch; /* (T, D) output of Wo, before the norm that may follow */
    float *mid;         /* (T, D) what the MLP reads */
    float *pre, *up;    /* (T, F) mlp_pre, and the other factor of a gated MLP */
    float *hidden;      /* (T, F) */
    float *mlp_branch;  /* (T, D) output of Wdown; with post norms alone */
    float *dx;          /* (T, D) derivative of the residual stream */
    float *d;           /* (T, D) derivative of what a branch adds */
    float *dz;          /* (T, H*Dh) */
    float *dhidden;     /* (T, F) */
    float *dq, *dk, *dv;
    float *dk_heads, *dv_heads; /* (T, H*Dh) a query head each */
} km__layer_state;

/* One gradient pass under way. */
typedef struct km__back {
    const km_model *model;
    const km_gradient_request *request;
    const km_kernels *kernels;
    int64_t n; /* T */
    int32_t *depth;
    int32_t n_positions;
    float *block;     /* all float buffers */
    float *resid;     /* (L, T, D) resid_pre of each layer */
    float *stream;    /* (n_rows, D) residual stream the rows are read from */
    float *dlogits;   /* (n_rows, V) */
    float *drows;     /* (n_rows, D) */
    float *attention; /* (workers, 4 P) */
    int64_t *paths;   /* (workers, P) ancestors of a node, roots first */
    int64_t *row_of;  /* (T) a row of the node, or -1 */
    km__kept *kept;   /* (n_kept) */
    int64_t n_kept;
    float *kept_block;
    km_read *reads;        /* of the forward pass: ours, then the request's */
    km__rope rope[2];      /* full and windowed layers */
    km__rope rope_back[2]; /* the inverse turn: sines negated */
    km__layer_state s;
} km__back;

/* ---- gradient_points.c ---- */

/* What patches made of a point, or NULL where there are none. */
const float *km__kept_values(const km__back *back, km_point point, int32_t layer);
/* Replace rows (T, heads * width) by what patches made of them. */
void km__substitute(const km__back *back, float *rows, km_point point, int32_t layer,
                    int64_t row_width);
/* Whether a gradient or a patch concerns the point. */
bool km__is_concerned(const km__back *back, km_point point, int32_t layer);
/* Hand derivatives at a point to the gradients asked for, then take them back through its patches.
 * rows (T, heads, width) hold all heads (head -1) or one. */
void km__pass_point(const km__back *back, km_point point, int32_t layer, int32_t head, float *rows);
/* The same for one row (width) of one node and head; safe on worker threads for different rows. */
void km__pass_row(const km__back *back, km_point point, int32_t layer, int64_t node, int32_t head,
                  float *row, int64_t width);
/* Check what `gradients` asks for. */
KM_NODISCARD km_status km__check_gradients(const km_model *model,
                                           const km_gradient_request *request, km_error *err);
/* Position of a point on the way back: 2 layer + 1 for what is reached before a layer's attention
 * is differentiated, 2 layer for what comes after; -1 for embed. */
int64_t km__point_order(km_point point, int32_t layer, int32_t n_layers);

/* ---- gradient_attention.c ---- */

/* s.z from s.qr, s.kr, s.v. */
KM_NODISCARD km_status km__attention_again(const km__back *back, int32_t layer, km_error *err);
/* dq, dk (of what the rotary turn gives) and dv from dz. */
KM_NODISCARD km_status km__attention_backward(const km__back *back, int32_t layer, km_error *err);

/* ---- gradient_layer.c ---- */

/* Compute a layer's inside again from resid_pre. */
KM_NODISCARD km_status km__layer_again(const km__back *back, int32_t layer, km_error *err);
/* From the derivative of resid_post in s.dx to that of resid_pre, or, without `attention`, to that
 * of resid_mid. */
KM_NODISCARD km_status km__layer_backward(const km__back *back, int32_t layer, bool attention,
                                          km_error *err);
/* Run fn over rows 0..n-1. */
KM_NODISCARD km_status km__over_rows(const km__back *back, int64_t n, km_range_fn fn, void *payload,
                                     km_error *err);

#endif
