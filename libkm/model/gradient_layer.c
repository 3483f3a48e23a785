/* gradient_layer.c: one layer computed again from resid_pre, and differentiated from its end to its
 * beginning.
 *
 * What patches changed is not computed but taken from the forward pass, so that the derivative is
 * that of the values used. At each product its input and the derivative of its output are at hand
 * together.
 */
#include <string.h>

#include "model/gradient_private.h"
#include "tensor/kernels_gradient.h"

#define ROW_GRAIN 16

km_status km__over_rows(const km__back *back, int64_t n, km_range_fn fn, void *payload,
                        km_error *err) {
    return km_parallel_for(back->model->ctx, n, ROW_GRAIN, fn, payload, err);
}

/* ---- loops over rows ---- */

typedef struct norm_work {
    const km__back *back;
    const km_norm_weights *norm;
    float *y;        /* (n, D): output, or derivative of the input */
    const float *x;  /* (n, x_stride) input */
    const float *dy; /* NULL: forward */
    int64_t x_stride;
    bool add;
} norm_work;

static void norm_row(const norm_work *w, float *y, const float *x) {
    const km_config *config = &w->back->model->config;
    const km_kernels *kernels = w->back->kernels;
    if (config->norm == KM_NORM_LAYER) {
        kernels->layer_norm(y, x, w->norm->gain, w->norm->bias, config->norm_eps, config->d_model);
    } else {
        kernels->rms_norm(y, x, w->norm->gain, config->norm_offset, config->norm_eps,
                          config->d_model);
    }
}

static km_status norm_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const norm_work *w = payload;
    const km_config *config = &w->back->model->config;
    const int64_t width = config->d_model;
    for (int64_t i = begin; i < end; i++) {
        const float *x = w->x + i * w->x_stride;
        if (w->dy == NULL) {
            norm_row(w, w->y + i * width, x);
        } else {
            km__norm_backward(w->y + i * width, w->dy + i * width, x, w->norm, config, width,
                              w->add);
        }
    }
    return KM_OK;
}

km_status km__norm_rows(const km__back *back, float *y, const float *x, const km_norm_weights *norm,
                        int64_t n, km_error *err) {
    norm_work work = {back, norm, y, x, NULL, back->model->config.d_model, false};
    return km__over_rows(back, n, norm_range, &work, err);
}

km_status km__norm_rows_backward(const km__back *back, float *dx, const float *dy, const float *x,
                                 const km_norm_weights *norm, int64_t n, bool add, km_error *err) {
    const int64_t width = back->model->config.d_model;
    norm_work work = {back, norm, dx, x, dy, width, add};
    KM_TRY(km__collect_norm(back, &norm->gain, &norm->bias, dy, x, n, width, err));
    return km__over_rows(back, n, norm_range, &work, err);
}

typedef struct turn_work {
    const km__back *back;
    float *out;      /* (T, heads, Dh): turned; or the derivative, turned back in place */
    const float *in; /* (T, heads, Dh) before the head norm, or NULL */
    const float *gain;
    const km__rope *rope; /* NULL: learned positions */
    int64_t heads;
} turn_work;

/* Head norms have no bias and follow the model's RMSNorm; without one, `in` is `out`. */
static km_status turn_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const turn_work *w = payload;
    const km_config *config = &w->back->model->config;
    const int64_t width = config->head_dim, row = w->heads * width;
    for (int64_t i = begin; i < end; i++) {
        float *out = w->out + i * row;
        for (int64_t head = 0; w->gain != NULL && head < w->heads; head++) {
            w->back->kernels->rms_norm(out + head * width, w->in + i * row + head * width, w->gain,
                                       config->norm_offset, config->norm_eps, width);
        }
        if (w->rope != NULL) {
            km__rope_turn(out, w->rope, w->back->plan.depth[i], w->heads, config);
        }
    }
    return KM_OK;
}

