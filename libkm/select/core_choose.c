/* core_choose.c: scores of candidates, and their way back.
 *
 * tilde [l - c ; l * c] = A l - A c + B (l * c): the first two are products over sentences and list
 * rows, shared by all turns; only the last is made for each pair of a candidate and an earlier
 * choice. One turn is one piece of work, so its rows stay in the cache from the product with B to
 * the score. In the disentangled variant attn_q and attn_k's right half both multiply o, so their
 * sum does.
 */
#include <math.h>
#include <string.h>

#include "select/core.h"

#define MOST_JOBS 8

static int64_t width_of(const real_pass *pass) {
    return 2 * pass->plan->config->hidden;
}

static bool fused(const real_pass *pass) {
    return pass->plan->config->variant == KM_DIFFKS_FUSED;
}

static void add_to(real *restrict y, real scale, const real *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += scale * x[i];
    }
}

/* w_m over the sum of all. */
static real weight_of(const km_diffks_config *config, int64_t m) {
    double sum = 0.0;
    for (int64_t i = 0; i < config->history; i++) {
        sum += config->weights[i];
    }
    return (real)(config->weights[m] / sum);
}

/* ---- what turns share ---- */

static void gather_rows(real_pass *pass) {
    const km_diffks_batch *b = pass->plan->batch;
    const int64_t d = width_of(pass);
    for (int64_t i = 0; i < b->list_offsets[b->n_lists]; i++) {
        memcpy(pass->rows + i * d, pass->runs[1].last + b->list_sentences[i] * d,
               (size_t)d * sizeof(real));
    }
}

/* The matrix that o is multiplied with, and transposes. */
static void prepare(real_pass *pass) {
    const int64_t d = width_of(pass);
    const real *k = pass->w[P_ATTN_K] + d, *q = pass->w[P_ATTN_Q];
    for (int64_t i = 0; i < d; i++) {
        for (int64_t j = 0; j < d; j++) {
            pass->mixed[i * d + j] = k[i * 2 * d + j] + (fused(pass) ? 0 : q[i * d + j]);
        }
    }
    km__transpose(pass->mixed_t, pass->mixed, d, d, d);
    km__transpose(pass->right_t, pass->w[P_TILDE] + d, 2 * d, d, d);
}

/* Candidates in view of each other, and products that turns share. */
static km_status share(km_ctx *ctx, real_pass *pass, km_error *err) {
    const km__plan *plan = pass->plan;
    const int64_t d = width_of(pass), n = plan->lists.rows;
    real_gemm jobs[MOST_JOBS] = {{0}};
    int n_jobs = 0;
    prepare(pass);
    if (plan->n_terms > 0) {
        KM_TRY(km__gru_forward(ctx, &pass->runs[2], 1, err));
        jobs[n_jobs++] =
            km__linear(pass->from, d, pass->runs[2].states, d, pass->w[P_TILDE], 2 * d, n, d, d);
        jobs[n_jobs++] = km__linear(pass->past, d, pass->runs[1].last, d, pass->w[P_TILDE], 2 * d,
                                    plan->sentences.n, d, d);
    }
    if (fused(pass)) {
        jobs[n_jobs++] = km__linear(pass->query, d, pass->runs[0].last, d, pass->w[P_ATTN_Q], d,
                                    plan->contexts.n, d, d);
    }
    if (fused(pass) || plan->n_terms > 0) {
        jobs[n_jobs++] =
            km__linear(pass->second, d, fused(pass) ? pass->rows : pass->runs[2].states, d,
                       pass->w[P_ATTN_K], 2 * d, n, d, d);
    }
    return km__gemm_many(ctx, jobs, n_jobs, err);
}

/* ---- one turn ---- */

typedef struct turn_at {
    int64_t turn, k, n; /* n: k candidates and, where there is one, the pair of padded ones */
    int64_t row, list_row, n_past;
    const real *q;
} turn_at;

