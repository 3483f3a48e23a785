/* Direct logit attribution: the part of a logit that each head, each MLP and the embedding add to
 * the residual stream themselves, with the scales of the norms held at the run's own values, so
 * that the parts add up to the logit (Elhage et al. 2021). */
#include <math.h>
#include <string.h>

#include "km/interpretability.h"
#include "measure/forest.h"
#include "model/model_private.h"

/* Parts of one prompt: embedding, position, then for each layer its heads, attention bias and MLP,
 * at last the final norm's bias. */
enum { EMBED = 0, POSITION, FIRST_LAYER };

/* Activations of the n prompts of a pass at their last tokens, and what is made of them. */
typedef struct attribution {
    const km_model *model;
    const km_config *config;
    int64_t n, n_parts;
    float *embed, *first, *last, *final; /* (n, D) embed, resid_pre 0, resid_post L-1, final_norm */
    float *heads;                        /* (L, n, H*Dh) */
    float *mlp;                          /* (L, n, D) */
    float *unembed;                      /* (n, D) row of the token, minus that of its contrast */
    float *direction;                    /* (n, D) d logit / d residual stream */
    float *branch;                       /* (n, D) the same before attention's own norm */
    float *output;                       /* (n, D) attention's output before that norm */
    float *head_direction;               /* (n, H*Dh) */
} attribution;

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * (double)b[i];
    }
    return sum;
}

static double inverse_rms(const float *x, int64_t n, double eps) {
    return 1.0 / sqrt(dot(x, x, n) / (double)n + eps);
}

/* out = J^T u for a norm whose scale is held at that of x; out may be u. */
static void through_norm(float *out, const float *u, const float *x, const km_norm_weights *norm,
                         const km_config *config) {
    const int64_t n = config->d_model;
    if (config->norm == KM_NORM_RMS) {
        const double scale = inverse_rms(x, n, config->norm_eps);
        for (int64_t i = 0; i < n; i++) {
            const double gain = (double)norm->gain[i] + (double)config->norm_offset;
            out[i] = (float)((double)u[i] * gain * scale);
        }
        return;
    }
    double mean = 0, variance = 0, center = 0;
    for (int64_t i = 0; i < n; i++) {
        mean += (double)x[i] / (double)n;
        center += (double)u[i] * (double)norm->gain[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    }
    const double scale = 1.0 / sqrt(variance + config->norm_eps);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (float)(((double)u[i] * (double)norm->gain[i] - center) * scale);
    }
}

static void fill_unembed(const attribution *a, const int32_t *tokens, const int32_t *contrasts) {
    const km_ctx *ctx = a->model->ctx;
    const km_matrix *unembed = &a->model->weights.unembed;
    const int64_t width = a->config->d_model;
    for (int64_t i = 0; i < a->n; i++) {
        float *row = a->unembed + i * width;
        km_matrix_row(row, ctx, unembed, tokens[i]);
        if (contrasts != NULL && contrasts[i] >= 0) {
            km_matrix_row(a->branch, ctx, unembed, contrasts[i]);
            for (int64_t j = 0; j < width; j++) {
                row[j] -= a->branch[j];
            }
        }
        through_norm(a->direction + i * width, row, a->last + i * width,
                     &a->model->weights.final_norm, a->config);
    }
}

/* ---- attention ---- */

/* The direction a head's output is read in: W_O^T d, d going through attention's own norm first
 * where there is one. */
static km_status turn_to_heads(const attribution *a, int32_t layer, km_error *err) {
    const km_layer_weights *w = &a->model->weights.layers[layer];
    const int64_t width = a->config->d_model, heads = w->wo.cols;
    const float *direction = a->direction;
    if (w->attn_post_norm.gain != NULL) {
        const km_linear_job job = {
            a->output, a->heads + layer * a->n * heads, &w->wo, w->bo, width, heads, a->n};
        KM_TRY(km_linear_many(a->model->ctx, &job, 1, err));
        for (int64_t i = 0; i < a->n; i++) {
            through_norm(a->branch + i * width, a->direction + i * width, a->output + i * width,
                         &w->attn_post_norm, a->config);
        }
        direction = a->branch;
    } else {
        memcpy(a->branch, direction, (size_t)(a->n * width) * sizeof(float));
    }
    return km_linear_backward(a->model->ctx, a->head_direction, heads, direction, width, &w->wo,
                              a->n, false, err);
}

