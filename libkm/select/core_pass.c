/* core_pass.c: one pass over a batch: memory, embeddings and dropout, encoders, losses, and the
 * order of the way back. */
#include <math.h>
#include <string.h>

#include "select/core.h"

#define DROP_GRAIN 8192 /* elements a piece of work */

/* ---- memory ---- */

static real *take(km__room *room, int64_t rows, int64_t columns) {
    return km__room_take(room, rows, (size_t)columns * sizeof(real));
}

/* What a run needs for the way there, and back. */
static void place_run(real_run *run, km__room *room, const km__sequences *seq, bool training) {
    const int64_t h = run->w.hidden, dirs = run->w.dirs;
    run->seq = seq;
    run->gates = take(room, seq->rows, dirs * 4 * h);
    run->before = take(room, seq->rows, dirs * h);
    run->states = take(room, seq->rows, dirs * h);
    run->last = take(room, seq->n, dirs * h);
    run->turned = take(room, dirs * h, 3 * h);
    run->bias = take(room, dirs, 4 * h);
    run->sums = training ? take(room, km__gru_sizes(seq, (int)dirs, h), 1) : NULL;
}

static void place_encoders(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    const int64_t in = km__diffks_input(plan->config), h = plan->config->hidden;
    const km__sequences *seqs[2] = {&plan->contexts, &plan->sentences};
    const int first[2] = {P_CTX, P_SENT};
    for (int i = 0; i < 2; i++) {
        real_run *run = &pass->runs[i];
        run->w = km__gru_of(pass->w, first[i] + 1, 2, in, in, h);
        run->w.h_init = pass->w[first[i]];
        place_run(run, room, seqs[i], plan->training);
        pass->x[i] = take(room, seqs[i]->rows, in);
        run->x = pass->x[i];
        if (plan->training) {
            run->d = km__gru_of(pass->d, first[i] + 1, 2, in, in, h);
            run->d.h_init = pass->d[first[i]];
            pass->keep[i] = km__room_take(room, seqs[i]->rows, (size_t)in);
            const bool wanted = plan->config->vectors == 0 && plan->config->train_embedding;
            pass->d_x[i] = wanted ? take(room, seqs[i]->rows, in) : NULL;
            run->dx = pass->d_x[i];
        }
    }
}

/* Responses go through the candidates' encoder. */
static void place_posterior(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    real_posterior *post = &pass->posterior;
    const int64_t in = km__diffks_input(plan->config), h = plan->config->hidden, d = 2 * h;
    const int64_t n = plan->batch->n_turns;
    post->run.w = pass->runs[1].w;
    place_run(&post->run, room, &plan->responses, plan->training);
    post->run.x = pass->x[2] = take(room, plan->responses.rows, in);
    post->pair = take(room, n, 2 * d);
    post->query = take(room, n, d);
    post->energies = take(room, plan->n_pairs, 1);
    post->chances = take(room, plan->n_pairs, 1);
    post->shares = take(room, plan->n_pairs, 1);
    post->mixture = take(room, n, d);
    post->logits = take(room, n, plan->config->vocabulary);
    post->divergence = km__room_take(room, n, sizeof(double));
    post->bag = km__room_take(room, n, sizeof(double));
    post->n_words = km__room_take(room, n, sizeof(int64_t));
    if (plan->training) {
        post->run.d = pass->runs[1].d;
        pass->keep[2] = km__room_take(room, plan->responses.rows, (size_t)in);
        pass->d_x[2] = plan->config->train_embedding ? take(room, plan->responses.rows, in) : NULL;
        post->run.dx = pass->d_x[2];
        post->d_pair = take(room, n, 2 * d);
        post->d_query = take(room, n, d);
        post->d_mixture = take(room, n, d);
        post->run.d_last = post->d_response = take(room, n, d);
        post->ones = take(room, n, 1);
    }
}

static void place_lists(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    const int64_t d = 2 * plan->config->hidden;
    real_run *run = &pass->runs[2];
    run->w = km__gru_of(pass->w, P_CMP + 1, 2, d, d, plan->config->hidden);
    run->w.h_init = pass->w[P_CMP];
    place_run(run, room, &plan->lists, plan->training);
    run->x = pass->rows;
    if (plan->training) {
        run->d = km__gru_of(pass->d, P_CMP + 1, 2, d, d, plan->config->hidden);
        run->d.h_init = pass->d[P_CMP];
        run->d_states = pass->d_context = take(room, plan->lists.rows, d);
        run->dx = take(room, plan->lists.rows, d);
    }
}

