/* forward.c: the forward pass over a tree of tokens, layer by layer over all tokens.
 *
 * One layer: h = norm(x); q, k, v = h Wq', h Wk', h Wv'; optional norm of each head of q and k;
 * rotary turn; attention; x += [norm](o Wo'); h = norm(x); x += [norm]((act(h Wg') * (h Wu')) Wd').
 * Keys and values are those of the present layer only, so memory grows as T (2D + H Dh + 2 K Dh).
 * The last layer computes keys and values of all tokens and everything else only for the tokens
 * whose logits are wanted. Every loop is cut by index, so the bits do not depend on the threads.
 */
#include <string.h>

#include "model/forward_private.h"

#define ROW_GRAIN 16

/* The rows a layer's second half works on: all tokens, or the needed ones in the last layer. */
typedef struct rows {
    float *x; /* (n, D) */
    int64_t n;
    const int64_t *nodes; /* (n) node of a row; NULL: row i is node i */
} rows;

typedef struct layer_work {
    const km__pass *pass;
    const km_layer_weights *weights;
    const rows *rows;
    const km__rope *rope;
    const float *gain;        /* next norm's gain; NULL: none */
    const float *branch_gain; /* norm of the branch before it is added; NULL: none */
    int32_t layer;
} layer_work;

static bool layer_is_windowed(const km_config *config, int32_t layer) {
    return config->sliding_window > 0 && config->windowed[layer] != 0;
}

static int64_t node_of(const rows *r, int64_t row) {
    return r->nodes == NULL ? row : r->nodes[row];
}

static void norm_row(const km__pass *pass, float *y, const float *x, const float *gain, int64_t n) {
    pass->kernels->rms_norm(y, x, gain, pass->model->config.norm_offset,
                            pass->model->config.norm_eps, n);
}

/* ---- loops over rows ---- */

static km_status embed_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const km__pass *pass = payload;
    const int64_t width = pass->model->config.d_model;
    const float scale = pass->model->config.embed_scale;
    for (int64_t i = begin; i < end; i++) {
        float *row = pass->work.x + i * width;
        km_matrix_row(row, pass->model->ctx, &pass->model->weights.embed, pass->plan.tree->ids[i]);
        for (int64_t j = 0; j < width; j++) {
            row[j] *= scale;
        }
    }
    return KM_OK;
}

static km_status norm_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const layer_work *work = payload;
    const int64_t width = work->pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        norm_row(work->pass, work->pass->work.h + i * width, work->rows->x + i * width, work->gain,
                 width);
    }
    return KM_OK;
}

/* x += [norm](h), then h = norm(x) for the next product. */
static km_status add_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const layer_work *work = payload;
    const km__pass *pass = work->pass;
    const int64_t width = pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        float *x = work->rows->x + i * width, *h = pass->work.h + i * width;
        if (work->branch_gain != NULL) {
            norm_row(pass, h, h, work->branch_gain, width);
        }
        pass->kernels->axpy(x, 1.0f, h, width);
        if (!pass->kernels->all_finite(x, width)) {
            int64_t node = node_of(work->rows, i);
            return KM_SET(err, KM_ENUMERIC,
                          "layer %d: activations of token %lld (position %d) are not finite",
                          work->layer, (long long)node, pass->plan.depth[node]);
        }
        if (work->gain != NULL) {
            norm_row(pass, h, x, work->gain, width);
        }
    }
    return KM_OK;
}

/* Norm of each head, then the rotary turn. */
static void turn_row(const layer_work *work, float *row, int64_t n_heads, const float *gain,
                     int64_t node) {
    const km_config *config = &work->pass->model->config;
    for (int64_t head = 0; gain != NULL && head < n_heads; head++) {
        float *start = row + head * config->head_dim;
        norm_row(work->pass, start, start, gain, config->head_dim);
    }
    km__rope_turn(row, work->rope, work->pass->plan.depth[node], n_heads, config);
}

static km_status turn_keys(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const layer_work *work = payload;
    const km_config *config = &work->pass->model->config;
    const int64_t width = (int64_t)config->n_kv_heads * config->head_dim;
    for (int64_t i = begin; i < end; i++) {
        turn_row(work, work->pass->work.k + i * width, config->n_kv_heads, work->weights->k_norm,
                 i);
    }
    return KM_OK;
}