static turn_at turn_of(const real_pass *pass, int64_t turn) {
    const km__plan *plan = pass->plan;
    return (turn_at){turn,
                     km__plan_candidates(plan, turn),
                     plan->pairs[turn + 1] - plan->pairs[turn],
                     plan->pairs[turn],
                     plan->batch->list_offsets[plan->batch->turn_lists[turn]],
                     plan->n_past[turn],
                     pass->runs[0].last + turn * width_of(pass)};
}

static int64_t term_of(const real_pass *pass, const turn_at *t, int64_t m) {
    return pass->plan->terms[t->turn] + m * t->n;
}

static int64_t past_sentence(const real_pass *pass, const turn_at *t, int64_t m) {
    return pass->plan->past[t->turn * pass->plan->config->history + m];
}

/* inner = tanh(tilde [l - c ; l * c]) for all candidates and one earlier choice; padded ones have c
 * = 0. */
static void inner_terms(const km_ctx *ctx, real_pass *pass, const turn_at *t, int64_t m) {
    const int64_t d = width_of(pass), at = term_of(pass, t, m),
                  sentence = past_sentence(pass, t, m);
    const real *l = pass->runs[1].last + sentence * d, *past = pass->past + sentence * d;
    const real *bias = pass->w[P_TILDE_B];
    real *products = pass->products + at * d, *inner = pass->inner + at * d;
    memset(products + t->k * d, 0, (size_t)((t->n - t->k) * d) * sizeof(real));
    for (int64_t j = 0; j < t->k; j++) {
        const real *c = pass->runs[2].states + (t->list_row + j) * d;
        for (int64_t i = 0; i < d; i++) {
            products[j * d + i] = l[i] * c[i];
        }
    }
    km__product(ctx, inner, d, products, d, pass->right_t, d, t->n, d, d, false);
    for (int64_t j = 0; j < t->n; j++) {
        const real *from = pass->from + (t->list_row + j) * d;
        for (int64_t i = 0; i < d; i++) {
            inner[j * d + i] += past[i] + bias[i] - (j < t->k ? from[i] : 0);
        }
    }
    km__tanh(ctx, inner, t->n * d);
}

/* o (n, D), without the earlier choice `skip` (-1: with all). */
static void differences(real *o, const real_pass *pass, const turn_at *t, int64_t skip) {
    const int64_t size = t->n * width_of(pass);
    memset(o, 0, (size_t)size * sizeof(real));
    for (int64_t m = 0; m < t->n_past; m++) {
        if (m != skip) {
            add_to(o, weight_of(pass->plan->config, m),
                   pass->inner + term_of(pass, t, m) * width_of(pass), size);
        }
    }
}

/* tanh of attn's inside, of differences o (n, D). */
static void outer_terms(const km_ctx *ctx, real *outer, const real_pass *pass, const turn_at *t,
                        const real *o) {
    const int64_t d = width_of(pass);
    if (t->n_past > 0) {
        km__product(ctx, outer, d, o, d, pass->mixed_t, d, t->n, d, d, false);
    } else {
        memset(outer, 0, (size_t)(t->n * d) * sizeof(real));
    }
    for (int64_t j = 0; j < t->n; j++) {
        if (j < t->k) {
            add_to(outer + j * d, 1, pass->second + (t->list_row + j) * d, d);
        }
        if (fused(pass)) {
            add_to(outer + j * d, 1, pass->query + t->turn * d, d);
        }
    }
    km__tanh(ctx, outer, t->n * d);
}

/* ---- what is alike ---- */

/* What match_1 .. match_3 multiply for candidate j, without the earlier choice `skip`. */
static void matches(real out[3], const real_pass *pass, const turn_at *t, int64_t j, int64_t skip) {
    const km_diffks_batch *b = pass->plan->batch;
    const int64_t own = b->list_sentences[t->list_row + j];
    out[0] = (real)b->word_matches[pass->plan->candidates[t->turn] + j];
    out[1] = out[2] = 0;
    for (int64_t m = 0; m < t->n_past; m++) {
        const int64_t past = past_sentence(pass, t, m);
        if (m != skip) {
            out[1] += weight_of(pass->plan->config, m) *
                      (real)b->sentence_matches[past * b->n_sentences + own];
            out[2] = past == own ? 1 : out[2];
        }
    }
}

