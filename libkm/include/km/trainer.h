/* km/trainer.h: one optimisation step of a trainable model after another, whole or with low-rank
 * adapters (LoRA).
 *
 * A trainer owns gradients and the optimiser's averages, so that a step is one call. The loss is
 * the weighted mean of -log p over the target tokens of a batch, in nats. What a step does depends
 * on the batch, not on how it is parted into passes beyond rounding, and has the same bits for any
 * number of threads.
 */
#ifndef KM_TRAINER_H
#define KM_TRAINER_H

#include "km/optimizer.h"
#include "km/training.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_trainer_options {
    km_optimizer_options optimizer;
    const bool *trained; /* (n_tensors) which parameters; NULL: all that can be changed */
    const bool *decays;  /* (n_tensors) which decay; NULL: matrices and embeddings, not gains and
                            biases */
    double clip;         /* gradients longer than this together are scaled to it; 0: none */
    int32_t rank;        /* of adapters; 0: the parameters themselves are trained */
    double alpha;        /* adapters enter multiplied by alpha / rank */
    uint64_t seed;       /* of the adapters' first values */
    int64_t max_bytes;   /* for gradients, averages and adapters together; 0: what is available */
} km_trainer_options;
#define KM_TRAINER_OPTIONS_INIT {KM_OPTIMIZER_OPTIONS_INIT, NULL, NULL, 0.0, 0, 0.0, 0, 0}

typedef struct km_trainer km_trainer;

/* A trainer of a model made by km_model_trainable, which it holds a reference to.
 *
 * With a rank, each trained parameter, which must be a matrix of a linear layer, stays
 * W0 + alpha / rank B A, where W0 (rows, cols) is its present value, A (rank, cols) uniform in
 * +-1/sqrt(cols) and B (rows, rank) 0 (Hu et al., "LoRA", 2021; the first values are those of the
 * PEFT library). W0 is read from the model the trainable one was made of where that still has the
 * same values, and copied otherwise.
 *
 * Errors: KM_EINVAL (nothing to train, a parameter that cannot be changed or adapted, an option out
 * of range), KM_ENOMEM with the figures. */
KM_API KM_NODISCARD km_status km_trainer_new(km_trainer **out, km_model *model,
                                             const km_trainer_options *options, km_error *err);
/* NULL is a no-op; the model keeps its values. */
KM_API void km_trainer_free(km_trainer *trainer);
/* Begin again from the model's present values: averages, gradients and the count of steps to 0,
 * adapters to their first values. */
KM_API KM_NODISCARD km_status km_trainer_reset(km_trainer *trainer, km_error *err);

/* ---- steps ---- */

typedef enum km_recompute {
    KM_RECOMPUTE_AUTO = 0, /* where the pass would not fit into memory otherwise */
    KM_RECOMPUTE_NEVER,
    KM_RECOMPUTE_ALWAYS
} km_recompute;

typedef struct km_training_batch {
    const int32_t *ids;     /* sequences one after the other */
    const int64_t *offsets; /* (n_sequences + 1) where each begins; the last is the end */
    int64_t n_sequences;
    const float *weights; /* (ids) of -log p(ids[i] | those before it in its sequence); at least 0,
                             and 0 for the first one of a sequence */
    int64_t pass_tokens;  /* whole sequences share a pass up to so many tokens; 0: 1024 */
    km_recompute recompute;
} km_training_batch;

typedef struct km_training_step {
    int64_t step; /* finished steps, this one included */
    double loss;  /* nats a target token, before the step */
    double norm;  /* of all gradients, before clipping */
    double learning_rate;
    int64_t n_targets; /* tokens with a weight */
    int64_t n_tokens;
} km_training_step;

/* One step. Until all gradients are there nothing is changed, and what is begun then is finished;
 * when the user stops the call later than that, KM_ECANCELLED (KM_ECALLBACK) comes after the step,
 * as km_trainer_last tells. Errors: KM_EINVAL (a batch without targets, weights out of range),
 * those of km_model_train_pass, KM_ENUMERIC naming the step and the tensor for a loss or a gradient
 * that is not finite or too large, KM_ENOMEM with the figures, KM_ESTATE when another thread is at
 * it. */
KM_API KM_NODISCARD km_status km_trainer_step(km_training_step *out, km_trainer *trainer,
                                              const km_training_batch *batch, double learning_rate,
                                              km_error *err);
/* The last finished step; step 0 before the first. */
KM_API km_training_step km_trainer_last(const km_trainer *trainer);

/* ---- memory ---- */

typedef struct km_trainer_memory {
    int64_t weights;   /* float32 copies that km_model_trainable makes of the trained parameters */
    int64_t gradients; /* and adapters */
    int64_t averages;
    int64_t pass;
} km_trainer_memory;

/* Bytes that training takes besides the model itself, before anything is allocated: `model` is any
 * model, options->trained NULL: all of it. The pass is one of n_tokens tokens and n_targets targets
 * in sequences of at most `longest`. */
KM_API KM_NODISCARD km_status km_trainer_estimate(km_trainer_memory *out, const km_model *model,
                                                  const km_trainer_options *options,
                                                  int64_t n_tokens, int64_t longest,
                                                  int64_t n_targets, bool recompute, km_error *err);

/* ---- what a run that goes on later has to keep ---- */

typedef enum km_trainer_array_kind {
    KM_TRAINER_VALUES = 0, /* of a parameter */
    KM_TRAINER_LORA_A,     /* (rank, cols) */
    KM_TRAINER_LORA_B,     /* (rows, rank) */
    KM_TRAINER_FIRST,      /* average of the gradient: its first moment, or SGD's momentum */
    KM_TRAINER_SECOND      /* AdamW's average of its square */
} km_trainer_array_kind;

/* Borrowed; lives as long as the trainer. */
typedef struct km_trainer_array {
    int64_t parameter;
    km_trainer_array_kind kind;
    km_trainer_array_kind of; /* of what an average is: VALUES, LORA_A or LORA_B */
    int64_t rows, cols;
    float *data;
} km_trainer_array;

/* Number of arrays: everything a step changes. */
KM_API int64_t km_trainer_n_arrays(const km_trainer *trainer);
/* KM_ERANGE outside 0 .. n-1. */
KM_API KM_NODISCARD km_status km_trainer_array_at(km_trainer_array *out, const km_trainer *trainer,
                                                  int64_t index, km_error *err);
/* To be called after arrays were written: `steps` steps are finished, adapters are merged again. */
KM_API KM_NODISCARD km_status km_trainer_restored(km_trainer *trainer, int64_t steps,
                                                  km_error *err);

#ifdef __cplusplus
}
#endif

#endif
