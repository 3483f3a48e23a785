/* plan.c: checks a batch of dialogues and lays out the places of a pass over it. */
#include "select/plan.h"

#include <string.h>

/* ---- checks ---- */

/* n + 1 offsets that rise from 0, in steps of at least `least`. */
static km_status check_offsets(const int64_t *offsets, int64_t n, int64_t least, const char *name,
                               km_error *err) {
    if (offsets == NULL || offsets[0] != 0) {
        return KM_SET(err, KM_EINVAL, "%s must begin with 0", name);
    }
    for (int64_t i = 0; i < n; i++) {
        if (offsets[i + 1] - offsets[i] < least) {
            return KM_SET(err, KM_EINVAL, "%s[%lld] is %lld after %lld; it must be at least %lld",
                          name, (long long)i + 1, (long long)offsets[i + 1], (long long)offsets[i],
                          (long long)(offsets[i] + least));
        }
    }
    return KM_OK;
}

static km_status check_ids(const int32_t *ids, int64_t n, int64_t vocabulary, const char *name,
                           km_error *err) {
    if (ids == NULL && n > 0) {
        return KM_SET(err, KM_EINVAL, "%s is missing", name);
    }
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocabulary) {
            return KM_SET(err, KM_EINVAL, "%s[%lld] is %d; the vocabulary has %lld words", name,
                          (long long)i, ids[i], (long long)vocabulary);
        }
    }
    return KM_OK;
}

static km_status check_indices(const int64_t *indices, int64_t n, int64_t bound, const char *name,
                               const char *things, km_error *err) {
    if (indices == NULL && n > 0) {
        return KM_SET(err, KM_EINVAL, "%s is missing", name);
    }
    for (int64_t i = 0; i < n; i++) {
        if (indices[i] < 0 || indices[i] >= bound) {
            return KM_SET(err, KM_EINVAL, "%s[%lld] is %lld; there are %lld %s", name, (long long)i,
                          (long long)indices[i], (long long)bound, things);
        }
    }
    return KM_OK;
}

static km_status check_counts(const km_diffks_batch *b, km_error *err) {
    const int64_t most = INT32_MAX;
    if (b->n_sentences < 1 || b->n_lists < 1 || b->n_dialogues < 1 || b->n_turns < 1) {
        return KM_SET(err, KM_EINVAL, "a batch needs sentences, lists, dialogues and turns");
    }
    if (b->n_sentences > most || b->n_lists > most || b->n_turns > most) {
        return KM_SET(err, KM_EINVAL, "a batch of more than %lld things", (long long)most);
    }
    return KM_OK;
}

static km_status check_candidates(const km_diffks_batch *b, km_error *err) {
    KM_TRY(check_offsets(b->list_offsets, b->n_lists, 1, "list_offsets", err));
    KM_TRY(check_indices(b->list_sentences, b->list_offsets[b->n_lists], b->n_sentences,
                         "list_sentences", "sentences", err));
    KM_TRY(check_offsets(b->dialogue_offsets, b->n_dialogues, 1, "dialogue_offsets", err));
    if (b->dialogue_offsets[b->n_dialogues] != b->n_turns) {
        return KM_SET(err, KM_EINVAL, "dialogue_offsets end at %lld; there are %lld turns",
                      (long long)b->dialogue_offsets[b->n_dialogues], (long long)b->n_turns);
    }
    return check_indices(b->turn_lists, b->n_turns, b->n_lists, "turn_lists", "lists", err);
}

