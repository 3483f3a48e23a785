/* optimizer.c: AdamW and SGD over lists of tensors. Every loop runs over the same pieces, which are
 * cut by the sizes alone; sums over pieces are added in their order. */
#include "km/optimizer.h"

#include <math.h>
#include <string.h>

#include "model/optimizer_private.h"
#include "tensor/kernels_optimizer.h"

#define PIECE ((int64_t)1 << 16) /* weights a worker takes at a time: four arrays of 256 KiB */

typedef struct piece {
    int32_t tensor;
    int64_t begin, n;
} piece;

struct km_optimizer {
    km_ctx *ctx;
    const km_optimizer_kernels *kernels;
    km_optimizer_options options;
    km_optimizer_tensor *tensors; /* (n_tensors) */
    float **averages;             /* (n_tensors, 2) inside `block`; NULL: not kept */
    float *block;
    piece *pieces;   /* (n_pieces) */
    bool *done;      /* (n_pieces) of the loop that runs */
    double *squares; /* (n_pieces) */
    int64_t n_tensors, n_pieces, steps;
};

/* ---- making one ---- */

static bool is_share(double x) {
    return x >= 0.0 && x < 1.0;
}

static km_status check_options(const km_optimizer_options *o, km_error *err) {
    if (o->kind != KM_ADAMW && o->kind != KM_SGD) {
        return KM_SET(err, KM_EINVAL, "there is no optimiser %d", (int)o->kind);
    }
    if (o->kind == KM_ADAMW && (!is_share(o->beta1) || !is_share(o->beta2))) {
        return KM_SET(err, KM_EINVAL, "betas are %g and %g; each must be at least 0 and below 1",
                      o->beta1, o->beta2);
    }
    if (o->kind == KM_ADAMW && !(o->eps > 0.0 && isfinite(o->eps))) {
        return KM_SET(err, KM_EINVAL, "eps is %g; it must be positive and finite", o->eps);
    }
    if (o->kind == KM_SGD && !is_share(o->momentum)) {
        return KM_SET(err, KM_EINVAL, "momentum is %g; it must be at least 0 and below 1",
                      o->momentum);
    }
    if (!(o->weight_decay >= 0.0 && isfinite(o->weight_decay))) {
        return KM_SET(err, KM_EINVAL, "weight_decay is %g; it must be at least 0 and finite",
                      o->weight_decay);
    }
    return KM_OK;
}

int km_optimizer_n_averages(const km_optimizer_options *options) {
    return options->kind == KM_ADAMW ? 2 : options->momentum > 0.0 ? 1 : 0;
}

static int64_t pieces_of(int64_t n) {
    return n / PIECE + (n % PIECE != 0);
}

static km_status allocate_averages(km_optimizer *optimizer, int64_t max_bytes, km_error *err) {
    const int n_averages = km_optimizer_n_averages(&optimizer->options);
    const size_t limit = max_bytes > 0 ? (size_t)max_bytes : km_memory_available();
    int64_t n = 0;
    for (int64_t i = 0; i < optimizer->n_tensors; i++) {
        n += optimizer->tensors[i].n;
    }
    const double bytes = (double)n * n_averages * sizeof(float);
    if (bytes > (double)limit) {
        return KM_SET(err, KM_ENOMEM,
                      "the optimiser's averages of %lld weights need %.0f MiB; %.0f MiB are "
                      "available",
                      (long long)n, bytes / 1048576.0, (double)limit / 1048576.0);
    }
    KM_TRY(km_alloc((void **)&optimizer->block, optimizer->ctx, (size_t)bytes, err));
    float *next = optimizer->block;
    for (int64_t i = 0; i < optimizer->n_tensors; i++) {
        for (int k = 0; k < n_averages; k++) {
            optimizer->averages[2 * i + k] = next;
            next += optimizer->tensors[i].n;
        }
    }
    return KM_OK;
}

static km_status cut(km_optimizer *optimizer, km_error *err) {
    km_ctx *ctx = optimizer->ctx;
    for (int64_t i = 0; i < optimizer->n_tensors; i++) {
        optimizer->n_pieces += pieces_of(optimizer->tensors[i].n);
    }
    const int64_t n = optimizer->n_pieces;
    KM_TRY(km_alloc_array((void **)&optimizer->pieces, ctx, n, sizeof *optimizer->pieces, err));
    KM_TRY(km_alloc_array((void **)&optimizer->done, ctx, n, sizeof *optimizer->done, err));
    KM_TRY(km_alloc_array((void **)&optimizer->squares, ctx, n, sizeof *optimizer->squares, err));
    piece *next = optimizer->pieces;
    for (int64_t i = 0; i < optimizer->n_tensors; i++) {
        for (int64_t at = 0; at < optimizer->tensors[i].n; at += PIECE) {
            const int64_t rest = optimizer->tensors[i].n - at;
            *next++ = (piece){(int32_t)i, at, rest < PIECE ? rest : PIECE};
        }
    }
    return KM_OK;
}

