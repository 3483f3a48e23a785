/* core_gru.c: gated recurrent layers over ragged sequences.
 *
 * What the input gives is one product over all elements of all sequences. Then a group of sequences
 * of similar length goes through time in one direction as one piece of work, without waiting for
 * others: at each step the states of those that are not over yet are multiplied with the recurrent
 * weights at once. The way back leaves the derivatives of all gates, from which weights get theirs
 * in one product over all elements.
 */
#include "select/core_gru.h"

#include <string.h>

#define GROUP 48 /* sequences a group: a multiple of the rows that a tile of a product has */
#define MOST_JOBS 24

static int64_t n_groups(const km__sequences *seq) {
    return (seq->n + GROUP - 1) / GROUP;
}

static int64_t length_of(const km__sequences *seq, int64_t s) {
    return seq->offsets[s + 1] - seq->offsets[s];
}

real_gru km__gru_of(real *const *arrays, int first, int dirs, int64_t in, int64_t ld,
                    int64_t hidden) {
    real_gru out = {.in = in, .ld = ld, .hidden = hidden, .dirs = dirs};
    for (int d = 0; d < dirs; d++) {
        out.w_ih[d] = arrays[first + 4 * d];
        out.w_hh[d] = arrays[first + 4 * d + 1];
        out.b_ih[d] = arrays[first + 4 * d + 2];
        out.b_hh[d] = arrays[first + 4 * d + 3];
    }
    return out;
}

int64_t km__gru_sizes(const km__sequences *seq, int dirs, int64_t hidden) {
    return n_groups(seq) * dirs * 5 * hidden;
}

/* ---- pieces of work: one group in one direction ---- */

typedef struct work {
    km_ctx *ctx;
    real_run *runs;
    void (*piece)(const km_ctx *ctx, const real_run *run, int64_t group, int dir, real *scratch);
} work;

static km_status run_pieces(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const work *w = payload;
    for (int64_t i = begin; i < end; i++) {
        int64_t at = i;
        const real_run *run = w->runs;
        while (at >= n_groups(run->seq) * run->w.dirs) {
            at -= n_groups(run->seq) * run->w.dirs;
            run++;
        }
        void *scratch = NULL;
        const size_t size = (size_t)(GROUP * 4 * run->w.hidden) * sizeof(real);
        KM_TRY(km_worker_scratch(&scratch, w->ctx, worker, size, err));
        w->piece(w->ctx, run, at / run->w.dirs, (int)(at % run->w.dirs), scratch);
    }
    return KM_OK;
}

static int64_t count_pieces(const real_run *runs, int n_runs) {
    int64_t n = 0;
    for (int i = 0; i < n_runs; i++) {
        n += n_groups(runs[i].seq) * runs[i].w.dirs;
    }
    return n;
}

/* The sequences of a group, the longest first. */
typedef struct group {
    const int64_t *order;
    int64_t n, longest;
} group;

static group group_at(const km__sequences *seq, int64_t index) {
    group g = {seq->order + index * GROUP, seq->n - index * GROUP, 0};
    g.n = g.n < GROUP ? g.n : GROUP;
    g.longest = length_of(seq, g.order[0]);
    return g;
}

/* How many of the first n are longer than `step`. */
static int64_t still_there(const km__sequences *seq, const group *g, int64_t n, int64_t step) {
    while (n > 0 && length_of(seq, g->order[n - 1]) <= step) {
        n--;
    }
    return n;
}

/* The element a direction is at after `step` others. */
static int64_t element(const km__sequences *seq, int64_t s, int64_t step, int dir) {
    return dir == 0 ? seq->offsets[s] + step : seq->offsets[s + 1] - 1 - step;
}

/* ---- the way there ---- */

static const real *start_of(const real_run *run, int64_t s, int dir) {
    return run->start != NULL ? run->start + s * run->w.hidden
                              : run->w.h_init + dir * run->w.hidden;
}

static void add_to(real *restrict y, const real *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += x[i];
    }
}

/* One element: h becomes the next state. */
static void forward_element(const km_ctx *ctx, const real_run *run, int64_t s, int64_t row, int dir,
                            real *h, const real *c) {
    const int64_t width = run->w.hidden, d = run->w.dirs * width;
    real *gates = run->gates + (row * run->w.dirs + dir) * 4 * width;
    if (run->extra != NULL) {
        add_to(gates, run->extra + s * 3 * width, 3 * width);
    }
    memcpy(run->before + row * d + dir * width, h, (size_t)width * sizeof(real));
    km__gates(ctx, gates, h, c, run->bias + dir * 4 * width, width);
    memcpy(run->states + row * d + dir * width, h, (size_t)width * sizeof(real));
}

