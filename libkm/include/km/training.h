/* km/training.h: models whose weights can change, and the derivatives of a loss with respect to
 * them.
 *
 * Letters as in km/model.h. A parameter is one tensor as the forward pass uses it, named as GGUF
 * names it ("blk.3.attn_q.weight") whatever file the model came from, matrices (out_features,
 * in_features): tensors that a file fuses, transposes or reorders are parted, turned and put into
 * the order of km_config. Tied embeddings are one parameter, "token_embd.weight".
 */
#ifndef KM_TRAINING_H
#define KM_TRAINING_H

#include "km/save.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- parameters ---- */

typedef enum km_parameter_kind {
    KM_PARAMETER_MATRIX = 0, /* of a linear layer inside a block */
    KM_PARAMETER_EMBEDDING,  /* tokens, learned positions, and the unembedding */
    KM_PARAMETER_GAIN,       /* of a norm */
    KM_PARAMETER_BIAS
} km_parameter_kind;

typedef struct km_parameter {
    const char *name; /* borrowed; lives as long as the model */
    km_parameter_kind kind;
    int32_t layer;      /* -1 outside the blocks */
    int64_t rows, cols; /* a vector is (1, n) */
    int64_t n;          /* elements */
    float *values;      /* (rows, cols) to be changed between passes; NULL where it is not trainable
                         */
} km_parameter;

/* Number of parameters (tensors, not weights) of any model. */
KM_API int64_t km_model_n_tensors(const km_model *model);
/* KM_ERANGE outside 0 .. n-1. */
KM_API KM_NODISCARD km_status km_model_parameter_at(km_parameter *out, const km_model *model,
                                                    int64_t index, km_error *err);
/* Index of a parameter by name; KM_ENOTFOUND, with a name that there is. */
KM_API KM_NODISCARD km_status km_model_parameter_find(int64_t *out, const km_model *model,
                                                      const char *name, km_error *err);
/* Values of several parameters, whatever type they are stored in, as float32: out[i] (rows, cols)
 * for parameter i of n_tensors; NULL where none are wanted. */
KM_API KM_NODISCARD km_status km_model_parameters_into(float *const *out, const km_model *model,
                                                       km_error *err);

/* ---- models whose weights can change ---- */

/* A copy in which the parameters `which` (n_tensors flags; NULL: all) are float32 and can be
 * changed through km_parameter.values; the others stay `model`'s own, which it holds a reference
 * to. Passes, sessions and measures work on it as on any model, on the values it has then; nobody
 * may change values during a pass, and sessions opened before a change hold keys and values of the
 * old weights. KM_ENOMEM, with both figures, when the float32 copies need more than max_bytes (0:
 * what is available). */
KM_API KM_NODISCARD km_status km_model_trainable(km_model **out, const km_model *model,
                                                 const bool *which, int64_t max_bytes,
                                                 km_error *err);
/* To be called after values were changed: the model's fingerprint is computed again when next asked
 * for, and the values are checked again before the next pass. */
KM_API void km_model_changed(km_model *model);
/* Which parameters of a trainable model differ in any bit from those of the model it was made of:
 * out (n_tensors). */
KM_API KM_NODISCARD km_status km_model_differs(bool *out, const km_model *model, km_error *err);
/* Give every trainable parameter i the values[i] (rows, cols), and those of the model it was made
 * of where that, or `values` itself, is NULL; then as km_model_changed. */
KM_API KM_NODISCARD km_status km_model_restore(km_model *model, const float *const *values,
                                               km_error *err);
/* An immutable model with the present values of a trainable one, which can be edited, saved and
 * fingerprinted as one loaded from a file: it has the names and the layout of the file that the
 * first of its ancestors came from. Changed tensors become float32 and are copied; those with the
 * bits they had there stay as they are stored, so that a copy of an unchanged model has that
 * model's fingerprint. A random control takes the names of the model that it is a control of. */
