/* tree_score.h: log-probabilities of many continuations in few forward passes. Private to measure.
 *
 * Continuations are sorted by their tokens and merged into a forest, so that every distinct prefix
 * is computed once a pass, and cut into passes of at most `batch_tokens` nodes. The last token of a
 * continuation is computed only when what follows it is wanted. */
#ifndef KM_MEASURE_TREE_SCORE_H
#define KM_MEASURE_TREE_SCORE_H

#include "base/base.h"
#include "km/model.h"

/* What runs the tree: a model, or in tests anything that fills rows of logits. */
typedef struct km__engine {
    km_ctx *ctx;
    int32_t n_layers;
    const void *self;
    km_status (*forward)(const void *self, const km_forward_request *request, km_error *err);
    double (*logsumexp)(const void *self, const float *logits, int64_t n);
} km__engine;
km__engine km__engine_of_model(const km_model *model);

/* One continuation after one prompt. Token arrays are borrowed. */
typedef struct km__continuation {
    const int32_t *prompt; /* (n_prompt >= 1) */
    int64_t n_prompt;
    const int32_t *answer; /* (n_answer >= 1) */
    int64_t n_answer;
    bool want_end;         /* fill end */
    bool want_first;       /* fill first_rank */
    bool want_lens;        /* fill lead_layer and argmax_layer */
    const int32_t *rivals; /* (n_rivals) first tokens the answer's first token has to beat */
    int64_t n_rivals;
    double *logprobs; /* (n_answer) filled with the tokens' log-probabilities, nats; or NULL */
    bool *is_argmax;  /* (n_answer) filled with whether each is the argmax; or NULL */

    double logp;        /* sum over the answer's tokens, nats */
    bool greedy;        /* every answer token is the argmax (ties: lowest id) */
    int32_t end;        /* argmax after the whole answer */
    double first_logp;  /* nats */
    int64_t first_rank; /* tokens strictly more likely than answer[0] */
    int32_t lead_layer; /* first layer from which answer[0] is ahead of all rivals up to the output
                           (n_layers: only there); -1: it is not ahead at the output */
    int32_t argmax_layer; /* the same for being the argmax of the vocabulary */
} km__continuation;

/* Fill the results of items (n). `tick` is updated after each pass with base + the number of items
 * finished. Same bits for any number of threads, batch_tokens and order of items. A continuation
 * longer than batch_tokens gets a pass of its own. Errors: KM_EINVAL for an empty prompt or answer,
 * and what the engine returns. */
KM_NODISCARD km_status km__score_continuations(km__continuation *items, int64_t n,
                                               const km__engine *engine, int64_t batch_tokens,
                                               km_tick *tick, int64_t base, km_error *err);

/* Tokens a pass may have: up to 2048, fewer where a quarter of the available memory holds less. */
int64_t km__default_batch_tokens(const km_model *model);

#endif
