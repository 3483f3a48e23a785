/* core_decode.c: the decoder: losses of responses and their way back, and greedy answers.
 *
 * Logits and copy energies share one normaliser: with e_v = e^min(a_v, 5) and k_p = e^min(u_p, 5),
 * P(w) = (e_w + sum of k_p over copies of w + 1e-10) / Z. So of -log P(w), a_v gets e_v / Z, less
 * e_w / (Z P) at w, and u_p likewise; an energy above the cap gets nothing.
 */
#include <math.h>
#include <string.h>

#include "select/core.h"

#define CAP 5
#define LEAST 1e-10

static void add_to(real *restrict y, real scale, const real *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] += scale * x[i];
    }
}

static int64_t width_of(const real_pass *pass) {
    return 2 * pass->plan->config->hidden;
}

/* ---- what a response copies from ---- */

/* Words of a sentence, and one more that stands for `pads` padded ones. */
typedef struct copies {
    const int32_t *ids;
    int64_t n, words, pads;
    const real *keys; /* (n, Dh) */
} copies;

static int32_t copied_id(const copies *c, int64_t p) {
    return p < c->words ? c->ids[p] : KM_DIFFKS_PAD;
}

static real count_of(const copies *c, int64_t p) {
    return (real)(p < c->words ? 1 : c->pads);
}

static copies copies_of(const real_pass *pass, const real *keys, int64_t sentence, int64_t pads) {
    const km_diffks_batch *b = pass->plan->batch;
    const int64_t words = b->sentence_offsets[sentence + 1] - b->sentence_offsets[sentence];
    return (copies){b->sentence_tokens + b->sentence_offsets[sentence], words + (pads > 0), words,
                    pads, keys};
}

/* The states of a sentence's words, zeros for padded ones. */
static void gather_source(real *source, const real_pass *pass, int64_t sentence, int64_t n) {
    const int64_t first = pass->plan->batch->sentence_offsets[sentence], d = width_of(pass);
    const int64_t words = pass->plan->batch->sentence_offsets[sentence + 1] - first;
    memcpy(source, pass->runs[1].states + first * d, (size_t)(words * d) * sizeof(real));
    memset(source + words * d, 0, (size_t)((n - words) * d) * sizeof(real));
}

static void finish_keys(const km_ctx *ctx, real *keys, const real_pass *pass, int64_t n) {
    const int64_t h = pass->plan->config->decoder;
    for (int64_t p = 0; p < n; p++) {
        add_to(keys + p * h, 1, pass->w[P_COPY_B], h);
    }
    km__tanh(ctx, keys, n * h);
}

/* ---- one word ---- */

/* Capped energies become exponentials; `capped` (V) lists the ids above the cap. */
typedef struct word {
    real *a; /* (V) */
    real *u; /* (copies) */
    int32_t *capped;
    int64_t n_capped;
    double total; /* Z */
} word;

static void exponentials(const km_ctx *ctx, word *w, const real_pass *pass, const copies *c,
                         const real *state) {
    const int64_t v = pass->plan->config->vocabulary, h = pass->plan->config->decoder;
    const real *bias = pass->w[P_OUT_B];
    w->n_capped = 0;
    for (int64_t i = 0; i < v; i++) {
        w->a[i] += bias[i];
        if (w->a[i] > CAP) {
            w->a[i] = CAP;
            w->capped[w->n_capped++] = (int32_t)i;
        }
    }
    km__exp(ctx, w->a, v);
    w->total = LEAST * (double)v;
    for (int64_t i = 0; i < v; i++) {
        w->total += (double)w->a[i];
    }
    for (int64_t p = 0; p < c->n; p++) {
        w->u[p] = km__dot(ctx, state, c->keys + p * h, h);
    }
}

/* Energies of copies become exponentials times their number; returns those of id `target`. */
static double copy_mass(const km_ctx *ctx, word *w, const copies *c, int32_t target) {
    double mass = 0.0;
    for (int64_t p = 0; p < c->n; p++) {
        real energy = w->u[p] > CAP ? CAP : w->u[p];
        km__exp(ctx, &energy, 1);
        const double all = (double)(energy * count_of(c, p));
        w->total += all;
        mass += copied_id(c, p) == target ? all : 0.0;
    }
    return mass;
}

