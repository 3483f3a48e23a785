/* weights_private.h: the list of tensors a configuration needs, shared by loading and by random
 * initialisation. */
#ifndef KM_MODEL_WEIGHTS_PRIVATE_H
#define KM_MODEL_WEIGHTS_PRIVATE_H

#include "model/model_private.h"

/* Where a slot's rows (a vector's elements) are in the container's tensor: row r is row
 * first + r / group * stride + r % group of n_rows. */
typedef struct km_weight_rows {
    int64_t first, group, stride, n_rows;
    bool transposed; /* the tensor is (cols, n_rows) */
} km_weight_rows;

/* One tensor of the model: a matrix, or a vector (gain, bias) with rows 1 and n_dims 1. */
typedef struct km_weight_slot {
    km_matrix *matrix;    /* where the model keeps it; NULL for a vector */
    const float **vector; /* NULL for a matrix */
    char name[112];       /* in the container; empty for a random model */
    const km_tensor_info *info;
    int64_t rows, cols;
    int n_dims;
    bool is_bias;         /* 0 in a random model */
    bool is_rope_factors; /* no weight: computed, or copied from the model that a control is of */
    km_weight_rows source;
    km_dtype dtype; /* in the storage */
    int64_t offset; /* in bytes from the storage's start when copied; -1: used in place */
} km_weight_slot;

typedef struct km_weight_plan {
    km_ctx *ctx;
    km_weight_slot *slots; /* (n) embedding, positions, final norm, unembedding, then by layer */
    int64_t n;
    int64_t n_bytes; /* to allocate */
} km_weight_plan;

/* Elements one worker fills at a time; whole blocks of the random numbers. */
#define KM_WEIGHT_RANGE ((int64_t)1 << 18)

/* Part of one tensor: what one worker does at a time. */
typedef struct km_weight_range {
    const km_weight_slot *slot;
    int64_t begin, end; /* elements */
} km_weight_range;

/* Which names a container uses. */
typedef enum km_weight_scheme {
    KM_NAMES_GGUF = 0,
    KM_NAMES_HF_LLAMA,
    KM_NAMES_HF_GEMMA,
    KM_NAMES_HF_GPT2,
    KM_NAMES_HF_NEOX,
    KM_N_NAMES,
    KM_NAMES_NONE /* a random model */
} km_weight_scheme;

typedef struct km_weight_naming {
    km_weight_scheme scheme;
    const char *prefix;  /* stands before the embedding's name and "layers.0.", "h.0." */
    const char *unembed; /* whole name of the unembedding */
    bool fused;          /* GGUF: q, k and v are blocks of one tensor */
    bool rope_factors;   /* GGUF: there is a tensor rope_freqs.weight */
} km_weight_naming;

/* weights_names.c: what is found in the container. */
km_weight_naming km__weight_naming(const km_config *config, const km_container *container);
/* The names of a GGUF file that is still to be written. */
km_weight_naming km__weight_naming_written(const km_config *config);
/* The names of a Hugging Face folder that is still to be written. */
km_weight_naming km__weight_naming_folder(const km_config *config);
/* Whether a container may hold this tensor although the language model does not use it. */
bool km__weight_is_ignored(const km_weight_naming *naming, const km_tensor_info *info);
/* Add the slots of everything outside the layers, then of one layer, to a plan with room for
 * KM_TOP_TENSORS + n_layers * KM_LAYER_TENSORS. */
#define KM_TOP_TENSORS 6
#define KM_LAYER_TENSORS 22
void km__weight_slots_top(km_weight_plan *plan, km_model *model, const km_weight_naming *naming);
void km__weight_slots_layer(km_weight_plan *plan, km_model *model, const km_weight_naming *naming,
                            int32_t layer);
/* The factors of Llama 3's scaling, after all layers, when the model has them. */
void km__weight_slot_rope_factors(km_weight_plan *plan, km_model *model,
                                  const km_weight_naming *naming);

/* weights_plan.c: list the slots of model->config and allocate model->weights.layers. */
KM_NODISCARD km_status km__weight_plan_new(km_weight_plan *plan, km_model *model,
                                           const km_weight_naming *naming, km_error *err);
void km__weight_plan_clear(km_weight_plan *plan);
/* Allocate model->weights.storage and give each slot that is not used in place its 64-byte aligned
 * part. KM_ENOMEM, with both figures, when that is more than max_bytes (0: what is available). */
KM_NODISCARD km_status km__weight_plan_allocate(km_weight_plan *plan, km_model *model,
                                                int64_t max_bytes, km_error *err);
/* Cut every weight that has a place in the storage into ranges of KM_WEIGHT_RANGE elements,
 * whatever the number of threads. The caller frees *out. */
KM_NODISCARD km_status km__weight_plan_cut(km_weight_range **out, int64_t *n,
                                           const km_weight_plan *plan, km_error *err);
/* Point the model at storage and maps; the unembedding follows the embedding when tied. */
void km__weight_plan_connect(const km_weight_plan *plan, km_model *model);
/* Where a slot with a place in the storage begins. */
void *km__weight_place(const km_weight_slot *slot, void *storage);

/* weights_copy.c: fill every slot that has a place in the storage from the container. */
KM_NODISCARD km_status km__weight_plan_copy(const km_weight_plan *plan, km_model *model,
                                            km_error *err);
/* What Llama 3 divides each of rotary_dim / 2 frequencies by. */
void km__rope_factors(float *out, const km_config *config);

/* Version of the initialiser of weights_random.c: part of a random model's fingerprint. */
#define KM_INITIALISER_VERSION 1
/* Elements begin..end-1 of a tensor of normal(0, 0.02) under `key` into out[0..]; begin is a
 * multiple of 512. */
void km__random_normals(float *out, uint64_t key, int64_t begin, int64_t end);

#endif
