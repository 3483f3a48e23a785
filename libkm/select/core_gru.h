/* core_gru.h: gated recurrent layers over ragged sequences, there and back (core_gru.c). Shapes: n
 * sequences of `rows` elements together, H hidden units, `dirs` directions (1 or 2), D = dirs H. */
#ifndef KM_SELECT_CORE_GRU_H
#define KM_SELECT_CORE_GRU_H

#include "select/plan.h"
#include "select/real.h"

#define km__gru_of KM_REAL(gru_of)
#define km__gru_sizes KM_REAL(gru_sizes)
#define km__gru_forward KM_REAL(gru_forward)
#define km__gru_backward KM_REAL(gru_backward)

/* Weights, or their gradients. */
typedef struct real_gru {
    int64_t in, ld, hidden; /* ld: from one row of w_ih to the next; `in` columns of it are read */
    int dirs;
    real *h_init; /* (dirs, H); NULL: each sequence has its own */
    real *w_ih[2], *w_hh[2], *b_ih[2], *b_hh[2];
} real_gru;

/* One layer over one set of sequences. */
typedef struct real_run {
    const km__sequences *seq;
    real_gru w, d;     /* d: gradients are added to these; for the way back */
    const real *x;     /* (rows, in) */
    const real *start; /* (n, H) with one direction: initial states; NULL: h_init */
    const real *extra; /* (n, 3 H) with one direction: added to what x gives; NULL: nothing */
    /* what the way there leaves */
    real *gates;  /* (rows, dirs, 4 H); the way back turns it into derivatives */
    real *before; /* (rows, D) states before each element */
    real *states; /* (rows, D) */
    real *last;   /* (n, D) after the last element; 0 without elements */
    real *turned; /* (dirs, H, 3 H) w_hh transposed */
    real *bias;   /* (dirs, 4 H) */
    /* the way back */
    const real *d_states; /* (rows, D); NULL: 0 */
    const real *d_last;   /* (n, D); NULL: 0 */
    real *dx;             /* (rows, in) set; NULL: not wanted */
    real *d_start;        /* (n, H) set, with start */
    real *d_extra;        /* (n, 3 H) set, with extra */
    real *sums;           /* (groups, dirs, 5 H) */
} real_run;

/* A GRU whose arrays begin at `first`: weight_ih, weight_hh, bias_ih, bias_hh a direction. */
real_gru km__gru_of(real *const *arrays, int first, int dirs, int64_t in, int64_t ld,
                    int64_t hidden);
/* Elements of `sums`. */
int64_t km__gru_sizes(const km__sequences *seq, int dirs, int64_t hidden);
/* All runs as one set of parallel loops. KM_ENOMEM for scratch, KM_ECANCELLED. */
KM_NODISCARD km_status km__gru_forward(km_ctx *ctx, real_run *runs, int n_runs, km_error *err);
KM_NODISCARD km_status km__gru_backward(km_ctx *ctx, real_run *runs, int n_runs, km_error *err);

#endif