static real match_score(const real_pass *pass, const turn_at *t, int64_t j, int64_t skip) {
    real found[3], sum = 0;
    if (!pass->plan->config->match || j >= t->k) {
        return 0;
    }
    matches(found, pass, t, j, skip);
    for (int i = 0; i < 3; i++) {
        sum += pass->w[P_MATCH][i] * found[i];
    }
    return sum;
}

/* Derivatives of match_1 .. match_3. */
static void match_weights(real_pass *pass) {
    for (int64_t turn = 0; pass->plan->config->match && turn < pass->plan->batch->n_turns; turn++) {
        const turn_at t = turn_of(pass, turn);
        for (int64_t j = 0; j < t.k; j++) {
            real found[3];
            matches(found, pass, &t, j, -1);
            add_to(pass->d[P_MATCH], pass->d_scores[t.row + j], found, 3);
        }
    }
}

/* ---- scores ---- */

/* Whether attn has a say in this turn. */
static bool attends(const real_pass *pass, const turn_at *t) {
    return fused(pass) || t->n_past > 0;
}

/* scores (n) from outer (n, D); `skip`: the earlier choice that nothing is matched with. */
static void score(const km_ctx *ctx, real *scores, const real_pass *pass, const turn_at *t,
                  const real *outer, int64_t skip) {
    const int64_t d = width_of(pass);
    for (int64_t j = 0; j < t->n; j++) {
        const real *s = pass->rows + (t->list_row + j) * d;
        scores[j] = fused(pass) || j >= t->k ? 0 : km__dot(ctx, s, t->q, d);
        if (attends(pass, t)) {
            scores[j] += km__dot(ctx, pass->w[P_ATTN_V], outer + j * d, d);
        }
        scores[j] += match_score(pass, t, j, skip);
    }
}

static void score_turn(const km_ctx *ctx, real_pass *pass, int64_t turn) {
    const int64_t d = width_of(pass);
    const turn_at t = turn_of(pass, turn);
    if (attends(pass, &t)) {
        real *o = pass->o + t.row * d, *outer = pass->outer + t.row * d;
        for (int64_t m = 0; m < t.n_past; m++) {
            inner_terms(ctx, pass, &t, m);
        }
        differences(o, pass, &t, -1);
        outer_terms(ctx, outer, pass, &t, o);
    }
    score(ctx, pass->scores + t.row, pass, &t, pass->outer + t.row * d, -1);
}

/* ---- all turns ---- */

typedef struct work {
    km_ctx *ctx;
    real_pass *pass;
    const int64_t *turns; /* which; NULL: all */
    real *context, *contributions;
} work;

static km_status score_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const work *w = payload;
    (void)worker;
    (void)err;
    for (int64_t i = begin; i < end; i++) {
        score_turn(w->ctx, w->pass, w->turns == NULL ? i : w->turns[i]);
    }
    return KM_OK;
}

/* The highest score, the lowest index of equal ones. */
static int64_t best_of(const real *scores, int64_t k, bool allow_none) {
    int64_t best = allow_none || k == 1 ? 0 : 1;
    for (int64_t j = best + 1; j < k; j++) {
        best = scores[j] > scores[best] ? j : best;
    }
    return best;
}

static int64_t choice_of(const real_pass *pass, int64_t turn, const real_pass_options *o) {
    const bool own =
        o->user.history == KM_DIFFKS_OWN ||
        (o->user.history == KM_DIFFKS_SAMPLED &&
         km_random_uniform(o->seed, 8 * o->step + 4, (uint64_t)turn) < o->user.probability);
    const int64_t *gold = pass->plan->batch->gold;
    if (!own && gold != NULL) {
        return gold[turn];
    }
    return best_of(pass->scores + pass->plan->pairs[turn], km__plan_candidates(pass->plan, turn),
                   o->user.allow_none);
}

