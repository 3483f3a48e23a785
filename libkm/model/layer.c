/* layer.c: one layer of the forward pass over all tokens.
 *
 * h = norm(x); q, k, v = h Wq', h Wk', h Wv'; optional norm of each head of q and k; rotary turn;
 * attention; x += [norm](o Wo'); h = norm(x); x += [norm](act(h Wg') * (h Wu') Wd'), or without a
 * gate act(h Wu') Wd'. With a parallel residual the MLP reads x as it was before attention.
 *
 * The last layer computes keys and values of all tokens and everything else only for the tokens
 * somebody asks for. Every loop is cut by index, so the bits do not depend on the threads. Between
 * the steps stand the doors; where one is open, steps that usually share a loop run one by one.
 */
#include <string.h>

#include "model/forward_private.h"

#define ROW_GRAIN 16

/* What a loop over rows works on. */
typedef struct layer_work {
    const km__pass *pass;
    const km_layer_weights *weights;
    const km__rows *rows;
    int32_t layer;
    float *x;    /* (rows, D) residual stream */
    float *gate; /* activate: (n, F) */
    float *up;   /* activate: (n, F), or NULL without a gate */
} layer_work;

/* The end of a branch. */
typedef struct join {
    const layer_work *work;
    float *branch;                      /* (rows, D) */
    const km_norm_weights *branch_norm; /* of the branch before it is added; gain NULL: none */
    const km_norm_weights *next;        /* norm of x for the next product; NULL: none */
    km_point branch_point;
    km_point stream_point; /* KM_N_POINTS: none */
    int steps;
} join;
enum { NORM_BRANCH = 1, ADD_BRANCH = 2, NORM_STREAM = 4 };

static int64_t node_of(const km__rows *rows, int64_t row) {
    return rows->nodes == NULL ? row : rows->nodes[row];
}

static km_status over_rows(const layer_work *work, int64_t n, km_range_fn fn, const void *payload,
                           km_error *err) {
    return km_parallel_for(work->pass->model->ctx, n, ROW_GRAIN, fn, (void *)(uintptr_t)payload,
                           err);
}

/* y (n, out) = x (n, in) * matrix^T + bias */
static km_linear_job product(float *y, const float *x, const km_matrix *matrix, const float *bias,
                             int64_t n) {
    return (km_linear_job){y, x, matrix, bias, matrix->rows, matrix->cols, n};
}

/* ---- norms ---- */

typedef struct norm_work {
    const km__pass *pass;
    const km_norm_weights *norm;
    float *y;
    const float *x;
} norm_work;

static km_status norm_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const norm_work *work = payload;
    const int64_t width = work->pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        km__norm(work->pass, work->y + i * width, work->x + i * width, work->norm);
    }
    return KM_OK;
}

/* y (n, D) = norm(x); y may be x. */
static km_status norm_rows(const layer_work *work, float *y, const float *x,
                           const km_norm_weights *norm, int64_t n, km_error *err) {
    const norm_work each = {work->pass, norm, y, x};
    return over_rows(work, n, norm_range, &each, err);
}

/* ---- the stream as a single reader sees it ---- */

/* Copy x (n, D) once for each head into `split` (n, heads, D), pass the door and take the norm. */
static km_status split_stream(const layer_work *work, km_point point, const float *x,
                              const km__rows *rows, const km_norm_weights *norm, km_error *err) {
    const km__pass *pass = work->pass;
    const int64_t width = pass->model->config.d_model;
    const int64_t heads = km_point_heads(point, &pass->model->config);
    float *split = pass->work->split;
    for (int64_t i = 0; i < rows->n * heads; i++) {
        memcpy(split + i * width, x + i / heads * width, (size_t)width * sizeof *x);
    }
    KM_TRY(km__door_all(pass, point, work->layer, split, rows, err));
    return norm_rows(work, split, split, norm, rows->n * heads, err);
}

/* y (n, heads * Dh) with each head's rows of the matrix times that head's own input. */
static km_status split_product(const layer_work *work, km_point point, float *y, const float *x,
                               const km__rows *rows, const km_matrix *matrix, const float *bias,
                               km_error *err) {
    const km__pass *pass = work->pass;
    const int64_t width = pass->model->config.d_model, head_dim = pass->model->config.head_dim;
    const int64_t heads = km_point_heads(point, &pass->model->config);
    KM_TRY(split_stream(work, point, x, rows, &work->weights->attn_norm, err));
    for (int64_t head = 0; head < heads; head++) {
        const km_matrix part = km_matrix_rows(matrix, head * head_dim, head_dim);
        const km_linear_job job = {y + head * head_dim,
                                   pass->work->split + head * width,
                                   &part,
                                   bias == NULL ? NULL : bias + head * head_dim,
                                   matrix->rows,
                                   heads * width,
                                   rows->n};
        KM_TRY(km_linear_many(pass->model->ctx, &job, 1, err));
    }
    return KM_OK;
}