static void write_layer(double *parts, const attribution *a, int32_t layer, int64_t prompt) {
    const km_layer_weights *w = &a->model->weights.layers[layer];
    const int64_t width = a->config->d_model, n_heads = a->config->n_heads;
    const int64_t head_width = a->config->head_dim, heads = n_heads * head_width;
    const float *z = a->heads + (layer * a->n + prompt) * heads;
    const float *read = a->head_direction + prompt * heads;
    double *out = parts + FIRST_LAYER + layer * (n_heads + 2);
    for (int64_t h = 0; h < n_heads; h++) {
        out[h] = dot(z + h * head_width, read + h * head_width, head_width);
    }
    out[n_heads] = w->bo == NULL ? 0.0 : dot(w->bo, a->branch + prompt * width, width);
    out[n_heads + 1] =
        dot(a->mlp + (layer * a->n + prompt) * width, a->direction + prompt * width, width);
}

static void write_ends(double *parts, double *logit, const attribution *a, int64_t prompt) {
    const int64_t width = a->config->d_model, at = prompt * width;
    const km_norm_weights *norm = &a->model->weights.final_norm;
    const float *direction = a->direction + at;
    parts[EMBED] = dot(a->embed + at, direction, width);
    parts[POSITION] = dot(a->first + at, direction, width) - parts[EMBED];
    parts[a->n_parts - 1] = norm->bias == NULL ? 0.0 : dot(a->unembed + at, norm->bias, width);
    *logit = dot(a->unembed + at, a->final + at, width);
}

static km_status attribute(double *parts, double *logits, const attribution *a,
                           const int32_t *tokens, const int32_t *contrasts, km_error *err) {
    fill_unembed(a, tokens, contrasts);
    for (int64_t i = 0; i < a->n; i++) {
        write_ends(parts + i * a->n_parts, &logits[i], a, i);
    }
    for (int32_t layer = 0; layer < a->config->n_layers; layer++) {
        KM_TRY(turn_to_heads(a, layer, err));
        for (int64_t i = 0; i < a->n; i++) {
            write_layer(parts + i * a->n_parts, a, layer, i);
        }
    }
    return KM_OK;
}

/* ---- the pass ---- */

static km_status allocate(attribution *a, km_arena *arena, int64_t n, km_error *err) {
    const int64_t width = a->config->d_model, layers = a->config->n_layers;
    const int64_t heads = (int64_t)a->config->n_heads * a->config->head_dim;
    struct {
        float **at;
        int64_t width;
    } blocks[] = {
        {&a->embed, width},          {&a->first, width},       {&a->last, width},
        {&a->final, width},          {&a->unembed, width},     {&a->direction, width},
        {&a->branch, width},         {&a->output, width},      {&a->head_direction, heads},
        {&a->heads, layers * heads}, {&a->mlp, layers * width}};
    a->n = n;
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        size_t bytes;
        if (!km_size_mul(&bytes, (size_t)n, (size_t)blocks[i].width * sizeof(float))) {
            return KM_SET(err, KM_ENOMEM, "activations of %lld prompts", (long long)n);
        }
        KM_TRY(km_arena_alloc((void **)blocks[i].at, arena, bytes, err));
    }
    return KM_OK;
}