km_status km_optimizer_new(km_optimizer **out, km_ctx *ctx, const km_optimizer_options *options,
                           const km_optimizer_tensor *tensors, int64_t n_tensors, int64_t max_bytes,
                           km_error *err) {
    if (out == NULL || ctx == NULL || options == NULL || tensors == NULL || n_tensors < 1 ||
        n_tensors > INT32_MAX) {
        return KM_SET(err, KM_EINVAL, "an optimiser needs a context, options and tensors");
    }
    KM_TRY(check_options(options, err));
    km_status status = KM_OK;
    km_optimizer *optimizer = NULL;
    KM_TRY(km_alloc_array((void **)&optimizer, ctx, 1, sizeof *optimizer, err));
    optimizer->ctx = ctx;
    optimizer->kernels = km_ctx_optimizer_kernels(ctx);
    optimizer->options = *options;
    optimizer->n_tensors = n_tensors;
    KM_GO(km_alloc_array((void **)&optimizer->tensors, ctx, n_tensors, sizeof *tensors, err));
    memcpy(optimizer->tensors, tensors, (size_t)n_tensors * sizeof *tensors);
    KM_GO(km_alloc_array((void **)&optimizer->averages, ctx, 2 * n_tensors, sizeof(float *), err));
    KM_GO(allocate_averages(optimizer, max_bytes, err));
    KM_GO(cut(optimizer, err));
    KM_GO(km_optimizer_reset(optimizer, err));
    *out = optimizer;
    optimizer = NULL;
done:
    km_optimizer_free(optimizer);
    return status;
}

void km_optimizer_free(km_optimizer *optimizer) {
    if (optimizer == NULL) {
        return;
    }
    km_ctx *ctx = optimizer->ctx;
    km_free(ctx, optimizer->squares);
    km_free(ctx, optimizer->done);
    km_free(ctx, optimizer->pieces);
    km_free(ctx, optimizer->block);
    km_free(ctx, optimizer->averages);
    km_free(ctx, optimizer->tensors);
    km_free(ctx, optimizer);
}

float *km_optimizer_average(const km_optimizer *optimizer, int64_t tensor, int which) {
    const bool there = tensor >= 0 && tensor < optimizer->n_tensors && (which == 0 || which == 1);
    return there ? optimizer->averages[2 * tensor + which] : NULL;
}

int64_t km_optimizer_steps(const km_optimizer *optimizer) {
    return optimizer->steps;
}

km_status km_optimizer_set_steps(km_optimizer *optimizer, int64_t steps, km_error *err) {
    if (steps < 0) {
        return KM_SET(err, KM_EINVAL, "%lld steps cannot have been finished", (long long)steps);
    }
    optimizer->steps = steps;
    return KM_OK;
}

/* ---- loops over pieces ---- */

typedef struct whole {
    bool *done;
    km__visit_fn visit;
    const void *payload;
} whole;

static km_status visit_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const whole *work = payload;
    for (int64_t i = begin; i < end; i++) {
        if (!work->done[i]) {
            work->visit(work->payload, i);
            work->done[i] = true;
        }
    }
    return KM_OK;
}

/* A loop that was stopped is run again over what it left. One whose threads cannot be started goes
 * on in this thread. */
km_status km__visit_all(km_ctx *ctx, int64_t n, bool *done, km__visit_fn visit, const void *payload,
                        km_error *err) {
    whole work = {done, visit, payload};
    km_error first = KM_ERROR_INIT;
    km_status stopped = KM_OK, status;
    memset(done, 0, (size_t)n * sizeof *done);
    do {
        km_error error = KM_ERROR_INIT;
        status = km_parallel_for(ctx, n, 1, visit_range, &work, &error);
        if ((status == KM_ECANCELLED || status == KM_ECALLBACK) && stopped == KM_OK) {
            stopped = status;
            first = error;
        }
    } while (status == KM_ECANCELLED || status == KM_ECALLBACK);
    if (status != KM_OK) {
        (void)visit_range(&work, 0, n, 0, NULL);
    }
    return stopped == KM_OK ? KM_OK : KM_SET(err, stopped, "%s", first.message);
}

/* What a visitor of pieces gets. */
typedef struct loop {
    const km_optimizer *optimizer;
    const void *numbers; /* of the step */
} loop;

static void clear_gradient(const void *payload, int64_t index) {
    const loop *work = payload;
    const piece *at = &work->optimizer->pieces[index];
    const km_optimizer_tensor *tensor = &work->optimizer->tensors[at->tensor];
    memset(tensor->gradient + at->begin, 0, (size_t)at->n * sizeof(float));
}

static void clear_piece(const void *payload, int64_t index) {
    const loop *work = payload;
    const piece *at = &work->optimizer->pieces[index];
    clear_gradient(payload, index);
    for (int k = 0; k < 2; k++) {
        float *average = work->optimizer->averages[2 * at->tensor + k];
        if (average != NULL) {
            memset(average + at->begin, 0, (size_t)at->n * sizeof(float));
        }
    }
}

