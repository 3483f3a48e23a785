/* Token sequences merged into a forest of distinct prefixes. */
#include "measure/forest.h"

#define NONE (-1)

static int64_t find_child(const km__forest *forest, int64_t parent, int32_t id) {
    int64_t node = parent == NONE ? forest->roots : forest->child[parent];
    while (node != NONE && forest->ids[node] != id) {
        node = forest->sibling[node];
    }
    return node;
}

static km_status grow_list(void **list, const km__forest *forest, int64_t capacity, size_t size,
                           km_error *err) {
    size_t bytes;
    if (!km_size_mul(&bytes, (size_t)capacity, size)) {
        return KM_SET(err, KM_ENOMEM, "a forest of %lld tokens", (long long)capacity);
    }
    return km_realloc(list, forest->ctx, bytes, err);
}

static km_status grow(km__forest *forest, km_error *err) {
    if (forest->n < forest->capacity) {
        return KM_OK;
    }
    int64_t capacity = 2 * forest->capacity + 64;
    KM_TRY(grow_list((void **)&forest->ids, forest, capacity, sizeof(int32_t), err));
    KM_TRY(grow_list((void **)&forest->parent, forest, capacity, sizeof(int64_t), err));
    KM_TRY(grow_list((void **)&forest->child, forest, capacity, sizeof(int64_t), err));
    KM_TRY(grow_list((void **)&forest->sibling, forest, capacity, sizeof(int64_t), err));
    forest->capacity = capacity;
    return KM_OK;
}

static km_status add_child(int64_t *out, km__forest *forest, int64_t parent, int32_t id,
                           km_error *err) {
    KM_TRY(grow(forest, err));
    int64_t node = forest->n++;
    int64_t *first = parent == NONE ? &forest->roots : &forest->child[parent];
    forest->ids[node] = id;
    forest->parent[node] = parent;
    forest->child[node] = NONE;
    forest->sibling[node] = *first;
    *first = node;
    *out = node;
    return KM_OK;
}

void km__forest_init(km__forest *forest, km_ctx *ctx) {
    *forest = (km__forest){.ctx = ctx, .roots = NONE};
}

void km__forest_reset(km__forest *forest) {
    forest->n = 0;
    forest->roots = NONE;
}

void km__forest_clear(km__forest *forest) {
    km_free(forest->ctx, forest->ids);
    km_free(forest->ctx, forest->parent);
    km_free(forest->ctx, forest->child);
    km_free(forest->ctx, forest->sibling);
    km__forest_init(forest, forest->ctx);
}

int64_t km__forest_count_new(const km__forest *forest, const int32_t *ids, int64_t n) {
    int64_t node = NONE;
    for (int64_t i = 0; i < n; i++) {
        node = find_child(forest, node, ids[i]);
        if (node == NONE) {
            return n - i;
        }
    }
    return 0;
}

km_status km__forest_add(int64_t *last, km__forest *forest, const int32_t *ids, int64_t n,
                         km_error *err) {
    int64_t node = NONE;
    for (int64_t i = 0; i < n; i++) {
        int64_t parent = node;
        node = find_child(forest, parent, ids[i]);
        if (node == NONE) {
            KM_TRY(add_child(&node, forest, parent, ids[i], err));
        }
    }
    *last = node;
    return KM_OK;
}

km_status km__forest_fill(int64_t *end, km__forest *forest, int64_t *rows, const int32_t *ids,
                          const int64_t *offsets, int64_t first, int64_t n, int64_t batch_tokens,
                          km_error *err) {
    km__forest_reset(forest);
    int64_t at = first;
    for (; at < n; at++) {
        const int32_t *prompt = ids + offsets[at];
        const int64_t length = offsets[at + 1] - offsets[at];
        if (at > first && forest->n + km__forest_count_new(forest, prompt, length) > batch_tokens) {
            break;
        }
        KM_TRY(km__forest_add(&rows[at - first], forest, prompt, length, err));
    }
    *end = at;
    return KM_OK;
}

km_tree km__forest_tree(const km__forest *forest) {
    return (km_tree){forest->ids, forest->parent, forest->n};
}