static km_status check_words(const km_diffks_batch *b, const km_diffks_config *config,
                             km_error *err) {
    const int64_t v = config->vocabulary;
    KM_TRY(check_offsets(b->sentence_offsets, b->n_sentences, 0, "sentence_offsets", err));
    KM_TRY(check_offsets(b->context_offsets, b->n_turns, 0, "context_offsets", err));
    const int64_t in_sentences = b->sentence_offsets[b->n_sentences];
    const int64_t in_contexts = b->context_offsets[b->n_turns];
    KM_TRY(check_ids(b->sentence_tokens, in_sentences, v, "sentence_tokens", err));
    KM_TRY(check_ids(b->context_tokens, in_contexts, v, "context_tokens", err));
    if (config->vectors > 0 && ((b->sentence_vectors == NULL && in_sentences > 0) ||
                                (b->context_vectors == NULL && in_contexts > 0))) {
        return KM_SET(err, KM_EINVAL,
                      "the model reads vectors: sentence_vectors or context_vectors is missing");
    }
    if (config->match && (b->word_matches == NULL || b->sentence_matches == NULL)) {
        return KM_SET(err, KM_EINVAL,
                      "the model matches: word_matches or sentence_matches is missing");
    }
    if (b->response_offsets != NULL) {
        KM_TRY(check_offsets(b->response_offsets, b->n_turns, 0, "response_offsets", err));
        KM_TRY(check_ids(b->response_tokens, b->response_offsets[b->n_turns], v, "response_tokens",
                         err));
    }
    if (b->history_offsets != NULL) {
        KM_TRY(check_offsets(b->history_offsets, b->n_turns, 0, "history_offsets", err));
        KM_TRY(check_indices(b->history_sentences, b->history_offsets[b->n_turns], b->n_sentences,
                             "history_sentences", "sentences", err));
    }
    return KM_OK;
}

/* Whether a turn's history needs gold choices. */
static bool needs_gold(const km_diffks_batch *b, const km_diffks_config *config,
                       km__plan_wish wish) {
    const bool several = b->n_turns > b->n_dialogues && km__diffks_recalls(config);
    return wish.losses || (several && b->history_offsets == NULL && wish.history != KM_DIFFKS_OWN);
}

static km_status check_gold(const km_diffks_batch *b, const km_diffks_config *config,
                            km__plan_wish wish, km_error *err) {
    if (b->gold == NULL) {
        return needs_gold(b, config, wish) ? KM_SET(err, KM_EINVAL, "gold is missing") : KM_OK;
    }
    for (int64_t t = 0; t < b->n_turns; t++) {
        const int64_t *list = b->list_offsets + b->turn_lists[t];
        if (b->gold[t] < 0 || b->gold[t] >= list[1] - list[0]) {
            return KM_SET(err, KM_EINVAL, "gold[%lld] is %lld; its list has %lld candidates",
                          (long long)t, (long long)b->gold[t], (long long)(list[1] - list[0]));
        }
    }
    return KM_OK;
}

/* ---- memory ---- */

void *km__room_take(km__room *room, int64_t n, size_t size) {
    size_t bytes = 0, total = 0;
    if (room->used == SIZE_MAX || !km_size_mul(&bytes, (size_t)n, size) ||
        !km_size_add(&total, bytes, room->used + 63)) {
        room->used = SIZE_MAX;
        return NULL;
    }
    void *out = room->block == NULL ? NULL : room->block + room->used;
    room->used = total / 64 * 64;
    return out;
}

static km_status integers(int64_t **out, km__plan *plan, int64_t n, km_error *err) {
    void *block = NULL;
    size_t size = 0;
    if (!km_size_mul(&size, (size_t)n, sizeof(int64_t))) {
        return KM_SET(err, KM_ENOMEM, "a plan of %lld places", (long long)n);
    }
    KM_TRY(km_arena_alloc(&block, plan->arena, size, err));
    memset(block, 0, size);
    *out = block;
    return KM_OK;
}

/* ---- sequences ---- */