static void forward_piece(const km_ctx *ctx, const real_run *run, int64_t index, int dir,
                          real *scratch) {
    const int64_t width = run->w.hidden;
    const group g = group_at(run->seq, index);
    real *h = scratch, *c = scratch + GROUP * width;
    for (int64_t i = 0; i < g.n; i++) {
        memcpy(h + i * width, start_of(run, g.order[i], dir), (size_t)width * sizeof(real));
    }
    int64_t m = g.n;
    for (int64_t step = 0; step < g.longest; step++) {
        m = still_there(run->seq, &g, m, step);
        km__product(ctx, c, 3 * width, h, width, run->turned + dir * 3 * width * width, 3 * width,
                    m, 3 * width, width, false);
        for (int64_t i = 0; i < m; i++) {
            forward_element(ctx, run, g.order[i], element(run->seq, g.order[i], step, dir), dir,
                            h + i * width, c + i * 3 * width);
        }
    }
    for (int64_t i = 0; i < g.n; i++) {
        real *last = run->last + (g.order[i] * run->w.dirs + dir) * width;
        if (length_of(run->seq, g.order[i]) > 0) {
            memcpy(last, h + i * width, (size_t)width * sizeof(real));
        } else {
            memset(last, 0, (size_t)width * sizeof(real));
        }
    }
}

/* Recurrent weights transposed, and biases as the gates read them. */
static void prepare(real_run *run) {
    const int64_t n = run->w.hidden;
    for (int d = 0; d < run->w.dirs; d++) {
        real *bias = run->bias + d * 4 * n;
        km__transpose(run->turned + d * 3 * n * n, run->w.w_hh[d], n, 3 * n, n);
        for (int64_t i = 0; i < 2 * n; i++) {
            bias[i] = run->w.b_ih[d][i] + run->w.b_hh[d][i];
        }
        memcpy(bias + 2 * n, run->w.b_ih[d] + 2 * n, (size_t)n * sizeof(real));
        memcpy(bias + 3 * n, run->w.b_hh[d] + 2 * n, (size_t)n * sizeof(real));
    }
}

km_status km__gru_forward(km_ctx *ctx, real_run *runs, int n_runs, km_error *err) {
    real_gemm jobs[MOST_JOBS] = {{0}};
    int n_jobs = 0;
    for (int i = 0; i < n_runs; i++) {
        const real_gru *w = &runs[i].w;
        prepare(&runs[i]);
        for (int d = 0; d < w->dirs; d++) {
            jobs[n_jobs++] =
                km__linear(runs[i].gates + d * 4 * w->hidden, w->dirs * 4 * w->hidden, runs[i].x,
                           w->in, w->w_ih[d], w->ld, runs[i].seq->rows, 3 * w->hidden, w->in);
        }
    }
    KM_TRY(km__gemm_many(ctx, jobs, n_jobs, err));
    work w = {ctx, runs, forward_piece};
    return km_parallel_for(ctx, count_pieces(runs, n_runs), 1, run_pieces, &w, err);
}

/* ---- the way back ---- */

/* One element: dh, dL/d its state, becomes the part of dL/d the state before that passes by c. */
static void backward_element(const km_ctx *ctx, const real_run *run, int64_t s, int64_t row,
                             int dir, real *dh, real *dc, real *sums) {
    const int64_t width = run->w.hidden, d = run->w.dirs * width;
    real *gates = run->gates + (row * run->w.dirs + dir) * 4 * width;
    if (run->d_states != NULL) {
        add_to(dh, run->d_states + row * d + dir * width, width);
    }
    km__gates_back(ctx, gates, dh, dc, run->before + row * d + dir * width, width);
    add_to(sums, gates, 4 * width);
    if (run->d_extra != NULL) {
        add_to(run->d_extra + s * 3 * width, gates, 3 * width);
    }
}

static void begin_back(const real_run *run, const group *g, int dir, real *dh) {
    const int64_t width = run->w.hidden;
    for (int64_t i = 0; i < g->n; i++) {
        const int64_t s = g->order[i];
        if (run->d_last != NULL && length_of(run->seq, s) > 0) {
            memcpy(dh + i * width, run->d_last + (s * run->w.dirs + dir) * width,
                   (size_t)width * sizeof(real));
        } else {
            memset(dh + i * width, 0, (size_t)width * sizeof(real));
        }
        if (run->d_extra != NULL) {
            memset(run->d_extra + s * 3 * width, 0, (size_t)(3 * width) * sizeof(real));
        }
    }
}

