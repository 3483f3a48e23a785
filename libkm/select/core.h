/* core.h: one pass of a selection model over a planned batch, in the width KM_REAL_BITS.
 *
 * Letters as in km/select.h, and: C words of contexts, W words of sentences, L list rows, R pairs,
 * Q pasts, U terms (plan.h), Rn responses, Rw words that a decoder writes, Cw words it may copy, D
 * = 2 H.
 */
#ifndef KM_SELECT_CORE_H
#define KM_SELECT_CORE_H

#include "select/core_gru.h"
#include "select/plan.h"
#include "select/real.h"

#define km__pass_lay_out KM_REAL(pass_lay_out)
#define km__pass_judge KM_REAL(pass_judge)
#define km__pass_back KM_REAL(pass_back)
#define km__pass_explain KM_REAL(pass_explain)
#define km__encode KM_REAL(encode)
#define km__choose KM_REAL(choose)
#define km__choose_back KM_REAL(choose_back)
#define km__decode KM_REAL(decode)
#define km__decode_back KM_REAL(decode_back)
#define km__respond KM_REAL(respond)
#define km__respond_size KM_REAL(respond_size)
#define km__drop KM_REAL(drop)
#define km__posterior KM_REAL(posterior)
#define km__posterior_back KM_REAL(posterior_back)

/* What random numbers depend on, and what a pass is for. */
typedef struct real_pass_options {
    km_diffks_options user;
    uint64_t seed, step;
    bool dropout;
    bool noise; /* the posterior's candidates are drawn */
} real_pass_options;

/* How a turn's choice decodes (core_decode.c). */
typedef struct real_decoder {
    real_run run;
    real *words;   /* (Rw, E) embeddings of the words before */
    uint8_t *keep; /* (Rw, E), (Rw, Dh) 0: dropped */
    uint8_t *keep_out;
    real *starts, *d_starts; /* (Rn, Dh) */
    real *pair, *d_pair;     /* (Rn, 2 D) [q ; g] */
    real *extra, *d_extra;   /* (Rn, 3 Dh) */
    real *read;              /* (Rw, Dh) states after dropout; the way back: their derivatives */
    real *logits;            /* (Rw, V); the way back: derivatives */
    real *source, *keys;     /* (Cw, D), (Cw, Dh): states of the chosen sentences, tanh(copy S) */
    real *d_source, *d_keys; /* (Cw, D), (Cw, Dh) */
    real *copy_energy;       /* (Rn's own words x own copies), one response after the other */
    int64_t *copy_places;    /* (Rn + 1) into copy_energy */
    real *d_states;          /* (Rw, Dh) */
    real *ones;              /* (Rw) */
    double *nll;             /* (Rn) mean -log P of each response */
    int64_t *n_words;        /* (Rn) words that count */
    real *d_words;           /* (Rw, E) */
} real_decoder;

/* What the response says of a turn's knowledge (core_posterior.c). */
typedef struct real_posterior {
    real_run run;              /* the candidates' encoder over responses */
    real *pair, *d_pair;       /* (T, 2 D) [q ; r] */
    real *query, *d_query;     /* (T, D) tanh(post [q ; r]); d: before the tanh */
    real *energies;            /* (R) e; the way back: derivatives */
    real *chances, *shares;    /* (R) the posterior, and y */
    real *mixture, *d_mixture; /* (T, D) g */
    real *logits;              /* (T, V); the way back: derivatives */
    real *d_response;          /* (T, D) of r */
    real *ones;                /* (T) */
    double *divergence, *bag;  /* (T) losses of each turn before their mean */
    int64_t *n_words;          /* (T) words that count; a turn without any is left out */
} real_posterior;