/* Gold choices are known before anything is scored; others one turn number after the other. */
km_status km__choose(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                     km_error *err) {
    km__plan *plan = pass->plan;
    const bool ahead = options->user.history == KM_DIFFKS_GOLD ||
                       plan->batch->history_offsets != NULL || !km__diffks_recalls(plan->config);
    gather_rows(pass);
    if (km__diffks_recalls(plan->config)) {
        KM_TRY(share(ctx, pass, err));
    }
    for (int64_t t = 0; ahead && plan->batch->gold != NULL && t < plan->batch->n_turns; t++) {
        km__plan_choose(plan, t, plan->batch->gold[t]);
    }
    for (int64_t level = 0; level < (ahead ? 1 : plan->n_levels); level++) {
        const int64_t first = plan->level_offsets[level];
        const int64_t n = ahead ? plan->batch->n_turns : plan->level_offsets[level + 1] - first;
        const int64_t *turns = plan->by_level + first;
        work w = {.ctx = ctx, .pass = pass, .turns = turns};
        KM_TRY(km_parallel_for(ctx, n, 1, score_range, &w, err));
        for (int64_t i = 0; !ahead && i < n; i++) {
            km__plan_choose(plan, turns[i], choice_of(pass, turns[i], options));
        }
    }
    return KM_OK;
}

/* ---- why ---- */

/* Scores without all and without each earlier choice. */
static km_status explain_turn(const work *w, int64_t turn, int worker, km_error *err) {
    real_pass *pass = w->pass;
    const int64_t d = width_of(pass), most = pass->plan->config->history;
    turn_at t = turn_of(pass, turn);
    void *scratch = NULL;
    KM_TRY(km_worker_scratch(&scratch, w->ctx, worker, (size_t)(t.n * (2 * d + 1)) * sizeof(real),
                             err));
    real *o = scratch, *outer = o + t.n * d, *scores = outer + t.n * d;
    real *all = w->contributions + t.row * most;
    memset(all, 0, (size_t)(t.n * most) * sizeof(real));
    for (int64_t m = 0; m < t.n_past; m++) {
        differences(o, pass, &t, m);
        outer_terms(w->ctx, outer, pass, &t, o);
        score(w->ctx, scores, pass, &t, outer, m);
        for (int64_t j = 0; j < t.n; j++) {
            all[j * most + m] = pass->scores[t.row + j] - scores[j];
        }
    }
    t.n_past = 0;
    if (fused(pass)) {
        outer_terms(w->ctx, outer, pass, &t, o);
    }
    score(w->ctx, w->context + t.row, pass, &t, outer, -1);
    return KM_OK;
}

static km_status explain_range(void *payload, int64_t begin, int64_t end, int worker,
                               km_error *err) {
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(explain_turn(payload, i, worker, err));
    }
    return KM_OK;
}

km_status km__pass_explain(real *context, real *contributions, km_ctx *ctx, real_pass *pass,
                           km_error *err) {
    work w = {.ctx = ctx, .pass = pass, .context = context, .contributions = contributions};
    return km_parallel_for(ctx, pass->plan->batch->n_turns, 1, explain_range, &w, err);
}

/* ---- the way back of one turn ---- */

/* outer becomes the derivatives before its tanh; d_v and the query's get this turn's share. */
static void outer_back(real_pass *pass, const turn_at *t) {
    const int64_t d = width_of(pass);
    const real *v = pass->w[P_ATTN_V];
    real *d_v = pass->d_v + t->turn * d, *d_query = pass->d_query + t->turn * d;
    for (int64_t j = 0; j < t->n; j++) {
        const real slope = pass->d_scores[t->row + j];
        real *outer = pass->outer + (t->row + j) * d;
        for (int64_t i = 0; i < d; i++) {
            d_v[i] += slope * outer[i];
            outer[i] = slope * v[i] * (1 - outer[i] * outer[i]);
        }
        if (fused(pass)) {
            add_to(d_query, 1, outer, d);
        }
    }
}