static km_status visit_pieces(const km_optimizer *optimizer, km__visit_fn visit,
                              const void *numbers, km_error *err) {
    const loop work = {optimizer, numbers};
    return km__visit_all(optimizer->ctx, optimizer->n_pieces, optimizer->done, visit, &work, err);
}

km_status km_optimizer_reset(km_optimizer *optimizer, km_error *err) {
    optimizer->steps = 0;
    return visit_pieces(optimizer, clear_piece, NULL, err);
}

km_status km_optimizer_drop_gradients(km_optimizer *optimizer, km_error *err) {
    return visit_pieces(optimizer, clear_gradient, NULL, err);
}

/* ---- the norm ---- */

static km_status square_pieces(void *payload, int64_t begin, int64_t end, int worker,
                               km_error *err) {
    (void)worker;
    (void)err;
    const km_optimizer *optimizer = payload;
    for (int64_t i = begin; i < end; i++) {
        const piece *at = &optimizer->pieces[i];
        const float *gradient = optimizer->tensors[at->tensor].gradient + at->begin;
        optimizer->squares[i] = optimizer->kernels->sum_squares(gradient, at->n);
    }
    return KM_OK;
}

km_status km_optimizer_norm(double *out, const km_optimizer *optimizer, km_error *err) {
    double total = 0.0;
    KM_TRY(km_parallel_for(optimizer->ctx, optimizer->n_pieces, 1, square_pieces,
                           (void *)(uintptr_t)optimizer, err));
    for (int64_t i = 0; i < optimizer->n_pieces; i++) {
        if (!isfinite(optimizer->squares[i])) {
            return KM_SET(err, KM_ENUMERIC, "the gradient of '%s' is not finite",
                          optimizer->tensors[optimizer->pieces[i].tensor].name);
        }
        total += optimizer->squares[i];
    }
    *out = sqrt(total);
    return KM_OK;
}

/* ---- a step ---- */

static void adamw_piece(const void *payload, int64_t index) {
    const loop *work = payload;
    const km_optimizer *optimizer = work->optimizer;
    const piece *at = &optimizer->pieces[index];
    const km_optimizer_tensor *tensor = &optimizer->tensors[at->tensor];
    float *const *averages = optimizer->averages + 2 * at->tensor;
    km_adamw_numbers numbers = *(const km_adamw_numbers *)work->numbers;
    numbers.keep = tensor->decays ? numbers.keep : 1.0f;
    optimizer->kernels->adamw(tensor->values + at->begin, tensor->gradient + at->begin,
                              averages[0] + at->begin, averages[1] + at->begin, &numbers, at->n);
}

static void sgd_piece(const void *payload, int64_t index) {
    const loop *work = payload;
    const km_optimizer *optimizer = work->optimizer;
    const piece *at = &optimizer->pieces[index];
    const km_optimizer_tensor *tensor = &optimizer->tensors[at->tensor];
    float *momentum = optimizer->averages[2 * at->tensor];
    km_sgd_numbers numbers = *(const km_sgd_numbers *)work->numbers;
    numbers.decay = tensor->decays ? numbers.decay : 0.0f;
    if (momentum == NULL) {
        optimizer->kernels->plain_sgd(tensor->values + at->begin, tensor->gradient + at->begin,
                                      &numbers, at->n);
    } else {
        optimizer->kernels->sgd(tensor->values + at->begin, tensor->gradient + at->begin,
                                momentum + at->begin, &numbers, at->n);
    }
}

/* Numbers of step t, computed in double precision. */
static km_adamw_numbers adamw_numbers(const km_optimizer_options *o, double rate, double scale,
                                      double t) {
    return (km_adamw_numbers){.scale = (float)scale,
                              .keep = (float)(1.0 - rate * o->weight_decay),
                              .blend_m = (float)(1.0 - o->beta1),
                              .beta_v = (float)o->beta2,
                              .blend_v = (float)(1.0 - o->beta2),
                              .step = (float)(rate / (1.0 - pow(o->beta1, t))),
                              .root = (float)sqrt(1.0 - pow(o->beta2, t)),
                              .eps = (float)o->eps};
}

km_status km_optimizer_step(km_optimizer *optimizer, double learning_rate, double scale,
                            km_error *err) {
    const km_optimizer_options *o = &optimizer->options;
    if (!(learning_rate >= 0.0 && isfinite(learning_rate))) {
        return KM_SET(err, KM_EINVAL, "the learning rate is %g; it must be at least 0 and finite",
                      learning_rate);
    }
    if (!(scale >= 0.0 && isfinite(scale))) {
        return KM_SET(err, KM_EINVAL,
                      "the gradient's scale is %g; it must be at least 0 and finite", scale);
    }
    optimizer->steps++;
    if (o->kind == KM_ADAMW) {
        const km_adamw_numbers numbers =
            adamw_numbers(o, learning_rate, scale, (double)optimizer->steps);
        return visit_pieces(optimizer, adamw_piece, &numbers, err);
    }
    const km_sgd_numbers numbers = {(float)scale, (float)o->weight_decay, (float)o->momentum,
                                    (float)learning_rate};
    return visit_pieces(optimizer, sgd_piece, &numbers, err);
}
