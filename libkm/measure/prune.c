/* prune.c: put back the changes of training that rank highest (or within a slice, or outside it).
 *
 * A change becomes an integer key that rises with it (prune_block.h). The key of a given rank is
 * looked for in a window of keys: one reading counts the keys above the window, exactly, and those
 * inside it by bin, which shows where the rank lies; the bin is the next window. A sample of the
 * keys proposes the first window, so that few keys lie inside it and readings run at the speed of
 * memory; a sample that misleads costs one more reading, never the result. The last window is
 * narrow enough to be counted piece by piece: elements whose key equals the one at the border are
 * pruned from the lowest index up, so each piece must know how many such lie before it.
 *
 * Pieces are fixed by the sizes of the tensors alone and counts are integers: the result has the
 * same bits for any number of threads.
 */
#include "base/base.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "km/priming_scores.h"

enum {
    BLOCK = 512,     /* keys worked on at a time, on the stack */
    PIECE = 1 << 16, /* elements of a unit of parallel work */
    BIN_BITS = 14,   /* of a reading by worker */
    BINS = 1 << BIN_BITS,
    FINE = 256, /* bins, of one key each, of a reading by piece */
    MAX_SAMPLE = 1 << 14,
    SAMPLE_SHARE = 256,  /* one element in so many ... */
    MIN_SAMPLE = 1 << 11 /* ... but at least this many, or all */
};
#define WEYL 0x9E3779B97F4A7C15U /* 2^64 over the golden ratio: spreads samples evenly */

/* A stretch of one tensor. */
typedef struct piece {
    int64_t tensor, begin, end;
    int64_t flat; /* of begin, over all tensors */
} piece;

typedef enum border_kind {
    BORDER_TOP = 0, /* above every element */
    BORDER_BOTTOM,  /* below every element */
    BORDER_INSIDE   /* below all keys larger than `key` and the first `ties` that equal it */
} border_kind;

typedef struct border {
    border_kind kind;
    int64_t key, ties;
} border;

/* Tensors ranked together: pieces[first .. last). */
typedef struct group {
    int64_t first, last, n;
    border low, high;
} group;

/* Keys from low to high, both inside; a bin holds 2^shift of them. */
typedef struct window {
    int64_t low, high;
    int shift;
} window;

typedef struct tally {
    int64_t above;
    uint32_t *bins;
} tally;

typedef struct plan {
    km_ctx *ctx;
    const km_prune_tensor *tensors;
    const km_prune_options *options;
    piece *pieces;
    group *groups;
    int64_t n_pieces, n_groups;
    int64_t *before[2]; /* (n_pieces) ties of the low and the high border before each piece */
    int64_t *pruned;    /* (n_pieces) */
    int64_t *above;     /* (n_pieces) keys above the window */
    uint32_t *fine;     /* (n_pieces, FINE) */
    uint32_t *bins;     /* (threads, BINS) */
    int64_t *sums;      /* (BINS) */
    int64_t *sample;    /* (MAX_SAMPLE) */
    bool *mask;         /* NULL: write values */
} plan;

/* One reading of a group. */
typedef struct reading {
    const plan *plan;
    const group *group;
    const window *window;
} reading;

static int64_t block_size(const piece *part, int64_t at) {
    return part->end - at < BLOCK ? part->end - at : BLOCK;
}

#define REAL float
#define KEY int32_t
#define NAME(x) x##_float
#include "measure/prune_block.h"

#define REAL double
#define KEY int64_t
#define NAME(x) x##_double
#include "measure/prune_block.h"

/* The key of one element; true when its change is NaN. */
static bool take_key(int64_t *key, const plan *p, int64_t tensor, int64_t at) {
    int32_t narrow = 0;
    if (p->options->float64) {
        return take_double(key, p, &p->tensors[tensor], at, 1);
    }
    bool nan = take_float(&narrow, p, &p->tensors[tensor], at, 1);
    *key = narrow;
    return nan;
}

static km_status say_nan(const plan *p, const piece *part, km_error *err) {
    const char *name = p->tensors[part->tensor].name;
    int64_t key, at = part->begin;
    while (at < part->end - 1 && !take_key(&key, p, part->tensor, at)) {
        at++;
    }
    if (name != NULL) {
        return KM_SET(err, KM_ENUMERIC, "%s: the change of element %lld is NaN", name,
                      (long long)at);
    }
    return KM_SET(err, KM_ENUMERIC, "tensor %lld: the change of element %lld is NaN",
                  (long long)part->tensor, (long long)at);
}

/* ---- readings: km_range_fn over the pieces of a group ---- */

