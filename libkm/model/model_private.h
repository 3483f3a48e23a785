/* model_private.h: what the files of libkm/model share: weights in memory and the model object. */
#ifndef KM_MODEL_MODEL_PRIVATE_H
#define KM_MODEL_MODEL_PRIVATE_H

#include <stdatomic.h>

#include "io/io.h"
#include "km/model.h"

/* Row-major float32 matrices (out_features, in_features), norm gains (D) or (Dh). NULL where the
 * architecture has none. Pointers go into km_weights.storage, or straight into the map for F32. */
typedef struct km_layer_weights {
    const float *attn_norm;       /* (D) */
    const float *wq, *wk, *wv;    /* (H*Dh, D), (K*Dh, D), (K*Dh, D) */
    const float *q_norm, *k_norm; /* (Dh) with qk_norm */
    const float *wo;              /* (D, H*Dh) */
    const float *attn_post_norm;  /* (D) with post_norms */
    const float *ffn_norm;        /* (D) */
    const float *w_gate, *w_up;   /* (F, D) */
    const float *w_down;          /* (D, F) */
    const float *ffn_post_norm;   /* (D) with post_norms */
} km_layer_weights;

typedef struct km_weights {
    const float *embed;       /* (V, D) */
    const float *final_norm;  /* (D) */
    const float *unembed;     /* (V, D); equals embed when tied */
    km_layer_weights *layers; /* (L) */
    float *storage;           /* owned block all converted tensors live in */
} km_weights;

struct km_model {
    atomic_int refs;
    km_ctx *ctx;
    km_config config;
    km_container *container; /* NULL for km_model_random_like */
    km_tokenizer *tokenizer;
    struct km_model *origin; /* a random control keeps the model whose tokenizer it borrows */
    uint64_t random_seed;
    km_weights weights;
    int64_t n_parameters;
    char precision[16];
    atomic_int fingerprint_state; /* fingerprint.c: absent, being written, ready */
    char fingerprint[65];
    char *path;
};

/* config.c: from GGUF metadata or config.json. Unknown architecture: KM_EUNSUPPORTED, by name. */
KM_NODISCARD km_status km__config_read(km_config *out, const km_container *container,
                                       km_error *err);
/* weights.c: find every tensor by its canonical name, check its shape, convert to float32 in
 * parallel after checking that the memory is there. Also sets n_parameters and precision. */
KM_NODISCARD km_status km__weights_load(km_model *model, const km_model_options *options,
                                        km_error *err);
/* weights.c: allocate storage for every tensor of the configuration and fill it at random. */
KM_NODISCARD km_status km__weights_randomise(km_model *model, uint64_t seed, km_error *err);
void km__weights_clear(km_model *model);
/* tokenizer_source.c: build the tokenizer from GGUF metadata or tokenizer.json. */
KM_NODISCARD km_status km__tokenizer_read(km_tokenizer **out, km_ctx *ctx,
                                          const km_container *container, km_error *err);

#endif
