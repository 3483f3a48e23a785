/* affine_lens.c: affine lenses, fitted by ridge regression on streamed normal equations, compared
 * with the plain logit lens, and read.
 *
 * The regression is of d = y - x on x, both centred, so that the ridge pulls towards the identity,
 * the plain logit lens, and the last layer's map is the identity exactly. Each layer's sums belong
 * to one worker at a time and grow in pieces cut by the texts alone: same bits for any number of
 * threads and any batch.
 */
#include "km/affine_lens.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "base/base.h"
#include "measure/lens_private.h"
#include "model/model_private.h"

/* Tokens added to the sums by one product. */
#define PIECE 256
/* Of the squares of a layer's streams, less of which is rounding rather than variance. */
#define LEAST_VARIATION 1e-10
#define LANES 8
#define MIB 1048576.0

/* ---- residual streams of all layers, batch by batch ---- */

typedef struct stream_batch {
    const km_model *model;
    const int32_t *ids;
    const int64_t *offsets;
    int64_t n, batch_tokens;
    int64_t first, end; /* texts of the batch */
    int64_t most;       /* tokens of the largest batch */
    int32_t n_layers;
    int64_t width;
    int64_t *parent; /* (most) */
    km_read *reads;  /* (L) */
    float *streams;  /* (L, tokens of the batch, D) */
} stream_batch;

static int64_t count_tokens(const stream_batch *batch) {
    return batch->offsets[batch->end] - batch->offsets[batch->first];
}

/* Texts from `first` on that fit into batch_tokens; one always does. */
static int64_t find_end(const stream_batch *batch, int64_t first) {
    const int64_t *offsets = batch->offsets;
    int64_t end = first + 1;
    while (end < batch->n && offsets[end + 1] - offsets[first] <= batch->batch_tokens) {
        end++;
    }
    return end;
}

static void batch_init(stream_batch *batch, const km_model *model, const int32_t *ids,
                       const int64_t *offsets, int64_t n, int64_t batch_tokens) {
    const km_config *config = km_model_config(model);
    *batch = (stream_batch){.model = model,
                            .ids = ids,
                            .offsets = offsets,
                            .n = n,
                            .batch_tokens = batch_tokens,
                            .n_layers = config->n_layers,
                            .width = config->d_model};
    for (int64_t first = 0; first < n; first = batch->end) {
        batch->first = first;
        batch->end = find_end(batch, first);
        const int64_t tokens = count_tokens(batch);
        batch->most = tokens > batch->most ? tokens : batch->most;
    }
    batch->first = batch->end = 0;
}

static double batch_bytes(const stream_batch *batch) {
    return (double)batch->n_layers * (double)batch->most * (double)batch->width * sizeof(float);
}

/* `bytes` more than the batch itself takes must be there too. */
static km_status batch_allocate(stream_batch *batch, double bytes, const char *what,
                                km_error *err) {
    km_ctx *ctx = km_model_ctx(batch->model);
    const double all = bytes + batch_bytes(batch), available = (double)km_memory_available();
    if (all > available) {
        return KM_SET(err, KM_ENOMEM,
                      "%s needs %.0f MiB, %.0f of them for the streams of %lld tokens; %.0f MiB "
                      "are available",
                      what, all / MIB, batch_bytes(batch) / MIB, (long long)batch->most,
                      available / MIB);
    }
    KM_TRY(km_alloc_array((void **)&batch->parent, ctx, batch->most, sizeof *batch->parent, err));
    KM_TRY(km_alloc_array((void **)&batch->reads, ctx, batch->n_layers, sizeof *batch->reads, err));
    return km_alloc_array((void **)&batch->streams, ctx,
                          batch->n_layers * batch->most * batch->width, sizeof *batch->streams,
                          err);
}

static void batch_clear(stream_batch *batch) {
    km_ctx *ctx = km_model_ctx(batch->model);
    km_free(ctx, batch->streams);
    km_free(ctx, batch->reads);
    km_free(ctx, batch->parent);
}

static float *stream_of(const stream_batch *batch, int32_t layer, int64_t token) {
    return batch->streams + (layer * count_tokens(batch) + token) * batch->width;
}