static km_status turn_back_range(void *payload, int64_t begin, int64_t end, int worker,
                                 km_error *err) {
    (void)worker;
    (void)err;
    const turn_work *w = payload;
    const km_config *config = &w->back->model->config;
    const int64_t row = w->heads * config->head_dim;
    for (int64_t i = begin; w->rope != NULL && i < end; i++) {
        km__rope_turn(w->out + i * row, w->rope, w->back->plan.depth[i], w->heads, config);
    }
    return KM_OK;
}

static km_status head_norm_back_range(void *payload, int64_t begin, int64_t end, int worker,
                                      km_error *err) {
    (void)worker;
    (void)err;
    const turn_work *w = payload;
    const km_config *config = &w->back->model->config;
    const km_norm_weights norm = {w->gain, NULL};
    const int64_t width = config->head_dim;
    for (int64_t at = begin * w->heads * width; at < end * w->heads * width; at += width) {
        km__norm_backward(w->out + at, w->out + at, w->in + at, &norm, config, width, false);
    }
    return KM_OK;
}

static km_status mlp_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const km__back *back = payload;
    const km_config *config = &back->model->config;
    const int64_t width = config->d_ffn;
    for (int64_t i = begin; i < end; i++) {
        float *hidden = back->s.hidden + i * width;
        const float *up = config->gated_mlp ? back->s.up + i * width : NULL;
        memcpy(hidden, back->s.pre + i * width, (size_t)width * sizeof *hidden);
        switch (config->activation) {
        case KM_ACT_SILU:
            back->kernels->silu(hidden, up, width);
            break;
        case KM_ACT_GELU_TANH:
            back->kernels->gelu_tanh(hidden, up, width);
            break;
        case KM_ACT_GELU_ERF:
            back->kernels->gelu_erf(hidden, up, width);
            break;
        }
    }
    return KM_OK;
}

static km_activation_back_fn activation_back(const km__back *back) {
    const km_gradient_kernels *kernels = km_ctx_gradient_kernels(back->model->ctx);
    switch (back->model->config.activation) {
    case KM_ACT_SILU:
        return kernels->silu;
    case KM_ACT_GELU_TANH:
        return kernels->gelu_tanh;
    case KM_ACT_GELU_ERF:
        break;
    }
    return kernels->gelu_erf;
}

static km_status mlp_back_range(void *payload, int64_t begin, int64_t end, int worker,
                                km_error *err) {
    (void)worker;
    (void)err;
    const km__back *back = payload;
    const km_config *config = &back->model->config;
    const int64_t at = begin * config->d_ffn, n = (end - begin) * config->d_ffn;
    activation_back(back)(back->s.pre + at, config->gated_mlp ? back->s.up + at : NULL,
                          back->s.hidden + at, n);
    return KM_OK;
}

