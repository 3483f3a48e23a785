/* stats_groups.c: from any ids to dense group numbers, and draws for resampling.
 *
 * Callers name relations, subjects and templates by any 64-bit numbers. Sorting them once gives
 * numbers from 0 without gaps, in rising order of id, so that the loops of a bootstrap index
 * arrays.
 */
#include <stdlib.h>

#include "base/stats_private.h"

typedef struct keyed {
    int64_t group, id, row;
} keyed;

static int compare_keyed(const void *a, const void *b) {
    const keyed *x = a;
    const keyed *y = b;
    if (x->group != y->group) {
        return x->group < y->group ? -1 : 1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

int64_t km__draw_below(km__draws *draws, int64_t bound) {
    return (int64_t)km_random_below((uint64_t)bound, draws->seed, draws->stream, draws->counter++);
}

/* Rows sorted by group, then id. Free with km_free. */
static km_status sort_rows(keyed **out, km_ctx *ctx, const int64_t *group, const int64_t *ids,
                           int64_t n, km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, ctx, n, sizeof(keyed), err));
    keyed *rows = block;
    for (int64_t i = 0; i < n; i++) {
        rows[i] = (keyed){group != NULL ? group[i] : 0, ids[i], i};
    }
    qsort(rows, (size_t)n, sizeof rows[0], compare_keyed);
    *out = rows;
    return KM_OK;
}

km_status km__dense_ids(int64_t *out, int64_t *n_groups, km_ctx *ctx, const int64_t *ids, int64_t n,
                        km_error *err) {
    if (ids == NULL) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = i;
        }
        *n_groups = n;
        return KM_OK;
    }
    keyed *rows = NULL;
    KM_TRY(sort_rows(&rows, ctx, NULL, ids, n, err));
    int64_t current = -1;
    for (int64_t i = 0; i < n; i++) {
        current += i == 0 || rows[i].id != rows[i - 1].id;
        out[rows[i].row] = current;
    }
    *n_groups = current + 1;
    km_free(ctx, rows);
    return KM_OK;
}

km_status km__local_ids(int64_t *out, int64_t *sizes, int64_t n_groups, km_ctx *ctx,
                        const int64_t *group, const int64_t *ids, int64_t n, km_error *err) {
    for (int64_t g = 0; g < n_groups; g++) {
        sizes[g] = ids == NULL ? 1 : 0;
    }
    if (ids == NULL) {
        for (int64_t i = 0; i < n; i++) {
            out[i] = 0;
        }
        return KM_OK;
    }
    keyed *rows = NULL;
    KM_TRY(sort_rows(&rows, ctx, group, ids, n, err));
    for (int64_t i = 0; i < n; i++) {
        bool fresh = i == 0 || compare_keyed(&rows[i], &rows[i - 1]) != 0;
        sizes[rows[i].group] += fresh;
        out[rows[i].row] = sizes[rows[i].group] - 1;
    }
    km_free(ctx, rows);
    return KM_OK;
}
