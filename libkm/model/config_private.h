/* config_private.h: what config.c and its two sources (GGUF metadata, config.json) share. */
#ifndef KM_MODEL_CONFIG_PRIVATE_H
#define KM_MODEL_CONFIG_PRIVATE_H

#include "model/model_private.h"

/* Largest value of each size; far beyond any model that fits km, small enough that products of any
 * three stay inside 64 bits. */
#define KM_MAX_WIDTH (1 << 17)
#define KM_MAX_HEADS 1024
#define KM_MAX_HEAD_DIM 1024
#define KM_MAX_FFN (1 << 20)
#define KM_MAX_VOCAB (1 << 24)
#define KM_MAX_CONTEXT (1 << 28)

/* Fill *out from one source; config.c checks the result as a whole. */
KM_NODISCARD km_status km__config_from_gguf(km_config *out, const km_gguf *gguf, km_error *err);
KM_NODISCARD km_status km__config_from_json(km_config *out, const char *text, size_t n,
                                            km_error *err);

/* Every size and number within its range and consistent with the others; KM_EFORMAT by name. */
KM_NODISCARD km_status km__config_check(const km_config *config, km_error *err);

/* Copy a name of n bytes, cut at the last whole character that fits. */
void km__config_set_name(km_config *config, const char *name, size_t n);
/* Give every layer but each `pattern`-th the sliding window; pattern 0: every layer. */
void km__config_set_windows(km_config *config, int32_t pattern);
/* What every model of an architecture has in common: norms, activation, biases, positions. Needs
 * d_model and head_dim; the caller then changes what its file says otherwise. */
void km__config_set_arch(km_config *config, const char *arch);
/* The scaling of rotary positions by kind: "default" or "none" gives 1, "linear" `factor`. */
KM_NODISCARD km_status km__config_set_rope_scaling(km_config *config, const char *kind, size_t n,
                                                   double factor, const char *field, km_error *err);
/* Names of the architectures km knows, for messages. */
#define KM_KNOWN_ARCHITECTURES                                                                     \
    "gpt2, llama (Llama, SmolLM2, Mistral), qwen2, qwen3, gemma2, gemma3 and gptneox (Pythia)"

#endif