/* inner becomes the derivatives before its tanh; c, l and A l get theirs. d_o (n, D); d_product
 * (n, D) is scratch. */
static void inner_back(const km_ctx *ctx, real_pass *pass, const turn_at *t, int64_t m,
                       const real *d_o, real *d_product) {
    const int64_t d = width_of(pass), at = term_of(pass, t, m);
    const int64_t past = pass->plan->past_rows[t->turn] + m;
    const real weight = weight_of(pass->plan->config, m);
    const real *l = pass->runs[1].last + past_sentence(pass, t, m) * d;
    real *inner = pass->inner + at * d, *d_past = pass->d_past + past * d;
    real *d_l = pass->d_l + past * d;
    memset(d_past, 0, (size_t)d * sizeof(real));
    memset(d_l, 0, (size_t)d * sizeof(real));
    for (int64_t j = 0; j < t->n; j++) {
        for (int64_t i = 0; i < d; i++) {
            real *u = inner + j * d + i;
            *u = weight * d_o[j * d + i] * (1 - *u * *u);
            d_past[i] += *u;
        }
    }
    km__product(ctx, d_product, d, inner, d, pass->w[P_TILDE] + d, 2 * d, t->n, d, d, false);
    for (int64_t j = 0; j < t->k; j++) {
        const real *c = pass->runs[2].states + (t->list_row + j) * d, *from = d_product + j * d;
        real *d_c = pass->d_c + (t->row + j) * d;
        for (int64_t i = 0; i < d; i++) {
            d_c[i] += from[i] * l[i];
            d_l[i] += from[i] * c[i];
        }
    }
}

static km_status back_turn(const work *w, int64_t turn, int worker, km_error *err) {
    real_pass *pass = w->pass;
    const int64_t d = width_of(pass);
    const turn_at t = turn_of(pass, turn);
    real *d_q = pass->d_q + turn * d;
    void *scratch = NULL;
    KM_TRY(km_worker_scratch(&scratch, w->ctx, worker, (size_t)(2 * t.n * d) * sizeof(real), err));
    real *d_o = scratch;
    for (int64_t j = 0; j < t.k && !fused(pass); j++) {
        add_to(d_q, pass->d_scores[t.row + j], pass->rows + (t.list_row + j) * d, d);
    }
    if (attends(pass, &t)) {
        outer_back(pass, &t);
    }
    if (t.n_past > 0) {
        memset(pass->d_c + t.row * d, 0, (size_t)(t.n * d) * sizeof(real));
        km__product(w->ctx, d_o, d, pass->outer + t.row * d, d, pass->mixed, d, t.n, d, d, false);
        for (int64_t m = 0; m < t.n_past; m++) {
            inner_back(w->ctx, pass, &t, m, d_o, d_o + t.n * d);
        }
    }
    return KM_OK;
}

static km_status back_turns(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(back_turn(payload, i, worker, err));
    }
    return KM_OK;
}

/* ---- what turns with the same list give together ---- */

static void add_turn(real_pass *pass, int64_t turn) {
    const int64_t d = width_of(pass);
    const turn_at t = turn_of(pass, turn);
    for (int64_t j = 0; j < t.k; j++) {
        const int64_t at = (t.list_row + j) * d;
        if (attends(pass, &t)) {
            add_to(pass->d_second + at, 1, pass->outer + (t.row + j) * d, d);
        }
        if (!fused(pass)) {
            add_to(pass->d_rows + at, pass->d_scores[t.row + j], t.q, d);
        }
        if (t.n_past > 0) {
            add_to(pass->d_context + at, 1, pass->d_c + (t.row + j) * d, d);
        }
        for (int64_t m = 0; m < t.n_past; m++) {
            add_to(pass->d_from + at, -1, pass->inner + (term_of(pass, &t, m) + j) * d, d);
        }
    }
}

