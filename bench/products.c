/* products.c: km's matrix products beside OpenBLAS's sgemm, on one thread, in one run.
 *
 * The shapes are those of SmolLM2-135M. Both take turns, so that they share whatever else the
 * machine does; the time is CPU time of the thread, the best of several. km's weights are stored as
 * named and converted on the way; sgemm gets them as float32. One row is greedy decoding's case.
 *
 *     products [milliseconds a measurement]
 */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/base.h"
#include "tensor/matrix.h"

typedef struct case_of {
    int64_t n, k, m;
} case_of;

static const int64_t SHAPES[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
static const int64_t ROWS[] = {64, 256, 512, 1024};
static const km_dtype TYPES[] = {KM_F32, KM_Q8_0, KM_Q4_1, KM_Q4_K};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *allocate(size_t size) {
    void *block = NULL;
    if (posix_memalign(&block, 64, size + 64) != 0) {
        fprintf(stderr, "products: no memory for %zu bytes\n", size);
        exit(1);
    }
    return block;
}

static float *random_floats(int64_t n, uint64_t stream) {
    float *x = allocate((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)km_random_uniform(1, stream, (uint64_t)i) - 0.5f;
    }
    return x;
}

/* Bytes below 0x30, so that every half-precision scale is finite. */
static km_matrix stored(km_dtype type, int64_t n, int64_t k) {
    km_matrix w = {NULL, type, n, k};
    const size_t size = (size_t)(n * km_matrix_row_bytes(&w));
    if (type == KM_F32) {
        w.data = random_floats(n * k, 2);
        return w;
    }
    unsigned char *data = allocate(size);
    for (size_t i = 0; i < size; i++) {
        data[i] = (unsigned char)(km_random_u64(1, 3, i) & 0x2f);
    }
    w.data = data;
    return w;
}

typedef struct timing {
    double best;
    int runs;
} timing;

static void note(timing *t, double seconds) {
    t->best = t->runs == 0 || seconds < t->best ? seconds : t->best;
    t->runs++;
}

static void multiply(km_ctx *ctx, const km_linear_job *job) {
    km_error err = KM_ERROR_INIT;
    if (km_linear_many(ctx, job, 1, &err) != KM_OK) {
        fprintf(stderr, "products: %s\n", err.message);
        exit(1);
    }
}

/* Both take turns until `seconds` are over; GFLOP/s of each. */
static void measure(double gflops[2], km_ctx *ctx, case_of c, km_dtype type, double seconds) {
    float *x = random_floats(c.m * c.k, 1), *y = allocate((size_t)(c.m * c.n) * sizeof *y);
    float *dense = random_floats(c.n * c.k, 2);
    km_matrix w = stored(type, c.n, c.k);
    const km_linear_job job = {y, x, &w, NULL, c.n, c.k, c.m};
    timing ours = {0}, theirs = {0};
    for (double start = now(); theirs.runs < 3 || now() - start < seconds;) {
        double t = now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)c.m, (int)c.n, (int)c.k, 1.0f, x,
                    (int)c.k, dense, (int)c.k, 0.0f, y, (int)c.n);
        note(&theirs, now() - t);
        t = now();
        multiply(ctx, &job);
        note(&ours, now() - t);
    }
    const double work = 2e-9 * (double)(c.m * c.n * c.k);
    gflops[0] = work / theirs.best;
    gflops[1] = work / ours.best;
    free(x);
    free(y);
    free(dense);
    free((void *)w.data);
}

static void many_rows(km_ctx *ctx, double seconds) {
    printf(
        "| weights (n x k) | rows | stored as | OpenBLAS GFLOP/s | km GFLOP/s | km / OpenBLAS |\n"
        "|---|---|---|---|---|---|\n");
    for (size_t s = 0; s < sizeof SHAPES / sizeof SHAPES[0]; s++) {
        for (size_t r = 0; r < sizeof ROWS / sizeof ROWS[0]; r++) {
            const km_dtype type = SHAPES[s][0] == 49152 ? KM_Q8_0 : KM_Q4_1;
            const case_of c = {SHAPES[s][0], SHAPES[s][1], ROWS[r]};
            double gflops[2];
            measure(gflops, ctx, c, type, seconds);
            printf("| %lld x %lld | %lld | %s | %.1f | %.1f | %.2f |\n", (long long)c.n,
                   (long long)c.k, (long long)c.m, km_dtype_get(type)->name, gflops[0], gflops[1],
                   gflops[1] / gflops[0]);
        }
    }
}

static void one_row(km_ctx *ctx, double seconds) {
    printf("\n| weights (n x k) | rows | stored as | OpenBLAS 10^9 weights/s | km 10^9 weights/s | "
           "km GB/s |\n|---|---|---|---|---|---|\n");
    for (size_t t = 0; t < sizeof TYPES / sizeof TYPES[0]; t++) {
        const case_of c = {49152, TYPES[t] == KM_Q4_K ? 768 : 576, 1};
        double gflops[2];
        measure(gflops, ctx, c, TYPES[t], seconds);
        const km_dtype_traits *traits = km_dtype_get(TYPES[t]);
        printf("| %lld x %lld | 1 | %s | %.1f | %.1f | %.1f |\n", (long long)c.n, (long long)c.k,
               traits->name, gflops[0] / 2, gflops[1] / 2,
               gflops[1] / 2 * traits->block_bytes / traits->block_elements);
    }
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? atof(argv[1]) / 1000 : 0.3;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    km_ctx *ctx = NULL;
    km_error err = KM_ERROR_INIT;
    options.n_threads = 1;
    if (km_ctx_new(&ctx, &options, &err) != KM_OK) {
        fprintf(stderr, "products: %s\n", err.message);
        return 1;
    }
    printf("one thread; km's kernels: %s; OpenBLAS's: %s\n\n", km_ctx_cpu(ctx),
           km_ctx_blas_core(ctx));
    many_rows(ctx, seconds);
    one_row(ctx, seconds);
    km_ctx_free(ctx);
    return 0;
}