static km_status count_piece(tally *out, const reading *r, int64_t index, km_error *err) {
    const plan *p = r->plan;
    const piece *part = &p->pieces[index];
    bool good = p->options->float64 ? count_double(out, p, part, r->window)
                                    : count_float(out, p, part, r->window);
    p->above[index] = out->above;
    return good ? KM_OK : say_nan(p, part, err);
}

static km_status read_coarse(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const reading *r = payload;
    for (int64_t i = begin; i < end; i++) {
        tally out = {0, r->plan->bins + (int64_t)worker * BINS};
        KM_TRY(count_piece(&out, r, r->group->first + i, err));
    }
    return KM_OK;
}

static km_status read_fine(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const reading *r = payload;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        tally out = {0, r->plan->fine + (r->group->first + i) * FINE};
        memset(out.bins, 0, FINE * sizeof *out.bins);
        KM_TRY(count_piece(&out, r, r->group->first + i, err));
    }
    return KM_OK;
}

static km_status prune_pieces(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    const reading *r = payload;
    const plan *p = r->plan;
    (void)worker;
    (void)err;
    for (int64_t i = r->group->first + begin; i < r->group->first + end; i++) {
        p->pruned[i] =
            p->options->float64 ? prune_double(p, r->group, i) : prune_float(p, r->group, i);
    }
    return KM_OK;
}

static km_status read_group(const plan *p, const group *g, const window *w, km_range_fn fn,
                            km_error *err) {
    reading r = {p, g, w};
    return km_parallel_for(p->ctx, g->last - g->first, 1, fn, &r, err);
}

/* ---- windows ---- */

static window everything(const plan *p) {
    int64_t infinity = p->options->float64 ? 0x7ff0000000000000 : 0x7f800000;
    return (window){p->options->key == KM_PRUNE_SIGNED ? -infinity - 1 : 0, infinity, 0};
}

/* The width of bins that covers the window with n_bins of them. */
static int shift_for(const window *w, uint64_t n_bins) {
    uint64_t span = (uint64_t)w->high - (uint64_t)w->low;
    int shift = 0;
    while (span >> shift >= n_bins) {
        shift++;
    }
    return shift;
}

static int descending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The piece of a group that holds its element number `at`. */
static const piece *find_piece(const plan *p, const group *g, int64_t at) {
    int64_t low = g->first, high = g->last - 1;
    int64_t flat = p->pieces[g->first].flat + at;
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (p->pieces[middle].flat <= flat) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &p->pieces[low];
}

/* A window that holds the border below the `rank` largest keys unless the sample is unlucky (four
 * standard deviations); with a sample of everything, that border's key. NaN is left to readings. */
static window sample_window(const plan *p, const group *g, int64_t rank) {
    int64_t n = g->n / SAMPLE_SHARE < MAX_SAMPLE ? g->n / SAMPLE_SHARE : MAX_SAMPLE;
    n = n < MIN_SAMPLE ? MIN_SAMPLE : n;
    bool all = n >= g->n;
    n = all ? g->n : n;
    for (int64_t i = 0; i < n; i++) {
        double turn = (double)((uint64_t)i * WEYL >> 11) / 9007199254740992.0;
        int64_t at = all ? i : (int64_t)(turn * (double)g->n);
        const piece *part = find_piece(p, g, at);
        (void)take_key(&p->sample[i], p, part->tensor,
                       part->begin + p->pieces[g->first].flat + at - part->flat);
    }
    qsort(p->sample, (size_t)n, sizeof *p->sample, descending);
    double share = (double)rank / (double)g->n;
    double middle = all ? (double)(rank - 1) : share * (double)n;
    double margin = all ? 0 : 4 * sqrt(share * (1 - share) * (double)n) + 2;
    window w = everything(p);
    if (middle - margin >= 0) {
        w.high = p->sample[(int64_t)(middle - margin)];
    }
    if (middle + margin <= (double)(n - 1)) {
        w.low = p->sample[(int64_t)(middle + margin)];
    }
    return w;
}

/* Sums of a reading over workers or pieces; returns the keys above the window. */
static int64_t sum_reading(const plan *p, const group *g, bool fine) {
    const uint32_t *rows = fine ? p->fine + g->first * FINE : p->bins;
    int64_t n_rows = fine ? g->last - g->first : km_ctx_threads(p->ctx);
    int64_t n_bins = fine ? FINE : BINS, above = 0;
    memset(p->sums, 0, (size_t)n_bins * sizeof *p->sums);
    for (int64_t row = 0; row < n_rows; row++) {
        for (int64_t bin = 0; bin < n_bins; bin++) {
            p->sums[bin] += rows[row * n_bins + bin];
        }
    }
    for (int64_t i = g->first; i < g->last; i++) {
        above += p->above[i];
    }
    return above;
}