static km_status run_model(const attribution *a, km_arena *arena, const km__forest *forest,
                           const int64_t *rows, km_error *err) {
    const int64_t layers = a->config->n_layers, n = a->n;
    const int64_t width = a->config->d_model;
    const int64_t heads = (int64_t)a->config->n_heads * a->config->head_dim;
    km_read *reads;
    KM_TRY(km_arena_alloc((void **)&reads, arena, (size_t)(4 + 2 * layers) * sizeof *reads, err));
    reads[0] = (km_read){KM_POINT_EMBED, 0, -1, rows, n, a->embed};
    reads[1] = (km_read){KM_POINT_RESID_PRE, 0, -1, rows, n, a->first};
    reads[2] = (km_read){KM_POINT_RESID_POST, (int32_t)layers - 1, -1, rows, n, a->last};
    reads[3] = (km_read){KM_POINT_FINAL_NORM, 0, -1, rows, n, a->final};
    for (int32_t l = 0; l < layers; l++) {
        reads[4 + 2 * l] =
            (km_read){KM_POINT_ATTN_HEAD_OUT, l, -1, rows, n, a->heads + l * n * heads};
        reads[5 + 2 * l] = (km_read){KM_POINT_MLP_OUT, l, -1, rows, n, a->mlp + l * n * width};
    }
    const km_forward_request request = {
        .tree = km__forest_tree(forest), .reads = reads, .n_reads = 4 + 2 * layers};
    return km_model_forward(a->model, &request, err);
}

int64_t km_attribution_parts(const km_model *model) {
    const km_config *config = km_model_config(model);
    return FIRST_LAYER + (int64_t)config->n_layers * (config->n_heads + 2) + 1;
}

static km_status check_tokens(const km_model *model, const int64_t *offsets, int64_t n,
                              const int32_t *tokens, const int32_t *contrasts, km_error *err) {
    const int32_t vocab = km_model_config(model)->vocab_size;
    for (int64_t i = 0; i < n; i++) {
        if (offsets[i + 1] <= offsets[i]) {
            return KM_SET(err, KM_EINVAL, "prompt %lld: a prompt needs at least one token",
                          (long long)i);
        }
        if (tokens[i] < 0 || tokens[i] >= vocab ||
            (contrasts != NULL && (contrasts[i] < -1 || contrasts[i] >= vocab))) {
            return KM_SET(err, KM_ERANGE, "prompt %lld: a token is outside the vocabulary of %ld",
                          (long long)i, (long)vocab);
        }
    }
    return KM_OK;
}

km_status km_attribution_run_into(double *parts, double *logits, const km_model *model,
                                  const int32_t *ids, const int64_t *offsets, int64_t n,
                                  const int32_t *tokens, const int32_t *contrasts,
                                  int64_t batch_tokens, km_tick_fn tick_fn, void *payload,
                                  km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    km__forest forest;
    km_arena *arena = NULL;
    int64_t *rows = NULL;
    km_tick tick;
    attribution a = {
        .model = model, .config = km_model_config(model), .n_parts = km_attribution_parts(model)};
    KM_TRY(check_tokens(model, offsets, n, tokens, contrasts, err));
    km__forest_init(&forest, ctx);
    km_tick_init(&tick, ctx, tick_fn, payload, n);
    KM_GO(km_arena_new(&arena, ctx, err));
    KM_GO(km_alloc_array((void **)&rows, ctx, n, sizeof *rows, err));
    for (int64_t first = 0, end = 0; first < n; first = end) {
        km_arena_reset(arena);
        KM_GO(km__forest_fill(&end, &forest, rows, ids, offsets, first, n, batch_tokens, err));
        KM_GO(allocate(&a, arena, end - first, err));
        KM_GO(run_model(&a, arena, &forest, rows, err));
        KM_GO(attribute(parts + first * a.n_parts, logits + first, &a, tokens + first,
                        contrasts == NULL ? NULL : contrasts + first, err));
        KM_GO(km_tick_update(&tick, end, err));
    }
done:
    km_free(ctx, rows);
    km_arena_free(arena);
    km__forest_clear(&forest);
    return status;
}
