/* km/select.h: difference-aware knowledge selection (DiffKS: Zheng, Cao, Jiang and Huang, Findings
 * of EMNLP 2020): which of several candidate sentences a turn of a dialogue should use, given what
 * earlier turns used, and a decoder that answers with words of its own or of that sentence.
 *
 * Shapes: V vocabulary, E embedding, H hidden units a direction, D = 2 H, Dh decoder, M history,
 * T turns, S sentences, N candidate lists, K candidates of a list. Linear(x) = W x + b, weights
 * (out, in). A GRU has gates in the order r, z, n: n = tanh(a_n + r c_n), h' = (1 - z) n + z h.
 *
 *   q    = last states of a bidirectional GRU over the context, its initial state learned
 *   s_j  = the same, with weights of its own, over candidate j; 0 for an empty sentence
 *   c_j  = states of a third one that runs over s_1 .. s_K (so the order of a list matters)
 *   o_j  = sum over m of w_m tanh(tilde [l_m - c_j ; l_m * c_j]), l_m being the s of what was
 *          chosen m turns ago; w = weights / their sum, not renormalised with fewer than M turns
 *   score, fused:         attn_v . tanh(attn_q q + attn_k [s_j ; o_j])
 *   score, disentangled:  s_j . q, and after the first turn + attn_v . tanh(attn_q o_j + attn_k
 *                         [c_j ; o_j])
 *   score, context:       s_j . q
 *   score, posterior:     s_j . q as well (PostKS, below)
 *   with `match` each has + match_1 u_j + match_2 (sum over m of w_m x(l_m, j)) + match_3 [j is one
 *   of the last M choices], u_j and x being how alike a candidate and the user's words or two
 *   sentences are, which the batch says (ours, not the paper's)
 *   decoder: GRU over [E word ; g] from init [q ; g], g being s of the chosen sentence;
 *            P(v) = (e^min(out_v, 5) + 1e-10 + sum over its words equal to v of
 *            e^min(h . tanh(copy S), 5)) / the sum of that over v, then clipped to [1e-10, 1]
 *   selection loss: summed over turn numbers, the mean over dialogues of -log softmax(score)[gold];
 *            turns with gold 0 are left out, and 0/0 is 0
 *   word loss: summed over responses, the mean over words other than `unk` of -log P
 *
 * Posterior knowledge selection (PostKS: Lian, Xie, Wang, Peng and Wu, IJCAI 2019) has no history
 * and needs no gold choice: while it learns it reads the response too.
 *
 *   r         = last states of the candidates' GRU over the response
 *   prior     = softmax over j of s_j . q
 *   posterior = softmax over j of e_j = s_j . tanh(post [q ; r])
 *   g         = sum over j of y_j s_j; y = softmax((e + noise) / temperature), noise of the
 *               standard Gumbel distribution, when gradients are taken; without them, or with
 *               temperature 0, y = posterior
 *   selection loss: mean over turns with a response of sum over j of posterior (log posterior -
 *            log prior) and, where gold > 0, - supervision log posterior[gold] (ours, not the
 *            paper's)
 *   word loss: mean over the same turns of the mean over the response's words other than padding,
 *            unknown, go and end of -log softmax(bow g)[word]: the bag-of-words loss. There is no
 *            decoder, so its likelihood of the response is not part of the loss
 *
 * Word ids 0, 1, 2, 3 are padding, unknown, go and end. Losses are in nats. float32; gradients and
 * results have the same bits for any number of threads.
 */
#ifndef KM_SELECT_H
#define KM_SELECT_H

#include "km/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KM_DIFFKS_MAX_HISTORY 16
enum { KM_DIFFKS_PAD = 0, KM_DIFFKS_UNK, KM_DIFFKS_GO, KM_DIFFKS_EOS };

typedef enum km_diffks_variant {
    KM_DIFFKS_FUSED = 0,
    KM_DIFFKS_DISENTANGLED,
    KM_DIFFKS_CONTEXT,  /* no history: neither cmp, tilde nor attn exist */
    KM_DIFFKS_POSTERIOR /* nor here, but post and bow. It has neither decoder nor vectors, and masks
                           padding */
} km_diffks_variant;

