/* gradient_private.h: what the files of the backward pass share. Letters as in km/model.h; P
 * positions (greatest depth + 1). */
#ifndef KM_MODEL_GRADIENT_PRIVATE_H
#define KM_MODEL_GRADIENT_PRIVATE_H

#include "km/gradient.h"
#include "km/training.h"
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
    /* what the way back starts from: a training pass may keep these of every layer */
    float *q, *k, *v;   /* (T, H*Dh), (T, K*Dh) projections; q and k are qr and kr without a head
                           norm */
    float *qr, *kr;     /* the same after head norm and rotary turn */
    float *z;           /* (T, H*Dh) attn_head_out */
    float *attn_branch; /* (T, D) output of Wo, before the norm that follows; with post norms alone
                         */
    float *mid;         /* (T, D) what the MLP reads */
    float *pre, *up;   /* (T, F) mlp_pre, and the other factor of a gated MLP; on the way back their
                          derivatives */
    float *mlp_branch; /* (T, D) output of Wdown; with post norms alone */
    /* scratch */
    float *h;      /* (T, D) normed input of a product; its derivative on the way back */
    float *hidden; /* (T, F); its derivative on the way back */
    float *dx;     /* (T, D) derivative of the residual stream */
    float *d;      /* (T, D) derivative of what a branch adds */
    float *dz;     /* (T, H*Dh) */
    float *dq, *dk, *dv;
    float *dk_heads, *dv_heads; /* (H, T, Dh) what each query head contributes */
} km__layer_state;

/* Where derivatives with respect to parameters go. */
typedef struct km__collector {
    const km_parameter_gradient *gradients; /* (n) */
    const void **places; /* (n) the km_matrix, or the pointer to a vector, inside model->weights */
    int64_t n;
    float *low;      /* (T, greatest rank) */
    double *moments; /* (T * H, 2) mean and factor of normed rows */
} km__collector;

/* One gradient pass under way. */
typedef struct km__back {
    const km_model *model;
    const km_gradient_request *request;
    const km_kernels *kernels;
    const km__collector *collector; /* NULL: no parameters' derivatives are wanted */
    int64_t n;                      /* T */
    km__plan plan;
    int32_t n_positions;
    int64_t n_trees;
    int64_t *tree_runs;  /* (n_trees + 1) where a tree's runs begin in `runs` */
    km__run *runs;       /* the plan's runs, tree by tree */
    float *block;        /* all float buffers */
    double block_floats; /* its size */
    float *resid;        /* (L, T, D) resid_pre of each layer; a training pass has (L + 1, T, D) */
    float *stream;       /* (n_rows, D) residual stream the rows are read from */
    float *dlogits;      /* (n_rows, V) */
    float *drows;        /* (n_rows, D) */
    float *attention;    /* (workers, attention_floats) */
    int64_t attention_floats;
    int64_t *row_of; /* (T) a row of the node, or -1 */
    km__kept *kept;  /* (n_kept) */
    int64_t n_kept;
    float *kept_block;
    km_read *reads;        /* of the forward pass: ours, then the request's */
    km__rope rope[2];      /* full and windowed layers */
    km__rope rope_back[2]; /* the inverse turn: sines negated */
    km__layer_state s;
} km__back;

/* ---- gradient_plan.c ---- */

/* Check and plan the request's tree and sort its runs by tree. */
#define KM_BACK_NODE_BYTES 160 /* that planning takes a node, at most */
KM_NODISCARD km_status km__back_plan(km__back *back, const km_forward_request *forward,
                                     km_error *err);
void km__back_plan_clear(km__back *back);

/* A float buffer of a pass and its size. */
typedef struct km__part {
    float **where;
    double floats; /* double: cannot overflow before it is compared with the memory there is */
} km__part;

#define KM_MAX_PARTS 48

/* The buffers that every pass over n tokens of `positions` positions needs, but resid; activations
 * of `copies` layers. Returns how many. */
int km__back_parts(km__part parts[KM_MAX_PARTS], km__back *back, double n, double positions,
                   double copies);
double km__parts_floats(const km__part *parts, int n_parts);
/* One allocation, back->block, after checking that the memory is there; one that is there already
 * stays when it is large enough. `what` names the pass. */