/* The derivative of -log P times `scale` of a copy's energy. */
static real copy_slope(const km_ctx *ctx, const word *w, const copies *c, int64_t p, int32_t target,
                       double scale, double mass) {
    if (w->u[p] > CAP) {
        return 0;
    }
    real energy = w->u[p];
    km__exp(ctx, &energy, 1);
    const double all = (double)(energy * count_of(c, p));
    return (real)(scale * all * (1.0 / w->total - (copied_id(c, p) == target ? 1.0 / mass : 0.0)));
}

static void logit_slopes(const word *w, int64_t v, int32_t target, double scale, double mass) {
    const real factor = (real)(scale / w->total);
    const real at_target = (real)(scale * (double)w->a[target] * (1.0 / w->total - 1.0 / mass));
    for (int64_t i = 0; i < v; i++) {
        w->a[i] *= factor;
    }
    w->a[target] = at_target;
    for (int64_t i = 0; i < w->n_capped; i++) {
        w->a[w->capped[i]] = 0;
    }
}

/* -log P(target); with `scale` above 0 logits become derivatives and copy energies too. */
static double word_loss(const km_ctx *ctx, word *w, const real_pass *pass, const copies *c,
                        const real *state, int32_t target, double scale) {
    const int64_t v = pass->plan->config->vocabulary;
    exponentials(ctx, w, pass, c, state);
    const double mass = copy_mass(ctx, w, c, target) + (double)w->a[target] + LEAST;
    const double p = mass / w->total;
    const bool inside = p >= LEAST && p <= 1.0;
    if (pass->plan->training) {
        scale = inside ? scale : 0.0;
        for (int64_t i = 0; i < c->n; i++) {
            w->u[i] = copy_slope(ctx, w, c, i, target, scale, mass);
        }
        logit_slopes(w, v, target, scale, mass);
    }
    return -log(p < LEAST ? LEAST : p > 1.0 ? 1.0 : p);
}

/* ---- one response ---- */

typedef struct work {
    km_ctx *ctx;
    real_pass *pass;
    double word_weight;
} work;

static const int32_t *targets_of(const real_pass *pass, int64_t response) {
    const km_diffks_batch *b = pass->plan->batch;
    return b->response_tokens + b->response_offsets[pass->plan->responding[response]] + 1;
}

static int64_t gold_sentence(const real_pass *pass, int64_t response) {
    const int64_t turn = pass->plan->responding[response];
    return km__plan_sentence(pass->plan, turn, pass->plan->batch->gold[turn]);
}

static int64_t count_known(const int32_t *targets, int64_t n) {
    int64_t known = 0;
    for (int64_t i = 0; i < n; i++) {
        known += targets[i] != KM_DIFFKS_UNK;
    }
    return known;
}

/* What a word's copy energies pass on to its state and to the keys. */
static void copies_back(const real_pass *pass, const copies *c, const real *slopes,
                        const real *state, real *d_state, real *d_keys) {
    const int64_t h = pass->plan->config->decoder;
    memset(d_state, 0, (size_t)h * sizeof(real));
    for (int64_t p = 0; p < c->n; p++) {
        add_to(d_state, slopes[p], c->keys + p * h, h);
        add_to(d_keys + p * h, slopes[p], state, h);
    }
}

static void response_word(const work *job, int64_t response, int64_t row, const copies *c,
                          double scale, int32_t *capped) {
    real_pass *pass = job->pass;
    real_decoder *dec = &pass->decoder;
    const km__plan *plan = pass->plan;
    const int64_t v = plan->config->vocabulary, h = plan->config->decoder;
    const int64_t in_response = row - plan->response_rows[response];
    const int32_t target = targets_of(pass, response)[in_response];
    word w = {dec->logits + row * v,
              dec->copy_energy + dec->copy_places[response] + in_response * c->n, capped, 0, 0.0};
    if (target != KM_DIFFKS_UNK) {
        const real *state = dec->run.states + row * h;
        dec->nll[response] += word_loss(job->ctx, &w, pass, c, state, target, scale);
    } else {
        memset(w.a, 0, (size_t)v * sizeof(real));
        memset(w.u, 0, (size_t)c->n * sizeof(real));
    }
    if (plan->training) {
        copies_back(pass, c, w.u, dec->run.states + row * h, dec->d_states + row * h,
                    dec->d_keys + plan->copy_rows[response] * h);
    }
}