/* Run the model over the next texts and keep resid_post of every layer. */
static km_status batch_read(stream_batch *batch, km_error *err) {
    batch->first = batch->end;
    batch->end = find_end(batch, batch->first);
    const int64_t *offsets = batch->offsets, start = offsets[batch->first];
    const int64_t tokens = count_tokens(batch);
    for (int64_t text = batch->first; text < batch->end; text++) {
        for (int64_t i = offsets[text]; i < offsets[text + 1]; i++) {
            batch->parent[i - start] = i == offsets[text] ? -1 : i - start - 1;
        }
    }
    for (int32_t layer = 0; layer < batch->n_layers; layer++) {
        batch->reads[layer] = (km_read){.point = KM_POINT_RESID_POST,
                                        .layer = layer,
                                        .head = -1,
                                        .n_nodes = tokens,
                                        .out = stream_of(batch, layer, 0)};
    }
    const km_forward_request request = {.tree = {batch->ids + start, batch->parent, tokens},
                                        .reads = batch->reads,
                                        .n_reads = batch->n_layers};
    return km_model_forward(batch->model, &request, err);
}

static km_status check_texts(const int64_t *offsets, int64_t n, km_error *err) {
    if (n < 1) {
        return KM_SET(err, KM_EINVAL, "an affine lens needs at least one text");
    }
    for (int64_t i = 0; i < n; i++) {
        if (offsets[i + 1] - offsets[i] < 2) {
            return KM_SET(err, KM_EINVAL, "text %lld has %lld tokens; it needs at least two",
                          (long long)i, (long long)(offsets[i + 1] - offsets[i]));
        }
    }
    return KM_OK;
}

/* ---- fitting ---- */

typedef struct lens_fit {
    stream_batch batch;
    float *weights, *biases;
    double ridge;
    double *xx;      /* (L, D, D) sums of x x^T, lower triangle; then its Cholesky factor */
    double *xd;      /* (L, D, D) sums of x d^T; then the solution */
    double *x_sum;   /* (L, D) */
    double *d_sum;   /* (L, D) */
    int64_t n_added; /* tokens in the sums */
} lens_fit;

static double fit_bytes(const stream_batch *batch) {
    const double layers = batch->n_layers, width = (double)batch->width;
    return 2.0 * sizeof(double) * layers * width * (width + 1.0);
}

static km_status fit_allocate(lens_fit *fit, km_error *err) {
    km_ctx *ctx = km_model_ctx(fit->batch.model);
    const int64_t vector = fit->batch.n_layers * fit->batch.width;
    const int64_t matrix = vector * fit->batch.width;
    KM_TRY(batch_allocate(&fit->batch, fit_bytes(&fit->batch), "fitting an affine lens", err));
    KM_TRY(km_alloc_array((void **)&fit->xx, ctx, matrix, sizeof *fit->xx, err));
    KM_TRY(km_alloc_array((void **)&fit->xd, ctx, matrix, sizeof *fit->xd, err));
    KM_TRY(km_alloc_array((void **)&fit->x_sum, ctx, vector, sizeof *fit->x_sum, err));
    return km_alloc_array((void **)&fit->d_sum, ctx, vector, sizeof *fit->d_sum, err);
}

static void fit_clear(lens_fit *fit) {
    km_ctx *ctx = km_model_ctx(fit->batch.model);
    km_free(ctx, fit->d_sum);
    km_free(ctx, fit->x_sum);
    km_free(ctx, fit->xd);
    km_free(ctx, fit->xx);
    batch_clear(&fit->batch);
}

/* Tokens token .. token+n-1 of the batch; x and d have room for (PIECE, D). */
static void add_piece(const lens_fit *fit, int32_t layer, int64_t token, int64_t n, double *x,
                      double *d) {
    const stream_batch *batch = &fit->batch;
    const int64_t width = batch->width;
    const float *from = stream_of(batch, layer, token);
    const float *to = stream_of(batch, batch->n_layers - 1, token);
    double *x_sum = fit->x_sum + layer * width, *d_sum = fit->d_sum + layer * width;
    for (int64_t row = 0; row < n; row++) {
        for (int64_t i = 0; i < width; i++) {
            const int64_t at = row * width + i;
            x[at] = (double)from[at];
            d[at] = (double)to[at] - x[at];
            x_sum[i] += x[at];
            d_sum[i] += d[at];
        }
    }
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, (int)width, (int)n, 1.0, x, (int)width, 1.0,
                fit->xx + layer * width * width, (int)width);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)width, (int)width, (int)n, 1.0, x,
                (int)width, d, (int)width, 1.0, fit->xd + layer * width * width, (int)width);
}

