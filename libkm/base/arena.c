/* arena.c: many small objects freed together: a list of chunks filled from the front.
 *
 * Chunks double from 64 KiB to 4 MiB; a larger object gets one of its own. Objects are aligned
 * to 64 bytes, as km_alloc's are.
 */
#include "base/base.h"

#include <string.h>

#define ALIGN 64u
#define CHUNK_MIN ((size_t)64 * 1024)
#define CHUNK_MAX ((size_t)4 * 1024 * 1024)

typedef struct chunk {
    struct chunk *next;
    size_t size, used; /* payload bytes; the payload starts ALIGN bytes after the chunk */
} chunk;

struct km_arena {
    km_ctx *ctx;
    chunk *chunks; /* the newest first */
    size_t next_size;
};

static km_status add_chunk(km_arena *arena, size_t at_least, km_error *err) {
    size_t size = at_least > arena->next_size ? at_least : arena->next_size;
    size_t total;
    if (!km_size_add(&total, size, ALIGN)) {
        return KM_SET(err, KM_ENOMEM, "cannot allocate %zu bytes", size);
    }
    void *block = NULL;
    KM_TRY(km_alloc(&block, arena->ctx, total, err));
    chunk *fresh = block;
    *fresh = (chunk){arena->chunks, size, 0};
    arena->chunks = fresh;
    if (arena->next_size < CHUNK_MAX) {
        arena->next_size *= 2;
    }
    return KM_OK;
}

static void free_chunks(km_arena *arena, chunk *keep) {
    chunk *at = arena->chunks;
    while (at != NULL) {
        chunk *next = at->next;
        if (at != keep) {
            km_free(arena->ctx, at);
        }
        at = next;
    }
    arena->chunks = keep;
}

km_status km_arena_new(km_arena **out, km_ctx *ctx, km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc(&block, ctx, sizeof(km_arena), err));
    km_arena *arena = block;
    *arena = (km_arena){ctx, NULL, CHUNK_MIN};
    *out = arena;
    return KM_OK;
}

void km_arena_free(km_arena *arena) {
    if (arena != NULL) {
        free_chunks(arena, NULL);
        km_free(arena->ctx, arena);
    }
}

/* Keeps the largest chunk, so that a loop of reset and fill settles without allocating. */
void km_arena_reset(km_arena *arena) {
    chunk *largest = arena->chunks;
    for (chunk *at = arena->chunks; at != NULL; at = at->next) {
        if (at->size > largest->size) {
            largest = at;
        }
    }
    free_chunks(arena, largest);
    if (largest != NULL) {
        largest->next = NULL;
        largest->used = 0;
    }
}

km_status km_arena_alloc(void **out, km_arena *arena, size_t size, km_error *err) {
    size_t need;
    if (!km_size_add(&need, size == 0 ? 1 : size, ALIGN - 1)) {
        return KM_SET(err, KM_ENOMEM, "cannot allocate %zu bytes", size);
    }
    need &= ~(size_t)(ALIGN - 1);
    if (arena->chunks == NULL || arena->chunks->size - arena->chunks->used < need) {
        KM_TRY(add_chunk(arena, need, err));
    }
    chunk *top = arena->chunks;
    *out = (unsigned char *)top + ALIGN + top->used;
    top->used += need;
    return KM_OK;
}

km_status km_arena_strndup(char **out, km_arena *arena, const char *text, size_t n, km_error *err) {
    size_t size;
    if (!km_size_add(&size, n, 1)) {
        return KM_SET(err, KM_ENOMEM, "cannot allocate %zu bytes", n);
    }
    void *copy = NULL;
    KM_TRY(km_arena_alloc(&copy, arena, size, err));
    if (n > 0) {
        memcpy(copy, text, n);
    }
    ((char *)copy)[n] = '\0';
    *out = copy;
    return KM_OK;
}
