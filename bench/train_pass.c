/* train_pass.c: one training pass, without optimiser, beside the matrix products it is made of.
 *
 * The bound is OpenBLAS's single-threaded sgemm at the model's own shapes: y = x w', dx = dy w and
 * dw = dy' x of every matrix, the unembedding included. Pass and products take turns; times are CPU
 * seconds of all threads, the best of the rounds, so that a busy machine changes them little.
 *
 *     train_pass MODEL [sequences [length [rounds [recompute]]]]
 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

#include "km/training.h"
#include "model/model_private.h"

typedef struct job {
    km_model *model;
    km_training_pass pass;
    double products, seconds, wall, loss;
} job;

static double clock_of(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(km_status status, const km_error *err) {
    if (status != KM_OK) {
        fprintf(stderr, "train_pass: %s\n", err->message);
        exit(1);
    }
}

static void *zeroed(int64_t n, size_t size) {
    void *block = calloc((size_t)n, size);
    if (block == NULL) {
        fprintf(stderr, "train_pass: no memory\n");
        exit(1);
    }
    return block;
}

/* ---- the products alone ---- */

/* Seconds of the three products of one matrix (n, k) with m rows of input. */
static double multiply(int n, int k, int m, float *x, float *y, float *w) {
    const double start = clock_of(CLOCK_THREAD_CPUTIME_ID);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1.0f, x, k, w, k, 0.0f, y, n);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, k, n, 1.0f, y, n, w, k, 0.0f, x, k);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, k, m, 1.0f, y, n, x, k, 0.0f, w, k);
    return clock_of(CLOCK_THREAD_CPUTIME_ID) - start;
}

/* All matrices: of one layer, times the layers; the unembedding as the pass cuts it, 256 rows. */
static double all_products(const job *j) {
    const km_config *c = &j->model->config;
    const int d = c->d_model, f = c->d_ffn, q = c->n_heads * c->head_dim;
    const int kv = c->n_kv_heads * c->head_dim, m = (int)j->pass.tree.n, v = c->vocab_size;
    const int shapes[7][2] = {{q, d}, {kv, d}, {kv, d}, {d, q}, {f, d}, {d, f}, {f, d}};
    const int64_t most = (int64_t)(v > f ? v : f) * d, rows = (int64_t)256 * v + (int64_t)m * f;
    float *x = zeroed(rows, sizeof *x), *y = zeroed(rows, sizeof *y), *w = zeroed(most, sizeof *w);
    double seconds = 0.0;
    for (int i = 0; i < (c->gated_mlp ? 7 : 6); i++) {
        multiply(shapes[i][0], shapes[i][1], m, x, y, w);
        seconds += c->n_layers * multiply(shapes[i][0], shapes[i][1], m, x, y, w);
    }
    seconds += m / 256.0 * multiply(v, d, 256, x, y, w);
    free(x);
    free(y);
    free(w);
    return seconds;
}

/* ---- the pass ---- */

static void set_tree(job *j, int64_t sequences, int64_t length) {
    const int64_t n = sequences * length;
    int32_t *ids = zeroed(n, sizeof *ids);
    int64_t *parent = zeroed(n, sizeof *parent);
    km_training_target *targets = zeroed(n, sizeof *targets);
    for (int64_t i = 0; i < n; i++) {
        ids[i] =
            (int32_t)(km_random_u64(1, 1, (uint64_t)i) % (uint64_t)j->model->config.vocab_size);
        parent[i] = i % length == 0 ? -1 : i - 1;
        targets[i] = (km_training_target){i, ids[i / length * length], 1.0f / (float)n};
    }
    j->pass.tree = (km_tree){ids, parent, n};
    j->pass.targets = targets;
    j->pass.n_targets = n;
    j->pass.losses = zeroed(n, sizeof(double));
}

static void set_gradients(job *j) {
    km_error err = KM_ERROR_INIT;
    const int64_t n = km_model_n_tensors(j->model);
    km_parameter_gradient *gradients = zeroed(n, sizeof *gradients);
    for (int64_t i = 0; i < n; i++) {
        km_parameter parameter;
        check(km_model_parameter_at(&parameter, j->model, i, &err), &err);
        gradients[i] = (km_parameter_gradient){i, zeroed(parameter.n, sizeof(float)), NULL};
    }
    j->pass.gradients = gradients;
    j->pass.n_gradients = n;
}

static void measure(job *j) {
    km_error err = KM_ERROR_INIT;
    const double cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID), wall = clock_of(CLOCK_MONOTONIC);
    check(km_model_train_pass(j->model, &j->pass, &err), &err);
    const double used = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    const double passed = clock_of(CLOCK_MONOTONIC) - wall;
    j->seconds = j->seconds == 0.0 || used < j->seconds ? used : j->seconds;
    j->wall = j->wall == 0.0 || passed < j->wall ? passed : j->wall;
    const double products = all_products(j);
    j->products = j->products == 0.0 || products < j->products ? products : j->products;
    for (int64_t i = 0; i < j->pass.n_targets; i++) {
        j->loss += (double)j->pass.targets[i].weight * j->pass.losses[i];
    }
}

static void report(const job *j, const km_ctx *ctx, int rounds) {
    struct rusage usage;
    const double n = (double)j->pass.tree.n;
    (void)getrusage(RUSAGE_SELF, &usage);
    printf("km's kernels: %s; OpenBLAS's: %s; %d threads; %.0f tokens, mean loss %.6f\n",
           km_ctx_cpu(ctx), km_ctx_blas_core(ctx), km_ctx_threads(ctx), n, j->loss / rounds);
    printf("pass: %.2f s CPU, %.2f s wall, %.0f tokens/s; products alone: %.2f s CPU; "
           "products / pass: %.1f %%; peak memory: %ld MiB\n",
           j->seconds, j->wall, n / j->wall, j->products, 100.0 * j->products / j->seconds,
           usage.ru_maxrss / 1024);
}

int main(int argc, char **argv) {
    job j = {0};
    km_ctx *ctx = NULL;
    km_model *file = NULL;
    km_error err = KM_ERROR_INIT;
    const km_ctx_options options = KM_CTX_OPTIONS_INIT;
    const int64_t sequences = argc > 2 ? atoi(argv[2]) : 8, length = argc > 3 ? atoi(argv[3]) : 128;
    const int rounds = argc > 4 ? atoi(argv[4]) : 3;
    if (argc < 2 || sequences < 1 || length < 1 || rounds < 1) {
        fprintf(stderr, "usage: train_pass MODEL [sequences [length [rounds [recompute]]]]\n");
        return 2;
    }
    check(km_ctx_new(&ctx, &options, &err), &err);
    check(km_model_load(&file, ctx, argv[1], NULL, &err), &err);
    check(km_model_trainable(&j.model, file, NULL, 0, &err), &err);
    set_tree(&j, sequences, length);
    set_gradients(&j);
    j.pass.recompute = argc > 5;
    for (int i = 0; i < rounds; i++) {
        measure(&j);
    }
    report(&j, ctx, rounds);
    km_model_free(j.model);
    km_model_free(file);
    km_ctx_free(ctx);
    return 0;
}