static void slopes_before_tanh(real *d, const real *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        d[i] *= 1 - y[i] * y[i];
    }
}

static km_status run_response(const work *job, int64_t response, int worker, km_error *err) {
    real_pass *pass = job->pass;
    real_decoder *dec = &pass->decoder;
    const km__plan *plan = pass->plan;
    const int64_t first = plan->response_rows[response],
                  n = plan->response_rows[response + 1] - first;
    const int64_t h = plan->config->decoder, at = plan->copy_rows[response] * h;
    const int64_t known = count_known(targets_of(pass, response), n);
    const copies c =
        copies_of(pass, dec->keys + at, gold_sentence(pass, response), plan->copy_pads[response]);
    void *capped = NULL;
    KM_TRY(km_worker_scratch(&capped, job->ctx, worker,
                             (size_t)plan->config->vocabulary * sizeof(int32_t), err));
    finish_keys(job->ctx, dec->keys + at, pass, c.n);
    dec->nll[response] = 0.0;
    dec->n_words[response] = known;
    if (plan->training) {
        memset(dec->d_keys + at, 0, (size_t)(c.n * h) * sizeof(real));
    }
    for (int64_t row = first; row < first + n; row++) {
        response_word(job, response, row, &c, known > 0 ? job->word_weight / (double)known : 0.0,
                      capped);
    }
    dec->nll[response] /= known > 0 ? (double)known : 1.0;
    if (plan->training) {
        slopes_before_tanh(dec->d_keys + at, dec->keys + at, c.n * h);
    }
    return KM_OK;
}

static km_status run_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    for (int64_t i = begin; i < end; i++) {
        KM_TRY(run_response(payload, i, worker, err));
    }
    return KM_OK;
}

/* ---- all responses ---- */

static void embed_responses(real_pass *pass, const real_pass_options *o) {
    const km__plan *plan = pass->plan;
    const int64_t e = plan->config->embedding;
    for (int64_t r = 0; r < plan->responses.n; r++) {
        const int32_t *ids = targets_of(pass, r) - 1;
        for (int64_t row = plan->response_rows[r]; row < plan->response_rows[r + 1]; row++) {
            memcpy(pass->decoder.words + row * e,
                   pass->w[P_E] + ids[row - plan->response_rows[r]] * e, (size_t)e * sizeof(real));
        }
    }
    if (o->dropout) {
        km__drop(pass->decoder.words, pass->decoder.keep, 0, plan->responses.rows * e,
                 plan->config->dropout, o->seed, 8 * o->step + 2);
    }
}

/* [q ; g] of each response, biases of its first state, and the states it copies from. */
static void gather_inputs(real_pass *pass) {
    const km__plan *plan = pass->plan;
    real_decoder *dec = &pass->decoder;
    const int64_t d = width_of(pass), h = plan->config->decoder;
    dec->copy_places[0] = 0;
    for (int64_t r = 0; r < plan->responses.n; r++) {
        const int64_t sentence = gold_sentence(pass, r),
                      n = plan->copy_rows[r + 1] - plan->copy_rows[r];
        memcpy(dec->pair + r * 2 * d, pass->runs[0].last + plan->responding[r] * d,
               (size_t)d * sizeof(real));
        memcpy(dec->pair + r * 2 * d + d, pass->runs[1].last + sentence * d,
               (size_t)d * sizeof(real));
        memcpy(dec->starts + r * h, pass->w[P_INIT_B], (size_t)h * sizeof(real));
        gather_source(dec->source + plan->copy_rows[r] * d, pass, sentence, n);
        dec->copy_places[r + 1] =
            dec->copy_places[r] + n * (plan->response_rows[r + 1] - plan->response_rows[r]);
    }
}

