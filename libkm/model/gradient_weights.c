/* gradient_weights.c: derivatives with respect to parameters, where a backward pass has both ends
 * of what they do at hand.
 *
 * Sums over rows are taken by columns: one worker adds up a few columns over all rows in rising
 * order, so the bits do not depend on the threads.
 */
#include <math.h>
#include <string.h>

#include "model/gradient_private.h"
#include "model/parameters.h"

#define COLUMNS 16 /* that one worker adds up: a line of memory */

/* ---- who asks ---- */

static const void *place_of(const km_weight_slot *slot) {
    return slot->matrix != NULL ? (const void *)slot->matrix : (const void *)slot->vector;
}

static km_status check_low_rank(const km_weight_slot *slot, const km_low_rank *low,
                                const km_config *config, km_error *err) {
    const bool embeds =
        strncmp(slot->name, "token_embd", 10) == 0 || strncmp(slot->name, "position_embd", 13) == 0;
    if (slot->matrix == NULL || embeds) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "'%s' takes no low-rank gradient; the matrices of linear layers do",
                      slot->name);
    }
    if (low->rank < 1 || low->rank > slot->rows || low->rank > slot->cols ||
        low->rank > config->d_model) {
        return KM_SET(err, KM_EINVAL, "a low-rank gradient of '%s' (%lld, %lld) with rank %d",
                      slot->name, (long long)slot->rows, (long long)slot->cols, low->rank);
    }
    if (low->a == NULL || low->b == NULL || low->da == NULL || low->db == NULL ||
        !isfinite(low->scale)) {
        return KM_SET(err, KM_EINVAL, "a low-rank gradient of '%s' without factors, scale or room",
                      slot->name);
    }
    return KM_OK;
}

static km_status check_gradient(const km_parameter_gradient *gradients, int64_t i,
                                const km_weight_plan *plan, const km_config *config,
                                km_error *err) {
    const km_parameter_gradient *g = &gradients[i];
    if (g->parameter < 0 || g->parameter >= plan->n) {
        return KM_SET(err, KM_ERANGE, "gradients[%lld] is of parameter %lld; the model has %lld",
                      (long long)i, (long long)g->parameter, (long long)plan->n);
    }
    if (i > 0 && g->parameter <= gradients[i - 1].parameter) {
        return KM_SET(err, KM_EINVAL,
                      "gradients[%lld] is of parameter %lld, the one before of %lld; "
                      "they must rise",
                      (long long)i, (long long)g->parameter, (long long)gradients[i - 1].parameter);
    }
    if ((g->gradient == NULL) == (g->low_rank == NULL)) {
        return KM_SET(err, KM_EINVAL,
                      "gradients[%lld] of '%s' needs either room for its values or low_rank",
                      (long long)i, plan->slots[g->parameter].name);
    }
    return g->low_rank == NULL
               ? KM_OK
               : check_low_rank(&plan->slots[g->parameter], g->low_rank, config, err);
}

km_status km__collector_init(km__collector *collector, const km_model *model,
                             const km_parameter_gradient *gradients, int64_t n, km_error *err) {
    km_status status = KM_OK;
    km_weight_plan plan = {model->ctx, NULL, 0, 0};
    *collector = (km__collector){.gradients = gradients, .n = n};
    if (n < 0 || (n > 0 && gradients == NULL)) {
        return KM_SET(err, KM_EINVAL, "%lld gradients", (long long)n);
    }
    KM_GO(km__parameter_plan(&plan, model, err));
    KM_GO(
        km_alloc_array((void **)&collector->places, model->ctx, n, sizeof *collector->places, err));
    for (int64_t i = 0; i < n; i++) {
        KM_GO(check_gradient(gradients, i, &plan, &model->config, err));
        collector->places[i] = place_of(&plan.slots[gradients[i].parameter]);
    }
done:
    km__weight_plan_clear(&plan);
    return status;
}

void km__collector_clear(km__collector *collector, km_ctx *ctx) {
    km_free(ctx, (void *)collector->places);
    collector->places = NULL;
}

static const km_parameter_gradient *gradient_at(const km__back *back, const void *place) {
    const km__collector *collector = back->collector;
    for (int64_t i = 0; collector != NULL && place != NULL && i < collector->n; i++) {
        if (collector->places[i] == place) {
            return &collector->gradients[i];
        }
    }
    return NULL;
}

bool km__is_collected(const km__back *back, const km_matrix *w) {
    return gradient_at(back, w) != NULL;
}

/* ---- matrices ---- */

/* With W = .. + scale B A and y = x W': da += scale (dy B)' x, db += scale dy' (x A'). */
static km_status collect_low_rank(const km__back *back, const km_low_rank *low, const km_matrix *w,
                                  const float *dy, const float *x, int64_t n, km_error *err) {
    km_ctx *ctx = back->model->ctx;
    float *t = back->collector->low;
    const int64_t rank = low->rank;
    const km_matrix a = {low->a, KM_F32, rank, w->cols}, b = {low->b, KM_F32, w->rows, rank};
    const km_linear_job inner = {t, x, &a, NULL, rank, w->cols, n};
    KM_TRY(km_linear_backward(ctx, t, rank, dy, w->rows, &b, n, false, err));
    KM_TRY(
        km_linear_gradient(ctx, low->da, t, rank, x, w->cols, rank, w->cols, n, low->scale, err));
    KM_TRY(km_linear_many(ctx, &inner, 1, err));
    return km_linear_gradient(ctx, low->db, dy, w->rows, t, rank, w->rows, rank, n, low->scale,
                              err);
}