static km_status add_lists(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const work *w = payload;
    const km__plan *plan = w->pass->plan;
    (void)worker;
    (void)err;
    for (int64_t list = begin; list < end; list++) {
        for (int64_t i = plan->list_turns[list]; i < plan->list_turns[list + 1]; i++) {
            add_turn(w->pass, plan->by_list[i]);
        }
    }
    return KM_OK;
}

static void clear(real_pass *pass) {
    const km__plan *plan = pass->plan;
    const size_t d = (size_t)width_of(pass) * sizeof(real);
    memset(pass->d_q, 0, (size_t)plan->batch->n_turns * d);
    memset(pass->d_rows, 0, (size_t)plan->lists.rows * d);
    if (km__diffks_recalls(plan->config)) {
        memset(pass->d_v, 0, (size_t)plan->batch->n_turns * d);
        memset(pass->d_query, 0, (size_t)plan->batch->n_turns * d);
        memset(pass->d_second, 0, (size_t)plan->lists.rows * d);
        memset(pass->d_from, 0, (size_t)plan->lists.rows * d);
        memset(pass->d_context, 0, (size_t)plan->lists.rows * d);
    }
}

/* ---- weights ---- */

static void gather_past(real_pass *pass) {
    const km__plan *plan = pass->plan;
    const int64_t d = width_of(pass);
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        for (int64_t m = 0; m < plan->n_past[t]; m++) {
            memcpy(pass->past_rows + (plan->past_rows[t] + m) * d,
                   pass->runs[1].last + plan->past[t * plan->config->history + m] * d,
                   (size_t)d * sizeof(real));
        }
    }
}

static void add_vectors(real_pass *pass) {
    const int64_t d = width_of(pass);
    for (int64_t t = 0; t < pass->plan->batch->n_turns; t++) {
        add_to(pass->d[P_ATTN_V], 1, pass->d_v + t * d, d);
    }
    for (int64_t i = 0; i < pass->plan->n_pasts; i++) {
        add_to(pass->d[P_TILDE_B], 1, pass->d_past + i * d, d);
    }
}

/* Derivatives of o's matrix: outer^T o goes to attn_k's right half and, unless fused, to attn_q. */
static km_status mixed_weights(km_ctx *ctx, real_pass *pass, km_error *err) {
    const int64_t d = width_of(pass), pairs = pass->plan->n_pairs;
    real_gemm jobs[2] = {
        km__linear_weights(pass->d[P_ATTN_K] + d, 2 * d, pass->outer, d, pass->o, d, pairs, d, d)};
    jobs[1] = fused(pass) ? km__linear_weights(pass->d[P_ATTN_Q], d, pass->d_query, d,
                                               pass->runs[0].last, d, pass->plan->contexts.n, d, d)
                          : km__linear_weights(pass->d[P_ATTN_Q], d, pass->outer, d, pass->o, d,
                                               pairs, d, d);
    return km__gemm_many(ctx, jobs, 2, err);
}

/* First turns of the disentangled variant have neither o nor outer. */
static void clear_first_turns(real_pass *pass) {
    const int64_t d = width_of(pass);
    for (int64_t t = 0; t < pass->plan->batch->n_turns; t++) {
        const turn_at at = turn_of(pass, t);
        if (!attends(pass, &at)) {
            memset(pass->o + at.row * d, 0, (size_t)(at.n * d) * sizeof(real));
            memset(pass->outer + at.row * d, 0, (size_t)(at.n * d) * sizeof(real));
        }
    }
}

