/* ctx_private.h: the inside of km_ctx, shared by base's own files and by tensor's kernel choice. */
#ifndef KM_BASE_CTX_PRIVATE_H
#define KM_BASE_CTX_PRIVATE_H

#include <stdatomic.h>

#include "base/base.h"

typedef struct km__pool km__pool;

typedef struct km__scratch {
    void *block;
    size_t size;
} km__scratch;

struct km_ctx {
    km_allocator allocator;
    atomic_int refs;
    int n_threads;
    int cpu_level; /* 1, 3 or 4; on aarch64 1 */
    atomic_bool cancelled;
    km__pool *pool;
    km__scratch *scratch; /* one a worker */
};

/* Objects that may outlive the caller's handle (exported tables) hold a reference. */
km_ctx *km__ctx_ref(km_ctx *ctx);

/* The level the context runs kernels of: 1 (baseline), 3 or 4; on aarch64 1. */
int km__ctx_cpu_level(const km_ctx *ctx);

/* Turn "v1", "v3", "v4" ("neon" on aarch64) or NULL (KM_CPU, else the best) into a level this
 * machine can run. */
KM_NODISCARD km_status km__cpu_choose(int *out, const char *name, km_error *err);
/* The name of a level: "v1", "v3", "v4", "neon". */
const char *km__cpu_name(int level);
/* CPUs this process may run on. */
int km__cpu_count(void);

KM_NODISCARD km_status km__pool_new(km__pool **out, km_ctx *ctx, km_error *err);
void km__pool_free(km__pool *pool, km_ctx *ctx);

/* Call this thread's poll function if it has one and the last call is long enough ago. */
KM_NODISCARD km_status km__poll(km_error *err);
/* Monotonic time in nanoseconds. */
int64_t km__now_ns(void);

#endif