typedef struct real_pass {
    km__plan *plan;
    real *const *w;   /* (P_COUNT) weights */
    real *const *d;   /* (P_COUNT) gradients; NULL without a way back */
    real_run runs[3]; /* contexts, sentences, lists */
    uint8_t
        *keep[3]; /* (words, in) of contexts, sentences, the posterior's responses; 0: dropped */
    real *x[3];   /* (words, in) */
    /* choosing */
    real *rows;   /* (L, D) s of list rows */
    real *second; /* (L, D) attn_k's left half times s (fused) or c (disentangled) */
    real *from;   /* (L, D) tilde's left half times c */
    real *past;   /* (S, D) tilde's left half times s */
    real *query;  /* (T, D) attn_q q (fused) */
    real *mixed, *mixed_t, *right_t; /* (D, D) what o is multiplied with; it and tilde's right half
                                        transposed */
    real *products;                  /* (U, D) l * c */
    real *inner;     /* (U, D) tanh of tilde's; the way back: derivatives before the tanh */
    real *o;         /* (R, D) */
    real *outer;     /* (R, D) tanh of attn's; the way back: derivatives before the tanh */
    real *scores;    /* (R) */
    real *d_scores;  /* (R) */
    real *d_c;       /* (R, D) */
    real *d_v;       /* (T, D) each turn's share of the derivative of attn_v */
    real *d_query;   /* (T, D) */
    real *d_q;       /* (T, D) */
    real *d_past;    /* (Q, D) sums of derivatives before the tanh */
    real *d_l;       /* (Q, D) */
    real *past_rows; /* (Q, D) l */
    real *d_second, *d_from, *d_context, *d_rows; /* (L, D) of second, from, c and rows */
    real *d_last;                                 /* (S, D) of s */
    real *d_words;                                /* (W, D) of the sentences' states */
    real *d_x[3];                                 /* (words, in) */
    real_decoder decoder;
    real_posterior posterior;
} real_pass;

/* ---- core_pass.c ---- */

/* Point the arrays of a pass into `block`; returns the bytes they take, and only counts when block
 * is NULL. w and d as in real_pass. */
size_t km__pass_lay_out(real_pass *pass, km__plan *plan, real *const *w, real *const *d,
                        char *block);
/* Encode contexts and sentences. */
KM_NODISCARD km_status km__encode(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                                  km_error *err);
/* After that: choose and, where the plan says so, take losses. */
KM_NODISCARD km_status km__pass_judge(km_diffks_losses *out, km_ctx *ctx, real_pass *pass,
                                      const real_pass_options *options, km_error *err);
/* Add the gradients of the loss to pass->d. */
KM_NODISCARD km_status km__pass_back(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                                     km_error *err);
/* x (n) *= 0 or 1 / (1 - p), at random; keep (n) notes which. Elements begin with number `first`.
 */
void km__drop(real *x, uint8_t *keep, int64_t first, int64_t n, double p, uint64_t seed,
              uint64_t stream);

/* ---- core_choose.c ---- */

/* Scores of all turns, and what each chose, from contexts and sentences that are encoded. */
KM_NODISCARD km_status km__choose(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                                  km_error *err);
/* From d_scores back to q (d_q), s (d_last), and weights. */
KM_NODISCARD km_status km__choose_back(km_ctx *ctx, real_pass *pass, km_error *err);
/* Context scores (pairs) and contributions (pairs, M) of a pass that has chosen. */
KM_NODISCARD km_status km__pass_explain(real *context, real *contributions, km_ctx *ctx,
                                        real_pass *pass, km_error *err);

/* ---- core_posterior.c ---- */

/* Losses of the posterior variant, from prior scores and encoded responses; with a way back, the
 * derivatives of the losses are taken on the spot. */
KM_NODISCARD km_status km__posterior(km_diffks_losses *out, km_ctx *ctx, real_pass *pass,
                                     const real_pass_options *options, km_error *err);
/* On to q (d_q), s (d_last), r (run.d_last) and weights; adds to the first two. */
KM_NODISCARD km_status km__posterior_back(km_ctx *ctx, real_pass *pass,
                                          const real_pass_options *options, km_error *err);

/* ---- core_decode.c ---- */

/* Losses of all responses, from contexts and sentences that are encoded; with a way back, their
 * derivatives are taken on the spot. */
KM_NODISCARD km_status km__decode(km_ctx *ctx, real_pass *pass, const real_pass_options *options,
                                  km_error *err);
/* On to q (d_q), s (d_last), the sentences' states (d_words) and weights; adds to all of them. */
KM_NODISCARD km_status km__decode_back(km_ctx *ctx, real_pass *pass,
                                       const real_pass_options *options, km_error *err);
/* Greedy answers, as km_diffks_respond, of a pass that has encoded; block has km__respond_size
 * bytes. probabilities (max_words, T, V) or NULL. */
KM_NODISCARD km_status km__respond(int32_t *tokens, int64_t *lengths, real *probabilities,
                                   km_ctx *ctx, real_pass *pass, const int64_t *chosen,
                                   int64_t max_words, char *block, km_error *err);
size_t km__respond_size(const km__plan *plan);
#endif