static km_status turn_queries(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    (void)worker;
    (void)err;
    const layer_work *work = payload;
    const km_config *config = &work->pass->model->config;
    const int64_t width = (int64_t)config->n_heads * config->head_dim;
    for (int64_t i = begin; i < end; i++) {
        turn_row(work, work->pass->work.q + i * width, config->n_heads, work->weights->q_norm,
                 node_of(work->rows, i));
    }
    return KM_OK;
}

static km_status gate_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const layer_work *work = payload;
    const km__pass *pass = work->pass;
    const int64_t width = pass->model->config.d_ffn;
    for (int64_t i = begin; i < end; i++) {
        float *gate = pass->work.gate + i * width;
        const float *up = pass->work.up + i * width;
        if (pass->model->config.activation == KM_ACT_GELU_TANH) {
            pass->kernels->gelu_tanh(gate, up, width);
        } else {
            pass->kernels->silu(gate, up, width);
        }
    }
    return KM_OK;
}

static km_status gather_range(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    (void)worker;
    (void)err;
    const km__pass *pass = payload;
    const int64_t width = pass->model->config.d_model;
    for (int64_t i = begin; i < end; i++) {
        memcpy(pass->work.picked + i * width, pass->work.x + pass->plan.needed[i] * width,
               (size_t)width * sizeof(float));
    }
    return KM_OK;
}

/* ---- one layer ---- */

static km_status over_rows(const layer_work *work, int64_t n, km_range_fn fn, km_error *err) {
    return km_parallel_for(work->pass->model->ctx, n, ROW_GRAIN, fn, (void *)work, err);
}

/* y (n, out) = x (n, in) * matrix^T + bias */
static km_linear_job product(float *y, const float *x, const km_matrix *matrix, const float *bias,
                             int64_t n) {
    return (km_linear_job){y, x, matrix, bias, matrix->rows, matrix->cols, n};
}

/* Queries, keys and values from h, turned to their positions. In the last layer h holds all tokens
 * for the keys and values, then the needed ones for the queries. */
static km_status project(layer_work *work, bool last, km_error *err) {
    const km__pass *pass = work->pass;
    const km_layer_weights *w = work->weights;
    const int64_t n = pass->plan.tree->n;
    const km_linear_job jobs[3] = {
        product(pass->work.k, pass->work.h, &w->wk, w->bk, n),
        product(pass->work.v, pass->work.h, &w->wv, w->bv, n),
        product(pass->work.q, pass->work.h, &w->wq, w->bq, work->rows->n),
    };
    if (last) {
        KM_TRY(km_linear_many(pass->model->ctx, jobs, 2, err));
        KM_TRY(over_rows(work, work->rows->n, norm_range, err));
        KM_TRY(km_linear_many(pass->model->ctx, jobs + 2, 1, err));
    } else {
        KM_TRY(km_linear_many(pass->model->ctx, jobs, 3, err));
    }
    KM_TRY(over_rows(work, n, turn_keys, err));
    return over_rows(work, work->rows->n, turn_queries, err);
}

static km_status attend(layer_work *work, bool last, km_error *err) {
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    const bool windowed = layer_is_windowed(config, work->layer);
    work->rope = windowed ? &pass->work.rope_window : &pass->work.rope_full;
    KM_TRY(project(work, last, err));
    KM_TRY(km__attention(pass, last ? pass->plan.last_runs : pass->plan.runs,
                         last ? pass->plan.n_last_runs : pass->plan.n_runs, windowed, err));
    const km_linear_job job =
        product(pass->work.h, pass->work.q, &work->weights->wo, work->weights->bo, work->rows->n);
    KM_TRY(km_linear_many(pass->model->ctx, &job, 1, err));
    work->gain = work->weights->ffn_norm.gain;
    work->branch_gain = work->weights->attn_post_norm.gain;
    return over_rows(work, work->rows->n, add_range, err);
}

