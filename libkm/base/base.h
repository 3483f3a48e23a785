/* base.h: what every part of libkm uses: memory, overflow-checked sizes, arena, parallel loops,
 * ticks, counter-based random numbers, SHA-256. Private to libkm, kb, viz and tests. */
#ifndef KM_BASE_BASE_H
#define KM_BASE_BASE_H

#include "check.h"
#include "km/ctx.h"

/* ---- memory: nothing else in libkm calls malloc ---- */

/* Allocate size bytes aligned to 64; size 0 gives a valid pointer. KM_ENOMEM names the size. */
KM_NODISCARD km_status km_alloc(void **out, km_ctx *ctx, size_t size, km_error *err);
/* count * size bytes, zeroed, with the product checked for overflow. */
KM_NODISCARD km_status km_alloc_array(void **out, km_ctx *ctx, int64_t count, size_t size,
                                      km_error *err);
/* Grow or shrink what km_alloc gave; *ptr may be NULL. Keeps the old block on failure. */
KM_NODISCARD km_status km_realloc(void **ptr, km_ctx *ctx, size_t size, km_error *err);
void km_free(km_ctx *ctx, void *ptr); /* NULL is a no-op; the block remembers its size */
KM_NODISCARD km_status km_strdup(char **out, km_ctx *ctx, const char *text, km_error *err);
KM_NODISCARD km_status km_strndup(char **out, km_ctx *ctx, const char *text, size_t n,
                                  km_error *err);

/* false on overflow, *out untouched. */
bool km_size_mul(size_t *out, size_t a, size_t b);
bool km_size_add(size_t *out, size_t a, size_t b);

/* ---- arena: many small objects freed together ---- */

typedef struct km_arena km_arena;
KM_NODISCARD km_status km_arena_new(km_arena **out, km_ctx *ctx, km_error *err);
void km_arena_free(km_arena *arena);
void km_arena_reset(km_arena *arena);
/* 64-byte aligned, uninitialised. */
KM_NODISCARD km_status km_arena_alloc(void **out, km_arena *arena, size_t size, km_error *err);
KM_NODISCARD km_status km_arena_strndup(char **out, km_arena *arena, const char *text, size_t n,
                                        km_error *err);

/* ---- threads ---- */

/* Run fn on [begin, end) ranges of `grain` indices (the last may be shorter) over [0, n). Ranges
 * are fixed by n and grain alone. `worker` is in [0, km_ctx_threads). A nested call runs serially
 * on the calling worker. The failing range with the lowest index gives the error. */
typedef km_status (*km_range_fn)(void *payload, int64_t begin, int64_t end, int worker,
                                 km_error *err);
KM_NODISCARD km_status km_parallel_for(km_ctx *ctx, int64_t n, int64_t grain, km_range_fn fn,
                                       void *payload, km_error *err);

/* Have `fn` called on this thread from its km_parallel_for, before a loop that is not nested, at
 * most every 50 ms; any status but KM_OK is that loop's failure. NULL: no more. For callers who can
 * learn only on their own thread that work must stop, however long one piece of it is. */
typedef km_status (*km_poll_fn)(void *payload);
void km_poll_set(km_poll_fn fn, void *payload);

/* At least `size` bytes, 64-byte aligned, for the range a worker is running: another range of the
 * same worker may overwrite them, and so may a nested loop. Kept by the context and grown on
 * demand. KM_ENOMEM. */
KM_NODISCARD km_status km_worker_scratch(void **out, km_ctx *ctx, int worker, size_t size,
                                         km_error *err);

/* Progress of one long piece of work. km_tick_update returns KM_ECANCELLED after km_ctx_cancel or
 * whatever the callback returned; the callback runs at most every 50 ms and at the last unit. */
typedef struct km_tick {
    km_ctx *ctx;
    km_tick_fn fn; /* NULL: only cancellation */
    void *payload;
    int64_t total;
    int64_t last_ns;
} km_tick;
void km_tick_init(km_tick *tick, km_ctx *ctx, km_tick_fn fn, void *payload, int64_t total);
KM_NODISCARD km_status km_tick_update(km_tick *tick, int64_t done, km_error *err);

/* ---- random numbers: Philox 4x32-10, a pure function of (seed, stream, counter) ---- */

uint64_t km_random_u64(uint64_t seed, uint64_t stream, uint64_t counter);
double km_random_uniform(uint64_t seed, uint64_t stream, uint64_t counter); /* [0, 1), 53 bits */
double km_random_normal(uint64_t seed, uint64_t stream, uint64_t counter);
/* Uniform in [0, bound) without modulo bias; bound >= 1. */
uint64_t km_random_below(uint64_t bound, uint64_t seed, uint64_t stream, uint64_t counter);
/* Fisher-Yates: a permutation of 0..n-1 into out. */
void km_random_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream);

/* ---- SHA-256 (FIPS 180-4) ---- */

typedef struct km_sha256 {
    uint32_t state[8];
    uint64_t length;
    unsigned char block[64];
    bool plain; /* without the processor's SHA instructions */
} km_sha256;
void km_sha256_init(km_sha256 *sha);
void km_sha256_update(km_sha256 *sha, const void *data, size_t n);
void km_sha256_final(km_sha256 *sha, unsigned char digest[32]);
void km_sha256_hex(char out[65], const unsigned char digest[32]);

/* ---- text checks ---- */

/* true when the n bytes are well-formed UTF-8 (no surrogates, no overlongs). */
bool km_utf8_valid(const char *text, size_t n);

#endif
