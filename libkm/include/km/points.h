/* km/points.h: the named places in a forward pass where activations can be read and changed.
 *
 * Names follow TransformerLens where it has one. Letters as in km/model.h; T tokens of the tree, P
 * positions (greatest depth + 1). An activation of one token is (heads, width) float32, heads being
 * 1 where a point has no head axis.
 *
 *   point          (heads, width)  what it is
 *   embed          (1, D)          token embedding, scaled; before learned positions are added
 *   resid_pre      (1, D)          residual stream entering a block
 *   q, k, v        (H|K|K, Dh)     projections, bias added; before q/k norm and rotary embedding
 *   attn_scores    (H, P)          scaled (and soft-capped) scores, column = position; -inf where
 *                                  nothing is seen
 *   attn_pattern   (H, P)          their softmax; 0 where nothing is seen
 *   attn_head_out  (H, Dh)         pattern times values ("z"): a head's input to the output matrix
 *   attn_out       (1, D)          what attention adds to the residual stream
 *   resid_mid      (1, D)          residual stream between attention and MLP; absent where both
 *                                  read the same stream (parallel residual)
 *   mlp_pre        (1, F)          input of the activation function
 *   mlp_hidden     (1, F)          input of the down projection ("neurons")
 *   mlp_out        (1, D)          what the MLP adds to the residual stream
 *   resid_post     (1, D)          residual stream leaving a block
 *   final_norm     (1, D)          input of the unembedding; no layer
 *   logits         (1, V)          soft-capped where the model does so; no layer
 *   q_input, k_input, v_input (H|K|K, D), mlp_input (1, D)
 *                                  the residual stream as each head or the MLP reads it, before its
 *                                  norm: equal to resid_pre (resid_mid), but changed or
 *                                  differentiated for one reader alone
 */
#ifndef KM_POINTS_H
#define KM_POINTS_H

#include <stdbool.h>

#include "km/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct km_config;

typedef enum km_point {
    KM_POINT_EMBED = 0,
    KM_POINT_RESID_PRE,
    KM_POINT_Q,
    KM_POINT_K,
    KM_POINT_V,
    KM_POINT_ATTN_SCORES,
    KM_POINT_ATTN_PATTERN,
    KM_POINT_ATTN_HEAD_OUT,
    KM_POINT_ATTN_OUT,
    KM_POINT_RESID_MID,
    KM_POINT_MLP_PRE,
    KM_POINT_MLP_HIDDEN,
    KM_POINT_MLP_OUT,
    KM_POINT_RESID_POST,
    KM_POINT_FINAL_NORM,
    KM_POINT_LOGITS,
    KM_POINT_Q_INPUT,
    KM_POINT_K_INPUT,
    KM_POINT_V_INPUT,
    KM_POINT_MLP_INPUT,
    KM_N_POINTS
} km_point;

/* "resid_post" and so on; NULL outside the enumeration. Static storage. */
KM_API const char *km_point_name(km_point point);
/* KM_ENOTFOUND, listing the names, when there is no such point. */
KM_API KM_NODISCARD km_status km_point_parse(km_point *out, const char *name, km_error *err);
/* Whether the architecture has the point. */
KM_API bool km_point_exists(km_point point, const struct km_config *config);
/* Whether there is one a layer (false: embed, final_norm, logits). */
KM_API bool km_point_has_layer(km_point point);
/* H, K, or 1. */
KM_API int64_t km_point_heads(km_point point, const struct km_config *config);
/* D, Dh, F, V, or n_positions for attn_scores and attn_pattern. */
KM_API int64_t km_point_width(km_point point, const struct km_config *config, int64_t n_positions);

/* Copy activations out. out is (n_nodes, heads, width) float32, or (n_nodes, width) when one head
 * is asked for. What is read is what later computations see: after the patches of that point. */
typedef struct km_read {
    km_point point;
    int32_t layer;        /* ignored by points without one */
    int32_t head;         /* -1: all */
    const int64_t *nodes; /* (n_nodes), any order; NULL: all nodes of the tree in order */
    int64_t n_nodes;
    float *out;
} km_read;

typedef enum km_patch_kind {
    KM_PATCH_SET = 0,    /* a = values */
    KM_PATCH_ADD,        /* a = a + factor * values */
    KM_PATCH_SCALE,      /* a = factor * a */
    KM_PATCH_PROJECT_OUT /* a = a - values (values . a) / (values . values) */
} km_patch_kind;

/* Change activations of `nodes` at one point, elements begin..end-1 of the width (0, 0: all) of one
 * head (-1: each). Patches of one point are applied in the order given. Values of node i start at
 * values + i * value_stride and hold, for head -1, heads * (end - begin) numbers unless
 * same_for_heads; value_stride 0: the same for every node. attn_scores and attn_pattern take SET,
 * ADD and SCALE only, over the positions a token sees. q_input, k_input, v_input and mlp_input
 * cannot be read where they are not patched: they equal the stream. */
typedef struct km_patch {
    km_patch_kind kind;
    km_point point;
    int32_t layer, head;
    const int64_t *nodes; /* NULL: all */
    int64_t n_nodes;
    int64_t begin, end;
    const float *values;
    int64_t value_stride;
    bool same_for_heads;
    float factor;
} km_patch;

/* Sees and may change the activations of a point, all tokens at once: rows (n_rows, heads, width),
 * row i being node nodes[i] (NULL: node i). Called on the calling thread, after the patches of that
 * point, in the order of the pass. Points attn_scores, attn_pattern and logits are not visited. */
typedef km_status (*km_visit_fn)(void *payload, km_point point, int32_t layer, float *rows,
                                 const int64_t *nodes, int64_t n_rows, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
