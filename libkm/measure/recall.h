/* recall.h: the parts of km_memorization_run. Private to measure.
 *
 * plan: every distinct answer text of the relation tokenised once (the pool), each fact's members
 * (its accepted answers, then its wrong candidates) as indices into the pool. case: one fact under
 * one template. row: the figures of one case, ready to be written. */
#ifndef KM_MEASURE_RECALL_H
#define KM_MEASURE_RECALL_H

#include "km/memorization.h"
#include "tree_score.h"

typedef struct km__recall_text {
    const char *text; /* borrowed from the relation */
    int64_t bytes;
    const int32_t *ids; /* of " " + text, (n_ids) */
    int64_t n_ids;
} km__recall_text;

typedef struct km__recall_members {
    const int64_t *pool; /* (n) indices of pool texts, the n_answers accepted ones first */
    int64_t n;
    int64_t n_answers;
    int64_t partner;       /* member that is the shuffled fact's answer, -1: none */
    const int32_t *rivals; /* (n_rivals) first tokens of wrong candidates */
    int64_t n_rivals;
    bool collision;  /* a rival equals the printed answer's first token */
    bool lone_blank; /* the printed answer's first token is made of blanks */
    bool commonest;  /* an accepted answer is the relation's commonest object */
} km__recall_members;

typedef struct km__recall_plan {
    const km_model *model;
    const km_recall_relation *relation;
    km_recall_options options;
    km_arena *arena;
    km__recall_text *pool; /* (n_pool) */
    int64_t n_pool;
    km__recall_members *members; /* (n_facts) */
    double *subjectless;         /* (n_templates, n_pool) log-probabilities, nats */
} km__recall_plan;

KM_NODISCARD km_status km__recall_plan_init(km__recall_plan *plan, const km_model *model,
                                            const km_recall_relation *relation,
                                            const km_recall_options *options, km_error *err);
void km__recall_plan_clear(km__recall_plan *plan);

/* A prompt and its tokens in an arena; `subject` stands for the template's "{}". */
typedef struct km__recall_prompt {
    const char *text;
    const int32_t *ids;
    int64_t n_ids;
} km__recall_prompt;
KM_NODISCARD km_status km__recall_prompt_make(km__recall_prompt *out, km_arena *arena,
                                              const km__recall_plan *plan,
                                              const char *template_text, const char *subject,
                                              km_error *err);

/* One judged case: scored is (members->n), in members' order. */
typedef struct km__recall_case {
    int64_t fact, template_index;
    km__recall_prompt prompt;
    bool boundary_ok;
    const km__continuation *scored;
} km__recall_case;

KM_NODISCARD km_status km__recall_table_new(km_table **out, km_ctx *ctx, km_error *err);
KM_NODISCARD km_status km__recall_write(km_table *table, const km__recall_plan *plan,
                                        const km__recall_case *judged, km_error *err);

/* ---- judgements (recall_judge.c) ---- */

typedef enum km__recall_by {
    KM__BY_SUM = 0,
    KM__BY_BYTE,
    KM__BY_PMI,
    KM__BY_SUBJECTLESS
} km__recall_by;

/* Score of one member in nats (per byte for KM__BY_BYTE). */
double km__recall_score(const km__recall_plan *plan, const km__recall_case *judged, int64_t member,
                        km__recall_by by);
/* The best accepted answer (lowest member index among equals). */
int64_t km__recall_best_answer(const km__recall_plan *plan, const km__recall_case *judged,
                               km__recall_by by);
/* The best wrong candidate, -1 when there is none. */
int64_t km__recall_best_wrong(const km__recall_plan *plan, const km__recall_case *judged,
                              km__recall_by by);
/* Wrong candidates at least as good as the best accepted answer. */
int64_t km__recall_rank(const km__recall_plan *plan, const km__recall_case *judged,
                        km__recall_by by);
/* Rank of the partner's answer among all others, the accepted answers counting as one. */
int64_t km__recall_partner_rank(const km__recall_plan *plan, const km__recall_case *judged);
/* Whether token `next` after accepted answer `member` ends it: see docs/measures/memorization.md.
 */
bool km__recall_ends(const km__recall_plan *plan, const km__recall_case *judged, int64_t member,
                     int32_t next);

#endif