/* ---- borders ---- */

/* Read the group through a window. Narrow it to the bin that holds the rank, and set *rest to the
 * rank within that bin; where the rank lies outside, move the window there and set *rest to 0. */
static km_status narrow(window *w, int64_t *rest, const plan *p, const group *g, int64_t rank,
                        bool fine, km_error *err) {
    if (!fine) {
        memset(p->bins, 0, (size_t)km_ctx_threads(p->ctx) * BINS * sizeof *p->bins);
    }
    w->shift = shift_for(w, fine ? FINE : BINS);
    KM_TRY(read_group(p, g, w, fine ? read_fine : read_coarse, err));
    int64_t left = rank - sum_reading(p, g, fine);
    int64_t bin = (int64_t)(((uint64_t)w->high - (uint64_t)w->low) >> w->shift);
    *rest = 0;
    if (left <= 0) {
        *w = (window){w->high + 1, everything(p).high, 0};
        return KM_OK;
    }
    for (; bin >= 0 && left > p->sums[bin]; bin--) {
        left -= p->sums[bin];
    }
    if (bin < 0) {
        *w = (window){everything(p).low, w->low - 1, 0};
        return KM_OK;
    }
    int64_t high = (int64_t)((uint64_t)w->low + (((uint64_t)bin + 1) << w->shift) - 1);
    w->high = bin < (int64_t)(((uint64_t)w->high - (uint64_t)w->low) >> w->shift) ? high : w->high;
    w->low = (int64_t)((uint64_t)w->low + ((uint64_t)bin << w->shift));
    *rest = left;
    return KM_OK;
}

/* The border below the `rank` (1 .. n - 1) largest keys, and its ties before each piece. */
static km_status find_border(border *out, int64_t *before, const plan *p, const group *g,
                             int64_t rank, km_error *err) {
    window w = sample_window(p, g, rank);
    int64_t rest = 0, first = 0;
    bool fine = false;
    while (!fine || rest == 0) {
        fine = (uint64_t)w.high - (uint64_t)w.low < FINE;
        first = w.low;
        KM_TRY(narrow(&w, &rest, p, g, rank, fine, err));
    }
    *out = (border){BORDER_INSIDE, w.low, rest};
    int64_t sum = 0;
    for (int64_t i = g->first; i < g->last; i++) {
        before[i] = sum;
        sum += p->fine[i * FINE + (w.low - first)];
    }
    return KM_OK;
}

static km_status set_borders(const plan *p, group *g, km_error *err) {
    const double shares[2] = {p->options->low, p->options->high};
    border *borders[2] = {&g->low, &g->high};
    bool was_read = false;
    for (int i = 0; i < 2; i++) {
        int64_t rank = (int64_t)rint(fmin(fmax(shares[i], 0), 1) * (double)g->n);
        if (rank > 0 && rank < g->n) {
            KM_TRY(find_border(borders[i], p->before[i], p, g, rank, err));
            was_read = true;
        } else {
            *borders[i] = (border){.kind = rank <= 0 ? BORDER_TOP : BORDER_BOTTOM};
        }
    }
    const window w = everything(p);
    const window top = {w.high, w.high, 0};
    return was_read ? KM_OK : read_group(p, g, &top, read_fine, err);
}

/* ---- plan ---- */

static km_status check(const km_prune_tensor *tensors, int64_t n_tensors,
                       const km_prune_options *options, bool is_mask, km_error *err) {
    if (!(options->low <= options->high)) {
        return KM_SET(err, KM_EINVAL, "the pruned share begins at %g and ends at %g", options->low,
                      options->high);
    }
    int64_t total = 0;
    for (int64_t i = 0; i < n_tensors; i++) {
        if (tensors[i].n < 0 || (tensors[i].base == NULL && !is_mask)) {
            return KM_SET(err, KM_EINVAL, "tensor %lld has %lld elements and %s base", (long long)i,
                          (long long)tensors[i].n, tensors[i].base == NULL ? "no" : "a");
        }
        if (tensors[i].n > UINT32_MAX - total) {
            return KM_SET(err, KM_EUNSUPPORTED, "more than 2^32 elements are pruned together");
        }
        total += options->global ? tensors[i].n : 0;
    }
    return KM_OK;
}

static int64_t count_pieces(const km_prune_tensor *tensors, int64_t n_tensors) {
    int64_t n = 0;
    for (int64_t i = 0; i < n_tensors; i++) {
        n += (tensors[i].n + PIECE - 1) / PIECE;
    }
    return n;
}