static km_status add_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const lens_fit *fit = payload;
    const stream_batch *batch = &fit->batch;
    const int64_t *offsets = batch->offsets, start = offsets[batch->first];
    const int64_t piece = PIECE * batch->width;
    double *x;
    KM_TRY(km_worker_scratch((void **)&x, km_model_ctx(batch->model), worker,
                             (size_t)(2 * piece) * sizeof *x, err));
    for (int64_t layer = begin; layer < end; layer++) {
        for (int64_t text = batch->first; text < batch->end; text++) {
            for (int64_t i = offsets[text] + 1; i < offsets[text + 1]; i += PIECE) {
                const int64_t left = offsets[text + 1] - i;
                add_piece(fit, (int32_t)layer, i - start, left < PIECE ? left : PIECE, x,
                          x + piece);
            }
        }
    }
    return KM_OK;
}

/* Sums of products become those of centred values, with the ridge on the diagonal. */
static km_status centre(const lens_fit *fit, int32_t layer, km_error *err) {
    const int64_t width = fit->batch.width;
    double *xx = fit->xx + layer * width * width, *xd = fit->xd + layer * width * width;
    const double *x_sum = fit->x_sum + layer * width, *d_sum = fit->d_sum + layer * width;
    const double n = (double)fit->n_added;
    double raw = 0.0, trace = 0.0;
    for (int64_t i = 0; i < width; i++) {
        raw += xx[i * width + i];
        for (int64_t j = 0; j <= i; j++) {
            xx[i * width + j] -= x_sum[i] * (x_sum[j] / n);
        }
        for (int64_t o = 0; o < width; o++) {
            xd[i * width + o] -= x_sum[i] * (d_sum[o] / n);
        }
        trace += xx[i * width + i];
    }
    if (!(trace > LEAST_VARIATION * raw) || !isfinite(trace)) {
        return KM_SET(err, KM_ENUMERIC,
                      "layer %d: the residual streams of %lld tokens do not vary, or are too large "
                      "to be fitted; give other texts",
                      layer, (long long)fit->n_added);
    }
    for (int64_t i = 0; i < width; i++) {
        xx[i * width + i] += fit->ridge * trace / (double)width;
    }
    return KM_OK;
}

/* The lower triangle of a (n, n) becomes its Cholesky factor; false when it has none. */
static bool factorise(double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double *row = a + i * n;
        for (int64_t j = 0; j < i; j++) {
            const double *other = a + j * n;
            row[j] = (row[j] - cblas_ddot((int)j, row, 1, other, 1)) / other[j];
        }
        const double pivot = row[i] - cblas_ddot((int)i, row, 1, row, 1);
        if (!(pivot > 0.0)) {
            return false;
        }
        row[i] = sqrt(pivot);
    }
    return true;
}

static void write_map(const lens_fit *fit, int32_t layer) {
    const int64_t width = fit->batch.width;
    const double *solution = fit->xd + layer * width * width;
    const double n = (double)fit->n_added;
    float *weights = fit->weights + layer * width * width, *biases = fit->biases + layer * width;
    for (int64_t o = 0; o < width; o++) {
        double bias = fit->d_sum[layer * width + o];
        for (int64_t i = 0; i < width; i++) {
            const double rest = solution[i * width + o];
            bias -= rest * fit->x_sum[layer * width + i];
            weights[o * width + i] = (float)(rest + (i == o ? 1.0 : 0.0));
        }
        biases[o] = (float)(bias / n);
    }
}

static km_status solve_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const lens_fit *fit = payload;
    const int64_t width = fit->batch.width;
    for (int64_t layer = begin; layer < end; layer++) {
        double *xx = fit->xx + layer * width * width, *xd = fit->xd + layer * width * width;
        KM_TRY(centre(fit, (int32_t)layer, err));
        if (!factorise(xx, width)) {
            return KM_SET(err, KM_ENUMERIC,
                          "layer %d: ridge %g leaves the equations of %lld tokens singular; give "
                          "more texts or a larger ridge",
                          (int)layer, fit->ridge, (long long)fit->n_added);
        }
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, (int)width,
                    (int)width, 1.0, xx, (int)width, xd, (int)width);
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasNonUnit, (int)width,
                    (int)width, 1.0, xx, (int)width, xd, (int)width);
        write_map(fit, (int32_t)layer);
    }
    return KM_OK;
}

