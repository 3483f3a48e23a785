/* forward_private.h: what the files of the forward pass share: the plan of a tree, the workspace,
 * rotary tables. Letters as in km/model.h; P positions (greatest depth + 1). */
#ifndef KM_MODEL_FORWARD_PRIVATE_H
#define KM_MODEL_FORWARD_PRIVATE_H

#include "model/model_private.h"
#include "tensor/kernels.h"

/* Queries of one run share one attention block; this bounds its score matrix. */
#define KM_RUN_MAX 64

/* Consecutive nodes node..node+count-1, each the parent of the next, whose queries are rows
 * row..row+count-1 of the query matrix. */
typedef struct km__run {
    int64_t node, count, row;
} km__run;

/* A validated tree and who needs what. */
typedef struct km__plan {
    const km_tree *tree;
    int32_t *depth;         /* (n) position of a token */
    int64_t *segment_start; /* (n) first node of the maximal parent[i] == i-1 run a node is in */
    km__run *runs;          /* (n_runs) all nodes */
    int64_t n_runs;
    int64_t *needed; /* (n_needed) nodes with a logits row, rising */
    int64_t *row_of; /* (n) index in needed, or -1 */
    int64_t n_needed;
    km__run *last_runs; /* (n_last_runs) the needed nodes */
    int64_t n_last_runs;
    int32_t n_positions; /* P */
} km__plan;

KM_NODISCARD km_status km__plan_init(km__plan *plan, const km_model *model,
                                     const km_forward_request *request, km_error *err);
void km__plan_clear(km__plan *plan, km_ctx *ctx);

/* cos and sin of position * frequency: (P, Dh/2) each. */
typedef struct km__rope {
    float *cosines, *sines;
} km__rope;

/* Fill a table whose memory the caller provides. `base` and `linear_scale` as in km_config. */
KM_NODISCARD km_status km__rope_fill(const km__rope *rope, const km_model *model, double base,
                                     double linear_scale, int32_t n_positions, km_error *err);
/* Turn one row of n_heads heads in place. */
void km__rope_turn(float *row, const km__rope *rope, int32_t position, int64_t n_heads,
                   const km_config *config);

/* Buffers of one forward pass, one allocation. */
typedef struct km__workspace {
    float *block;     /* the allocation */
    float *x;         /* (T, D) residual stream */
    float *h;         /* (T, D) normed input, then the output of a branch */
    float *q;         /* (T, H*Dh) queries, then attention output */
    float *k, *v;     /* (T, K*Dh) */
    float *gate, *up; /* (mlp_rows, F) */
    float *picked;    /* (n_needed, D) residual stream of the needed rows in the last layer */
    float *lens;      /* (L, n_lens_rows, D) residual stream after each block */
    float *normed;    /* (logits_rows, D) */
    float *logits;    /* (logits_rows, V) */
    float *attention; /* (workers, attention_floats) */
    int64_t mlp_rows, logits_rows, attention_floats;
    km__rope rope_full, rope_window;
} km__workspace;

/* Refuses with KM_ENOMEM what the machine has no room for. */
KM_NODISCARD km_status km__workspace_init(km__workspace *work, const km__plan *plan,
                                          const km_model *model, const km_forward_request *request,
                                          km_error *err);
void km__workspace_clear(km__workspace *work, km_ctx *ctx);

/* One forward pass under way. */
typedef struct km__pass {
    const km_model *model;
    const km_forward_request *request;
    const km_kernels *kernels;
    km__plan plan;
    km__workspace work;
} km__pass;

/* attention.c: softmax(q k^T) v for the given runs; q is overwritten with the output. */
KM_NODISCARD km_status km__attention(const km__pass *pass, const km__run *runs, int64_t n_runs,
                                     bool windowed, km_error *err);
/* Scratch floats one worker needs. */
int64_t km__attention_floats(const km_config *config, int32_t n_positions);

/* ---- logits.c ---- */

/* Final norm and unembedding of the request's rows, read from the needed rows in `picked`, shown to
 * its visitor. */
KM_NODISCARD km_status km__logits_output(const km__pass *pass, km_error *err);
/* Keep the residual stream of the lens rows after block `layer`: x[row_of(node)], or x[node] when
 * row_of is NULL. */
void km__lens_keep(const km__pass *pass, const float *x, const int64_t *row_of, int32_t layer);
/* The same as km__logits_output for the kept rows, from the last layer down. */
KM_NODISCARD km_status km__logits_lens(const km__pass *pass, km_error *err);
/* Rows of logits computed together when n are wanted. */
int64_t km__logits_rows(int64_t n_rows, int64_t vocab);

#endif