static void cut(plan *p, int64_t n_tensors) {
    int64_t at = 0, flat = 0;
    for (int64_t i = 0; i < n_tensors; i++) {
        group *g = &p->groups[p->options->global ? 0 : i];
        g->first = p->options->global ? 0 : at;
        g->n += p->tensors[i].n;
        for (int64_t begin = 0; begin < p->tensors[i].n; begin += PIECE) {
            int64_t rest = p->tensors[i].n - begin;
            int64_t n = rest < PIECE ? rest : PIECE;
            p->pieces[at++] = (piece){i, begin, begin + n, flat};
            flat += n;
        }
        g->last = at;
    }
}

static km_status make_plan(plan *p, int64_t n_tensors, km_error *err) {
    const size_t word = sizeof(int64_t), count = sizeof(uint32_t);
    p->n_pieces = count_pieces(p->tensors, n_tensors);
    p->n_groups = p->options->global ? 1 : n_tensors;
    KM_TRY(km_alloc_array((void **)&p->pieces, p->ctx, p->n_pieces, sizeof *p->pieces, err));
    KM_TRY(km_alloc_array((void **)&p->groups, p->ctx, p->n_groups, sizeof *p->groups, err));
    KM_TRY(km_alloc_array((void **)&p->before[0], p->ctx, p->n_pieces, word, err));
    KM_TRY(km_alloc_array((void **)&p->before[1], p->ctx, p->n_pieces, word, err));
    KM_TRY(km_alloc_array((void **)&p->pruned, p->ctx, p->n_pieces, word, err));
    KM_TRY(km_alloc_array((void **)&p->above, p->ctx, p->n_pieces, word, err));
    KM_TRY(km_alloc_array((void **)&p->fine, p->ctx, p->n_pieces, FINE * count, err));
    KM_TRY(km_alloc_array((void **)&p->bins, p->ctx, km_ctx_threads(p->ctx), BINS * count, err));
    KM_TRY(km_alloc_array((void **)&p->sums, p->ctx, BINS, word, err));
    KM_TRY(km_alloc_array((void **)&p->sample, p->ctx, MAX_SAMPLE, word, err));
    cut(p, n_tensors);
    return KM_OK;
}

static void clear_plan(plan *p) {
    void *blocks[] = {p->pieces, p->groups, p->before[0], p->before[1], p->pruned,
                      p->above,  p->fine,   p->bins,      p->sums,      p->sample};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        km_free(p->ctx, blocks[i]);
    }
}

/* All borders are found before the first value is written, so that a NaN anywhere changes nothing.
 */
static km_status run(plan *p, int64_t *n_pruned, int64_t n_tensors, km_error *err) {
    for (int64_t i = 0; i < p->n_groups; i++) {
        KM_TRY(set_borders(p, &p->groups[i], err));
    }
    for (int64_t i = 0; i < p->n_groups; i++) {
        KM_TRY(read_group(p, &p->groups[i], NULL, prune_pieces, err));
    }
    for (int64_t i = 0; n_pruned != NULL && i < n_tensors; i++) {
        n_pruned[i] = 0;
    }
    for (int64_t i = 0; n_pruned != NULL && i < p->n_pieces; i++) {
        n_pruned[p->pieces[i].tensor] += p->pruned[i];
    }
    return KM_OK;
}

static km_status prune(bool *mask, int64_t *n_pruned, km_ctx *ctx, const km_prune_tensor *tensors,
                       int64_t n_tensors, const km_prune_options *options, km_error *err) {
    const km_prune_options defaults = KM_PRUNE_OPTIONS_INIT;
    plan p = {.ctx = ctx,
              .tensors = tensors,
              .options = options != NULL ? options : &defaults,
              .mask = mask};
    km_status status = KM_OK;
    KM_GO(check(tensors, n_tensors, p.options, mask != NULL, err));
    KM_GO(make_plan(&p, n_tensors, err));
    KM_GO(run(&p, n_pruned, n_tensors, err));
done:
    clear_plan(&p);
    return status;
}

km_status km_prune_apply(int64_t *n_pruned, km_ctx *ctx, const km_prune_tensor *tensors,
                         int64_t n_tensors, const km_prune_options *options, km_error *err) {
    return prune(NULL, n_pruned, ctx, tensors, n_tensors, options, err);
}

km_status km_prune_mask_into(bool *mask, int64_t *n_pruned, km_ctx *ctx,
                             const km_prune_tensor *tensors, int64_t n_tensors,
                             const km_prune_options *options, km_error *err) {
    return prune(mask, n_pruned, ctx, tensors, n_tensors, options, err);
}