km_status km__collect_matrix(const km__back *back, const km_matrix *w, const float *dy,
                             const float *x, int64_t n, km_error *err) {
    const km_parameter_gradient *g = gradient_at(back, w);
    if (g == NULL) {
        return KM_OK;
    }
    if (g->low_rank != NULL) {
        return collect_low_rank(back, g->low_rank, w, dy, x, n, err);
    }
    return km_linear_gradient(back->model->ctx, g->gradient, dy, w->rows, x, w->cols, w->rows,
                              w->cols, n, 1.0f, err);
}

/* ---- vectors ---- */

typedef struct column_work {
    float *gain, *bias; /* (width) or NULL */
    const float *dy, *x;
    const double *moments;
    int64_t n, width;
} column_work;

/* A few columns over all rows. */
static void add_columns(const column_work *w, int64_t first, int64_t count) {
    double gain[COLUMNS] = {0.0}, bias[COLUMNS] = {0.0};
    for (int64_t i = 0; i < w->n; i++) {
        const float *dy = w->dy + i * w->width + first;
        for (int64_t c = 0; w->bias != NULL && c < count; c++) {
            bias[c] += (double)dy[c];
        }
        if (w->gain != NULL) {
            const float *x = w->x + i * w->width + first;
            const double mean = w->moments[2 * i], factor = w->moments[2 * i + 1];
            for (int64_t c = 0; c < count; c++) {
                gain[c] += (double)dy[c] * (((double)x[c] - mean) * factor);
            }
        }
    }
    for (int64_t c = 0; c < count; c++) {
        if (w->bias != NULL) {
            w->bias[first + c] += (float)bias[c];
        }
        if (w->gain != NULL) {
            w->gain[first + c] += (float)gain[c];
        }
    }
}

static km_status column_range(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    (void)worker;
    (void)err;
    const column_work *w = payload;
    add_columns(w, begin, end - begin);
    return KM_OK;
}

typedef struct moments_work {
    const km__back *back;
    const float *x;
    int64_t width;
} moments_work;

static km_status moments_range(void *payload, int64_t begin, int64_t end, int worker,
                               km_error *err) {
    (void)worker;
    (void)err;
    const moments_work *w = payload;
    double *moments = w->back->collector->moments;
    for (int64_t i = begin; i < end; i++) {
        km__norm_moments(&moments[2 * i], &moments[2 * i + 1], w->x + i * w->width,
                         &w->back->model->config, w->width);
    }
    return KM_OK;
}

km_status km__collect_bias(const km__back *back, const float *const *place, const float *dy,
                           int64_t n, int64_t width, km_error *err) {
    const km_parameter_gradient *g = gradient_at(back, place);
    if (g == NULL) {
        return KM_OK;
    }
    column_work work = {NULL, g->gradient, dy, NULL, NULL, n, width};
    return km_parallel_for(back->model->ctx, width, COLUMNS, column_range, &work, err);
}

km_status km__collect_norm(const km__back *back, const float *const *gain, const float *const *bias,
                           const float *dy, const float *x, int64_t n, int64_t width,
                           km_error *err) {
    const km_parameter_gradient *of_gain = gradient_at(back, gain);
    const km_parameter_gradient *of_bias = gradient_at(back, bias);
    if (of_gain == NULL && of_bias == NULL) {
        return KM_OK;
    }
    column_work work = {of_gain == NULL ? NULL : of_gain->gradient,
                        of_bias == NULL ? NULL : of_bias->gradient,
                        dy,
                        x,
                        back->collector->moments,
                        n,
                        width};
    if (of_gain != NULL) {
        moments_work each = {back, x, width};
        KM_TRY(km__over_rows(back, n, moments_range, &each, err));
    }
    return km_parallel_for(back->model->ctx, width, COLUMNS, column_range, &work, err);
}

/* ---- embeddings ---- */

typedef struct embed_work {
    const km__back *back;
    float *tokens, *positions; /* (V, D), (context, D), or NULL */
    const float *dx;
} embed_work;

/* Tokens in rising order, each into the rows of its id and its position. */
static km_status embed_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const embed_work *w = payload;
    const km__back *back = w->back;
    const km_config *config = &back->model->config;
    const int64_t d = config->d_model, n = end - begin;
    for (int64_t i = 0; i < back->n; i++) {
        const float *dx = w->dx + i * d + begin;
        if (w->tokens != NULL) {
            back->kernels->axpy(w->tokens + back->plan.tree->ids[i] * d + begin,
                                config->embed_scale, dx, n);
        }
        if (w->positions != NULL) {
            back->kernels->axpy(w->positions + back->plan.depth[i] * d + begin, 1.0f, dx, n);
        }
    }
    return KM_OK;
}

km_status km__collect_embeddings(const km__back *back, const float *dx, km_error *err) {
    const km_weights *weights = &back->model->weights;
    const km_parameter_gradient *tokens = gradient_at(back, &weights->embed);
    const km_parameter_gradient *positions = gradient_at(back, &weights->positions);
    if (tokens == NULL && positions == NULL) {
        return KM_OK;
    }
    embed_work work = {back, tokens == NULL ? NULL : tokens->gradient,
                       positions == NULL ? NULL : positions->gradient, dx};
    return km_parallel_for(back->model->ctx, back->model->config.d_model, 4 * COLUMNS, embed_range,
                           &work, err);
}