/* ---- queries, keys and values ---- */

static km__rows all_rows(const km__pass *pass) {
    return (km__rows){pass->plan.tree->n, NULL, NULL};
}

static float *new_keys(const km__pass *pass, int32_t layer) {
    const km_config *config = &pass->model->config;
    return km__keys(pass, layer) + pass->plan.base * config->n_kv_heads * config->head_dim;
}

static float *new_values(const km__pass *pass, int32_t layer) {
    const km_config *config = &pass->model->config;
    return km__values(pass, layer) + pass->plan.base * config->n_kv_heads * config->head_dim;
}

/* One of the three; where its input has an open door, at once, else as a job for later. */
static km_status project_one(const layer_work *work, km_linear_job *jobs, int *n_jobs,
                             km_point point, const float *x, const km__rows *rows, km_error *err) {
    const km_layer_weights *w = work->weights;
    const km__pass *pass = work->pass;
    const bool q = point == KM_POINT_Q_INPUT, k = point == KM_POINT_K_INPUT;
    const km_matrix *matrix = q ? &w->wq : k ? &w->wk : &w->wv;
    const float *bias = q ? w->bq : k ? w->bk : w->bv;
    float *y = q ? pass->work->q : k ? new_keys(pass, work->layer) : new_values(pass, work->layer);
    if (km__is_open(pass, point, work->layer)) {
        return split_product(work, point, y, x, rows, matrix, bias, err);
    }
    jobs[(*n_jobs)++] = product(y, pass->work->h, matrix, bias, rows->n);
    return KM_OK;
}

/* x (n, D) of all tokens; h holds its norm. In the last layer the queries are of work->rows. */
static km_status project(const layer_work *work, km_error *err) {
    const km__pass *pass = work->pass;
    const km__rows all = all_rows(pass);
    const bool picked = work->rows->nodes != NULL;
    km_linear_job jobs[3];
    int n_jobs = 0;
    KM_TRY(project_one(work, jobs, &n_jobs, KM_POINT_K_INPUT, pass->work->x, &all, err));
    KM_TRY(project_one(work, jobs, &n_jobs, KM_POINT_V_INPUT, pass->work->x, &all, err));
    if (picked) {
        KM_TRY(km_linear_many(pass->model->ctx, jobs, n_jobs, err));
        n_jobs = 0;
        KM_TRY(
            norm_rows(work, pass->work->h, work->x, &work->weights->attn_norm, work->rows->n, err));
    }
    KM_TRY(project_one(work, jobs, &n_jobs, KM_POINT_Q_INPUT, work->x, work->rows, err));
    return n_jobs > 0 ? km_linear_many(pass->model->ctx, jobs, n_jobs, err) : KM_OK;
}

/* Norm of each head, then the rotary turn. */
static void turn_row(const layer_work *work, float *row, int64_t n_heads, const float *gain,
                     int64_t token) {
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    for (int64_t head = 0; gain != NULL && head < n_heads; head++) {
        float *start = row + head * config->head_dim;
        pass->kernels->rms_norm(start, start, gain, config->norm_offset, config->norm_eps,
                                config->head_dim);
    }
    if (config->position == KM_POSITION_ROPE) {
        const bool windowed = km__is_windowed(config, work->layer);
        km__rope_turn(row, windowed ? &pass->work->rope_window : &pass->work->rope_full,
                      pass->plan.depth[pass->plan.base + token], n_heads, config);
    }
}

/* Rows of keys, then rows of queries. */
static km_status turn_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const layer_work *work = payload;
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    const int64_t kv_width = (int64_t)config->n_kv_heads * config->head_dim;
    const int64_t q_width = (int64_t)config->n_heads * config->head_dim, n = pass->plan.tree->n;
    float *keys = new_keys(pass, work->layer);
    for (int64_t i = begin; i < end; i++) {
        if (i < n) {
            turn_row(work, keys + i * kv_width, config->n_kv_heads, work->weights->k_norm, i);
        } else {
            turn_row(work, pass->work->q + (i - n) * q_width, config->n_heads,
                     work->weights->q_norm, node_of(work->rows, i - n));
        }
    }
    return KM_OK;
}

static km_status pass_qkv_doors(const layer_work *work, km_error *err) {
    const km__pass *pass = work->pass;
    const km__rows all = all_rows(pass);
    const int32_t layer = work->layer;
    KM_TRY(km__door_all(pass, KM_POINT_Q, layer, pass->work->q, work->rows, err));
    KM_TRY(km__door_all(pass, KM_POINT_K, layer, new_keys(pass, layer), &all, err));
    return km__door_all(pass, KM_POINT_V, layer, new_values(pass, layer), &all, err);
}

