/* optimizer_private.h: what optimiser, adapters and trainer share. */
#ifndef KM_MODEL_OPTIMIZER_PRIVATE_H
#define KM_MODEL_OPTIMIZER_PRIVATE_H

#include <stdatomic.h>

#include "km/trainer.h"
#include "model/parameters.h"

/* optimizer.c: visit(payload, i) for i in [0, n), in parallel, to the end: visits that stopped half
 * way would leave neither the old weights nor the new ones. When the user stops the call meanwhile
 * that is reported afterwards. `done` (n) is scratch. */
typedef void (*km__visit_fn)(const void *payload, int64_t index);
KM_NODISCARD km_status km__visit_all(km_ctx *ctx, int64_t n, bool *done, km__visit_fn visit,
                                     const void *payload, km_error *err);

/* ---- low_rank.c ---- */

/* One adapted matrix: W0 + scale B A. */
typedef struct km__adapter {
    int64_t parameter, rows, cols;
    float *values;        /* (rows, cols) the model's: kept equal to the sum */
    float *kept;          /* (rows, cols) owned: W0 where the model's origin does not have it */
    km_low_rank low_rank; /* a, b, da, db are the trainer's */
    float *a, *b;
} km__adapter;

/* Rows of one adapter that a worker merges at a time. */
typedef struct km__adapter_rows {
    const km__adapter *adapter;
    int64_t begin, end;
} km__adapter_rows;

typedef struct km__adapters {
    km_model *model;
    km__adapter *list; /* (n) */
    int64_t n;
    int32_t rank;
    uint64_t seed;
    km__adapter_rows *pieces; /* (n_pieces) */
    bool *done;               /* (n_pieces) */
    int64_t n_pieces;
} km__adapters;

/* Cut the listed adapters into pieces. */
KM_NODISCARD km_status km__adapters_cut(km__adapters *adapters, km_error *err);
/* Take the model's present values for W0 and give A and B their first values. KM_ENOMEM. */
KM_NODISCARD km_status km__adapters_begin(km__adapters *adapters, km_error *err);
/* Write W0 + scale B A into the model; goes to its end, as km__visit_all. */
KM_NODISCARD km_status km__adapters_merge(const km__adapters *adapters, km_error *err);
void km__adapters_clear(km__adapters *adapters);

/* ---- trainer_batch.c ---- */

struct km_trainer {
    km_model *model;
    km_trainer_options options; /* without the arrays of flags */
    int64_t n_trained;
    km_parameter *parameters;         /* (n_trained) */
    km_parameter_gradient *gradients; /* (n_trained) of passes */
    float *block;                     /* gradients, and A and B */
    km_optimizer *optimizer;
    km_optimizer_tensor *tensors; /* (n_tensors) what is optimised, in order: parameters, or A and
                                     B of each */
    int64_t n_tensors;
    km__adapters adapters; /* n 0: none */
    km_training_step last;
    bool dirty; /* gradients may not be zero */
    atomic_bool busy;
};

/* Add the gradients of the batch's loss. Fills the loss and the counts of *out. */
KM_NODISCARD km_status km__trainer_passes(km_training_step *out, const km_trainer *trainer,
                                          const km_training_batch *batch, km_error *err);

#endif
