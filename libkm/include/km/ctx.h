/* km/ctx.h: the context every object of libkm lives in: allocator, thread pool, CPU variant, ticks.
 *
 * Threads: all km_ctx functions are safe to call from several threads. Work is cut by index with a
 * grain that never depends on the number of threads, so every result has the same bits for any
 * thread count. After fork() the child starts a fresh pool on first use.
 */
#ifndef KM_CTX_H
#define KM_CTX_H

#include <stdbool.h>

#include "km/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_ctx km_ctx;

/* Memory as the caller provides it. Sizes are passed back so that arenas and accounting allocators
 * are easy; `align` is a power of two. alloc and realloc return NULL on failure. */
typedef struct km_allocator {
    void *(*alloc)(void *payload, size_t size, size_t align);
    void *(*realloc)(void *payload, void *ptr, size_t old_size, size_t new_size, size_t align);
    void (*free)(void *payload, void *ptr, size_t size);
    void *payload;
} km_allocator;

/* Called on the thread that called km, at most every 50 ms during long work. done and total count
 * the work's own units (total 0: unknown). Return KM_OK to go on, KM_ECANCELLED or KM_ECALLBACK to
 * stop. */
typedef km_status (*km_tick_fn)(void *payload, int64_t done, int64_t total);

typedef struct km_ctx_options {
    int n_threads;   /* 0: the CPUs this process may use (KM_THREADS overrides) */
    const char *cpu; /* NULL: KM_CPU or the best available; else "v1", "v3", "v4", "neon" */
    const km_allocator *allocator; /* NULL: the system's */
} km_ctx_options;

#define KM_CTX_OPTIONS_INIT {0, NULL, NULL}

/* Make a context. Errors: KM_EINVAL for a bad option or environment value, KM_EUNSUPPORTED for a
 * CPU variant this machine cannot run, KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_ctx_new(km_ctx **out, const km_ctx_options *options,
                                         km_error *err);
/* Give the context back; NULL is a no-op. Models and tokenizers must be freed before it; tables and
 * knowledge bases keep what they need of it. */
KM_API void km_ctx_free(km_ctx *ctx);

/* Threads that work is shared among, the calling one included. */
KM_API int km_ctx_threads(const km_ctx *ctx);
/* "v1" (baseline), "v3" (AVX2, FMA) or "v4" (AVX-512); "neon" on aarch64. */
KM_API const char *km_ctx_cpu(const km_ctx *ctx);
/* OpenBLAS's own core type, such as "Zen" or "SkylakeX". */
KM_API const char *km_ctx_blas_core(const km_ctx *ctx);

/* Ask running work in this context to stop. The call that stops reports KM_ECANCELLED, which clears
 * the wish; so does the start of the next work that ticks. */
KM_API void km_ctx_cancel(km_ctx *ctx);
/* Forget a wish to stop that came too late for any call to report it. */
KM_API void km_ctx_resume(km_ctx *ctx);

/* Bytes the process may still allocate: the smaller of MemAvailable and the cgroup's rest. */
KM_API size_t km_memory_available(void);

/* Library version: "0.1.0" and 100 (major*10000 + minor*100 + patch). */
KM_API const char *km_version(void);
#define KM_VERSION "0.1.0"
#define KM_VERSION_NUM 100

#ifdef __cplusplus
}
#endif

#endif