static km_status read_states(km_ctx *ctx, real_pass *pass, const real_pass_options *o,
                             km_error *err) {
    const km_diffks_config *config = pass->plan->config;
    real_decoder *dec = &pass->decoder;
    const int64_t d = width_of(pass), h = config->decoder, n = pass->plan->responses.rows;
    memcpy(dec->read, dec->run.states, (size_t)(n * h) * sizeof(real));
    if (o->dropout) {
        km__drop(dec->read, dec->keep_out, 0, n * h, config->dropout, o->seed, 8 * o->step + 3);
    }
    const real_gemm jobs[2] = {
        km__linear(dec->logits, config->vocabulary, dec->read, h, pass->w[P_OUT], h, n,
                   config->vocabulary, h),
        km__linear(dec->keys, h, dec->source, d, pass->w[P_COPY], d, pass->plan->n_copy, h, d)};
    return km__gemm_many(ctx, jobs, 2, err);
}

km_status km__decode(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                     km_error *err) {
    const km_diffks_config *config = pass->plan->config;
    real_decoder *dec = &pass->decoder;
    const int64_t d = width_of(pass), h = config->decoder, n = pass->plan->responses.n;
    const int64_t e = config->embedding;
    embed_responses(pass, options);
    gather_inputs(pass);
    real_gemm jobs[2] = {
        km__linear(dec->starts, h, dec->pair, 2 * d, pass->w[P_INIT], 2 * d, n, h, 2 * d),
        km__linear(dec->extra, 3 * h, dec->pair + d, 2 * d, pass->w[P_DEC] + e, e + d, n, 3 * h,
                   d)};
    jobs[0].add = true;
    KM_TRY(km__gemm_many(ctx, jobs, 2, err));
    KM_TRY(km__gru_forward(ctx, &dec->run, 1, err));
    KM_TRY(read_states(ctx, pass, options, err));
    work job = {ctx, pass, options->user.word_weight};
    return km_parallel_for(ctx, n, 1, run_range, &job, err);
}

/* ---- the way back ---- */

static km_status output_back(km_ctx *ctx, real_pass *pass, const real_pass_options *o,
                             km_error *err) {
    const km_diffks_config *config = pass->plan->config;
    real_decoder *dec = &pass->decoder;
    const int64_t d = width_of(pass), h = config->decoder, v = config->vocabulary;
    const int64_t n = pass->plan->responses.rows, n_copy = pass->plan->n_copy;
    for (int64_t i = 0; i < n; i++) {
        dec->ones[i] = 1;
    }
    const real_gemm weights[3] = {
        km__linear_weights(pass->d[P_OUT], h, dec->logits, v, dec->read, h, n, v, h),
        km__linear_weights(pass->d[P_OUT_B], v, dec->ones, 1, dec->logits, v, n, 1, v),
        km__linear_weights(pass->d[P_COPY], d, dec->d_keys, h, dec->source, d, n_copy, h, d)};
    KM_TRY(km__gemm_many(ctx, weights, 3, err));
    real_gemm inputs[2] = {
        km__linear_back(dec->read, h, dec->logits, v, pass->w[P_OUT], h, n, v, h),
        km__linear_back(dec->d_source, d, dec->d_keys, h, pass->w[P_COPY], d, n_copy, h, d)};
    inputs[0].add = inputs[1].add = false;
    KM_TRY(km__gemm_many(ctx, inputs, 2, err));
    for (int64_t p = 0; p < n_copy; p++) {
        add_to(pass->d[P_COPY_B], 1, dec->d_keys + p * h, h);
    }
    const real scale = (real)(1.0 / (1.0 - (o->dropout ? config->dropout : 0.0)));
    for (int64_t i = 0; i < n * h; i++) {
        dec->d_states[i] += o->dropout && dec->keep_out[i] == 0 ? 0 : scale * dec->read[i];
    }
    return KM_OK;
}