/* h = attention's output, before its norm. */
static km_status attend(const layer_work *work, km_error *err) {
    const km__pass *pass = work->pass;
    const bool picked = work->rows->nodes != NULL;
    KM_TRY(project(work, err));
    KM_TRY(pass_qkv_doors(work, err));
    KM_TRY(over_rows(work, pass->plan.tree->n + work->rows->n, turn_range, work, err));
    KM_TRY(km__attention(pass, picked ? pass->plan.last_runs : pass->plan.runs,
                         picked ? pass->plan.n_last_runs : pass->plan.n_runs, work->layer, err));
    KM_TRY(km__door_all(pass, KM_POINT_ATTN_HEAD_OUT, work->layer, pass->work->q, work->rows, err));
    const km_linear_job job =
        product(pass->work->h, pass->work->q, &work->weights->wo, work->weights->bo, work->rows->n);
    return km_linear_many(pass->model->ctx, &job, 1, err);
}

/* ---- the end of a branch ---- */

static km_status join_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const join *j = payload;
    const layer_work *work = j->work;
    const km__pass *pass = work->pass;
    const int64_t width = pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        float *x = work->x + i * width, *branch = j->branch + i * width;
        if ((j->steps & NORM_BRANCH) != 0 && j->branch_norm->gain != NULL) {
            km__norm(pass, branch, branch, j->branch_norm);
        }
        if ((j->steps & ADD_BRANCH) != 0) {
            pass->kernels->axpy(x, 1.0f, branch, width);
            if (!pass->kernels->all_finite(x, width)) {
                const int64_t token = node_of(work->rows, i);
                return KM_SET(err, KM_ENUMERIC,
                              "layer %d: %s of token %lld (position %d) is not finite", work->layer,
                              km_point_name(j->stream_point < KM_N_POINTS ? j->stream_point
                                                                          : j->branch_point),
                              (long long)token, pass->plan.depth[pass->plan.base + token]);
            }
        }
        if ((j->steps & NORM_STREAM) != 0 && j->next != NULL) {
            km__norm(pass, pass->work->h + i * width, x, j->next);
        }
    }
    return KM_OK;
}

static km_status run_steps(join *j, int steps, km_error *err) {
    j->steps = steps;
    return over_rows(j->work, j->work->rows->n, join_range, j, err);
}

/* x += [norm](branch), then h = norm(x) when somebody is next. */
static km_status add_branch(join *j, km_error *err) {
    const layer_work *work = j->work;
    const km__pass *pass = work->pass;
    const bool has_stream = j->stream_point < KM_N_POINTS;
    if (!km__is_open(pass, j->branch_point, work->layer) &&
        !(has_stream && km__is_open(pass, j->stream_point, work->layer))) {
        return run_steps(j, NORM_BRANCH | ADD_BRANCH | NORM_STREAM, err);
    }
    KM_TRY(run_steps(j, NORM_BRANCH, err));
    KM_TRY(km__door_all(pass, j->branch_point, work->layer, j->branch, work->rows, err));
    KM_TRY(run_steps(j, ADD_BRANCH, err));
    if (has_stream) {
        KM_TRY(km__door_all(pass, j->stream_point, work->layer, work->x, work->rows, err));
    }
    return run_steps(j, NORM_STREAM, err);
}

/* ---- MLP ---- */

static km_status activate_range(void *payload, int64_t begin, int64_t end, int worker,
                                km_error *err) {
    (void)worker;
    (void)err;
    const layer_work *work = payload;
    const km_kernels *kernels = work->pass->kernels;
    const km_config *config = &work->pass->model->config;
    for (int64_t i = begin; i < end; i++) {
        float *x = work->gate + i * config->d_ffn;
        const float *up = work->up == NULL ? NULL : work->up + i * config->d_ffn;
        switch (config->activation) {
        case KM_ACT_SILU:
            kernels->silu(x, up, config->d_ffn);
            break;
        case KM_ACT_GELU_TANH:
            kernels->gelu_tanh(x, up, config->d_ffn);
            break;
        case KM_ACT_GELU_ERF:
            kernels->gelu_erf(x, up, config->d_ffn);
            break;
        }
    }
    return KM_OK;
}