km_status km_affine_lens_fit_into(float *weights, float *biases, const km_model *model,
                                  const int32_t *ids, const int64_t *offsets, int64_t n,
                                  double ridge, int64_t batch_tokens, km_tick_fn tick_fn,
                                  void *payload, km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = km_model_ctx(model);
    km_tick tick;
    lens_fit fit = {.weights = weights, .biases = biases, .ridge = ridge};
    KM_TRY(check_texts(offsets, n, err));
    if (!(ridge > 0.0) || !isfinite(ridge)) {
        return KM_SET(err, KM_EINVAL, "ridge is %g; it must be a positive number", ridge);
    }
    batch_init(&fit.batch, model, ids, offsets, n, batch_tokens);
    KM_GO(fit_allocate(&fit, err));
    fit.n_added = offsets[n] - offsets[0] - n;
    km_tick_init(&tick, ctx, tick_fn, payload, n);
    while (fit.batch.end < n) {
        KM_GO(batch_read(&fit.batch, err));
        KM_GO(km_parallel_for(ctx, fit.batch.n_layers, 1, add_range, &fit, err));
        KM_GO(km_tick_update(&tick, fit.batch.end, err));
    }
    KM_GO(km_parallel_for(ctx, fit.batch.n_layers, 1, solve_range, &fit, err));
done:
    fit_clear(&fit);
    return status;
}

/* ---- reading: blocks of rows, layer by layer ---- */

typedef struct lens_reading {
    stream_batch batch;
    const km_affine_lens *lens;
    const km_lens_arrays *figures;
    const km_affine_lens_arrays *compared;
    const int32_t *targets; /* (prompts) of the whole call */
    int top_k;
    int64_t size;        /* rows of a block at most */
    int64_t n, position; /* rows of this block, and the index of its first in the results */
    bool affine;
    int32_t layer;
    int64_t *tokens;      /* (size) of the batch */
    float *x, *y;         /* (size, D) streams, and what becomes of them */
    float *logits;        /* (size, V) of the lens */
    float *model_logits;  /* (size, V) */
    float *probabilities; /* (size, V) the model's */
    double *mass;         /* (size) their sum */
    double *model_lse;    /* (size) */
} lens_reading;

static km_status reading_allocate(lens_reading *reading, bool compares, km_error *err) {
    km_ctx *ctx = km_model_ctx(reading->batch.model);
    const int64_t vocab = km_model_config(reading->batch.model)->vocab_size;
    reading->size = km__logits_rows(reading->batch.most, vocab);
    const int64_t vector = reading->size * reading->batch.width, row = reading->size * vocab;
    const double floats = 2.0 * (double)vector + (compares ? 3.0 : 1.0) * (double)row;
    KM_TRY(batch_allocate(&reading->batch, floats * sizeof(float), "reading an affine lens", err));
    KM_TRY(km_alloc_array((void **)&reading->tokens, ctx, reading->size, sizeof *reading->tokens,
                          err));
    KM_TRY(km_alloc_array((void **)&reading->x, ctx, vector, sizeof *reading->x, err));
    KM_TRY(km_alloc_array((void **)&reading->y, ctx, vector, sizeof *reading->y, err));
    KM_TRY(km_alloc_array((void **)&reading->logits, ctx, row, sizeof *reading->logits, err));
    if (!compares) {
        return KM_OK;
    }
    KM_TRY(km_alloc_array((void **)&reading->model_logits, ctx, row, sizeof(float), err));
    KM_TRY(km_alloc_array((void **)&reading->probabilities, ctx, row, sizeof(float), err));
    KM_TRY(km_alloc_array((void **)&reading->mass, ctx, reading->size, sizeof(double), err));
    return km_alloc_array((void **)&reading->model_lse, ctx, reading->size, sizeof(double), err);
}

static void reading_clear(lens_reading *reading) {
    km_ctx *ctx = km_model_ctx(reading->batch.model);
    km_free(ctx, reading->model_lse);
    km_free(ctx, reading->mass);
    km_free(ctx, reading->probabilities);
    km_free(ctx, reading->model_logits);
    km_free(ctx, reading->logits);
    km_free(ctx, reading->y);
    km_free(ctx, reading->x);
    km_free(ctx, reading->tokens);
    batch_clear(&reading->batch);
}