static km_status start_back(km_ctx *ctx, real_pass *pass, km_error *err) {
    const km_diffks_config *config = pass->plan->config;
    real_decoder *dec = &pass->decoder;
    const int64_t d = width_of(pass), h = config->decoder, e = config->embedding;
    const int64_t n = pass->plan->responses.n;
    const real *g = dec->pair + d;
    real_gemm jobs[3] = {
        km__linear_weights(pass->d[P_INIT], 2 * d, dec->d_starts, h, dec->pair, 2 * d, n, h, 2 * d),
        km__linear_weights(pass->d[P_DEC] + e, e + d, dec->d_extra, 3 * h, g, 2 * d, n, 3 * h, d),
        km__linear_back(dec->d_pair, 2 * d, dec->d_starts, h, pass->w[P_INIT], 2 * d, n, h, 2 * d)};
    jobs[2].add = false;
    KM_TRY(km__gemm_many(ctx, jobs, 3, err));
    jobs[0] = km__linear_back(dec->d_pair + d, 2 * d, dec->d_extra, 3 * h, pass->w[P_DEC] + e,
                              e + d, n, 3 * h, d);
    KM_TRY(km__gemm_many(ctx, jobs, 1, err));
    for (int64_t r = 0; r < n; r++) {
        add_to(pass->d[P_INIT_B], 1, dec->d_starts + r * h, h);
    }
    return KM_OK;
}

/* To q, s and states of the chosen sentences. */
static void scatter(real_pass *pass) {
    const km__plan *plan = pass->plan;
    const real_decoder *dec = &pass->decoder;
    const int64_t d = width_of(pass);
    for (int64_t r = 0; r < plan->responses.n; r++) {
        const int64_t sentence = gold_sentence(pass, r);
        const int64_t first = plan->batch->sentence_offsets[sentence];
        const int64_t words = plan->batch->sentence_offsets[sentence + 1] - first;
        add_to(pass->d_q + plan->responding[r] * d, 1, dec->d_pair + r * 2 * d, d);
        add_to(pass->d_last + sentence * d, 1, dec->d_pair + r * 2 * d + d, d);
        add_to(pass->d_words + first * d, 1, dec->d_source + plan->copy_rows[r] * d, words * d);
    }
}

static void embeddings_back(real_pass *pass, const real_pass_options *o) {
    const km__plan *plan = pass->plan;
    const int64_t e = plan->config->embedding;
    const real scale = (real)(1.0 / (1.0 - (o->dropout ? plan->config->dropout : 0.0)));
    for (int64_t r = 0; r < plan->responses.n; r++) {
        const int32_t *ids = targets_of(pass, r) - 1;
        for (int64_t row = plan->response_rows[r]; row < plan->response_rows[r + 1]; row++) {
            real *to = pass->d[P_E] + ids[row - plan->response_rows[r]] * e;
            for (int64_t i = row * e; i < (row + 1) * e; i++) {
                const bool kept = !o->dropout || pass->decoder.keep[i] != 0;
                to[i - row * e] += kept ? scale * pass->decoder.d_words[i] : 0;
            }
        }
    }
}

km_status km__decode_back(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                          km_error *err) {
    KM_TRY(output_back(ctx, pass, options, err));
    KM_TRY(km__gru_backward(ctx, &pass->decoder.run, 1, err));
    KM_TRY(start_back(ctx, pass, err));
    scatter(pass);
    if (pass->plan->config->train_embedding) {
        embeddings_back(pass, options);
    }
    return KM_OK;
}

/* ---- greedy answers ---- */

typedef struct answer {
    real_pass *pass;
    km_ctx *ctx;
    const int64_t *chosen;
    int32_t *tokens;
    int64_t *lengths, max_words, step;
    real *probabilities;
    real_run run;
    km__sequences seq;
    int64_t *offsets, *order, *copy_rows; /* (T + 1), (T), (T + 1) */
    int32_t *last;                        /* (T) */
    bool *over;                           /* (T) */
    real *words, *state, *pair, *extra, *logits, *source, *keys, *mass;
} answer;

/* Sentences that copies may come from: no turn's is longer than the longest. */
static int64_t longest_sentence(const km__plan *plan) {
    const km__sequences *s = &plan->sentences;
    return s->offsets[s->order[0] + 1] - s->offsets[s->order[0]];
}