KM_API KM_NODISCARD km_status km_model_frozen(km_model **out, const km_model *model, km_error *err);
/* The same of any model with values[i] (rows, cols) in place of its parameter i (n_tensors); its
 * own where that is NULL. */
KM_API KM_NODISCARD km_status km_model_with_parameters(km_model **out, const km_model *model,
                                                       const float *const *values, km_error *err);
/* What a new model is made of. */
typedef struct km_new_model {
    const char *config; /* (n_config) a config.json as transformers writes it: its sizes and kinds
                           decide */
    size_t n_config;
    const char *tokenizer;        /* a folder with tokenizer.json; or NULL, and */
    const km_model *tokenizer_of; /* a model whose tokenizer it takes */
    const km_export_pair *pairs;  /* (n_pairs) where that came as GGUF: the metadata of the
                                     architecture; the keys "tokenizer." are copied */
    int64_t n_pairs;
    uint64_t seed;
} km_new_model;

/* A model with fresh weights, as km_model_random_like makes them, that can be trained, frozen,
 * edited, saved and loaded as any other. Its format is that of the tokenizer: a folder, or GGUF.
 * Errors name the field: KM_EFORMAT or KM_EUNSUPPORTED for a configuration that no forward pass can
 * have, KM_EINVAL for a vocabulary smaller than the tokenizer's or metadata that say otherwise than
 * the configuration, KM_ENOMEM with both figures. */
KM_API KM_NODISCARD km_status km_model_new(km_model **out, km_ctx *ctx, const km_new_model *parts,
                                           km_error *err);
/* What km_model_new and loading a folder make of a config.json. */
KM_API KM_NODISCARD km_status km_config_from_json(km_config *out, const char *text, size_t n,
                                                  km_error *err);

/* ---- derivatives with respect to parameters ---- */

/* W + scale B A stands in place of a frozen matrix W (rows, cols). The caller keeps the parameter's
 * values equal to that sum; the pass only differentiates. */
typedef struct km_low_rank {
    int32_t rank;
    float scale;    /* alpha / rank */
    const float *a; /* (rank, cols) */
    const float *b; /* (rows, rank) */
    float *da, *db; /* their shapes; added to */
} km_low_rank;

typedef struct km_parameter_gradient {
    int64_t parameter;           /* index; rising in a pass */
    float *gradient;             /* (rows, cols), added to; NULL with low_rank */
    const km_low_rank *low_rank; /* matrices only; or NULL */
} km_parameter_gradient;

/* weight times -log p(id | node and its ancestors), nats, is one term of the loss. */
typedef struct km_training_target {
    int64_t node;
    int32_t id;
    float weight;
} km_training_target;

typedef struct km_training_pass {
    km_tree tree;
    const km_training_target *targets; /* (n_targets), nodes rising; a node may have several */
    int64_t n_targets;
    const km_parameter_gradient *gradients; /* (n_gradients) */
    int64_t n_gradients;
    bool recompute; /* keep only the residual stream and compute each block's inside again on the
                       way back (activation checkpointing): less memory, a third more work; same
                       bits */
    double *losses; /* (n_targets) out, nats, not weighted; may be NULL */
} km_training_pass;

/* One forward and one backward pass of the sum of the targets' terms. Same bits for any thread
 * count. A trainable model keeps the pass's buffers for the next one until it is freed. Errors as
 * km_model_gradients; KM_EINVAL for targets or gradients out of order; KM_EUNSUPPORTED for a
 * low-rank gradient of an embedding or a vector; KM_ENOMEM, with both figures. */
KM_API KM_NODISCARD km_status km_model_train_pass(const km_model *model,
                                                  const km_training_pass *pass, km_error *err);
/* Bytes that such a pass allocates for n_tokens tokens in sequences of at most `longest`; an upper
 * bound. */
KM_API int64_t km_model_train_pass_bytes(const km_model *model, int64_t n_tokens, int64_t longest,
                                         int64_t n_targets, bool recompute);

#ifdef __cplusplus
}
#endif

#endif
