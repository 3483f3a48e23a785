/* weights_private.h: the list of tensors a configuration needs, shared by loading and by random
 * initialisation. */
#ifndef KM_MODEL_WEIGHTS_PRIVATE_H
#define KM_MODEL_WEIGHTS_PRIVATE_H

#include "model/model_private.h"

/* One tensor of the model: a matrix, or a vector (gain, bias) with rows 1 and n_dims 1. */
typedef struct km_weight_slot {
    km_matrix *matrix;    /* where the model keeps it; NULL for a vector */
    const float **vector; /* NULL for a matrix */
    char name[112];       /* in the container; empty for a random model */
    const km_tensor_info *info;
    int64_t rows, cols;
    int n_dims;
    int64_t offset; /* in floats from the storage's start when converted; -1: used in place */
} km_weight_slot;

typedef struct km_weight_plan {
    km_ctx *ctx;
    km_weight_slot *slots; /* (n) embedding, final norm, unembedding, then layer by layer */
    int64_t n;
    int64_t n_floats; /* to allocate */
} km_weight_plan;

/* Whole blocks of every storage type. */
#define KM_WEIGHT_RANGE ((int64_t)1 << 18)

/* Part of one tensor: what one worker does at a time. */
typedef struct km_weight_range {
    const km_weight_slot *slot;
    int64_t begin, end; /* elements */
} km_weight_range;

/* Which names a container uses. */
typedef enum km_weight_names { KM_NAMES_NONE = 0, KM_NAMES_GGUF, KM_NAMES_HF } km_weight_names;

/* List the slots of model->config and allocate model->weights.layers. `prefix` stands before
 * "layers.0..." and "embed_tokens" in Hugging Face names. */
KM_NODISCARD km_status km__weight_plan_new(km_weight_plan *plan, km_model *model,
                                           km_weight_names names, const char *prefix,
                                           km_error *err);
void km__weight_plan_clear(km_weight_plan *plan);
/* Allocate model->weights.storage and give each slot that is not used in place its 64-byte aligned
 * part. KM_ENOMEM, with both figures, when that is more than max_bytes (0: what is available). */
KM_NODISCARD km_status km__weight_plan_allocate(km_weight_plan *plan, km_model *model,
                                                int64_t max_bytes, km_error *err);
/* Cut every tensor that has a place in the storage into ranges of KM_WEIGHT_RANGE elements,
 * whatever the number of threads. The caller frees *out. */
KM_NODISCARD km_status km__weight_plan_cut(km_weight_range **out, int64_t *n,
                                           const km_weight_plan *plan, km_error *err);
/* Point the model at storage and maps; the unembedding follows the embedding when tied. */
void km__weight_plan_connect(const km_weight_plan *plan, km_model *model);

/* weights_check.c: neither an infinity nor a NaN among them. */
bool km__all_finite(const float *x, int64_t n);

/* Version of the initialiser of weights_random.c: part of a random model's fingerprint. */
#define KM_INITIALISER_VERSION 1
/* Elements begin..end-1 of a tensor of normal(0, 0.02) under `key` into out[0..]; begin is a
 * multiple of 512. */
void km__random_normals(float *out, uint64_t key, int64_t begin, int64_t end);

#endif