/* Counting sort by length, the longest first; equal ones stay in order. */
static km_status order_sequences(km__sequences *out, km__plan *plan, const int64_t *offsets,
                                 int64_t n, km_error *err) {
    int64_t longest = 0, *starts = NULL;
    *out = (km__sequences){.n = n, .rows = offsets[n], .offsets = offsets};
    for (int64_t i = 0; i < n; i++) {
        const int64_t length = offsets[i + 1] - offsets[i];
        longest = length > longest ? length : longest;
    }
    KM_TRY(integers(&out->order, plan, n, err));
    KM_TRY(integers(&starts, plan, longest + 2, err));
    for (int64_t i = 0; i < n; i++) {
        starts[longest - (offsets[i + 1] - offsets[i]) + 1]++;
    }
    for (int64_t l = 0; l <= longest; l++) {
        starts[l + 1] += starts[l];
    }
    for (int64_t i = 0; i < n; i++) {
        out->order[starts[longest - (offsets[i + 1] - offsets[i])]++] = i;
    }
    return KM_OK;
}

/* ---- turns ---- */

static void number_turns(km__plan *plan) {
    const km_diffks_batch *b = plan->batch;
    const bool history = km__diffks_recalls(plan->config);
    for (int64_t d = 0; d < b->n_dialogues; d++) {
        const int64_t first = b->dialogue_offsets[d];
        for (int64_t t = first; t < b->dialogue_offsets[d + 1]; t++) {
            const int64_t given = b->history_offsets == NULL
                                      ? t - first
                                      : b->history_offsets[t + 1] - b->history_offsets[t];
            plan->level[t] = t - first;
            plan->n_levels = t - first >= plan->n_levels ? t - first + 1 : plan->n_levels;
            plan->n_past[t] = !history                        ? 0
                              : given < plan->config->history ? given
                                                              : plan->config->history;
        }
    }
}

/* In the authors' arithmetic the batch's tensor of scores is as wide as the longest list: of all
 * turns for the first, of the same turn number for others. */
static km_status count_pads(km__plan *plan, km_error *err) {
    int64_t *width = NULL;
    KM_TRY(integers(&width, plan, plan->n_levels, err));
    if (!plan->losses || plan->config->mask_padding) {
        return KM_OK;
    }
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        const int64_t n = km__plan_candidates(plan, t);
        int64_t *own = &width[plan->level[t]];
        *own = n > *own ? n : *own;
        width[0] = n > width[0] ? n : width[0];
    }
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        plan->pads[t] = width[plan->level[t]] - km__plan_candidates(plan, t);
    }
    return KM_OK;
}

static void place_turns(km__plan *plan) {
    for (int64_t t = 0; t < plan->batch->n_turns; t++) {
        const int64_t pairs = km__plan_candidates(plan, t) + (plan->pads[t] > 0);
        plan->candidates[t + 1] = plan->candidates[t] + km__plan_candidates(plan, t);
        plan->pairs[t + 1] = plan->pairs[t] + pairs;
        plan->past_rows[t + 1] = plan->past_rows[t] + plan->n_past[t];
        plan->terms[t + 1] = plan->terms[t] + pairs * plan->n_past[t];
    }
    plan->n_pairs = plan->pairs[plan->batch->n_turns];
    plan->n_pasts = plan->past_rows[plan->batch->n_turns];
    plan->n_terms = plan->terms[plan->batch->n_turns];
}

/* Turns sorted by a key: ends (keys + 1) becomes where each key's turns begin. */
static void sort_turns(int64_t *out, int64_t *begins, const int64_t *key, int64_t n_keys,
                       int64_t n) {
    for (int64_t t = 0; t < n; t++) {
        begins[key[t] + 1]++;
    }
    for (int64_t k = 0; k < n_keys; k++) {
        begins[k + 1] += begins[k];
    }
    for (int64_t t = 0; t < n; t++) {
        out[begins[key[t]]++] = t;
    }
    for (int64_t k = n_keys; k > 0; k--) {
        begins[k] = begins[k - 1];
    }
    begins[0] = 0;
}

