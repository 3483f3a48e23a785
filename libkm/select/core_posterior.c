/* core_posterior.c: knowledge that the response points to: losses of the posterior variant and
 * their way back.
 *
 * Of KL = sum of P (log P - log Q), a prior score gets Q - P and an energy P (log P - log Q - KL).
 * Of -log P[gold] an energy gets P - [gold]. The words' loss reaches an energy through y, whose
 * softmax may leave out log P's normaliser.
 */
#include <math.h>
#include <string.h>

#include "select/core.h"

#define NOISE_STREAM 5 /* of 8 a step, as core_pass.c and core_choose.c count them */

static void add_to(real *restrict y, real scale, const real *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += scale * x[i];
    }
}

static int64_t width_of(const real_pass *pass) {
    return 2 * pass->plan->config->hidden;
}

typedef struct work {
    km_ctx *ctx;
    real_pass *pass;
    const real_pass_options *options;
    double mean; /* one over the turns that count */
} work;

/* ---- words ---- */

static bool counts(int32_t id) {
    return id > KM_DIFFKS_EOS;
}

static const int32_t *words_of(const km__plan *plan, int64_t turn, int64_t *n) {
    const int64_t *offsets = plan->batch->response_offsets + turn;
    *n = offsets[1] - offsets[0];
    return plan->batch->response_tokens + offsets[0];
}

/* Words that count in each turn; one over the turns that have any. */
static double count_words(real_pass *pass) {
    int64_t turns = 0;
    for (int64_t t = 0; t < pass->plan->batch->n_turns; t++) {
        int64_t n = 0, known = 0;
        const int32_t *ids = words_of(pass->plan, t, &n);
        for (int64_t i = 0; i < n; i++) {
            known += counts(ids[i]);
        }
        pass->posterior.n_words[t] = known;
        turns += known > 0;
    }
    return turns > 0 ? 1.0 / (double)turns : 0.0;
}

/* ---- which candidate ---- */

/* out (n) = softmax(x); returns the logarithm of the sum that it is divided by. */
static double softmax(real *out, const real *x, int64_t n) {
    double most = (double)x[0], total = 0.0;
    for (int64_t j = 1; j < n; j++) {
        most = (double)x[j] > most ? (double)x[j] : most;
    }
    for (int64_t j = 0; j < n; j++) {
        total += exp((double)x[j] - most);
    }
    for (int64_t j = 0; j < n; j++) {
        out[j] = (real)(exp((double)x[j] - most) / total);
    }
    return most + log(total);
}

/* The s of a turn's candidate. */
static const real *candidate(const real_pass *pass, int64_t turn, int64_t j) {
    const km_diffks_batch *b = pass->plan->batch;
    return pass->rows + (b->list_offsets[b->turn_lists[turn]] + j) * width_of(pass);
}

/* y of a turn from its energies. */
static void draw_shares(const work *w, int64_t first, int64_t k) {
    const double temperature = w->pass->plan->config->temperature;
    const real_pass_options *o = w->options;
    real *shares = w->pass->posterior.shares + first;
    if (!o->noise || temperature <= 0.0) {
        memcpy(shares, w->pass->posterior.chances + first, (size_t)k * sizeof(real));
        return;
    }
    for (int64_t j = 0; j < k; j++) {
        const double u =
            km_random_uniform(o->seed, 8 * o->step + NOISE_STREAM, (uint64_t)(first + j));
        const double noise = -log(-log(u > 0.0 ? u : 0x1p-60));
        shares[j] = (real)(((double)w->pass->posterior.energies[first + j] + noise) / temperature);
    }
    (void)softmax(shares, shares, k);
}

/* The divergence and, with a way back, its derivatives into d_scores and energies. */
static void diverge(const work *w, int64_t turn, double log_total) {
    const km__plan *plan = w->pass->plan;
    real_posterior *post = &w->pass->posterior;
    const int64_t first = plan->pairs[turn], k = km__plan_candidates(plan, turn);
    const int64_t gold = plan->batch->gold[turn];
    const double weight = gold > 0 ? plan->config->supervision : 0.0;
    const real *scores = w->pass->scores + first, *chances = post->chances + first;
    real *energies = post->energies + first, *d_scores = w->pass->d_scores;
    double divergence = 0.0, most = (double)scores[0], total = 0.0;
    for (int64_t j = 1; j < k; j++) {
        most = (double)scores[j] > most ? (double)scores[j] : most;
    }
    for (int64_t j = 0; j < k; j++) {
        total += exp((double)scores[j] - most);
    }
    const double log_prior = most + log(total), apart = log_prior - log_total;
    for (int64_t j = 0; j < k; j++) {
        divergence += (double)chances[j] * ((double)energies[j] - (double)scores[j] + apart);
    }
    post->divergence[turn] =
        divergence + (weight > 0.0 ? weight * (log_total - (double)energies[gold]) : 0.0);
    for (int64_t j = 0; plan->training && j < k; j++) {
        const double p = (double)chances[j];
        const double off = (double)energies[j] - (double)scores[j] + apart - divergence;
        d_scores[first + j] = (real)(w->mean * (exp((double)scores[j] - log_prior) - p));
        energies[j] = (real)(w->mean * (p * off + weight * (p - (j == gold ? 1.0 : 0.0))));
    }
}

