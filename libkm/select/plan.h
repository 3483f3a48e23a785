/* plan.h: what a pass over a batch of dialogues runs: lengths, orders and places, without numbers.
 *
 * Places: a list row is one candidate of one list; a pair is one candidate of one turn (and, in the
 * authors' arithmetic, one more that stands for the padded ones); a past is one earlier choice of
 * one turn; a term is one pair with one past, at terms[t] + m pairs_of_t + j.
 */
#ifndef KM_SELECT_PLAN_H
#define KM_SELECT_PLAN_H

#include "base/base.h"
#include "km/select.h"

/* The parameters in order. A GRU has h_init, then weight_ih, weight_hh, bias_ih, bias_hh a
 * direction. */
enum {
    P_E = 0,
    P_CTX,
    P_SENT = P_CTX + 9,
    P_CMP = P_SENT + 9,
    P_TILDE = P_CMP + 9,
    P_TILDE_B,
    P_ATTN_Q,
    P_ATTN_K,
    P_ATTN_V,
    P_INIT,
    P_INIT_B,
    P_DEC, /* no h_init */
    P_OUT = P_DEC + 4,
    P_OUT_B,
    P_COPY,
    P_COPY_B,
    P_MATCH,
    P_POST,
    P_POST_B,
    P_BOW,
    P_BOW_B,
    P_COUNT
};

typedef struct km__shape {
    const char *name;
    int n_dims;
    int64_t dims[3], n; /* n 0: the configuration does not have it */
} km__shape;

/* shapes (P_COUNT) */
void km__diffks_shapes(km__shape *shapes, const km_diffks_config *config);

/* Whether earlier choices have a say in the scores. */
static inline bool km__diffks_recalls(const km_diffks_config *config) {
    return config->variant == KM_DIFFKS_FUSED || config->variant == KM_DIFFKS_DISENTANGLED;
}

/* Width of what the encoders read. */
static inline int64_t km__diffks_input(const km_diffks_config *config) {
    return config->vectors > 0 ? config->vectors : config->embedding;
}

typedef struct km__sequences {
    int64_t n, rows;
    const int64_t *offsets; /* (n + 1) */
    int64_t *order;         /* (n) the longest first */
} km__sequences;

typedef struct km__plan {
    const km_diffks_config *config;
    const km_diffks_batch *batch;
    km_arena *arena;
    bool losses, training, decode;
    bool posterior; /* losses are those of the posterior variant */
    km__sequences contexts, sentences, lists;
    km__sequences responses; /* those that are decoded; posterior: of all turns, with go and end */
    int64_t n_pairs, n_pasts, n_terms, n_levels, n_copy;
    int64_t *level;         /* (T) number of the turn in its dialogue */
    int64_t *candidates;    /* (T + 1) where those of each turn begin */
    int64_t *pairs;         /* (T + 1) */
    int64_t *pads;          /* (T) padded candidates, which the last pair stands for; 0: none */
    int64_t *n_past;        /* (T) */
    int64_t *past;          /* (T, M) sentences; those after n_past mean nothing */
    int64_t *past_rows;     /* (T + 1) */
    int64_t *terms;         /* (T + 1) */
    int64_t *by_level;      /* (T) turns, level by level */
    int64_t *level_offsets; /* (levels + 1) */
    int64_t *labelled;      /* (levels) turns with gold > 0 */
    int64_t *widths;        /* (levels) the longest candidate, where padding counts; else 0 */
    int64_t *by_list;       /* (T) turns, list by list */
    int64_t *list_turns;    /* (lists + 1) where those of a list begin */
    int64_t *chosen;        /* (T) what history says of each turn */
    int64_t *responding;    /* (responses) their turns */
    int64_t *response_rows; /* (responses + 1) of the decoder: one word less than the response */
    int64_t *copy_rows;     /* (responses + 1): words of the chosen sentence, and its padding */
    int64_t *copy_pads;     /* (responses) padded words, which the last row stands for; 0: none */
} km__plan;

typedef struct km__plan_wish {
    bool losses;   /* gold is needed, padding counts */
    bool training; /* there is a way back */
    km_diffks_history history;
} km__plan_wish;

/* KM_EINVAL with what is wrong, KM_ENOMEM. config and batch stay borrowed. km__plan_free takes a
 * plan of zeros. */
KM_NODISCARD km_status km__plan_new(km__plan *out, km_ctx *ctx, const km_diffks_config *config,
                                    const km_diffks_batch *batch, km__plan_wish wish,
                                    km_error *err);
void km__plan_free(km__plan *plan);
/* Note what a turn chose, for the history of the dialogue's later turns. */
void km__plan_choose(km__plan *plan, int64_t turn, int64_t choice);

static inline int64_t km__plan_candidates(const km__plan *plan, int64_t turn) {
    const int64_t list = plan->batch->turn_lists[turn];
    return plan->batch->list_offsets[list + 1] - plan->batch->list_offsets[list];
}

/* Places in one block of memory, aligned to 64 bytes; without a block they are only counted. */
typedef struct km__room {
    char *block; /* NULL: count */
    size_t used; /* SIZE_MAX: more than there can be */
} km__room;
/* n elements; NULL when counting. */
void *km__room_take(km__room *room, int64_t n, size_t size);

/* The sentence that a turn's choice stands for. */
static inline int64_t km__plan_sentence(const km__plan *plan, int64_t turn, int64_t choice) {
    const km_diffks_batch *batch = plan->batch;
    return batch->list_sentences[batch->list_offsets[batch->turn_lists[turn]] + choice];
}

/* Padded words of a sentence that a turn copies from, where padding counts. */
static inline int64_t km__plan_copy_pads(const km__plan *plan, int64_t turn, int64_t sentence) {
    const int64_t *offsets = plan->batch->sentence_offsets + sentence;
    const int64_t pads = plan->widths[plan->level[turn]] - (offsets[1] - offsets[0]);
    return pads > 0 ? pads : 0;
}

#endif