/* Logits of the block's rows after a layer, through its affine map or as they are. */
static km_status read_layer(lens_reading *reading, float *logits, int32_t layer, bool affine,
                            km_error *err) {
    const stream_batch *batch = &reading->batch;
    const int64_t width = batch->width;
    float *x = reading->x, *y = reading->y;
    reading->layer = layer;
    reading->affine = affine;
    for (int64_t i = 0; i < reading->n; i++) {
        memcpy(x + i * width, stream_of(batch, layer, reading->tokens[i]),
               (size_t)width * sizeof *x);
    }
    if (affine) {
        const km_matrix map = {reading->lens->weights + layer * width * width, KM_F32, width,
                               width};
        const km_linear_job job = {y,     x,     &map,      reading->lens->biases + layer * width,
                                   width, width, reading->n};
        KM_TRY(km_linear_many(km_model_ctx(batch->model), &job, 1, err));
        memcpy(x, y, (size_t)(reading->n * width) * sizeof *x);
    }
    return km__unembed(batch->model, logits, y, x, reading->n, layer, err);
}

/* ---- evaluation ---- */

static km_status weigh_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const lens_reading *reading = payload;
    const km_model *model = reading->batch.model;
    const int64_t vocab = km_model_config(model)->vocab_size;
    for (int64_t row = begin; row < end; row++) {
        const float *logits = reading->model_logits + row * vocab;
        float *p = reading->probabilities + row * vocab;
        const double lse = km_logits_logsumexp(model, logits, vocab);
        double mass = 0.0;
        for (int64_t v = 0; v < vocab; v++) {
            p[v] = (float)exp((double)logits[v] - lse);
            mass += (double)p[v];
        }
        reading->model_lse[row] = lse;
        reading->mass[row] = mass;
    }
    return KM_OK;
}

/* Sum of p (a - b), in LANES partial sums. */
static double weighted_gap(const float *p, const float *a, const float *b, int64_t n) {
    double lanes[LANES] = {0.0}, total = 0.0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane] += (double)p[i + lane] * ((double)a[i + lane] - (double)b[i + lane]);
        }
    }
    for (; i < n; i++) {
        total += (double)p[i] * ((double)a[i] - (double)b[i]);
    }
    for (int lane = 0; lane < LANES; lane++) {
        total += lanes[lane];
    }
    return total;
}

static km_status compare_range(void *payload, int64_t begin, int64_t end, int worker,
                               km_error *err) {
    (void)worker;
    (void)err;
    const lens_reading *reading = payload;
    const km_affine_lens_arrays *out = reading->compared;
    const km_model *model = reading->batch.model;
    const int64_t vocab = km_model_config(model)->vocab_size;
    double *kls = reading->affine ? out->kl_affine : out->kl_logit;
    double *agree = reading->affine ? out->agree_affine : out->agree_logit;
    for (int64_t row = begin; row < end; row++) {
        const int64_t slot = (reading->position + row) * reading->batch.n_layers + reading->layer;
        const float *own = reading->model_logits + row * vocab;
        const float *lens = reading->logits + row * vocab;
        const double gap = weighted_gap(reading->probabilities + row * vocab, own, lens, vocab);
        const double kl = gap / reading->mass[row] - reading->model_lse[row] +
                          km_logits_logsumexp(model, lens, vocab);
        kls[slot] = kl > 0.0 ? kl : 0.0; /* below 0 is rounding */
        agree[slot] = km_logits_argmax(own, vocab) == km_logits_argmax(lens, vocab) ? 1.0 : 0.0;
    }
    return KM_OK;
}

static km_status compare_block(lens_reading *reading, km_error *err) {
    km_ctx *ctx = km_model_ctx(reading->batch.model);
    const int32_t last = reading->batch.n_layers - 1;
    KM_TRY(read_layer(reading, reading->model_logits, last, false, err));
    KM_TRY(km_parallel_for(ctx, reading->n, 1, weigh_range, reading, err));
    for (int32_t layer = 0; layer <= last; layer++) {
        for (int affine = 0; affine <= 1; affine++) {
            KM_TRY(read_layer(reading, reading->logits, layer, affine == 1, err));
            KM_TRY(km_parallel_for(ctx, reading->n, 1, compare_range, reading, err));
        }
    }
    reading->position += reading->n;
    reading->n = 0;
    return KM_OK;
}