static km_status attention_weights(km_ctx *ctx, real_pass *pass, km_error *err) {
    const km__plan *plan = pass->plan;
    const int64_t d = width_of(pass), n = plan->lists.rows;
    const real *second_of = fused(pass) ? pass->rows : pass->runs[2].states;
    real_gemm jobs[MOST_JOBS] = {{0}};
    int n_jobs = 0;
    clear_first_turns(pass);
    gather_past(pass);
    add_vectors(pass);
    KM_TRY(mixed_weights(ctx, pass, err));
    if (fused(pass) || plan->n_terms > 0) {
        jobs[n_jobs++] =
            km__linear_weights(pass->d[P_ATTN_K], 2 * d, pass->d_second, d, second_of, d, n, d, d);
    }
    if (plan->n_terms > 0) {
        jobs[n_jobs++] = km__linear_weights(pass->d[P_TILDE], 2 * d, pass->d_from, d,
                                            pass->runs[2].states, d, n, d, d);
        jobs[n_jobs++] = km__linear_weights(pass->d[P_TILDE] + d, 2 * d, pass->inner, d,
                                            pass->products, d, plan->n_terms, d, d);
    }
    KM_TRY(km__gemm_many(ctx, jobs, n_jobs, err));
    /* the left half of tilde once more, from the earlier choices */
    jobs[0] = km__linear_weights(pass->d[P_TILDE], 2 * d, pass->d_past, d, pass->past_rows, d,
                                 plan->n_pasts, d, d);
    return km__gemm_many(ctx, jobs, 1, err);
}

/* ---- inputs ---- */

/* q, c (through which s), and l get what the shared products took from them. */
static km_status attention_inputs(km_ctx *ctx, real_pass *pass, km_error *err) {
    const km__plan *plan = pass->plan;
    const int64_t d = width_of(pass), n = plan->lists.rows;
    real_gemm jobs[MOST_JOBS] = {{0}};
    int n_jobs = 0;
    if (fused(pass)) {
        jobs[n_jobs++] = km__linear_back(pass->d_q, d, pass->d_query, d, pass->w[P_ATTN_Q], d,
                                         plan->contexts.n, d, d);
        jobs[n_jobs++] =
            km__linear_back(pass->d_rows, d, pass->d_second, d, pass->w[P_ATTN_K], 2 * d, n, d, d);
    }
    if (plan->n_terms > 0) {
        jobs[n_jobs++] =
            km__linear_back(pass->d_context, d, pass->d_from, d, pass->w[P_TILDE], 2 * d, n, d, d);
        jobs[n_jobs++] = km__linear_back(pass->d_l, d, pass->d_past, d, pass->w[P_TILDE], 2 * d,
                                         plan->n_pasts, d, d);
    }
    KM_TRY(km__gemm_many(ctx, jobs, n_jobs, err));
    if (plan->n_terms == 0) {
        return KM_OK;
    }
    if (!fused(pass)) {
        jobs[0] = km__linear_back(pass->d_context, d, pass->d_second, d, pass->w[P_ATTN_K], 2 * d,
                                  n, d, d);
        KM_TRY(km__gemm_many(ctx, jobs, 1, err));
    }
    return km__gru_backward(ctx, &pass->runs[2], 1, err); /* into from, as d_rows' share */
}

static void scatter(real_pass *pass) {
    const km__plan *plan = pass->plan;
    const int64_t d = width_of(pass);
    for (int64_t i = 0; i < plan->lists.rows; i++) {
        real *to = pass->d_last + plan->batch->list_sentences[i] * d;
        add_to(to, 1, pass->d_rows + i * d, d);
        if (plan->n_terms > 0) {
            add_to(to, 1, pass->runs[2].dx + i * d, d);
        }
    }
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        for (int64_t m = 0; m < plan->n_past[t]; m++) {
            add_to(pass->d_last + plan->past[t * plan->config->history + m] * d, 1,
                   pass->d_l + (plan->past_rows[t] + m) * d, d);
        }
    }
}

km_status km__choose_back(km_ctx *ctx, real_pass *pass, km_error *err) {
    const km__plan *plan = pass->plan;
    work w = {.ctx = ctx, .pass = pass};
    clear(pass);
    KM_TRY(km_parallel_for(ctx, plan->batch->n_turns, 1, back_turns, &w, err));
    KM_TRY(km_parallel_for(ctx, plan->batch->n_lists, 1, add_lists, &w, err));
    if (km__diffks_recalls(plan->config)) {
        KM_TRY(attention_weights(ctx, pass, err));
        KM_TRY(attention_inputs(ctx, pass, err));
    }
    match_weights(pass);
    scatter(pass);
    return KM_OK;
}
