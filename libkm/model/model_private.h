/* model_private.h: what the files of libkm/model share: weights in memory and the model object. */
#ifndef KM_MODEL_MODEL_PRIVATE_H
#define KM_MODEL_MODEL_PRIVATE_H

#include <stdatomic.h>

#include "io/io.h"
#include "km/model.h"
#include "tensor/matrix.h"

typedef struct km_norm_weights {
    const float *gain, *bias; /* (D); bias NULL for RMSNorm */
} km_norm_weights;

/* Matrices (out_features, in_features) stay as they are stored: they point into the file's map, or
 * into km_weights.storage where they had to be converted. Norm gains and biases are float32. */
typedef struct km_layer_weights {
    km_norm_weights attn_norm, attn_post_norm, ffn_norm, ffn_post_norm; /* gain NULL where absent */
    const float *q_norm, *k_norm;                                       /* (Dh) with qk_norm */
    km_matrix wq, wk, wv;   /* (H*Dh, D), (K*Dh, D), (K*Dh, D) */
    km_matrix wo;           /* (D, H*Dh) */
    km_matrix w_gate, w_up; /* (F, D); w_gate.data NULL without a gate */
    km_matrix w_down;       /* (D, F) */
    const float *bq, *bk, *bv, *bo, *b_gate, *b_up, *b_down; /* NULL where absent */
} km_layer_weights;

typedef struct km_weights {
    km_matrix embed;             /* (V, D) */
    km_matrix positions;         /* (context, D) with learned positions */
    km_matrix unembed;           /* (V, D); equals embed when tied */
    km_norm_weights final_norm;  /* (D) */
    const float *rope_factors;   /* (rotary_dim/2) divide the frequencies of full layers; or NULL */
    km_layer_weights *layers;    /* (L) */
    void *storage;               /* owned: what had to be converted, transposed or reordered */
    const km_tensor_info **maps; /* (n_maps) owned: tensors used in place, checked on first use */
    int64_t n_maps;
    atomic_bool checked; /* km__weights_check has found them finite */
} km_weights;

/* Memory that a model keeps for its next training pass; gradient_plan.c. */
typedef struct km_spare {
    float *block; /* owned; NULL: none */
    double floats;
    atomic_bool busy;
} km_spare;

struct km_model {
    atomic_int refs;
    km_ctx *ctx;
    km_config config;
    km_container *container; /* NULL for km_model_random_like and km_model_trainable */
    km_tokenizer *tokenizer;
    struct km_model *origin; /* a model made from another keeps it: the tokenizer is borrowed */
    uint64_t random_seed;
    km_weights weights;
    int64_t n_parameters;
    struct km__parameter *parameters; /* (n_tensors) owned; parameters.h */
    int64_t n_tensors;
    bool is_trainable;
    km_spare spare;
    char precision[16];
    atomic_int fingerprint_state; /* fingerprint.c: absent (0), being written, ready */
    char fingerprint[65];
    char *path;
};

/* model.c: an empty model with one reference. */
KM_NODISCARD km_status km__model_shell(km_model **out, km_ctx *ctx, const char *path,
                                       km_error *err);
/* model.c: a model with `model`'s configuration, tokenizer and path, and a reference to it. */
KM_NODISCARD km_status km__model_derive(km_model **out, const km_model *model, km_error *err);
/* config.c: from GGUF metadata or config.json. Unknown architecture: KM_EUNSUPPORTED, by name. */
KM_NODISCARD km_status km__config_read(km_config *out, const km_container *container,
                                       km_error *err);
/* weights.c: find every tensor by its canonical name, check its shape, point at it or convert it
 * (in parallel, after checking that the memory is there). Also sets n_parameters and precision. */
KM_NODISCARD km_status km__weights_load(km_model *model, const km_model_options *options,
                                        km_error *err);
/* edit.c: KM_EINVAL for a model that has no container of its own, saying what to do. */
KM_NODISCARD km_status km__need_file(const km_model *model, km_error *err);
/* weights_check.c: KM_ENUMERIC, naming the tensor, when a weight used in place is not finite. Reads
 * every such tensor the first time it is called on a model; remembered from then on. */
KM_NODISCARD km_status km__weights_check(const km_model *model, km_error *err);
/* weights.c: allocate storage for every tensor of the configuration and fill it at random. */
KM_NODISCARD km_status km__weights_randomise(km_model *model, uint64_t seed, km_error *err);
void km__weights_clear(km_model *model);
/* logits.c: logits (n, V) of residual streams x (n, D) after the last layer, soft-capped where the
 * model does so; normed (n, D) becomes their final norm. KM_ENUMERIC, naming `layer`, when some are
 * not finite. */
KM_NODISCARD km_status km__unembed(const km_model *model, float *logits, float *normed,
                                   const float *x, int64_t n, int32_t layer, km_error *err);
/* logits.c: rows of logits computed together when n are wanted. */
int64_t km__logits_rows(int64_t n_rows, int64_t vocab);
/* tokenizer_source.c: build the tokenizer from GGUF metadata or tokenizer.json. */
KM_NODISCARD km_status km__tokenizer_read(km_tokenizer **out, km_ctx *ctx,
                                          const km_container *container, km_error *err);

#endif