typedef struct km_diffks_config {
    km_diffks_variant variant;
    int64_t vocabulary; /* V, at least 4 */
    int64_t embedding;  /* E */
    int64_t hidden;     /* H, of one direction of each encoder */
    int64_t decoder;    /* Dh */
    int64_t vectors;    /* 0: encoders read E[id]; else they read vectors of this width instead,
                           which come with each batch */
    int64_t history;    /* M, 1 to KM_DIFFKS_MAX_HISTORY */
    double weights[KM_DIFFKS_MAX_HISTORY]; /* w_1 (the turn before) .. w_M: at least 0, sum > 0 */
    double dropout;       /* of encoders' and decoder's inputs and of what `out` reads; in [0, 1) */
    bool mask_padding;    /* false: the authors' arithmetic, in which the padding of a batch enters
                             the losses (candidates) and the copying (words of sentences) */
    bool generate;        /* there is a decoder */
    bool train_embedding; /* false: E stays as it was given */
    bool match;           /* scores have the terms of match_1 .. match_3, 0 at first */
    double temperature;   /* of the posterior variant's g: at least 0 */
    double supervision;   /* of its loss: at least 0 */
} km_diffks_config;
#define KM_DIFFKS_CONFIG_INIT                                                                      \
    {KM_DIFFKS_DISENTANGLED,                                                                       \
     0,                                                                                            \
     300,                                                                                          \
     200,                                                                                          \
     400,                                                                                          \
     0,                                                                                            \
     2,                                                                                            \
     {0.7, 0.3},                                                                                   \
     0.5,                                                                                          \
     true,                                                                                         \
     true,                                                                                         \
     true,                                                                                         \
     false,                                                                                        \
     0.67,                                                                                         \
     0.0}

typedef struct km_diffks km_diffks;

/* A model with fresh weights of a seed: as PyTorch initialises its GRU and Linear (uniform within 1
 * / sqrt of the state's or input's width; embeddings normal). It is used by one thread at a time.
 * KM_EINVAL for a configuration out of range, KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_diffks_new(km_diffks **out, km_ctx *ctx,
                                            const km_diffks_config *config, uint64_t seed,
                                            km_error *err);
/* NULL is a no-op; the context must still live. */
KM_API void km_diffks_free(km_diffks *model);
/* The configuration a model was made with. */
KM_API km_diffks_config km_diffks_get_config(const km_diffks *model);

/* ---- parameters ---- */

/* One array of weights: E, ctx.h_init, ctx.weight_ih_l0, ... ctx.bias_hh_l0_reverse, the same of
 * sent and cmp, tilde.weight, tilde.bias, attn_q.weight, attn_k.weight, attn_v.weight, init.weight,
 * init.bias, dec.weight_ih_l0, ..., out.weight, out.bias, copy.weight, copy.bias, match.weight,
 * post.weight, post.bias, bow.weight, bow.bias; those that the configuration has. */
typedef struct km_diffks_parameter {
    const char *name;
    int n_dims;
    int64_t shape[3];
    int64_t n;             /* elements */
    float *values;         /* the model's own memory, to be read or written */
    float *gradient;       /* of the last km_diffks_gradient; 0 after a step */
    float *first, *second; /* the optimiser's averages; NULL before km_diffks_optimize */
} km_diffks_parameter;
/* How many arrays of weights the configuration has. */
KM_API int64_t km_diffks_n_parameters(const km_diffks *model);
/* KM_ENOTFOUND for an index out of range. */
KM_API KM_NODISCARD km_status km_diffks_parameter_at(km_diffks_parameter *out,
                                                     const km_diffks *model, int64_t index,
                                                     km_error *err);
/* Give the model an optimiser (its averages 0) in place of the one it may have. KM_EINVAL,
 * KM_ENOMEM as km_optimizer_new. */
KM_API KM_NODISCARD km_status km_diffks_optimize(km_diffks *model,
                                                 const km_optimizer_options *options,
                                                 km_error *err);
/* Steps finished since km_diffks_optimize; 0 without an optimiser. */
KM_API int64_t km_diffks_steps(const km_diffks *model);
/* Averages were written as they were after so many steps. KM_ESTATE without an optimiser. */
KM_API KM_NODISCARD km_status km_diffks_set_steps(km_diffks *model, int64_t steps, km_error *err);

/* ---- batches ---- */

/* Dialogues with all their turns in order. Each sentence stands once, whatever number of lists,
 * turns and dialogues share it, and is encoded once (with one dropout mask); so does each list.
 * `offsets` rise from 0, one more of them than things. All memory is borrowed. */
typedef struct km_diffks_batch {
    int64_t n_sentences, n_lists, n_dialogues, n_turns;
    const int32_t *sentence_tokens;   /* word ids of all sentences, one after the other */
    const int64_t *sentence_offsets;  /* (S + 1); a sentence may be empty */
    const int64_t *list_sentences;    /* sentences of all lists; index 0 of a list is "none used" */
    const int64_t *list_offsets;      /* (N + 1); no list is empty */
    const int64_t *dialogue_offsets;  /* (dialogues + 1) into the turns; no dialogue is empty */
    const int64_t *turn_lists;        /* (T) the list of each turn */
    const int32_t *context_tokens;    /* word ids of all contexts */
    const int64_t *context_offsets;   /* (T + 1) */
    const int64_t *gold;              /* (T) index in the turn's list; 0: none. NULL: unknown */
    const int32_t *response_tokens;   /* go ... end of all responses; NULL: none (losses of the
                                         posterior variant need them) */
    const int64_t *response_offsets;  /* (T + 1); an empty response counts for nothing */
    const int64_t *history_sentences; /* what was chosen before, the latest first, for each turn;
                                         NULL: the dialogue's turns say it */
    const int64_t *history_offsets;   /* (T + 1) */
    const float *sentence_vectors;    /* (words of sentences, vectors), when the model reads them */
    const float *context_vectors;     /* (words of contexts, vectors) */
    const float *word_matches;        /* (C) u of each turn's candidates, one turn after the other,
                                         when the model matches */
    const float *sentence_matches;    /* (S, S) x */
} km_diffks_batch;