/* y (T, D) += x */
static void add_rows(const km__back *back, float *y, const float *x) {
    const int64_t n = back->n * back->model->config.d_model;
    for (int64_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

static void copy_rows(const km__back *back, float *y, const float *x) {
    memcpy(y, x, (size_t)(back->n * back->model->config.d_model) * sizeof *y);
}

/* ---- the layer again ---- */

typedef struct layer {
    const km__back *back;
    const km_layer_weights *w;
    const float *x;     /* (T, D) resid_pre */
    const float *mlp_x; /* (T, D) what the MLP reads */
    int32_t index;
} layer;

static layer layer_at(const km__back *back, int32_t index) {
    const km_config *config = &back->model->config;
    layer l = {.back = back, .w = &back->model->weights.layers[index], .index = index};
    l.x = back->resid + index * back->n * config->d_model;
    const float *patched = km__kept_values(back, KM_POINT_MLP_INPUT, index);
    l.mlp_x = patched != NULL ? patched : config->parallel_residual ? l.x : back->s.mid;
    return l;
}

/* One of the three products attention starts with, and the points at both its ends. */
typedef struct projection {
    const km_matrix *w;
    const float *const *bias, *const *gain; /* places of pointers that may be NULL */
    float *out, *turned, *d;
    km_point point, input;
    int64_t heads;
} projection;

static projection projection_at(const layer *l, int which) {
    const km__layer_state *s = &l->back->s;
    const km_layer_weights *w = l->w;
    const km_config *c = &l->back->model->config;
    const projection all[3] = {
        {&w->wq, &w->bq, &w->q_norm, s->q, s->qr, s->dq, KM_POINT_Q, KM_POINT_Q_INPUT, c->n_heads},
        {&w->wk, &w->bk, &w->k_norm, s->k, s->kr, s->dk, KM_POINT_K, KM_POINT_K_INPUT,
         c->n_kv_heads},
        {&w->wv, &w->bv, NULL, s->v, NULL, s->dv, KM_POINT_V, KM_POINT_V_INPUT, c->n_kv_heads},
    };
    return all[which];
}

/* Heads whose inputs are patched read streams of their own. */
static km_status project_heads(const layer *l, const projection *p, const float *inputs,
                               km_error *err) {
    const km__back *back = l->back;
    const km_config *config = &back->model->config;
    const int64_t d = config->d_model, width = config->head_dim;
    for (int64_t head = 0; head < p->heads; head++) {
        const km_matrix w = km_matrix_rows(p->w, head * width, width);
        const float *bias = *p->bias == NULL ? NULL : *p->bias + head * width;
        norm_work work = {back, &l->w->attn_norm, back->s.h, inputs + head * d,
                          NULL, p->heads * d,     false};
        KM_TRY(km__over_rows(back, back->n, norm_range, &work, err));
        const km_linear_job job = {p->out + head * width, back->s.h, &w,     bias,
                                   p->heads * width,      d,         back->n};
        KM_TRY(km_linear_many(back->model->ctx, &job, 1, err));
    }
    return KM_OK;
}

/* All three; those with the same input share its norm and one loop. */
static km_status project(const layer *l, const projection p[3], km_error *err) {
    const km__back *back = l->back;
    const int64_t width = back->model->config.head_dim, d = back->model->config.d_model;
    km_linear_job jobs[3];
    int n_jobs = 0;
    for (int i = 0; i < 3; i++) {
        const float *inputs = km__kept_values(back, p[i].input, l->index);
        if (inputs != NULL) {
            KM_TRY(project_heads(l, &p[i], inputs, err));
        } else {
            jobs[n_jobs++] = (km_linear_job){p[i].out,           back->s.h, p[i].w, *p[i].bias,
                                             p[i].heads * width, d,         back->n};
        }
    }
    KM_TRY(km__norm_rows(back, back->s.h, l->x, &l->w->attn_norm, back->n, err));
    return km_linear_many(back->model->ctx, jobs, n_jobs, err);
}

static turn_work turn_at(const layer *l, const projection *p, float *out, const km__rope *ropes) {
    const km_config *config = &l->back->model->config;
    const bool rotary = config->position == KM_POSITION_ROPE;
    return (turn_work){
        l->back, out, p->out, *p->gain, rotary ? &ropes[km__is_windowed(config, l->index)] : NULL,
        p->heads};
}

static km_status attention_again(const layer *l, km_error *err) {
    const km__back *back = l->back;
    const km__layer_state *s = &back->s;
    const km_config *config = &back->model->config;
    const int64_t q = (int64_t)config->n_heads * config->head_dim, d = config->d_model;
    const projection p[3] = {projection_at(l, 0), projection_at(l, 1), projection_at(l, 2)};
    KM_TRY(project(l, p, err));
    for (int i = 0; i < 3; i++) {
        km__substitute(back, p[i].out, p[i].point, l->index, p[i].heads * config->head_dim);
        if (p[i].turned != NULL) {
            turn_work work = turn_at(l, &p[i], p[i].turned, back->rope);
            KM_TRY(km__over_rows(back, back->n, turn_range, &work, err));
        }
    }
    KM_TRY(km__attention_again(back, l->index, err));
    km__substitute(back, s->z, KM_POINT_ATTN_HEAD_OUT, l->index, q);
    float *branch = config->post_norms ? s->attn_branch : s->mid;
    const km_linear_job job = {branch, s->z, &l->w->wo, l->w->bo, d, q, back->n};
    KM_TRY(km_linear_many(back->model->ctx, &job, 1, err));
    if (config->post_norms) {
        KM_TRY(km__norm_rows(back, s->mid, branch, &l->w->attn_post_norm, back->n, err));
    }
    km__substitute(back, s->mid, KM_POINT_ATTN_OUT, l->index, d);
    add_rows(back, s->mid, l->x);
    if (!config->parallel_residual) {
        km__substitute(back, s->mid, KM_POINT_RESID_MID, l->index, d);
    }
    return KM_OK;
}

static km_status mlp_again(const layer *l, km_error *err) {
    const km__back *back = l->back;
    const km__layer_state *s = &back->s;
    const km_config *config = &back->model->config;
    const km_layer_weights *w = l->w;
    const int64_t f = config->d_ffn, d = config->d_model;
    const bool gated = config->gated_mlp;
    KM_TRY(km__norm_rows(back, s->h, l->mlp_x, &w->ffn_norm, back->n, err));
    const km_linear_job in[2] = {
        {s->pre, s->h, gated ? &w->w_gate : &w->w_up, gated ? w->b_gate : w->b_up, f, d, back->n},
        {s->up, s->h, &w->w_up, w->b_up, f, d, back->n}};
    KM_TRY(km_linear_many(back->model->ctx, in, gated ? 2 : 1, err));
    km__substitute(back, s->pre, KM_POINT_MLP_PRE, l->index, f);
    if (!config->post_norms) {
        return KM_OK;
    }
    KM_TRY(km__over_rows(back, back->n, mlp_range, (void *)back, err));
    km__substitute(back, s->hidden, KM_POINT_MLP_HIDDEN, l->index, f);
    const km_linear_job out = {s->mlp_branch, s->hidden, &w->w_down, w->b_down, d, f, back->n};
    return km_linear_many(back->model->ctx, &out, 1, err);
}

km_status km__layer_again(const km__back *back, int32_t index, km_error *err) {
    const layer l = layer_at(back, index);
    KM_TRY(attention_again(&l, err));
    return mlp_again(&l, err);
}

km_status km__layer_finish(const km__back *back, int32_t index, float *out, km_error *err) {
    const km__layer_state *s = &back->s;
    const km_config *config = &back->model->config;
    const km_layer_weights *w = &back->model->weights.layers[index];
    if (config->post_norms) {
        KM_TRY(km__norm_rows(back, out, s->mlp_branch, &w->ffn_post_norm, back->n, err));
    } else {
        KM_TRY(km__over_rows(back, back->n, mlp_range, (void *)back, err));
        const km_linear_job job = {out,           s->hidden, &w->w_down, w->b_down, config->d_model,
                                   config->d_ffn, back->n};
        KM_TRY(km_linear_many(back->model->ctx, &job, 1, err));
    }
    add_rows(back, out, s->mid);
    return KM_OK;
}

/* ---- the way back ---- */

/* Matrix and bias of a product with input x and derivative dy of its output. */
static km_status collect(const km__back *back, const km_matrix *w, const float *const *bias,
                         const float *dy, const float *x, km_error *err) {
    KM_TRY(km__collect_matrix(back, w, dy, x, back->n, err));
    return km__collect_bias(back, bias, dy, back->n, w->rows, err);
}

/* What a branch adds to the stream: s.d from the derivative of what the branch computed. */
static km_status branch_backward(const layer *l, km_point point, const float *branch,
                                 const km_norm_weights *post_norm, km_error *err) {
    const km__back *back = l->back;
    km__pass_point(back, point, l->index, -1, back->s.d);
    if (!back->model->config.post_norms) {
        return KM_OK;
    }
    return km__norm_rows_backward(back, back->s.d, back->s.d, branch, post_norm, back->n, false,
                                  err);
}

/* The product with Wdown: its matrix and bias need what the activation gave again. */
static km_status down_backward(const layer *l, km_error *err) {
    const km__back *back = l->back;
    const km__layer_state *s = &back->s;
    const km_config *config = &back->model->config;
    const int64_t f = config->d_ffn, d = config->d_model;
    if (km__is_collected(back, &l->w->w_down)) {
        KM_TRY(km__over_rows(back, back->n, mlp_range, (void *)back, err));
    }
    KM_TRY(collect(back, &l->w->w_down, &l->w->b_down, s->d, s->hidden, err));
    return km_linear_backward(back->model->ctx, s->hidden, f, s->d, d, &l->w->w_down, back->n,
                              false, err);
}

/* s.h becomes the derivative of mlp_input, given that of the MLP's output in s.d. */
static km_status mlp_backward(const layer *l, km_error *err) {
    const km__back *back = l->back;
    const km__layer_state *s = &back->s;
    const km_config *config = &back->model->config;
    const km_layer_weights *w = l->w;
    const int64_t f = config->d_ffn, d = config->d_model, n = back->n;
    km_ctx *ctx = back->model->ctx;
    const bool gated = config->gated_mlp;
    const km_matrix *first = gated ? &w->w_gate : &w->w_up;
    KM_TRY(branch_backward(l, KM_POINT_MLP_OUT, s->mlp_branch, &w->ffn_post_norm, err));
    KM_TRY(down_backward(l, err));
    km__pass_point(back, KM_POINT_MLP_HIDDEN, l->index, -1, s->hidden);
    KM_TRY(km__over_rows(back, n, mlp_back_range, (void *)back, err));
    km__pass_point(back, KM_POINT_MLP_PRE, l->index, -1, s->pre);
    if (km__is_collected(back, first) || km__is_collected(back, &w->w_up)) {
        KM_TRY(km__norm_rows(back, s->h, l->mlp_x, &w->ffn_norm, n, err));
    }
    KM_TRY(collect(back, first, gated ? &w->b_gate : &w->b_up, s->pre, s->h, err));
    if (gated) {
        KM_TRY(collect(back, &w->w_up, &w->b_up, s->up, s->h, err));
    }
    KM_TRY(km_linear_backward(ctx, s->h, d, s->pre, f, first, n, false, err));
    if (gated) {
        KM_TRY(km_linear_backward(ctx, s->h, d, s->up, f, &w->w_up, n, true, err));
    }
    KM_TRY(km__norm_rows_backward(back, s->h, s->h, l->mlp_x, &w->ffn_norm, n, false, err));
    km__pass_point(back, KM_POINT_MLP_INPUT, l->index, -1, s->h);
    return KM_OK;
}

/* From the derivative of the turned rows to that of the product; the head norm's gain on the way.
 */
static km_status turn_back(const layer *l, const projection *p, km_error *err) {
    const km__back *back = l->back;
    if (p->turned != NULL) {
        turn_work work = turn_at(l, p, p->d, back->rope_back);
        KM_TRY(km__over_rows(back, back->n, turn_back_range, &work, err));
        if (*p->gain != NULL) {
            const int64_t width = back->model->config.head_dim;
            KM_TRY(km__collect_norm(back, p->gain, NULL, p->d, p->out, back->n * p->heads, width,
                                    err));
            KM_TRY(km__over_rows(back, back->n, head_norm_back_range, &work, err));
        }
    }
    km__pass_point(back, p->point, l->index, -1, p->d);
    return KM_OK;
}

/* s.dx += the derivative of each head's input, one head after another. */
static km_status inputs_backward(const layer *l, const projection *p, km_error *err) {
    const km__back *back = l->back;
    const km_config *config = &back->model->config;
    const int64_t d = config->d_model, width = config->head_dim, row = p->heads * width;
    const float *inputs = km__kept_values(back, p->input, l->index);
    for (int32_t head = 0; head < p->heads; head++) {
        const km_matrix w = km_matrix_rows(p->w, head * width, width);
        norm_work work = {back,      &l->w->attn_norm,
                          back->s.h, inputs == NULL ? l->x : inputs + head * d,
                          back->s.h, inputs == NULL ? d : p->heads * d,
                          false};
        KM_TRY(km_linear_backward(back->model->ctx, back->s.h, d, p->d + head * width, row, &w,
                                  back->n, false, err));
        KM_TRY(km__over_rows(back, back->n, norm_range, &work, err));
        km__pass_point(back, p->input, l->index, head, back->s.h);
        add_rows(back, back->s.dx, back->s.h);
    }
    return KM_OK;
}

static km_status collect_projections(const layer *l, const projection p[3], km_error *err) {
    const km__back *back = l->back;
    if (km__is_collected(back, p[0].w) || km__is_collected(back, p[1].w) ||
        km__is_collected(back, p[2].w)) {
        KM_TRY(km__norm_rows(back, back->s.h, l->x, &l->w->attn_norm, back->n, err));
    }
    for (int i = 0; i < 3; i++) {
        KM_TRY(collect(back, p[i].w, p[i].bias, p[i].d, back->s.h, err));
    }
    return KM_OK;
}

/* s.dx += the derivative of resid_pre through queries, keys and values. The norm they share is
 * differentiated once for all whose inputs are not looked at head by head. */
static km_status projections_backward(const layer *l, km_error *err) {
    const km__back *back = l->back;
    const int64_t d = back->model->config.d_model;
    bool shared = false;
    const projection p[3] = {projection_at(l, 0), projection_at(l, 1), projection_at(l, 2)};
    for (int i = 0; i < 3; i++) {
        KM_TRY(turn_back(l, &p[i], err));
    }
    KM_TRY(collect_projections(l, p, err));
    for (int i = 0; i < 3; i++) {
        if (!km__is_concerned(back, p[i].input, l->index)) {
            KM_TRY(km_linear_backward(back->model->ctx, back->s.h, d, p[i].d, p[i].w->rows, p[i].w,
                                      back->n, shared, err));
            shared = true;
        }
    }
    if (shared) {
        KM_TRY(km__norm_rows_backward(back, back->s.dx, back->s.h, l->x, &l->w->attn_norm, back->n,
                                      true, err));
    }
    for (int i = 0; i < 3; i++) {
        if (km__is_concerned(back, p[i].input, l->index)) {
            KM_TRY(inputs_backward(l, &p[i], err));
        }
    }
    return KM_OK;
}

/* s.d holds the derivative of what attention adds. */
static km_status attention_backward(const layer *l, km_error *err) {
    const km__back *back = l->back;
    const km__layer_state *s = &back->s;
    const km_config *config = &back->model->config;
    const int64_t q = (int64_t)config->n_heads * config->head_dim;
    KM_TRY(collect(back, &l->w->wo, &l->w->bo, s->d, s->z, err));
    KM_TRY(km_linear_backward(back->model->ctx, s->dz, q, s->d, config->d_model, &l->w->wo, back->n,
                              false, err));
    km__pass_point(back, KM_POINT_ATTN_HEAD_OUT, l->index, -1, s->dz);
    KM_TRY(km__attention_backward(back, l->index, err));
    KM_TRY(projections_backward(l, err));
    km__pass_point(back, KM_POINT_RESID_PRE, l->index, -1, s->dx);
    return KM_OK;
}

static km_status check_finite(const layer *l, km_error *err) {
    const int64_t n = l->back->n * l->back->model->config.d_model;
    if (!l->back->kernels->all_finite(l->back->s.dx, n)) {
        return KM_SET(err, KM_ENUMERIC,
                      "layer %d: derivatives of the residual stream are not finite", l->index);
    }
    return KM_OK;
}

km_status km__layer_backward(const km__back *back, int32_t index, bool attention, km_error *err) {
    const layer l = layer_at(back, index);
    const km__layer_state *s = &back->s;
    const bool parallel = back->model->config.parallel_residual;
    km__pass_point(back, KM_POINT_RESID_POST, index, -1, s->dx);
    copy_rows(back, s->d, s->dx);
    KM_TRY(mlp_backward(&l, err));
    if (parallel) {
        copy_rows(back, s->d, s->dx);
    }
    add_rows(back, s->dx, s->h);
    if (!parallel) {
        km__pass_point(back, KM_POINT_RESID_MID, index, -1, s->dx);
        copy_rows(back, s->d, s->dx);
    }
    KM_TRY(branch_backward(&l, KM_POINT_ATTN_OUT, s->attn_branch, &l.w->attn_post_norm, err));
    if (attention) {
        KM_TRY(attention_backward(&l, err));
    }
    return check_finite(&l, err);
}