static void choose_turn(const work *w, int64_t turn) {
    real_pass *pass = w->pass;
    real_posterior *post = &pass->posterior;
    const int64_t d = width_of(pass), first = pass->plan->pairs[turn];
    const int64_t k = km__plan_candidates(pass->plan, turn);
    real *mixture = post->mixture + turn * d;
    memset(mixture, 0, (size_t)d * sizeof(real));
    post->divergence[turn] = 0.0;
    if (post->n_words[turn] == 0) {
        memset(post->energies + first, 0, (size_t)k * sizeof(real));
        memset(post->shares + first, 0, (size_t)k * sizeof(real));
        if (pass->plan->training) {
            memset(pass->d_scores + first, 0, (size_t)k * sizeof(real));
        }
        return;
    }
    for (int64_t j = 0; j < k; j++) {
        post->energies[first + j] =
            km__dot(w->ctx, candidate(pass, turn, j), post->query + turn * d, d);
    }
    const double log_total = softmax(post->chances + first, post->energies + first, k);
    draw_shares(w, first, k);
    for (int64_t j = 0; j < k; j++) {
        add_to(mixture, post->shares[first + j], candidate(pass, turn, j), d);
    }
    diverge(w, turn, log_total);
}

static km_status choose_range(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    (void)worker;
    (void)err;
    for (int64_t t = begin; t < end; t++) {
        choose_turn(payload, t);
    }
    return KM_OK;
}

/* ---- the bag of words ---- */

/* A turn's logits become derivatives when there is a way back. */
static void bag_turn(const work *w, int64_t turn) {
    const km__plan *plan = w->pass->plan;
    real_posterior *post = &w->pass->posterior;
    const int64_t v = plan->config->vocabulary, known = post->n_words[turn];
    real *logits = post->logits + turn * v;
    int64_t n = 0;
    const int32_t *ids = words_of(plan, turn, &n);
    double total = 0.0, most = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < v; i++) {
        logits[i] += w->pass->w[P_BOW_B][i];
        most = (double)logits[i] > most ? (double)logits[i] : most;
    }
    for (int64_t i = 0; i < n; i++) {
        sum += counts(ids[i]) ? (double)logits[ids[i]] - most : 0.0;
    }
    for (int64_t i = 0; i < v; i++) {
        logits[i] = (real)exp((double)logits[i] - most);
        total += (double)logits[i];
    }
    post->bag[turn] = known > 0 ? log(total) - sum / (double)known : 0.0;
    const double scale = known > 0 ? w->mean * w->options->user.word_weight : 0.0;
    for (int64_t i = 0; plan->training && i < v; i++) {
        logits[i] *= (real)(scale / total);
    }
    for (int64_t i = 0; plan->training && i < n; i++) {
        logits[ids[i]] -= counts(ids[i]) ? (real)(scale / (double)known) : 0;
    }
}

static km_status bag_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    for (int64_t t = begin; t < end; t++) {
        bag_turn(payload, t);
    }
    return KM_OK;
}

/* ---- losses ---- */

static void gather_pairs(real_pass *pass) {
    const int64_t d = width_of(pass);
    real_posterior *post = &pass->posterior;
    for (int64_t t = 0; t < pass->plan->batch->n_turns; t++) {
        memcpy(post->pair + t * 2 * d, pass->runs[0].last + t * d, (size_t)d * sizeof(real));
        memcpy(post->pair + t * 2 * d + d, post->run.last + t * d, (size_t)d * sizeof(real));
        memcpy(post->query + t * d, pass->w[P_POST_B], (size_t)d * sizeof(real));
    }
}