static size_t place_answer(answer *a, const km__plan *plan, char *block) {
    const km_diffks_config *config = plan->config;
    const int64_t n = plan->batch->n_turns, d = 2 * config->hidden, h = config->decoder;
    const int64_t copied = n * longest_sentence(plan);
    km__room room = {block, 0};
    a->offsets = km__room_take(&room, n + 1, sizeof(int64_t));
    a->order = km__room_take(&room, n, sizeof(int64_t));
    a->copy_rows = km__room_take(&room, n + 1, sizeof(int64_t));
    a->last = km__room_take(&room, n, sizeof(int32_t));
    a->over = km__room_take(&room, n, sizeof(bool));
    a->words = km__room_take(&room, n * config->embedding, sizeof(real));
    a->state = km__room_take(&room, n * h, sizeof(real));
    a->pair = km__room_take(&room, n * 2 * d, sizeof(real));
    a->extra = km__room_take(&room, n * 3 * h, sizeof(real));
    a->logits = km__room_take(&room, n * config->vocabulary, sizeof(real));
    a->mass = km__room_take(&room, n * config->vocabulary, sizeof(real));
    a->source = km__room_take(&room, copied * d, sizeof(real));
    a->keys = km__room_take(&room, copied * h, sizeof(real));
    a->run.gates = km__room_take(&room, n * 4 * h, sizeof(real));
    a->run.before = km__room_take(&room, n * h, sizeof(real));
    a->run.states = km__room_take(&room, n * h, sizeof(real));
    a->run.last = km__room_take(&room, n * h, sizeof(real));
    a->run.turned = km__room_take(&room, 3 * h * h, sizeof(real));
    a->run.bias = km__room_take(&room, 4 * h, sizeof(real));
    return room.used;
}

size_t km__respond_size(const km__plan *plan) {
    answer a;
    return place_answer(&a, plan, NULL);
}

static int64_t chosen_sentence(const answer *a, int64_t turn) {
    return km__plan_sentence(a->pass->plan, turn, a->chosen[turn]);
}

/* First states, inputs that stay, and keys. */
static km_status begin_answers(answer *a, km_error *err) {
    real_pass *pass = a->pass;
    const km_diffks_config *config = pass->plan->config;
    const int64_t d = width_of(pass), h = config->decoder, e = config->embedding;
    const int64_t n = pass->plan->batch->n_turns;
    const int64_t *sentences = pass->plan->batch->sentence_offsets;
    for (int64_t t = 0; t < n; t++) {
        const int64_t s = chosen_sentence(a, t), pads = km__plan_copy_pads(pass->plan, t, s);
        const int64_t rows = sentences[s + 1] - sentences[s] + (pads > 0);
        a->offsets[t + 1] = t + 1;
        a->order[t] = t;
        a->last[t] = KM_DIFFKS_GO;
        memcpy(a->pair + t * 2 * d, pass->runs[0].last + t * d, (size_t)d * sizeof(real));
        memcpy(a->pair + t * 2 * d + d, pass->runs[1].last + s * d, (size_t)d * sizeof(real));
        memcpy(a->state + t * h, pass->w[P_INIT_B], (size_t)h * sizeof(real));
        gather_source(a->source + a->copy_rows[t] * d, pass, s, rows);
        a->copy_rows[t + 1] = a->copy_rows[t] + rows;
    }
    real_gemm jobs[3] = {
        km__linear(a->state, h, a->pair, 2 * d, pass->w[P_INIT], 2 * d, n, h, 2 * d),
        km__linear(a->extra, 3 * h, a->pair + d, 2 * d, pass->w[P_DEC] + e, e + d, n, 3 * h, d),
        km__linear(a->keys, h, a->source, d, pass->w[P_COPY], d, a->copy_rows[n], h, d)};
    jobs[0].add = true;
    KM_TRY(km__gemm_many(a->ctx, jobs, 3, err));
    finish_keys(a->ctx, a->keys, pass, a->copy_rows[n]);
    return KM_OK;
}