static void place_choosing(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    const int64_t d = 2 * plan->config->hidden;
    pass->rows = take(room, plan->lists.rows, d);
    pass->scores = take(room, plan->n_pairs, 1);
    if (!km__diffks_recalls(plan->config)) {
        return;
    }
    place_lists(pass, room);
    pass->second = take(room, plan->lists.rows, d);
    pass->from = take(room, plan->lists.rows, d);
    pass->past = take(room, plan->sentences.n, d);
    pass->query = take(room, plan->contexts.n, d);
    pass->mixed = take(room, d, d);
    pass->mixed_t = take(room, d, d);
    pass->right_t = take(room, d, d);
    pass->products = take(room, plan->n_terms, d);
    pass->inner = take(room, plan->n_terms, d);
    pass->o = take(room, plan->n_pairs, d);
    pass->outer = take(room, plan->n_pairs, d);
}

static void place_back(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    const int64_t d = 2 * plan->config->hidden, n = plan->batch->n_turns;
    pass->d_scores = take(room, plan->n_pairs, 1);
    pass->d_q = take(room, n, d);
    pass->d_rows = take(room, plan->lists.rows, d);
    pass->d_last = take(room, plan->sentences.n, d);
    pass->runs[0].d_last = pass->d_q;
    pass->runs[1].d_last = pass->d_last;
    if (!km__diffks_recalls(plan->config)) {
        return;
    }
    pass->d_c = take(room, plan->n_pairs, d);
    pass->d_v = take(room, n, d);
    pass->d_query = take(room, n, d);
    pass->d_past = take(room, plan->n_pasts, d);
    pass->d_l = take(room, plan->n_pasts, d);
    pass->past_rows = take(room, plan->n_pasts, d);
    pass->d_second = take(room, plan->lists.rows, d);
    pass->d_from = take(room, plan->lists.rows, d);
}

/* Sum over responses of words times copies. */
static int64_t count_energies(const km__plan *plan) {
    int64_t n = 0;
    for (int64_t r = 0; r < plan->responses.n; r++) {
        n += (plan->response_rows[r + 1] - plan->response_rows[r]) *
             (plan->copy_rows[r + 1] - plan->copy_rows[r]);
    }
    return n;
}

static void place_decoder_back(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    real_decoder *dec = &pass->decoder;
    const int64_t d = 2 * plan->config->hidden, h = plan->config->decoder;
    const int64_t e = plan->config->embedding, n = plan->responses.n, rows = plan->responses.rows;
    dec->keep = km__room_take(room, rows, (size_t)e);
    dec->keep_out = km__room_take(room, rows, (size_t)h);
    dec->d_starts = take(room, n, h);
    dec->d_pair = take(room, n, 2 * d);
    dec->d_extra = take(room, n, 3 * h);
    dec->d_source = take(room, plan->n_copy, d);
    dec->d_keys = take(room, plan->n_copy, h);
    dec->d_states = take(room, rows, h);
    dec->d_words = take(room, rows, e);
    dec->ones = take(room, rows, 1);
    pass->d_words = take(room, plan->sentences.rows, d);
    pass->runs[1].d_states = pass->d_words;
    dec->run.d = km__gru_of(pass->d, P_DEC, 1, e, e + d, h);
    dec->run.d_states = dec->d_states;
    dec->run.d_start = dec->d_starts;
    dec->run.d_extra = dec->d_extra;
    dec->run.dx = dec->d_words;
}

static void place_decoder(real_pass *pass, km__room *room) {
    const km__plan *plan = pass->plan;
    real_decoder *dec = &pass->decoder;
    const int64_t d = 2 * plan->config->hidden, h = plan->config->decoder;
    const int64_t e = plan->config->embedding, n = plan->responses.n, rows = plan->responses.rows;
    dec->run.w = km__gru_of(pass->w, P_DEC, 1, e, e + d, h);
    place_run(&dec->run, room, &plan->responses, plan->training);
    dec->words = take(room, rows, e);
    dec->starts = take(room, n, h);
    dec->pair = take(room, n, 2 * d);
    dec->extra = take(room, n, 3 * h);
    dec->read = take(room, rows, h);
    dec->logits = take(room, rows, plan->config->vocabulary);
    dec->source = take(room, plan->n_copy, d);
    dec->keys = take(room, plan->n_copy, h);
    dec->copy_energy = take(room, count_energies(plan), 1);
    dec->copy_places = km__room_take(room, n + 1, sizeof(int64_t));
    dec->nll = km__room_take(room, n, sizeof(double));
    dec->n_words = km__room_take(room, n, sizeof(int64_t));
    dec->run.x = dec->words;
    dec->run.start = dec->starts;
    dec->run.extra = dec->extra;
    if (plan->training) {
        place_decoder_back(pass, room);
    }
}