static km_status compare_batch(lens_reading *reading, km_error *err) {
    const int64_t tokens = count_tokens(&reading->batch);
    for (int64_t token = 0; token < tokens; token++) {
        if (reading->batch.parent[token] >= 0) {
            reading->tokens[reading->n++] = token;
        }
        if (reading->n == reading->size) {
            KM_TRY(compare_block(reading, err));
        }
    }
    return reading->n > 0 ? compare_block(reading, err) : KM_OK;
}

km_status km_affine_lens_evaluate_into(const km_affine_lens_arrays *out, const km_model *model,
                                       const km_affine_lens *lens, const int32_t *ids,
                                       const int64_t *offsets, int64_t n, int64_t batch_tokens,
                                       km_tick_fn tick_fn, void *payload, km_error *err) {
    km_status status = KM_OK;
    km_tick tick;
    lens_reading reading = {.lens = lens, .compared = out};
    KM_TRY(check_texts(offsets, n, err));
    batch_init(&reading.batch, model, ids, offsets, n, batch_tokens);
    KM_GO(reading_allocate(&reading, true, err));
    km_tick_init(&tick, km_model_ctx(model), tick_fn, payload, n);
    while (reading.batch.end < n) {
        KM_GO(batch_read(&reading.batch, err));
        KM_GO(compare_batch(&reading, err));
        KM_GO(km_tick_update(&tick, reading.batch.end, err));
    }
done:
    reading_clear(&reading);
    return status;
}

/* ---- prompts ---- */

static km_status show_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const lens_reading *reading = payload;
    const km_model *model = reading->batch.model;
    const int64_t vocab = km_model_config(model)->vocab_size;
    const int32_t n_layers = reading->batch.n_layers;
    const int32_t layer = reading->affine ? reading->layer : n_layers;
    for (int64_t row = begin; row < end; row++) {
        const int64_t prompt = reading->position + row;
        km__lens_row(reading->figures, model, prompt * (n_layers + 1) + layer,
                     reading->targets[prompt], reading->top_k, reading->logits + row * vocab,
                     vocab);
    }
    return KM_OK;
}

/* Prompts position .. position+n-1, all of this batch. */
static km_status show_block(lens_reading *reading, km_error *err) {
    const stream_batch *batch = &reading->batch;
    const int32_t n_layers = batch->n_layers;
    for (int64_t i = 0; i < reading->n; i++) {
        reading->tokens[i] =
            batch->offsets[reading->position + i + 1] - 1 - batch->offsets[batch->first];
    }
    for (int32_t layer = 0; layer <= n_layers; layer++) {
        const bool affine = layer < n_layers;
        KM_TRY(read_layer(reading, reading->logits, affine ? layer : n_layers - 1, affine, err));
        KM_TRY(
            km_parallel_for(km_model_ctx(batch->model), reading->n, 1, show_range, reading, err));
    }
    reading->position += reading->n;
    return KM_OK;
}

km_status km_affine_lens_run_into(const km_lens_arrays *out, const km_model *model,
                                  const km_affine_lens *lens, const int32_t *ids,
                                  const int64_t *offsets, int64_t n, const int32_t *targets,
                                  int top_k, int64_t batch_tokens, km_tick_fn tick_fn,
                                  void *payload, km_error *err) {
    km_status status = KM_OK;
    km_tick tick;
    lens_reading reading = {.lens = lens, .figures = out, .targets = targets, .top_k = top_k};
    KM_TRY(km__lens_check(model, offsets, n, targets, top_k, err));
    batch_init(&reading.batch, model, ids, offsets, n, batch_tokens);
    KM_GO(reading_allocate(&reading, false, err));
    km_tick_init(&tick, km_model_ctx(model), tick_fn, payload, n);
    while (reading.batch.end < n) {
        KM_GO(batch_read(&reading.batch, err));
        while (reading.position < reading.batch.end) {
            const int64_t left = reading.batch.end - reading.position;
            reading.n = left < reading.size ? left : reading.size;
            KM_GO(show_block(&reading, err));
        }
        KM_GO(km_tick_update(&tick, reading.batch.end, err));
    }
done:
    reading_clear(&reading);
    return status;
}