/* Rows first .. first+n-1 of h, in place. */
static km_status mlp_block(layer_work *work, float *h, int64_t first, int64_t n, km_error *err) {
    const km__pass *pass = work->pass;
    const km_layer_weights *w = work->weights;
    const bool gated = pass->model->config.gated_mlp;
    work->gate = pass->work->gate;
    work->up = gated ? pass->work->up : NULL;
    h += first * pass->model->config.d_model;
    const km_linear_job in[2] = {
        product(work->gate, h, gated ? &w->w_gate : &w->w_up, gated ? w->b_gate : w->b_up, n),
        product(work->up, h, &w->w_up, w->b_up, n)};
    KM_TRY(km_linear_many(pass->model->ctx, in, gated ? 2 : 1, err));
    KM_TRY(km__door(pass, KM_POINT_MLP_PRE, work->layer, work->gate, work->rows, first, n, err));
    KM_TRY(over_rows(work, n, activate_range, work, err));
    KM_TRY(km__door(pass, KM_POINT_MLP_HIDDEN, work->layer, work->gate, work->rows, first, n, err));
    const km_linear_job out = product(h, work->gate, &w->w_down, w->b_down, n);
    return km_linear_many(pass->model->ctx, &out, 1, err);
}

static km_status feed_forward(layer_work *work, float *h, km_error *err) {
    const int64_t block = work->pass->work->mlp_rows;
    for (int64_t first = 0; first < work->rows->n; first += block) {
        const int64_t left = work->rows->n - first;
        KM_TRY(mlp_block(work, h, first, left < block ? left : block, err));
    }
    return KM_OK;
}

/* y = norm(x) for the MLP; through the door of its input when that is open. */
static km_status mlp_input(const layer_work *work, float *y, km_error *err) {
    const km__pass *pass = work->pass;
    const km_norm_weights *norm = &work->weights->ffn_norm;
    if (!km__is_open(pass, KM_POINT_MLP_INPUT, work->layer)) {
        return norm_rows(work, y, work->x, norm, work->rows->n, err);
    }
    KM_TRY(split_stream(work, KM_POINT_MLP_INPUT, work->x, work->rows, norm, err));
    memcpy(y, pass->work->split, (size_t)(work->rows->n * pass->model->config.d_model) * sizeof *y);
    return KM_OK;
}

/* ---- the layer ---- */

/* The norm of the next layer can be taken at once unless a door stands before it. */
static const km_norm_weights *next_norm(const km__pass *pass, int32_t layer) {
    if (layer + 1 >= pass->plan.n_layers || km__is_open(pass, KM_POINT_RESID_PRE, layer + 1)) {
        return NULL;
    }
    return &pass->model->weights.layers[layer + 1].attn_norm;
}

static km_status second_half(km__pass *pass, layer_work *work, km_error *err) {
    const km_layer_weights *w = work->weights;
    const bool parallel = pass->model->config.parallel_residual;
    const bool open = km__is_open(pass, KM_POINT_MLP_INPUT, work->layer);
    float *mlp = parallel ? pass->work->m : pass->work->h;
    if (parallel) {
        KM_TRY(mlp_input(work, mlp, err));
    }
    join attention = {.work = work,
                      .branch = pass->work->h,
                      .branch_norm = &w->attn_post_norm,
                      .next = parallel || open ? NULL : &w->ffn_norm,
                      .branch_point = KM_POINT_ATTN_OUT,
                      .stream_point = parallel ? KM_N_POINTS : KM_POINT_RESID_MID};
    KM_TRY(add_branch(&attention, err));
    if (!parallel && open) {
        KM_TRY(mlp_input(work, mlp, err));
    }
    KM_TRY(feed_forward(work, mlp, err));
    join out = {.work = work,
                .branch = mlp,
                .branch_norm = &w->ffn_post_norm,
                .next = next_norm(pass, work->layer),
                .branch_point = KM_POINT_MLP_OUT,
                .stream_point = KM_POINT_RESID_POST};
    KM_TRY(add_branch(&out, err));
    pass->normed = out.next != NULL;
    return KM_OK;
}

static void pick_rows(const km__pass *pass) {
    const int64_t width = pass->model->config.d_model;
    for (int64_t i = 0; i < pass->plan.n_needed; i++) {
        memcpy(pass->work->picked + i * width, pass->work->x + pass->plan.needed[i] * width,
               (size_t)width * sizeof(float));
    }
}

km_status km__layer(km__pass *pass, int32_t layer, km_error *err) {
    const km__rows rows = km__plan_rows(&pass->plan, layer), all = all_rows(pass);
    layer_work work = {.pass = pass,
                       .weights = &pass->model->weights.layers[layer],
                       .rows = &rows,
                       .layer = layer,
                       .x = pass->work->x};
    KM_TRY(km__door_all(pass, KM_POINT_RESID_PRE, layer, work.x, &all, err));
    if (!pass->normed) {
        KM_TRY(norm_rows(&work, pass->work->h, work.x, &work.weights->attn_norm, all.n, err));
    }
    if (rows.nodes != NULL) {
        pick_rows(pass);
        work.x = pass->work->picked;
    }
    KM_TRY(attend(&work, err));
    return second_half(pass, &work, err);
}