static void fill_given_past(km__plan *plan) {
    const km_diffks_batch *b = plan->batch;
    for (int64_t t = 0; b->history_offsets != NULL && t < b->n_turns; t++) {
        for (int64_t m = 0; m < plan->n_past[t]; m++) {
            plan->past[t * plan->config->history + m] =
                b->history_sentences[b->history_offsets[t] + m];
        }
    }
}

void km__plan_choose(km__plan *plan, int64_t turn, int64_t choice) {
    const km_diffks_batch *b = plan->batch;
    const int64_t most = plan->config->history;
    const int64_t sentence = km__plan_sentence(plan, turn, choice);
    plan->chosen[turn] = choice;
    for (int64_t m = 0; b->history_offsets == NULL && m < most; m++) {
        const int64_t later = turn + 1 + m;
        if (later < b->n_turns && plan->level[later] == plan->level[turn] + 1 + m) {
            plan->past[later * most + m] = sentence;
        } else {
            break;
        }
    }
}

static int64_t sentence_length(const km_diffks_batch *b, int64_t sentence) {
    return b->sentence_offsets[sentence + 1] - b->sentence_offsets[sentence];
}

/* The longest candidate of each turn number: as wide as the authors' tensor is. */
static void widest_sentences(km__plan *plan) {
    for (int64_t t = 0; !plan->config->mask_padding && t < plan->batch->n_turns; t++) {
        int64_t *own = &plan->widths[plan->level[t]];
        for (int64_t j = 0; j < km__plan_candidates(plan, t); j++) {
            const int64_t n = sentence_length(plan->batch, km__plan_sentence(plan, t, j));
            *own = n > *own ? n : *own;
        }
    }
}

static km_status plan_turns(km__plan *plan, km_error *err) {
    const km_diffks_batch *b = plan->batch;
    const int64_t n = b->n_turns;
    KM_TRY(integers(&plan->level, plan, n, err));
    KM_TRY(integers(&plan->n_past, plan, n, err));
    KM_TRY(integers(&plan->pads, plan, n, err));
    KM_TRY(integers(&plan->past, plan, n * plan->config->history, err));
    KM_TRY(integers(&plan->candidates, plan, n + 1, err));
    KM_TRY(integers(&plan->pairs, plan, n + 1, err));
    KM_TRY(integers(&plan->past_rows, plan, n + 1, err));
    KM_TRY(integers(&plan->terms, plan, n + 1, err));
    KM_TRY(integers(&plan->chosen, plan, n, err));
    KM_TRY(integers(&plan->by_level, plan, n, err));
    KM_TRY(integers(&plan->by_list, plan, n, err));
    KM_TRY(integers(&plan->list_turns, plan, b->n_lists + 1, err));
    number_turns(plan);
    KM_TRY(integers(&plan->level_offsets, plan, plan->n_levels + 1, err));
    KM_TRY(integers(&plan->labelled, plan, plan->n_levels, err));
    KM_TRY(integers(&plan->widths, plan, plan->n_levels, err));
    KM_TRY(count_pads(plan, err));
    place_turns(plan);
    sort_turns(plan->by_level, plan->level_offsets, plan->level, plan->n_levels, n);
    sort_turns(plan->by_list, plan->list_turns, b->turn_lists, b->n_lists, n);
    fill_given_past(plan);
    widest_sentences(plan);
    for (int64_t t = 0; t < n && b->gold != NULL; t++) {
        plan->labelled[plan->level[t]] += b->gold[t] > 0;
    }
    return KM_OK;
}

/* ---- responses ---- */

static int64_t response_length(const km_diffks_batch *b, int64_t turn) {
    return b->response_offsets[turn + 1] - b->response_offsets[turn];
}