size_t km__pass_lay_out(real_pass *pass, km__plan *plan, real *const *w, real *const *d,
                        char *block) {
    km__room room = {block, 0};
    *pass = (real_pass){.plan = plan, .w = w, .d = d};
    place_encoders(pass, &room);
    place_choosing(pass, &room);
    if (plan->training) {
        place_back(pass, &room);
    }
    if (plan->decode) {
        place_decoder(pass, &room);
    }
    if (plan->posterior) {
        place_posterior(pass, &room);
    }
    return room.used;
}

/* ---- embeddings and dropout ---- */

/* Two elements a random number: kept where their half of it is not below p 2^32. */
void km__drop(real *x, uint8_t *keep, int64_t first, int64_t n, double p, uint64_t seed,
              uint64_t stream) {
    const uint32_t bound = (uint32_t)(p * 4294967296.0);
    const real scale = (real)(1.0 / (1.0 - p));
    uint64_t bits = km_random_u64(seed, stream, (uint64_t)first / 2);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t at = (uint64_t)(first + i);
        bits = i > 0 && at % 2 == 0 ? km_random_u64(seed, stream, at / 2) : bits;
        keep[i] = (uint32_t)(at % 2 == 0 ? bits : bits >> 32) >= bound;
        x[i] = keep[i] != 0 ? x[i] * scale : 0;
    }
}

typedef struct drop_work {
    real *x;
    uint8_t *keep;
    int64_t n;
    double p;
    uint64_t seed, stream;
} drop_work;

static km_status drop_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const drop_work *w = payload;
    (void)worker;
    (void)err;
    km__drop(w->x + begin, w->keep + begin, begin, end - begin, w->p, w->seed, w->stream);
    return KM_OK;
}

static const real_run *encoder_run(const real_pass *pass, int which) {
    return which < 2 ? &pass->runs[which] : &pass->posterior.run;
}

static const int32_t *ids_of(const real_pass *pass, int which) {
    const km_diffks_batch *b = pass->plan->batch;
    return which == 0 ? b->context_tokens : which == 1 ? b->sentence_tokens : b->response_tokens;
}

/* What encoders read: 0 contexts, 1 sentences, 2 the posterior's responses. */
static km_status embed(km_ctx *ctx, real_pass *pass, int which, const real_pass_options *o,
                       km_error *err) {
    const km_diffks_batch *b = pass->plan->batch;
    const km_diffks_config *config = pass->plan->config;
    const int64_t in = km__diffks_input(config), rows = encoder_run(pass, which)->seq->rows;
    const int32_t *ids = ids_of(pass, which);
    const float *vectors = which == 0 ? b->context_vectors : b->sentence_vectors;
    for (int64_t i = 0; i < rows && config->vectors == 0; i++) {
        memcpy(pass->x[which] + i * in, pass->w[P_E] + ids[i] * in, (size_t)in * sizeof(real));
    }
    for (int64_t i = 0; i < rows * in && config->vectors > 0; i++) {
        pass->x[which][i] = (real)vectors[i];
    }
    if (!o->dropout) {
        return KM_OK;
    }
    drop_work w = {pass->x[which],  pass->keep[which], rows * in,
                   config->dropout, o->seed,           8 * o->step + (uint64_t)which};
    return km_parallel_for(ctx, w.n, DROP_GRAIN, drop_range, &w, err);
}

km_status km__encode(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                     km_error *err) {
    KM_TRY(embed(ctx, pass, 0, options, err));
    KM_TRY(embed(ctx, pass, 1, options, err));
    if (pass->plan->posterior) {
        KM_TRY(embed(ctx, pass, 2, options, err));
        KM_TRY(km__gru_forward(ctx, &pass->posterior.run, 1, err));
    }
    return km__gru_forward(ctx, pass->runs, 2, err);
}

static void embeddings_back(real_pass *pass, int which, const real_pass_options *o) {
    const int64_t in = km__diffks_input(pass->plan->config);
    const int32_t *ids = ids_of(pass, which);
    const real scale = (real)(1.0 / (1.0 - (o->dropout ? pass->plan->config->dropout : 0.0)));
    for (int64_t i = 0; i < encoder_run(pass, which)->seq->rows; i++) {
        real *to = pass->d[P_E] + ids[i] * in;
        const real *from = pass->d_x[which] + i * in;
        const uint8_t *keep = pass->keep[which] + i * in;
        for (int64_t j = 0; j < in; j++) {
            to[j] += o->dropout ? scale * from[j] * (real)keep[j] : from[j];
        }
    }
}

/* ---- the selection loss ---- */

