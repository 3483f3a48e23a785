/* forward_private.h: what the files of the forward pass share: the plan of a tree, the workspace,
 * rotary tables, doors. Letters as in km/model.h; P positions (greatest depth + 1).
 *
 * Tokens of a pass are counted from 0. With a session they follow the tokens it holds: token i is
 * node base + i, and keys, values, parents, depths and segments are those of nodes.
 */
#ifndef KM_MODEL_FORWARD_PRIVATE_H
#define KM_MODEL_FORWARD_PRIVATE_H

#include "model/model_private.h"
#include "tensor/kernels.h"
#include "tensor/kernels_attention.h"

/* Consecutive nodes node..node+count-1, each the parent of the next, whose queries are rows
 * row..row+count-1 of the query matrix. */
typedef struct km__run {
    int64_t node, count, row;
} km__run;

/* Which tokens the rows of a buffer belong to. */
typedef struct km__rows {
    int64_t n;
    const int64_t *nodes;  /* (n) token of a row, rising; NULL: row i is token i */
    const int64_t *row_of; /* (tokens) row of a token or -1; NULL as nodes is */
} km__rows;

/* Ancestors first .. first+count-1, neighbours in memory, at positions position ..
 * position+count-1. */
typedef struct km__range {
    int64_t first, count, position;
} km__range;

/* A run's scores should take no more than this many floats, so that they stay near the processor,
 * but a run has at least KM_LEAST_RUN queries, so that keys and values are read for several at
 * once. */
#define KM_RUN_SCORES ((int64_t)1 << 18)
#define KM_LEAST_RUN 4
#define KM_MOST_RUN 64

/* A validated tree and who needs what. */
typedef struct km__plan {
    const km_tree *tree;
    int64_t base;           /* nodes before the first token: 0, or the session's length */
    const int64_t *parent;  /* (base + n) */
    int32_t *depth;         /* (base + n) position of a node */
    int64_t *segment_start; /* (base + n) first node of the maximal parent[i] == i-1 run it is in */
    bool borrowed;          /* depth and segment_start belong to a session */
    km__run *runs;          /* (n_runs) all tokens */
    int64_t n_runs;
    int64_t run_max; /* queries of one run share one attention block; bounds its scores */
    int64_t *needed; /* (n_needed) tokens the last layer's second half is computed for, rising */
    int64_t *row_of; /* (n) index in needed, or -1 */
    int64_t n_needed;
    km__run *last_runs; /* (n_last_runs) the needed tokens */
    int64_t n_last_runs;
    int32_t n_layers;       /* layers that are run: all, or those somebody asks for */
    bool wanted;            /* somebody asks for something */
    int32_t n_positions;    /* P of this pass's tokens */
    int32_t first_position; /* least depth of this pass's tokens */
} km__plan;

/* Check the tree and find its depths. KM_EINVAL, KM_ERANGE (id, context, capacity), KM_ENOMEM. */
KM_NODISCARD km_status km__plan_init(km__plan *plan, const km_model *model,
                                     const km_forward_request *request, km_error *err);
/* Find what is needed of the last layer and cut runs; the request's doors have been checked. */
KM_NODISCARD km_status km__plan_need(km__plan *plan, const km_model *model,
                                     const km_forward_request *request, km_error *err);
void km__plan_clear(km__plan *plan, km_ctx *ctx);
/* Node `last` and its ancestors from position `low` on, the deepest range first; returns how many
 * ranges, at most as many as positions. */
int64_t km__plan_ranges(km__range *out, const km__plan *plan, int64_t last, int64_t low);
/* The rows that the second half of `layer` works on. */
km__rows km__plan_rows(const km__plan *plan, int32_t layer);

/* ---- rope.c ---- */

/* cos and sin of position * frequency: (positions, rotary_dim/2) each, from first_position on. */
typedef struct km__rope {
    float *cosines, *sines;
    int32_t first_position;
} km__rope;

/* Fill a table whose memory the caller provides, for layers with (`windowed`) or without a window.
 */
KM_NODISCARD km_status km__rope_fill(const km__rope *rope, const km_model *model, bool windowed,
                                     int32_t n_positions, km_error *err);
/* Turn one row of n_heads heads in place. */
void km__rope_turn(float *row, const km__rope *rope, int32_t position, int64_t n_heads,
                   const km_config *config);

/* ---- patch.c ---- */

/* Reads and patches by layer and point. */
typedef struct km__doors {
    uint32_t *open; /* (L + 1) bit 1 << point: somebody reads, patches or visits; NULL: nobody. The
                       last entry is of the points without a layer */
    int64_t *reads, *patches;          /* indices in the request, by (layer, point), then order */
    int64_t *first_read, *first_patch; /* ((L + 1) * KM_N_POINTS + 1) */
    struct km__node_entry *entries;    /* nodes of reads, then of patches, each list sorted */
    int64_t *read_entries, *patch_entries; /* (n) first entry of a read or patch */
} km__doors;

/* Checks every read and patch. KM_EINVAL names the one that is wrong, by its index. */
KM_NODISCARD km_status km__doors_init(km__doors *doors, const km_model *model,
                                      const km_forward_request *request, int64_t n_positions,
                                      km_error *err);