static km_status plan_responses(km__plan *plan, km_error *err) {
    const km_diffks_batch *b = plan->batch;
    int64_t n = 0, at = 0;
    for (int64_t t = 0; t < b->n_turns; t++) {
        n += response_length(b, t) > 1;
    }
    KM_TRY(integers(&plan->responding, plan, n, err));
    KM_TRY(integers(&plan->response_rows, plan, n + 1, err));
    KM_TRY(integers(&plan->copy_rows, plan, n + 1, err));
    KM_TRY(integers(&plan->copy_pads, plan, n, err));
    for (int64_t t = 0; t < b->n_turns; t++) {
        if (response_length(b, t) > 1) {
            const int64_t sentence = km__plan_sentence(plan, t, b->gold[t]);
            const int64_t pads = km__plan_copy_pads(plan, t, sentence);
            plan->responding[at] = t;
            plan->copy_pads[at] = pads;
            plan->response_rows[at + 1] = plan->response_rows[at] + response_length(b, t) - 1;
            plan->copy_rows[at + 1] =
                plan->copy_rows[at] + sentence_length(b, sentence) + (pads > 0);
            at++;
        }
    }
    plan->n_copy = plan->copy_rows[n];
    return order_sequences(&plan->responses, plan, plan->response_rows, n, err);
}

/* ---- the plan ---- */

static km_status check_batch(const km_diffks_batch *b, const km_diffks_config *config,
                             km__plan_wish wish, km_error *err) {
    KM_TRY(check_counts(b, err));
    KM_TRY(check_candidates(b, err));
    KM_TRY(check_words(b, config, err));
    if (wish.losses && config->variant == KM_DIFFKS_POSTERIOR && b->response_offsets == NULL) {
        return KM_SET(err, KM_EINVAL,
                      "response_offsets is missing: the posterior reads the responses");
    }
    return check_gold(b, config, wish, err);
}

km_status km__plan_new(km__plan *out, km_ctx *ctx, const km_diffks_config *config,
                       const km_diffks_batch *batch, km__plan_wish wish, km_error *err) {
    km_status status = KM_OK;
    km__plan plan = {.config = config,
                     .batch = batch,
                     .losses = wish.losses,
                     .training = wish.training,
                     .decode = wish.losses && config->generate && batch->response_offsets != NULL,
                     .posterior = wish.losses && config->variant == KM_DIFFKS_POSTERIOR};
    KM_TRY(check_batch(batch, config, wish, err));
    KM_TRY(km_arena_new(&plan.arena, ctx, err));
    KM_GO(plan_turns(&plan, err));
    KM_GO(order_sequences(&plan.contexts, &plan, batch->context_offsets, batch->n_turns, err));
    KM_GO(
        order_sequences(&plan.sentences, &plan, batch->sentence_offsets, batch->n_sentences, err));
    KM_GO(order_sequences(&plan.lists, &plan, batch->list_offsets, batch->n_lists, err));
    if (plan.decode) {
        KM_GO(plan_responses(&plan, err));
    }
    if (plan.posterior) {
        KM_GO(
            order_sequences(&plan.responses, &plan, batch->response_offsets, batch->n_turns, err));
    }
    *out = plan;
    plan.arena = NULL;
done:
    km__plan_free(&plan);
    return status;
}

void km__plan_free(km__plan *plan) {
    km_arena_free(plan->arena);
    plan->arena = NULL;
}

/* ---- shapes ---- */