KM_NODISCARD km_status km__parts_allocate(km__back *back, const km__part *parts, int n_parts,
                                          const char *what, km_error *err);
/* KM_ENOMEM with both figures when there is less. */
KM_NODISCARD km_status km__back_check_memory(double bytes, const km__back *back, const char *what,
                                             km_error *err);
/* A trainable model keeps the buffers of its last training pass, so that the next one does not have
 * to be given as many cleared pages by the system. Take them (NULL when there are none, or a pass
 * on another thread has them), and give them, or others, back; other models keep nothing. */
float *km__spare_take(const km_model *model, double *floats);
void km__spare_keep(const km_model *model, float *block, double floats);
/* Fill both pairs of rotary tables. */
KM_NODISCARD km_status km__back_ropes(const km__back *back, km_error *err);

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

/* Floats of scratch one worker needs. */
int64_t km__attention_back_floats(const km_config *config, int64_t positions);
/* s.z from s.qr, s.kr, s.v. */
KM_NODISCARD km_status km__attention_again(const km__back *back, int32_t layer, km_error *err);
/* dq, dk (of what the rotary turn gives) and dv from dz. */
KM_NODISCARD km_status km__attention_backward(const km__back *back, int32_t layer, km_error *err);

/* ---- gradient_layer.c ---- */

/* Compute a layer's inside again from resid_pre. */
KM_NODISCARD km_status km__layer_again(const km__back *back, int32_t layer, km_error *err);
/* What the layer makes of it, into out (T, D): resid_post. After km__layer_again. */
KM_NODISCARD km_status km__layer_finish(const km__back *back, int32_t layer, float *out,
                                        km_error *err);
/* From the derivative of resid_post in s.dx to that of resid_pre, or, without `attention`, to that
 * of resid_mid. */
KM_NODISCARD km_status km__layer_backward(const km__back *back, int32_t layer, bool attention,
                                          km_error *err);
/* y (n, D) = norm(x) row by row, of the kind the model has. */
KM_NODISCARD km_status km__norm_rows(const km__back *back, float *y, const float *x,
                                     const km_norm_weights *norm, int64_t n, km_error *err);
/* dx (n, D) = d norm(x) given dy, added to dx when `add`. The derivatives of gain and bias are
 * collected. dx may be dy. */
KM_NODISCARD km_status km__norm_rows_backward(const km__back *back, float *dx, const float *dy,
                                              const float *x, const km_norm_weights *norm,
                                              int64_t n, bool add, km_error *err);
/* Run fn over rows 0..n-1. */
KM_NODISCARD km_status km__over_rows(const km__back *back, int64_t n, km_range_fn fn, void *payload,
                                     km_error *err);

/* ---- gradient_weights.c: nothing is done where nobody asks ---- */

/* Fill collector->places; check that gradients are in order and have room. Clear frees them. */
KM_NODISCARD km_status km__collector_init(km__collector *collector, const km_model *model,
                                          const km_parameter_gradient *gradients, int64_t n,
                                          km_error *err);
void km__collector_clear(km__collector *collector, km_ctx *ctx);
/* Greatest rank among low-rank gradients. */
int64_t km__collector_rank(const km__collector *collector);
/* Whether somebody asks for the matrix `w` of model->weights. */
bool km__is_collected(const km__back *back, const km_matrix *w);
/* The matrix `w` of model->weights, given x (n, cols) and the derivative dy (n, rows) of x w^T. */
KM_NODISCARD km_status km__collect_matrix(const km__back *back, const km_matrix *w, const float *dy,
                                          const float *x, int64_t n, km_error *err);
/* The bias at `place` in model->weights, added to rows whose derivative is dy (n, width). */
KM_NODISCARD km_status km__collect_bias(const km__back *back, const float *const *place,
                                        const float *dy, int64_t n, int64_t width, km_error *err);
/* A norm's gain and (unless NULL) bias, of rows x (n, width) with derivatives dy of its output. */
KM_NODISCARD km_status km__collect_norm(const km__back *back, const float *const *gain,
                                        const float *const *bias, const float *dy, const float *x,
                                        int64_t n, int64_t width, km_error *err);
/* Embedding and learned positions, from dx (T, D) of what they add up to. */
KM_NODISCARD km_status km__collect_embeddings(const km__back *back, const float *dx, km_error *err);

#endif
