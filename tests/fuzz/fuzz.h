/* fuzz.h: a context for parser targets whose allocator watches that memory stays within a small
 * multiple of the input. */
#ifndef KM_TESTS_FUZZ_H
#define KM_TESTS_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct fuzz_memory {
    size_t live, peak;
} fuzz_memory;

static fuzz_memory fuzz_used;

static inline void fuzz_count(fuzz_memory *memory, size_t size) {
    memory->live += size;
    memory->peak = memory->live > memory->peak ? memory->live : memory->peak;
}

static inline void *fuzz_alloc(void *payload, size_t size, size_t align) {
    void *ptr = NULL;
    if (posix_memalign(&ptr, align, size) != 0) {
        return NULL;
    }
    fuzz_count(payload, size);
    return ptr;
}

static inline void fuzz_free(void *payload, void *ptr, size_t size) {
    ((fuzz_memory *)payload)->live -= size;
    free(ptr);
}

static inline void *fuzz_realloc(void *payload, void *ptr, size_t old_size, size_t new_size,
                                 size_t align) {
    void *fresh = fuzz_alloc(payload, new_size, align);
    if (fresh != NULL) {
        memcpy(fresh, ptr, old_size < new_size ? old_size : new_size);
        fuzz_free(payload, ptr, old_size);
    }
    return fresh;
}

/* One context for the whole process; also forgets the peak of the input before. */
static inline km_ctx *fuzz_ctx(void) {
    static km_ctx *ctx;
    static const km_allocator allocator = {fuzz_alloc, fuzz_realloc, fuzz_free, &fuzz_used};
    const km_ctx_options options = {1, NULL, &allocator};
    if (ctx == NULL && km_ctx_new(&ctx, &options, NULL) != KM_OK) {
        abort();
    }
    fuzz_used.peak = fuzz_used.live;
    return ctx;
}

/* Abort when the input made km hold more than 64 KiB and `factor` times its size at once. */
static inline void fuzz_check_peak(size_t base, size_t size, size_t factor) {
    if (fuzz_used.peak - base > (64 << 10) + factor * size) {
        (void)fprintf(stderr, "%zu bytes of input took %zu bytes\n", size, fuzz_used.peak - base);
        abort();
    }
}

/* A failure says why; a success says nothing. */
static inline void fuzz_check_error(km_status status, const km_error *err) {
    if ((status != KM_OK) != (err->message[0] != '\0') || status != err->code) {
        (void)fprintf(stderr, "status %s with message '%s'\n", km_status_name(status),
                      err->message);
        abort();
    }
    if (!km_utf8_valid(err->message, strlen(err->message))) {
        (void)fprintf(stderr, "message is not UTF-8\n");
        abort();
    }
}

#endif