/* mass (V) = what P is proportional to; its sum is returned. */
static double masses(const answer *a, int64_t turn, real *mass) {
    const real_pass *pass = a->pass;
    const int64_t v = pass->plan->config->vocabulary, h = pass->plan->config->decoder;
    const int64_t sentence = chosen_sentence(a, turn);
    const copies c = copies_of(pass, a->keys + a->copy_rows[turn] * h, sentence,
                               km__plan_copy_pads(pass->plan, turn, sentence));
    double total = 0.0;
    for (int64_t i = 0; i < v; i++) {
        const real energy = a->logits[turn * v + i] + pass->w[P_OUT_B][i];
        mass[i] = energy > CAP ? CAP : energy;
    }
    km__exp(a->ctx, mass, v);
    for (int64_t p = 0; p < c.n; p++) {
        real u = km__dot(a->ctx, a->state + turn * h, c.keys + p * h, h);
        u = u > CAP ? CAP : u;
        km__exp(a->ctx, &u, 1);
        mass[copied_id(&c, p)] += u * count_of(&c, p);
    }
    for (int64_t i = 0; i < v; i++) {
        mass[i] += (real)LEAST;
        total += (double)mass[i];
    }
    return total;
}

static km_status next_words(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    answer *a = payload;
    const int64_t v = a->pass->plan->config->vocabulary, n = a->pass->plan->batch->n_turns;
    (void)worker;
    (void)err;
    for (int64_t t = begin; t < end; t++) {
        real *mass = a->mass + t * v;
        const double total = masses(a, t, mass);
        int64_t best = KM_DIFFKS_GO;
        for (int64_t i = best + 1; i < v; i++) {
            best = mass[i] > mass[best] ? i : best;
        }
        for (int64_t i = 0; a->probabilities != NULL && i < v; i++) {
            const double p = (double)mass[i] / total;
            a->probabilities[(a->step * n + t) * v + i] = (real)(p < LEAST ? LEAST : p);
        }
        a->last[t] = (int32_t)best;
        if (!a->over[t]) {
            a->tokens[t * a->max_words + a->step] = (int32_t)best;
            a->lengths[t] = a->step + 1;
            a->over[t] = best == KM_DIFFKS_EOS;
        }
    }
    return KM_OK;
}

static km_status answer_step(answer *a, km_error *err) {
    const real_pass *pass = a->pass;
    const km_diffks_config *config = pass->plan->config;
    const int64_t n = a->seq.n, h = config->decoder, e = config->embedding;
    for (int64_t t = 0; t < n; t++) {
        memcpy(a->words + t * e, pass->w[P_E] + a->last[t] * e, (size_t)e * sizeof(real));
    }
    KM_TRY(km__gru_forward(a->ctx, &a->run, 1, err));
    memcpy(a->state, a->run.last, (size_t)(n * h) * sizeof(real));
    const real_gemm job = km__linear(a->logits, config->vocabulary, a->state, h, pass->w[P_OUT], h,
                                     n, config->vocabulary, h);
    KM_TRY(km__gemm_many(a->ctx, &job, 1, err));
    return km_parallel_for(a->ctx, n, 1, next_words, a, err);
}

static bool all_over(const answer *a) {
    for (int64_t t = 0; t < a->seq.n; t++) {
        if (!a->over[t]) {
            return false;
        }
    }
    return true;
}

km_status km__respond(int32_t *tokens, int64_t *lengths, real *probabilities, km_ctx *ctx,
                      real_pass *pass, const int64_t *chosen, int64_t max_words, char *block,
                      km_error *err) {
    const km_diffks_config *config = pass->plan->config;
    const int64_t n = pass->plan->batch->n_turns, e = config->embedding;
    answer a = {.pass = pass,
                .ctx = ctx,
                .chosen = chosen,
                .tokens = tokens,
                .lengths = lengths,
                .max_words = max_words,
                .probabilities = probabilities};
    const size_t size = place_answer(&a, pass->plan, block);
    memset(block, 0, size);
    memset(tokens, 0, (size_t)(n * max_words) * sizeof *tokens);
    memset(lengths, 0, (size_t)n * sizeof *lengths);
    KM_TRY(begin_answers(&a, err));
    a.seq = (km__sequences){n, n, a.offsets, a.order};
    a.run.seq = &a.seq;
    a.run.w = km__gru_of(pass->w, P_DEC, 1, e, e + width_of(pass), config->decoder);
    a.run.x = a.words;
    a.run.start = a.state;
    a.run.extra = a.extra;
    for (; a.step < max_words && !all_over(&a); a.step++) {
        KM_TRY(answer_step(&a, err));
    }
    return KM_OK;
}
