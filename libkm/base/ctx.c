/* ctx.c: the context: allocator, thread count, CPU level, cancellation flag. */
#include "km/ctx.h"

#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/ctx_private.h"

#define MAX_THREADS 1024

/* Blocks from this size on get pages of 2 MiB where the system has them: a pass over fresh memory
 * then takes one page fault where it took 512. */
#define HUGE_FROM ((size_t)32 << 20)
#define HUGE_PAGE ((size_t)2 << 20)

static void *system_alloc(void *payload, size_t size, size_t align) {
    (void)payload;
    void *ptr = NULL;
    if (posix_memalign(&ptr, size < HUGE_FROM ? align : HUGE_PAGE, size) != 0) {
        return NULL;
    }
#ifdef MADV_HUGEPAGE
    if (size >= HUGE_FROM) {
        (void)madvise(ptr, size, MADV_HUGEPAGE); /* a hint: nothing depends on it */
    }
#endif
    return ptr;
}

static void system_free(void *payload, void *ptr, size_t size) {
    (void)payload;
    (void)size;
    free(ptr);
}

/* realloc() does not keep an alignment of 64, so a new block is made. */
static void *system_realloc(void *payload, void *ptr, size_t old_size, size_t new_size,
                            size_t align) {
    void *fresh = system_alloc(payload, new_size, align);
    if (fresh != NULL) {
        memcpy(fresh, ptr, old_size < new_size ? old_size : new_size);
        free(ptr);
    }
    return fresh;
}

static const km_allocator system_allocator = {system_alloc, system_realloc, system_free, NULL};

static km_status choose_threads(int *out, int option, km_error *err) {
    if (option < 0 || option > MAX_THREADS) {
        return KM_SET(err, KM_EINVAL, "n_threads is %d; it must be 0 to %d", option, MAX_THREADS);
    }
    if (option > 0) {
        *out = option;
        return KM_OK;
    }
    const char *text = getenv("KM_THREADS");
    if (text == NULL || text[0] == '\0') {
        int n = km__cpu_count();
        *out = n < MAX_THREADS ? n : MAX_THREADS;
        return KM_OK;
    }
    char *end = NULL;
    errno = 0;
    long n = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || n < 1 || n > MAX_THREADS) {
        return KM_SET(err, KM_EINVAL,
                      "the environment variable KM_THREADS is '%.32s'; it must be 1 to %d", text,
                      MAX_THREADS);
    }
    *out = (int)n;
    return KM_OK;
}

km_status km_ctx_new(km_ctx **out, const km_ctx_options *options, km_error *err) {
    static const km_ctx_options defaults = KM_CTX_OPTIONS_INIT;
    const km_ctx_options *opt = options != NULL ? options : &defaults;
    int n_threads, level;
    KM_TRY(choose_threads(&n_threads, opt->n_threads, err));
    KM_TRY(km__cpu_choose(&level, opt->cpu, err));
    /* km_alloc needs a context; this one lends its allocator until the real one exists. */
    km_ctx seed = {.allocator = opt->allocator != NULL ? *opt->allocator : system_allocator};
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, &seed, 1, sizeof(km_ctx), err));
    km_ctx *ctx = block;
    ctx->allocator = seed.allocator;
    atomic_init(&ctx->refs, 1);
    atomic_init(&ctx->cancelled, false);
    ctx->n_threads = n_threads;
    ctx->cpu_level = level;
    void *scratch = NULL;
    km_status status = km_alloc_array(&scratch, &seed, n_threads, sizeof(km__scratch), err);
    ctx->scratch = scratch;
    if (status == KM_OK) {
        status = km__pool_new(&ctx->pool, ctx, err);
    }
    if (status != KM_OK) {
        km_free(&seed, scratch);
        km_free(&seed, ctx);
        return status;
    }
    /* The pool splits the work; each BLAS call then runs on the thread that made it. */
    openblas_set_num_threads(1);
    *out = ctx;
    return KM_OK;
}

km_status km_worker_scratch(void **out, km_ctx *ctx, int worker, size_t size, km_error *err) {
    km__scratch *scratch = &ctx->scratch[worker];
    if (size > scratch->size) {
        void *block = NULL;
        KM_TRY(km_alloc(&block, ctx, size, err));
        km_free(ctx, scratch->block);
        *scratch = (km__scratch){block, size};
    }
    *out = scratch->block;
    return KM_OK;
}

km_ctx *km__ctx_ref(km_ctx *ctx) {
    atomic_fetch_add(&ctx->refs, 1);
    return ctx;
}

void km_ctx_free(km_ctx *ctx) {
    if (ctx == NULL || atomic_fetch_sub(&ctx->refs, 1) > 1) {
        return;
    }
    km__pool_free(ctx->pool, ctx);
    for (int i = 0; i < ctx->n_threads; i++) {
        km_free(ctx, ctx->scratch[i].block);
    }
    km_free(ctx, ctx->scratch);
    km_ctx lender = {.allocator = ctx->allocator};
    km_free(&lender, ctx);
}

int km_ctx_threads(const km_ctx *ctx) {
    return ctx->n_threads;
}

int km__ctx_cpu_level(const km_ctx *ctx) {
    return ctx->cpu_level;
}

const char *km_ctx_cpu(const km_ctx *ctx) {
    return km__cpu_name(ctx->cpu_level);
}

const char *km_ctx_blas_core(const km_ctx *ctx) {
    (void)ctx;
    return openblas_get_corename();
}

void km_ctx_cancel(km_ctx *ctx) {
    atomic_store(&ctx->cancelled, true);
}

void km_ctx_resume(km_ctx *ctx) {
    atomic_store(&ctx->cancelled, false);
}

const char *km_version(void) {
    return KM_VERSION;
}
