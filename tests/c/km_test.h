/* km_test.h: what the C tests share: cmocka with its prerequisites, a context fixture, and an
 * allocator that fails on demand and counts what is still allocated. */
#ifndef KM_TEST_H
#define KM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

/* Counts calls; the call number fail_at (0: the first) returns NULL. Negative: none fails. */
typedef struct km_test_memory {
    atomic_llong calls, live_blocks, live_bytes, peak_bytes;
    long long fail_at;
} km_test_memory;

static inline void *km_test_alloc(void *payload, size_t size, size_t align) {
    km_test_memory *memory = payload;
    if (atomic_fetch_add(&memory->calls, 1) == memory->fail_at) {
        return NULL;
    }
    void *ptr = NULL;
    if (posix_memalign(&ptr, align, size) != 0) {
        return NULL;
    }
    memset(ptr, 0xA5, size); /* so that nobody relies on fresh memory being zero */
    atomic_fetch_add(&memory->live_blocks, 1);
    const long long live = atomic_fetch_add(&memory->live_bytes, (long long)size) + (long long)size;
    long long peak = atomic_load(&memory->peak_bytes);
    while (live > peak && !atomic_compare_exchange_weak(&memory->peak_bytes, &peak, live)) {
    }
    return ptr;
}

static inline void km_test_free(void *payload, void *ptr, size_t size) {
    km_test_memory *memory = payload;
    atomic_fetch_sub(&memory->live_blocks, 1);
    atomic_fetch_sub(&memory->live_bytes, (long long)size);
    free(ptr);
}

static inline void *km_test_realloc(void *payload, void *ptr, size_t old_size, size_t new_size,
                                    size_t align) {
    void *fresh = km_test_alloc(payload, new_size, align);
    if (fresh != NULL) {
        memcpy(fresh, ptr, old_size < new_size ? old_size : new_size);
        km_test_free(payload, ptr, old_size);
    }
    return fresh;
}

static inline km_allocator km_test_failing_allocator(km_test_memory *memory, long long fail_at) {
    atomic_init(&memory->calls, 0);
    atomic_init(&memory->live_blocks, 0);
    atomic_init(&memory->live_bytes, 0);
    atomic_init(&memory->peak_bytes, 0);
    memory->fail_at = fail_at;
    return (km_allocator){km_test_alloc, km_test_realloc, km_test_free, memory};
}

/* A context of n threads, or a failed test. */
static inline km_ctx *km_test_ctx(int n_threads) {
    km_ctx *ctx = NULL;
    km_error err = KM_ERROR_INIT;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    options.n_threads = n_threads;
    if (km_ctx_new(&ctx, &options, &err) != KM_OK) {
        fail_msg("no context: %s", err.message);
    }
    return ctx;
}

/* The CPU variants of this architecture, from the least to the most demanding. */
#if defined(__x86_64__)
#define KM_TEST_CPUS {"v1", "v3", "v4"}
#define KM_TEST_N_CPUS 3
#define KM_TEST_CPU_NAMES "v1, v3 or v4"
#else
#define KM_TEST_CPUS {"neon"}
#define KM_TEST_N_CPUS 1
#define KM_TEST_CPU_NAMES "neon"
#endif

/* A context of one CPU variant; NULL when this machine cannot run it. The output says which. */
static inline km_ctx *km_test_variant(int n_threads, const char *cpu) {
    km_ctx_options options = {n_threads, cpu, NULL};
    km_ctx *ctx = NULL;
    km_status status = km_ctx_new(&ctx, &options, NULL);
    print_message("%s: %s\n", cpu, status == KM_OK ? "run" : "not on this machine");
    assert_true(status == KM_OK || status == KM_EUNSUPPORTED);
    return status == KM_OK ? ctx : NULL;
}

/* Run a check, which says whether it could, on every CPU variant: at least one must run. */
static inline void km_test_variants(bool (*check)(const char *cpu)) {
    static const char *const cpus[] = KM_TEST_CPUS;
    int n_run = 0;
    for (int i = 0; i < KM_TEST_N_CPUS; i++) {
        n_run += check(cpus[i]);
    }
    assert_true(n_run >= 1);
}

/* cmocka setup and teardown: *state is a context of two threads. */
static inline int km_test_setup(void **state) {
    *state = km_test_ctx(2);
    return 0;
}

static inline int km_test_teardown(void **state) {
    km_ctx_free(*state);
    return 0;
}

/* Run `body` with the first, second, third ... allocation failing until it passes. Every failure
 * must be KM_ENOMEM with a message and must leave nothing allocated. */
static inline void km_test_every_allocation(km_status (*body)(km_ctx *ctx, km_error *err)) {
    for (long long fail_at = 0; fail_at < 100000; fail_at++) {
        km_test_memory memory;
        km_allocator allocator = km_test_failing_allocator(&memory, fail_at);
        km_ctx_options options = KM_CTX_OPTIONS_INIT;
        options.n_threads = 2;
        options.allocator = &allocator;
        km_ctx *ctx = NULL;
        km_error err = KM_ERROR_INIT;
        km_status status = km_ctx_new(&ctx, &options, &err);
        if (status == KM_OK) {
            status = body(ctx, &err);
            km_ctx_free(ctx);
        }
        assert_int_equal(atomic_load(&memory.live_blocks), 0);
        assert_int_equal(atomic_load(&memory.live_bytes), 0);
        if (status == KM_OK) {
            assert_true(atomic_load(&memory.calls) <= fail_at);
            return;
        }
        assert_int_equal(status, KM_ENOMEM);
        assert_int_equal(err.code, KM_ENOMEM);
        assert_true(err.message[0] != '\0');
    }
    fail_msg("still failing after 100000 allocations");
}

/* The call must succeed; the error's message is shown when it does not. */
#define km_test_ok(call, err_ptr)                                                                  \
    do {                                                                                           \
        if ((call) != KM_OK) {                                                                     \
            fail_msg("%s: %s: %s", #call, km_status_name((err_ptr)->code), (err_ptr)->message);    \
        }                                                                                          \
    } while (0)

/* The call must fail with this status and say `part` in its message. Clears the error. */
#define km_test_fails(call, want, err_ptr, part)                                                   \
    do {                                                                                           \
        assert_int_equal((call), (want));                                                          \
        assert_int_equal((err_ptr)->code, (want));                                                 \
        if (strstr((err_ptr)->message, (part)) == NULL) {                                          \
            fail_msg("'%s' is not in '%s'", (part), (err_ptr)->message);                           \
        }                                                                                          \
        km_error_clear(err_ptr);                                                                   \
    } while (0)

#endif