/* dh is what initial states get. */
static void end_back(const real_run *run, const group *g, const real *dh, real *sums) {
    const int64_t width = run->w.hidden;
    for (int64_t i = 0; i < g->n; i++) {
        if (run->start != NULL) {
            memcpy(run->d_start + g->order[i] * width, dh + i * width,
                   (size_t)width * sizeof(real));
        } else {
            add_to(sums, dh + i * width, width);
        }
    }
}

static void backward_piece(const km_ctx *ctx, const real_run *run, int64_t index, int dir,
                           real *scratch) {
    const int64_t width = run->w.hidden;
    const group g = group_at(run->seq, index);
    real *dh = scratch, *dc = scratch + GROUP * width;
    real *sums = run->sums + (index * run->w.dirs + dir) * 5 * width;
    memset(sums, 0, (size_t)(5 * width) * sizeof(real));
    begin_back(run, &g, dir, dh);
    for (int64_t step = g.longest - 1; step >= 0; step--) {
        const int64_t m = still_there(run->seq, &g, g.n, step);
        for (int64_t i = 0; i < m; i++) {
            backward_element(ctx, run, g.order[i], element(run->seq, g.order[i], step, dir), dir,
                             dh + i * width, dc + i * 3 * width, sums);
        }
        km__product(ctx, dh, width, dc, 3 * width, run->w.w_hh[dir], width, m, width, 3 * width,
                    true);
    }
    end_back(run, &g, dh, sums + 4 * width);
}

/* What weights of one direction get; returns the number of products. */
static int weight_jobs(real_gemm *jobs, const real_run *run, int d) {
    const int64_t n = run->w.hidden, ld = run->w.dirs * 4 * n, rows = run->seq->rows;
    const real *gates = run->gates + d * 4 * n, *before = run->before + d * n;
    jobs[0] = km__linear_weights(run->d.w_ih[d], run->w.ld, gates, ld, run->x, run->w.in, rows,
                                 3 * n, run->w.in);
    jobs[1] =
        km__linear_weights(run->d.w_hh[d], n, gates, ld, before, run->w.dirs * n, rows, 2 * n, n);
    jobs[2] = km__linear_weights(run->d.w_hh[d] + 2 * n * n, n, gates + 3 * n, ld, before,
                                 run->w.dirs * n, rows, n, n);
    return 3;
}

static void add_sums(const real_run *run) {
    const int64_t n = run->w.hidden;
    for (int64_t i = 0; i < n_groups(run->seq) * run->w.dirs; i++) {
        const int d = (int)(i % run->w.dirs);
        const real *sums = run->sums + i * 5 * n;
        add_to(run->d.b_ih[d], sums, 3 * n);
        add_to(run->d.b_hh[d], sums, 2 * n);
        add_to(run->d.b_hh[d] + 2 * n, sums + 3 * n, n);
        if (run->start == NULL) {
            add_to(run->d.h_init + d * n, sums + 4 * n, n);
        }
    }
}

static km_status input_back(km_ctx *ctx, const real_run *runs, int n_runs, int dir, km_error *err) {
    real_gemm jobs[MOST_JOBS] = {{0}};
    int n_jobs = 0;
    for (int i = 0; i < n_runs; i++) {
        const real_gru *w = &runs[i].w;
        if (runs[i].dx != NULL && dir < w->dirs) {
            jobs[n_jobs] = km__linear_back(runs[i].dx, w->in, runs[i].gates + dir * 4 * w->hidden,
                                           w->dirs * 4 * w->hidden, w->w_ih[dir], w->ld,
                                           runs[i].seq->rows, 3 * w->hidden, w->in);
            jobs[n_jobs++].add = dir > 0;
        }
    }
    return km__gemm_many(ctx, jobs, n_jobs, err);
}

km_status km__gru_backward(km_ctx *ctx, real_run *runs, int n_runs, km_error *err) {
    real_gemm jobs[MOST_JOBS] = {{0}};
    int n_jobs = 0;
    work w = {ctx, runs, backward_piece};
    KM_TRY(km_parallel_for(ctx, count_pieces(runs, n_runs), 1, run_pieces, &w, err));
    for (int i = 0; i < n_runs; i++) {
        for (int d = 0; d < runs[i].w.dirs; d++) {
            n_jobs += weight_jobs(jobs + n_jobs, &runs[i], d);
        }
        add_sums(&runs[i]);
    }
    KM_TRY(km__gemm_many(ctx, jobs, n_jobs, err));
    KM_TRY(input_back(ctx, runs, n_runs, 0, err));
    return input_back(ctx, runs, n_runs, 1, err);
}