static km_status feed_forward(layer_work *work, const float *next_gain, km_error *err) {
    const km__pass *pass = work->pass;
    const km_config *config = &pass->model->config;
    const km_layer_weights *w = work->weights;
    const int64_t width = config->d_model;
    const int64_t block = pass->work.mlp_rows;
    for (int64_t first = 0; first < work->rows->n; first += block) {
        int64_t n = work->rows->n - first < block ? work->rows->n - first : block;
        float *h = pass->work.h + first * width;
        const km_linear_job in[2] = {product(pass->work.gate, h, &w->w_gate, w->b_gate, n),
                                     product(pass->work.up, h, &w->w_up, w->b_up, n)};
        const km_linear_job out = product(h, pass->work.gate, &w->w_down, w->b_down, n);
        KM_TRY(km_linear_many(pass->model->ctx, in, 2, err));
        KM_TRY(over_rows(work, n, gate_range, err));
        KM_TRY(km_linear_many(pass->model->ctx, &out, 1, err));
    }
    work->gain = next_gain;
    work->branch_gain = w->ffn_post_norm.gain;
    return over_rows(work, work->rows->n, add_range, err);
}

/* h holds norm(x) of all tokens on entry and, but for the last layer, on return. */
static km_status run_layer(const km__pass *pass, int32_t layer, km_error *err) {
    const km_model *model = pass->model;
    const bool last = layer == model->config.n_layers - 1;
    const km_layer_weights *weights = &model->weights.layers[layer];
    rows r = {pass->work.x, pass->plan.tree->n, NULL};
    layer_work work = {.pass = pass, .weights = weights, .rows = &r, .layer = layer};
    if (last) {
        KM_TRY(km_parallel_for(model->ctx, pass->plan.n_needed, ROW_GRAIN, gather_range,
                               (void *)pass, err));
        r = (rows){pass->work.picked, pass->plan.n_needed, pass->plan.needed};
        work.gain = weights->attn_norm.gain;
    }
    KM_TRY(attend(&work, last, err));
    return feed_forward(&work, last ? NULL : weights[1].attn_norm.gain, err);
}

/* ---- the pass ---- */

static km_status run_pass(const km__pass *pass, km_error *err) {
    const km_model *model = pass->model;
    const km_config *config = &model->config;
    const rows all = {pass->work.x, pass->plan.tree->n, NULL};
    const layer_work first = {
        .pass = pass, .rows = &all, .gain = model->weights.layers[0].attn_norm.gain};
    KM_TRY(km__rope_fill(&pass->work.rope_full, model, config->rope_base, config->rope_linear_scale,
                         pass->plan.n_positions, err));
    KM_TRY(km__rope_fill(&pass->work.rope_window, model, config->rope_base_local, 1.0,
                         pass->plan.n_positions, err));
    KM_TRY(km_parallel_for(model->ctx, all.n, ROW_GRAIN, embed_range, (void *)pass, err));
    KM_TRY(over_rows(&first, all.n, norm_range, err));
    for (int32_t layer = 0; layer < config->n_layers; layer++) {
        const bool last = layer == config->n_layers - 1;
        KM_TRY(run_layer(pass, layer, err));
        km__lens_keep(pass, last ? pass->work.picked : pass->work.x,
                      last ? pass->plan.row_of : NULL, layer);
    }
    KM_TRY(km__logits_output(pass, err));
    return km__logits_lens(pass, err);
}

km_status km_model_forward(const km_model *model, const km_forward_request *request,
                           km_error *err) {
    if (model == NULL || request == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no request");
    }
    km_status status = KM_OK;
    KM_TRY(km__weights_check(model, err));
    km__pass pass = {.model = model, .request = request, .kernels = km_ctx_kernels(model->ctx)};
    KM_GO(km__plan_init(&pass.plan, model, request, err));
    if (pass.plan.n_needed > 0) {
        KM_GO(km__workspace_init(&pass.work, &pass.plan, model, request, err));
        KM_GO(run_pass(&pass, err));
    }
done:
    km__workspace_clear(&pass.work, model->ctx);
    km__plan_clear(&pass.plan, model->ctx);
    return status;
}