void km__doors_clear(km__doors *doors, km_ctx *ctx);

/* ---- workspace.c ---- */

/* Buffers of one forward pass, one allocation. */
typedef struct km__workspace {
    float *block;     /* the allocation */
    double floats;    /* its size */
    float *x;         /* (T, D) residual stream */
    float *h;         /* (T, D) normed input, then the output of a branch */
    float *m;         /* (T, D) the same of the MLP, with parallel_residual */
    float *q;         /* (T, H*Dh) queries, then attention output */
    float *k, *v;     /* (T, K*Dh); unused with a session */
    float *gate;      /* (mlp_rows, F) */
    float *up;        /* (mlp_rows, F) */
    float *picked;    /* (n_needed, D) residual stream of the needed rows in the last layer */
    float *split;     /* (T, heads, D) the stream as each head reads it, where that is changed */
    float *lens;      /* (L, n_lens_rows, D) residual stream after each block */
    float *normed;    /* (logits_rows, D) */
    float *logits;    /* (logits_rows, V) */
    float *attention; /* (workers, attention_floats) */
    int64_t mlp_rows, logits_rows, attention_floats;
    km__rope rope_full, rope_window;
} km__workspace;

/* Give the workspace the buffers of a pass; an allocation it already has is used again when large
 * enough. Refuses with KM_ENOMEM what the machine has no room for. */
KM_NODISCARD km_status km__workspace_fit(km__workspace *work, const km__plan *plan,
                                         const km_model *model, const km_forward_request *request,
                                         const km__doors *doors, km_error *err);
void km__workspace_clear(km__workspace *work, km_ctx *ctx);

/* ---- the pass ---- */

struct km_session {
    km_model *model;
    int64_t capacity, length;
    float *keys, *values;   /* (L, capacity, K*Dh) */
    int64_t *parent;        /* (capacity) */
    int32_t *depth;         /* (capacity) */
    int64_t *segment_start; /* (capacity) */
    km__workspace work;     /* kept from pass to pass */
    atomic_bool busy;
    int pid; /* the process it was made in */
};

/* Take the session for this call: KM_ESTATE while another thread has it, or in a child of the
 * process it was made in. */
KM_NODISCARD km_status km__session_enter(km_session *session, km_error *err);
void km__session_leave(km_session *session);

/* One forward pass under way. */
typedef struct km__pass {
    const km_model *model;
    const km_forward_request *request;
    const km_kernels *kernels;
    const km_attention_kernels *attention;
    km__plan plan;
    km__doors doors;
    km__workspace *work;
    bool normed; /* work->h holds the norm of x that the next layer begins with */
} km__pass;

/* Whether somebody reads, patches or visits the point. `layer` is ignored where there is none. */
bool km__is_open(const km__pass *pass, km_point point, int32_t layer);
/* Patches, visit, reads, in this order, of rows first..first+n-1 of `set`; `rows` (n, heads, width)
 * are these. */
KM_NODISCARD km_status km__door(const km__pass *pass, km_point point, int32_t layer, float *rows,
                                const km__rows *set, int64_t first, int64_t n, km_error *err);
/* The same for the whole set. */
KM_NODISCARD km_status km__door_all(const km__pass *pass, km_point point, int32_t layer,
                                    float *rows, const km__rows *set, km_error *err);
/* Patches, then reads, of one head's row of attn_scores or attn_pattern of `token`, which sees the
 * positions begin..end-1; seen[0] is the first of them. May be called on any worker. */
void km__door_attention(const km__pass *pass, km_point point, int32_t layer, int64_t token,
                        int64_t head, float *seen, int64_t begin, int64_t end);
/* Patches of a row of logits, then reads when `read`. May be called on any worker. */
void km__door_logits(const km__pass *pass, int64_t token, float *row, bool read);

/* y = norm(x), of the kind the model has. */
void km__norm(const km__pass *pass, float *y, const float *x, const km_norm_weights *weights);
/* Keys and values (base + T, K*Dh) of a layer, earlier nodes' included. */
float *km__keys(const km__pass *pass, int32_t layer);
float *km__values(const km__pass *pass, int32_t layer);
/* Whether a token of the layer sees only the window. */
bool km__is_windowed(const km_config *config, int32_t layer);

/* layer.c: one layer over x. On entry h may hold norm(x) (pass->normed). */
KM_NODISCARD km_status km__layer(km__pass *pass, int32_t layer, km_error *err);
/* attention.c: softmax(q k^T) v for the given runs; q is overwritten with the output. */
KM_NODISCARD km_status km__attention(const km__pass *pass, const km__run *runs, int64_t n_runs,
                                     int32_t layer, km_error *err);
/* Scratch floats one worker needs. */
int64_t km__attention_floats(const km_config *config, const km__plan *plan);

/* ---- logits.c ---- */

/* Final norm and unembedding of the rows that are wanted, shown to the request's visitor. */
KM_NODISCARD km_status km__logits_output(const km__pass *pass, km_error *err);
/* Keep the residual stream of the lens rows after block `layer`. */
void km__lens_keep(const km__pass *pass, int32_t layer);
/* The same as km__logits_output for the kept rows, from the last layer down. */
KM_NODISCARD km_status km__logits_lens(const km__pass *pass, km_error *err);

#endif
