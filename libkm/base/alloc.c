/* alloc.c: every allocation of libkm goes through the context's allocator here. A block carries a
 * 64-byte head with its size, so that freeing needs no size and the payload stays aligned to 64. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

#include "base/ctx_private.h"

#define HEAD_BYTES 64
#define HEAD_MAGIC 0x6b6d426c6f636b21u

typedef struct head {
    size_t size; /* payload bytes */
    uint64_t magic;
} head;

bool km_size_mul(size_t *out, size_t a, size_t b) {
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) {
        return false;
    }
    *out = product;
    return true;
}

bool km_size_add(size_t *out, size_t a, size_t b) {
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) {
        return false;
    }
    *out = sum;
    return true;
}

static km_status no_memory(size_t size, km_error *err) {
    return KM_SET(err, KM_ENOMEM, "cannot allocate %zu bytes", size);
}

/* The head of a block, checked: a wrong pointer here is a bug that would corrupt memory later. */
static head *head_of(void *ptr) {
    head *h = (head *)(void *)((unsigned char *)ptr - HEAD_BYTES);
    if (h->magic != HEAD_MAGIC) {
        abort();
    }
    return h;
}

km_status km_alloc(void **out, km_ctx *ctx, size_t size, km_error *err) {
    size_t total;
    if (!km_size_add(&total, size, HEAD_BYTES) || total > PTRDIFF_MAX) {
        return no_memory(size, err);
    }
    unsigned char *block = ctx->allocator.alloc(ctx->allocator.payload, total, HEAD_BYTES);
    if (block == NULL) {
        return no_memory(size, err);
    }
    *(head *)(void *)block = (head){size, HEAD_MAGIC};
    *out = block + HEAD_BYTES;
    return KM_OK;
}

km_status km_alloc_array(void **out, km_ctx *ctx, int64_t count, size_t size, km_error *err) {
    size_t bytes;
    if (count < 0) {
        return KM_SET(err, KM_EINVAL, "a negative number of elements: %lld", (long long)count);
    }
    if (!km_size_mul(&bytes, (size_t)count, size)) {
        return KM_SET(err, KM_ENOMEM, "%lld elements of %zu bytes overflow", (long long)count,
                      size);
    }
    KM_TRY(km_alloc(out, ctx, bytes, err));
    memset(*out, 0, bytes);
    return KM_OK;
}

km_status km_realloc(void **ptr, km_ctx *ctx, size_t size, km_error *err) {
    if (*ptr == NULL) {
        return km_alloc(ptr, ctx, size, err);
    }
    size_t total;
    if (!km_size_add(&total, size, HEAD_BYTES) || total > PTRDIFF_MAX) {
        return no_memory(size, err);
    }
    head *h = head_of(*ptr);
    unsigned char *block =
        ctx->allocator.realloc(ctx->allocator.payload, h, h->size + HEAD_BYTES, total, HEAD_BYTES);
    if (block == NULL) {
        return no_memory(size, err);
    }
    ((head *)(void *)block)->size = size;
    *ptr = block + HEAD_BYTES;
    return KM_OK;
}

void km_free(km_ctx *ctx, void *ptr) {
    if (ptr == NULL) {
        return;
    }
    head *h = head_of(ptr);
    h->magic = 0;
    ctx->allocator.free(ctx->allocator.payload, h, h->size + HEAD_BYTES);
}

km_status km_strndup(char **out, km_ctx *ctx, const char *text, size_t n, km_error *err) {
    size_t size;
    if (!km_size_add(&size, n, 1)) {
        return no_memory(n, err);
    }
    void *copy = NULL;
    KM_TRY(km_alloc(&copy, ctx, size, err));
    if (n > 0) {
        memcpy(copy, text, n);
    }
    ((char *)copy)[n] = '\0';
    *out = copy;
    return KM_OK;
}

km_status km_strdup(char **out, km_ctx *ctx, const char *text, km_error *err) {
    return km_strndup(out, ctx, text, strlen(text), err);
}
