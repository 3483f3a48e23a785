/* optimizer.c: a step of each optimiser over the 135 million weights of SmolLM2-135M, and the norm
 * of their gradients: milliseconds and the memory's speed. Wall time, the best of several.
 *
 *     optimizer [threads]
 */
#include "km/optimizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { N_TENSORS = 272, TURNS = 6 };
#define N_WEIGHTS ((int64_t)134515008)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(km_status status, const km_error *err) {
    if (status != KM_OK) {
        fprintf(stderr, "optimizer: %s\n", err->message);
        exit(1);
    }
}

static float *allocate(void) {
    float *block = malloc((size_t)N_WEIGHTS * sizeof *block);
    if (block == NULL) {
        fprintf(stderr, "optimizer: no memory for %lld weights\n", (long long)N_WEIGHTS);
        exit(1);
    }
    return block;
}

/* Bytes that a step has to move: weight and averages read and written, the gradient read and
 * zeroed.
 */
static void measure(km_ctx *ctx, const char *name, const km_optimizer_options *options,
                    const km_optimizer_tensor *tensors) {
    const double bytes = (double)N_WEIGHTS * 8.0 * (2 + km_optimizer_n_averages(options));
    km_error err = KM_ERROR_INIT;
    km_optimizer *optimizer = NULL;
    double best_norm = 1e9, best_step = 1e9, norm;
    check(km_optimizer_new(&optimizer, ctx, options, tensors, N_TENSORS, 0, &err), &err);
    for (int turn = 0; turn < TURNS; turn++) {
        const double start = now();
        check(km_optimizer_norm(&norm, optimizer, &err), &err);
        const double middle = now();
        check(km_optimizer_step(optimizer, 1e-3, 1.0, &err), &err);
        const double end = now();
        best_norm = middle - start < best_norm ? middle - start : best_norm;
        best_step = end - middle < best_step ? end - middle : best_step;
    }
    printf("%-14s step %6.1f ms %6.1f GB/s   norm %6.1f ms %6.1f GB/s\n", name, 1e3 * best_step,
           1e-9 * bytes / best_step, 1e3 * best_norm, 4e-9 * (double)N_WEIGHTS / best_norm);
    km_optimizer_free(optimizer);
}

int main(int argc, char **argv) {
    const km_optimizer_options adamw = KM_OPTIMIZER_OPTIONS_INIT;
    const km_optimizer_options momentum = {.kind = KM_SGD, .momentum = 0.9};
    const km_optimizer_options plain = {.kind = KM_SGD};
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    km_ctx *ctx = NULL;
    km_error err = KM_ERROR_INIT;
    km_optimizer_tensor tensors[N_TENSORS];
    float *weights = allocate(), *gradients = allocate();
    options.n_threads = argc > 1 ? atoi(argv[1]) : 0;
    check(km_ctx_new(&ctx, &options, &err), &err);
    for (int64_t i = 0; i < N_WEIGHTS; i++) {
        weights[i] = 0.01f * (float)(i % 101 - 50);
    }
    const int64_t each = N_WEIGHTS / N_TENSORS;
    for (int64_t i = 0; i < N_TENSORS; i++) {
        const int64_t n = i + 1 < N_TENSORS ? each : N_WEIGHTS - i * each;
        tensors[i] =
            (km_optimizer_tensor){"tensor", weights + i * each, gradients + i * each, n, true};
    }
    printf("%lld weights, %d threads, %s\n", (long long)N_WEIGHTS, km_ctx_threads(ctx),
           km_ctx_cpu(ctx));
    measure(ctx, "AdamW", &adamw, tensors);
    measure(ctx, "SGD, momentum", &momentum, tensors);
    measure(ctx, "SGD", &plain, tensors);
    km_ctx_free(ctx);
    free(weights);
    free(gradients);
    return 0;
}