static const char *const NAMES[P_COUNT] = {
    "E",
    "ctx.h_init",
    "ctx.weight_ih_l0",
    "ctx.weight_hh_l0",
    "ctx.bias_ih_l0",
    "ctx.bias_hh_l0",
    "ctx.weight_ih_l0_reverse",
    "ctx.weight_hh_l0_reverse",
    "ctx.bias_ih_l0_reverse",
    "ctx.bias_hh_l0_reverse",
    "sent.h_init",
    "sent.weight_ih_l0",
    "sent.weight_hh_l0",
    "sent.bias_ih_l0",
    "sent.bias_hh_l0",
    "sent.weight_ih_l0_reverse",
    "sent.weight_hh_l0_reverse",
    "sent.bias_ih_l0_reverse",
    "sent.bias_hh_l0_reverse",
    "cmp.h_init",
    "cmp.weight_ih_l0",
    "cmp.weight_hh_l0",
    "cmp.bias_ih_l0",
    "cmp.bias_hh_l0",
    "cmp.weight_ih_l0_reverse",
    "cmp.weight_hh_l0_reverse",
    "cmp.bias_ih_l0_reverse",
    "cmp.bias_hh_l0_reverse",
    "tilde.weight",
    "tilde.bias",
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "init.weight",
    "init.bias",
    "dec.weight_ih_l0",
    "dec.weight_hh_l0",
    "dec.bias_ih_l0",
    "dec.bias_hh_l0",
    "out.weight",
    "out.bias",
    "copy.weight",
    "copy.bias",
    "match.weight",
    "post.weight",
    "post.bias",
    "bow.weight",
    "bow.bias",
};

static void set_shape(km__shape *shapes, int index, int n_dims, int64_t a, int64_t b, int64_t c) {
    shapes[index] = (km__shape){NAMES[index], n_dims, {a, b, c}, a * b * c};
}

/* One direction, from weight_ih on. */
static void set_direction(km__shape *shapes, int first, int64_t in, int64_t hidden) {
    set_shape(shapes, first, 2, 3 * hidden, in, 1);
    set_shape(shapes, first + 1, 2, 3 * hidden, hidden, 1);
    set_shape(shapes, first + 2, 1, 3 * hidden, 1, 1);
    set_shape(shapes, first + 3, 1, 3 * hidden, 1, 1);
}

static void set_encoder(km__shape *shapes, int first, int64_t in, int64_t hidden) {
    set_shape(shapes, first, 3, 2, 1, hidden);
    set_direction(shapes, first + 1, in, hidden);
    set_direction(shapes, first + 5, in, hidden);
}

void km__diffks_shapes(km__shape *shapes, const km_diffks_config *config) {
    const int64_t d = 2 * config->hidden, in = km__diffks_input(config);
    const int64_t e = config->embedding, h = config->decoder, v = config->vocabulary;
    memset(shapes, 0, P_COUNT * sizeof *shapes);
    set_encoder(shapes, P_CTX, in, config->hidden);
    set_encoder(shapes, P_SENT, in, config->hidden);
    if (config->vectors == 0 || config->generate) {
        set_shape(shapes, P_E, 2, v, e, 1);
    }
    if (km__diffks_recalls(config)) {
        set_encoder(shapes, P_CMP, d, config->hidden);
        set_shape(shapes, P_TILDE, 2, d, 2 * d, 1);
        set_shape(shapes, P_TILDE_B, 1, d, 1, 1);
        set_shape(shapes, P_ATTN_Q, 2, d, d, 1);
        set_shape(shapes, P_ATTN_K, 2, d, 2 * d, 1);
        set_shape(shapes, P_ATTN_V, 2, 1, d, 1);
    }
    if (config->generate) {
        set_shape(shapes, P_INIT, 2, h, 2 * d, 1);
        set_shape(shapes, P_INIT_B, 1, h, 1, 1);
        set_direction(shapes, P_DEC, e + d, h);
        set_shape(shapes, P_OUT, 2, v, h, 1);
        set_shape(shapes, P_OUT_B, 1, v, 1, 1);
        set_shape(shapes, P_COPY, 2, h, d, 1);
        set_shape(shapes, P_COPY_B, 1, h, 1, 1);
    }
    if (config->match) {
        set_shape(shapes, P_MATCH, 1, 3, 1, 1);
    }
    if (config->variant == KM_DIFFKS_POSTERIOR) {
        set_shape(shapes, P_POST, 2, d, 2 * d, 1);
        set_shape(shapes, P_POST_B, 1, d, 1, 1);
        set_shape(shapes, P_BOW, 2, v, d, 1);
        set_shape(shapes, P_BOW_B, 1, v, 1, 1);
    }
}