km_status km__posterior(km_diffks_losses *out, km_ctx *ctx, real_pass *pass,
                        const real_pass_options *options, km_error *err) {
    const km__plan *plan = pass->plan;
    real_posterior *post = &pass->posterior;
    const int64_t d = width_of(pass), n = plan->batch->n_turns, v = plan->config->vocabulary;
    work w = {ctx, pass, options, count_words(pass)};
    gather_pairs(pass);
    real_gemm job =
        km__linear(post->query, d, post->pair, 2 * d, pass->w[P_POST], 2 * d, n, d, 2 * d);
    job.add = true;
    KM_TRY(km__gemm_many(ctx, &job, 1, err));
    km__tanh(ctx, post->query, n * d);
    KM_TRY(km_parallel_for(ctx, n, 1, choose_range, &w, err));
    job = km__linear(post->logits, v, post->mixture, d, pass->w[P_BOW], d, n, v, d);
    KM_TRY(km__gemm_many(ctx, &job, 1, err));
    KM_TRY(km_parallel_for(ctx, n, 1, bag_range, &w, err));
    for (int64_t t = 0; t < n; t++) {
        out->selection_loss += w.mean * post->divergence[t];
        out->word_loss += w.mean * post->bag[t];
        out->n_words += post->n_words[t];
        out->perplexity += post->n_words[t] > 0 ? w.mean * exp(post->bag[t]) : 0.0;
    }
    return KM_OK;
}

/* ---- the way back ---- */

/* From d_mixture and the derivatives of energies to those of the query, before its tanh, and of s.
 */
static void back_turn(real_pass *pass, const real_pass_options *o, int64_t turn) {
    const km__plan *plan = pass->plan;
    real_posterior *post = &pass->posterior;
    const int64_t d = width_of(pass), first = plan->pairs[turn];
    const int64_t k = km__plan_candidates(plan, turn);
    const double temperature = o->noise ? plan->config->temperature : 0.0;
    const real *d_mixture = post->d_mixture + turn * d, *query = post->query + turn * d;
    real *d_query = post->d_query + turn * d, *d_shares = post->chances + first;
    double along = 0.0;
    memset(d_query, 0, (size_t)d * sizeof(real));
    for (int64_t j = 0; j < k; j++) {
        double sum = 0.0;
        const real *s = candidate(pass, turn, j);
        for (int64_t i = 0; i < d; i++) {
            sum += (double)(s[i] * d_mixture[i]);
        }
        d_shares[j] = (real)sum;
        along += sum * (double)post->shares[first + j];
    }
    for (int64_t j = 0; j < k; j++) {
        const double y = (double)post->shares[first + j];
        const double through = y * ((double)d_shares[j] - along);
        real *energy = &post->energies[first + j];
        *energy += (real)(temperature > 0.0 ? through / temperature : through);
        real *d_s = pass->d_last + km__plan_sentence(plan, turn, j) * d;
        add_to(d_query, *energy, candidate(pass, turn, j), d);
        add_to(d_s, *energy, query, d);
        add_to(d_s, (real)y, d_mixture, d);
    }
    for (int64_t i = 0; i < d; i++) {
        d_query[i] *= 1 - query[i] * query[i];
    }
}

km_status km__posterior_back(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                             km_error *err) {
    const km__plan *plan = pass->plan;
    real_posterior *post = &pass->posterior;
    const int64_t d = width_of(pass), n = plan->batch->n_turns, v = plan->config->vocabulary;
    for (int64_t t = 0; t < n; t++) {
        post->ones[t] = 1;
    }
    real_gemm jobs[3] = {
        km__linear_weights(pass->d[P_BOW], d, post->logits, v, post->mixture, d, n, v, d),
        km__linear_weights(pass->d[P_BOW_B], v, post->ones, 1, post->logits, v, n, 1, v),
        km__linear_back(post->d_mixture, d, post->logits, v, pass->w[P_BOW], d, n, v, d)};
    jobs[2].add = false;
    KM_TRY(km__gemm_many(ctx, jobs, 3, err));
    for (int64_t t = 0; t < n; t++) { /* turns share sentences */
        back_turn(pass, options, t);
    }
    jobs[0] = km__linear_weights(pass->d[P_POST], 2 * d, post->d_query, d, post->pair, 2 * d, n, d,
                                 2 * d);
    jobs[1] = km__linear_weights(pass->d[P_POST_B], d, post->ones, 1, post->d_query, d, n, 1, d);
    jobs[2] =
        km__linear_back(post->d_pair, 2 * d, post->d_query, d, pass->w[P_POST], 2 * d, n, d, 2 * d);
    jobs[2].add = false;
    KM_TRY(km__gemm_many(ctx, jobs, 3, err));
    for (int64_t t = 0; t < n; t++) {
        add_to(pass->d_q + t * d, 1, post->d_pair + t * 2 * d, d);
        memcpy(post->d_response + t * d, post->d_pair + t * 2 * d + d, (size_t)d * sizeof(real));
    }
    return KM_OK;
}