/* Whose choices are a turn's history, where the batch has none of its own. */
typedef enum km_diffks_history {
    KM_DIFFKS_GOLD = 0, /* gold ones */
    KM_DIFFKS_OWN,      /* the model's: the highest score, the lowest index of equal ones */
    KM_DIFFKS_SAMPLED   /* for each turn the model's with a probability, else gold */
} km_diffks_history;

typedef struct km_diffks_options {
    km_diffks_history history;
    double probability; /* of KM_DIFFKS_SAMPLED */
    bool allow_none;    /* whether index 0 of a list may be chosen where there are others */
    double word_weight; /* loss = selection loss + word_weight word loss */
    double clip;        /* longest norm of all gradients together; 0: any */
    double learning_rate;
} km_diffks_options;
#define KM_DIFFKS_OPTIONS_INIT {KM_DIFFKS_GOLD, 0.0, true, 1.0, 5.0, 5e-4}

typedef struct km_diffks_losses {
    double loss, selection_loss, word_loss; /* nats, as defined above */
    double perplexity;                      /* mean over responses of e^(their mean -log P) */
    double norm;                            /* of the gradients before clipping */
    int64_t n_labelled;                     /* turns with gold > 0 */
    int64_t n_correct;                      /* of these, with the highest score on gold */
    int64_t n_words;                        /* of responses, unknown ones apart */
} km_diffks_losses;

/* Losses with dropout off. KM_EINVAL names what is wrong with a batch; KM_ENOMEM with both figures
 * when the pass does not fit; KM_ECANCELLED. */
KM_API KM_NODISCARD km_status km_diffks_loss(km_diffks_losses *out, km_diffks *model,
                                             const km_diffks_batch *batch,
                                             const km_diffks_options *options, km_error *err);
/* The same with dropout, and the gradients of `loss`. Dropout and the history's sampling are a
 * function of the model's seed, its count of steps, and sentence and element. */
KM_API KM_NODISCARD km_status km_diffks_gradient(km_diffks_losses *out, km_diffks *model,
                                                 const km_diffks_batch *batch,
                                                 const km_diffks_options *options, km_error *err);
/* The same and a step of the optimiser. KM_ESTATE without one, KM_ENUMERIC (and nothing changed)
 * when a loss or gradient is not finite. */
KM_API KM_NODISCARD km_status km_diffks_step(km_diffks_losses *out, km_diffks *model,
                                             const km_diffks_batch *batch,
                                             const km_diffks_options *options, km_error *err);

/* ---- selecting and answering ---- */

/* Candidates of all turns, one turn's list after the other: C of them. `scores` may be NULL, and so
 * may `context` with `contributions`. What one earlier choice contributes to a score is what the
 * score loses when its term is taken out of o_j: terms meet inside a tanh, so contributions do not
 * add up to the difference between score and context score. */
typedef struct km_diffks_scores {
    int64_t *chosen;      /* (T) index in the list */
    float *scores;        /* (C) */
    float *context;       /* (C) the score without any history: s_j . q, or fused with o_j = 0 */
    float *contributions; /* (C, M); 0 where there are fewer earlier choices */
} km_diffks_scores;

/* C of a batch: the lengths of its turns' lists. */
KM_API int64_t km_diffks_n_candidates(const km_diffks_batch *batch);
/* Score candidates turn by turn, on `history`. KM_EINVAL, KM_ENOMEM, KM_ECANCELLED. */
KM_API KM_NODISCARD km_status km_diffks_select(const km_diffks_scores *out, km_diffks *model,
                                               const km_diffks_batch *batch,
                                               const km_diffks_options *options, km_error *err);
/* Greedy answers from the sentences `chosen` (T) of the turns' lists: most likely words other than
 * padding and unknown, up to the end, which is included, or max_words. tokens (T, max_words), zeros
 * after the end; lengths (T). KM_ESTATE without a decoder. */
KM_API KM_NODISCARD km_status km_diffks_respond(int32_t *tokens, int64_t *lengths, km_diffks *model,
                                                const km_diffks_batch *batch, const int64_t *chosen,
                                                int64_t max_words, km_error *err);
/* Bytes that a pass over a batch allocates; `training`: with gradients, for which the batch needs
 * gold. KM_EINVAL, KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_diffks_pass_bytes(int64_t *out, km_diffks *model,
                                                   const km_diffks_batch *batch, bool training,
                                                   km_error *err);

#ifdef __cplusplus
}
#endif

#endif
