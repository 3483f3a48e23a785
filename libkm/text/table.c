/* table.c: byte strings by id, and two open-addressing tables with linear probing.
 *
 * Tables are at most half full, so an honest vocabulary probes a few slots; a vocabulary crafted to
 * collide is refused after PROBES steps instead of making loading quadratic. */
#include <string.h>

#include "text/text_private.h"

#define PROBES 4096

/* Slots for n entries: a power of two, at least 2 n. */
static km_status slots_for(uint64_t *out, int64_t n, km_error *err) {
    uint64_t slots = 16;
    if (n < 0 || n > INT32_MAX) {
        return KM_SET(err, KM_EFORMAT, "a table of %lld entries is too large", (long long)n);
    }
    while (slots < 2 * (uint64_t)n) {
        slots *= 2;
    }
    *out = slots;
    return KM_OK;
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return x ^ (x >> 32);
}

static uint64_t hash_text(const char *text, size_t n) {
    uint64_t hash = 0x9E3779B97F4A7C15u ^ (uint64_t)n;
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = mix(hash ^ word);
        text += 8;
        n -= 8;
    }
    uint64_t rest = 0;
    for (size_t i = 0; i < n; i++) {
        rest = (rest << 8) | (unsigned char)text[i];
    }
    return mix(hash ^ rest);
}

static bool slice_equal(km_slice a, const char *text, size_t n) {
    return a.n == n && (n == 0 || memcmp(a.data, text, n) == 0);
}

km_status km__strings_init(km__strings *out, km_ctx *ctx, int64_t n, size_t bytes, km_error *err) {
    void *offsets = NULL;
    void *data = NULL;
    km_status status = km_alloc_array(&offsets, ctx, n + 1, sizeof(size_t), err);
    if (status == KM_OK) {
        status = km_alloc(&data, ctx, bytes, err);
    }
    if (status != KM_OK) {
        km_free(ctx, offsets);
        return status;
    }
    *out = (km__strings){data, offsets, n};
    return KM_OK;
}

void km__strings_clear(km__strings *strings, km_ctx *ctx) {
    km_free(ctx, strings->data);
    km_free(ctx, strings->offsets);
    *strings = (km__strings){NULL, NULL, 0};
}

km_slice km__strings_at(const km__strings *strings, int64_t index) {
    size_t start = strings->offsets[index];
    return (km_slice){strings->data + start, strings->offsets[index + 1] - start};
}

km_status km__text_table_init(km__text_table *out, km_ctx *ctx, int64_t n, km_error *err) {
    uint64_t slots;
    void *block = NULL;
    KM_TRY(slots_for(&slots, n, err));
    KM_TRY(km_alloc_array(&block, ctx, (int64_t)slots, sizeof(int32_t), err));
    memset(block, 0xFF, slots * sizeof(int32_t));
    *out = (km__text_table){block, slots - 1};
    return KM_OK;
}

void km__text_table_clear(km__text_table *table, km_ctx *ctx) {
    km_free(ctx, table->slots);
    *table = (km__text_table){NULL, 0};
}

km_status km__text_table_add(km__text_table *table, const km__strings *strings, int32_t id,
                             km_error *err) {
    km_slice text = km__strings_at(strings, id);
    uint64_t slot = hash_text(text.data, text.n) & table->mask;
    for (int probe = 0; probe < PROBES; probe++) {
        int32_t other = table->slots[slot];
        if (other < 0) {
            table->slots[slot] = id;
            return KM_OK;
        }
        if (slice_equal(km__strings_at(strings, other), text.data, text.n)) {
            return KM_SET(err, KM_EFORMAT, "token %d repeats token %d", id, other);
        }
        slot = (slot + 1) & table->mask;
    }
    return KM_SET(err, KM_EFORMAT, "token %d: the vocabulary is built to collide", id);
}

int32_t km__text_table_find(const km__text_table *table, const km__strings *strings,
                            const char *text, size_t n) {
    uint64_t slot = hash_text(text, n) & table->mask;
    for (int probe = 0; probe < PROBES; probe++) {
        int32_t id = table->slots[slot];
        if (id < 0 || slice_equal(km__strings_at(strings, id), text, n)) {
            return id;
        }
        slot = (slot + 1) & table->mask;
    }
    return -1;
}

static uint64_t hash_pair(int32_t left, int32_t right) {
    return mix(((uint64_t)(uint32_t)left << 32) | (uint32_t)right);
}

km_status km__merge_table_init(km__merge_table *out, km_ctx *ctx, int64_t n, km_error *err) {
    uint64_t slots;
    void *block = NULL;
    KM_TRY(slots_for(&slots, n, err));
    KM_TRY(km_alloc_array(&block, ctx, (int64_t)slots, sizeof(km__merge), err));
    memset(block, 0xFF, slots * sizeof(km__merge));
    *out = (km__merge_table){block, slots - 1};
    return KM_OK;
}

void km__merge_table_clear(km__merge_table *table, km_ctx *ctx) {
    km_free(ctx, table->slots);
    *table = (km__merge_table){NULL, 0};
}

km_status km__merge_table_add(km__merge_table *table, const km__merge *merge, km_error *err) {
    uint64_t slot = hash_pair(merge->left, merge->right) & table->mask;
    for (int probe = 0; probe < PROBES; probe++) {
        km__merge *at = &table->slots[slot];
        if (at->left < 0) {
            *at = *merge;
            return KM_OK;
        }
        if (at->left == merge->left && at->right == merge->right) {
            return KM_SET(err, KM_EFORMAT, "merge %d repeats merge %d", merge->rank, at->rank);
        }
        slot = (slot + 1) & table->mask;
    }
    return KM_SET(err, KM_EFORMAT, "merge %d: the merges are built to collide", merge->rank);
}

const km__merge *km__merge_table_find(const km__merge_table *table, int32_t left, int32_t right) {
    uint64_t slot = hash_pair(left, right) & table->mask;
    for (int probe = 0; probe < PROBES; probe++) {
        const km__merge *at = &table->slots[slot];
        if (at->left < 0) {
            return NULL;
        }
        if (at->left == left && at->right == right) {
            return at;
        }
        slot = (slot + 1) & table->mask;
    }
    return NULL;
}