/* -log softmax(scores)[gold] times `scale`; `last` counts so many times. d (n) NULL: not wanted. */
static double cross_entropy(const real *scores, real *d, int64_t n, double last, int64_t gold,
                            double scale) {
    double most = (double)scores[0], total = 0.0;
    for (int64_t j = 1; j < n; j++) {
        most = (double)scores[j] > most ? (double)scores[j] : most;
    }
    for (int64_t j = 0; j < n; j++) {
        total += exp((double)scores[j] - most) * (j == n - 1 ? last : 1.0);
    }
    for (int64_t j = 0; d != NULL && j < n; j++) {
        const double p = exp((double)scores[j] - most) / total * (j == n - 1 ? last : 1.0);
        d[j] = (real)(scale * (p - (j == gold ? 1.0 : 0.0)));
    }
    return scale * (log(total) + most - (double)scores[gold]);
}

static bool gold_is_best(const real *scores, int64_t k, int64_t gold, bool allow_none) {
    for (int64_t j = allow_none ? 0 : 1; j < k; j++) {
        if (scores[j] > scores[gold] || (scores[j] == scores[gold] && j < gold)) {
            return false;
        }
    }
    return true;
}

static void count_hits(km_diffks_losses *out, const real_pass *pass, const real_pass_options *o) {
    const km__plan *plan = pass->plan;
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        const int64_t gold = plan->batch->gold[t];
        if (gold > 0) {
            out->n_labelled++;
            out->n_correct += gold_is_best(pass->scores + plan->pairs[t],
                                           km__plan_candidates(plan, t), gold, o->user.allow_none);
        }
    }
}

static void selection_loss(km_diffks_losses *out, real_pass *pass) {
    const km__plan *plan = pass->plan;
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        const int64_t first = plan->pairs[t], n = plan->pairs[t + 1] - first;
        const int64_t gold = plan->batch->gold[t];
        real *d = plan->training ? pass->d_scores + first : NULL;
        if (gold > 0) {
            const double mean = 1.0 / (double)plan->labelled[plan->level[t]];
            out->selection_loss +=
                cross_entropy(pass->scores + first, d, n,
                              plan->pads[t] > 0 ? (double)plan->pads[t] : 1.0, gold, mean);
        } else if (d != NULL) {
            memset(d, 0, (size_t)n * sizeof(real));
        }
    }
}

static void word_loss(km_diffks_losses *out, const real_pass *pass) {
    const int64_t n = pass->plan->responses.n;
    int64_t counted = 0;
    for (int64_t r = 0; r < n; r++) {
        out->word_loss += pass->decoder.nll[r];
        out->n_words += pass->decoder.n_words[r];
        counted += pass->decoder.n_words[r] > 0;
        out->perplexity += pass->decoder.n_words[r] > 0 ? exp(pass->decoder.nll[r]) : 0.0;
    }
    out->perplexity /= counted > 0 ? (double)counted : 1.0;
}

km_status km__pass_judge(km_diffks_losses *out, km_ctx *ctx, real_pass *pass,
                         const real_pass_options *options, km_error *err) {
    memset(out, 0, sizeof *out);
    KM_TRY(km__choose(ctx, pass, options, err));
    if (pass->plan->losses) {
        count_hits(out, pass, options);
    }
    if (pass->plan->posterior) {
        KM_TRY(km__posterior(out, ctx, pass, options, err));
    } else if (pass->plan->losses) {
        selection_loss(out, pass);
    }
    if (pass->plan->decode) {
        KM_TRY(km__decode(ctx, pass, options, err));
        word_loss(out, pass);
    }
    out->loss = out->selection_loss + options->user.word_weight * out->word_loss;
    return KM_OK;
}

km_status km__pass_back(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                        km_error *err) {
    const km__plan *plan = pass->plan;
    const int64_t d = 2 * plan->config->hidden;
    memset(pass->d_last, 0, (size_t)(plan->sentences.n * d) * sizeof(real));
    KM_TRY(km__choose_back(ctx, pass, err));
    if (plan->decode) {
        memset(pass->d_words, 0, (size_t)(plan->sentences.rows * d) * sizeof(real));
        KM_TRY(km__decode_back(ctx, pass, options, err));
    }
    if (plan->posterior) {
        KM_TRY(km__posterior_back(ctx, pass, options, err));
        KM_TRY(km__gru_backward(ctx, &pass->posterior.run, 1, err));
    }
    KM_TRY(km__gru_backward(ctx, pass->runs, 2, err));
    for (int i = 0; i < 3; i++) {
        if (pass->d_x[i] != NULL) {
            embeddings_back(pass, i, options);
        }
    }
    return KM_OK;
}
