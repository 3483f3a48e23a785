/* km/save.h: a model's weights by name, edited copies, and models written to disk.
 *
 * A weight's name is the one its own file uses ("blk.0.ffn_up.weight" in GGUF,
 * "model.layers.0.mlp.up_proj.weight" in a Hugging Face folder), and its values are laid out as
 * there: two files of one model may differ in both (llama's q and k, GPT-2's transposed matrices,
 * Gemma's norm gains less 1).
 */
#ifndef KM_SAVE_H
#define KM_SAVE_H

#include "km/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- weights by name ---- */

#define KM_WEIGHT_MAX_DIMS 4

/* Borrowed; lives as long as the model. */
typedef struct km_weight {
    const char *name;
    const char *dtype; /* "F32", "Q4_1", ... */
    int n_dims;
    int64_t dims[KM_WEIGHT_MAX_DIMS]; /* row-major, outermost first */
    int64_t n;                        /* elements */
    const float *data;                /* NULL unless F32 and aligned: read-only, not copied */
} km_weight;

/* Tensors of the model's file, in its order; 0 for a random control, which has no file. */
KM_API int64_t km_model_n_weights(const km_model *model);
/* KM_ERANGE outside 0 .. n-1. */
KM_API KM_NODISCARD km_status km_model_weight_at(km_weight *out, const km_model *model,
                                                 int64_t index, km_error *err);
/* KM_ENOTFOUND when the file has no tensor of that name. */
KM_API KM_NODISCARD km_status km_model_weight_find(km_weight *out, const km_model *model,
                                                   const char *name, km_error *err);
/* The values as float32 into out (n elements). KM_EFORMAT when the file has shrunk meanwhile. */
KM_API KM_NODISCARD km_status km_model_weight_into(float *out, const km_model *model,
                                                   const char *name, km_error *err);

/* ---- edited copies ---- */

typedef struct km_weight_edit {
    const char *name;
    const float *data; /* in the weight's own shape; copied */
    int n_dims;
    int64_t dims[KM_WEIGHT_MAX_DIMS];
} km_weight_edit;

/* A model with other values in some weights, which become float32; everything else is shared with
 * `model`, which it holds a reference to. Its fingerprint covers the edits. Errors: KM_ENOTFOUND
 * (no such weight), KM_ESHAPE, KM_ENUMERIC (NaN or infinity), KM_EINVAL (one weight twice, or a
 * random control). */
KM_API KM_NODISCARD km_status km_model_with_weights(km_model **out, const km_model *model,
                                                    const km_weight_edit *edits, int64_t n,
                                                    km_error *err);

/* ---- writing ---- */

typedef enum km_save_format {
    KM_SAVE_SAME = 0, /* as the model came */
    KM_SAVE_GGUF,     /* one file, version 3 */
    KM_SAVE_HF        /* a folder: config.json, model.safetensors, tokenizer files */
} km_save_format;

typedef enum km_save_dtype {
    KM_SAVE_KEEP = 0, /* every tensor as it is stored; edited ones as float32 */
    KM_SAVE_F32,
    KM_SAVE_F16,
    KM_SAVE_BF16,
    KM_SAVE_Q8_0 /* GGUF only; rows that are not whole blocks become F16 */
} km_save_dtype;

typedef struct km_save_options {
    km_save_format format;
    km_save_dtype dtype;
    bool overwrite; /* replace a file that is there; a folder never */
} km_save_options;
#define KM_SAVE_OPTIONS_INIT {KM_SAVE_SAME, KM_SAVE_KEEP, false}

/* Write a model to `path`, which appears when it is whole: a failure, a full disk or Ctrl-C leaves
 * nothing behind. Metadata and tokenizer are copied from the model's own file. In GGUF vectors stay
 * float32. Rounding is to nearest even, Q8_0 as llama.cpp's; a value beyond F16's range is
 * KM_ERANGE. Errors: KM_EINVAL (path is there, a random control), KM_EUNSUPPORTED (what the other
 * format cannot say, by name), KM_EIO. */
KM_API KM_NODISCARD km_status km_model_save(const km_model *model, const char *path,
                                            const km_save_options *options, km_error *err);

/* One entry of GGUF metadata; types by GGUF's numbers, `data` as the file holds it: a string's
 * bytes, an array's elements one after the other (strings with their length as 8 bytes). */
typedef struct km_export_pair {
    const char *key;
    uint32_t type, element; /* element: of an array */
    int64_t n;              /* elements of an array */
    const void *data;
    size_t nbytes;
} km_export_pair;

/* Write a model that came as a folder as GGUF: weights renamed and rearranged as llama.cpp has
 * them, behind metadata made by the caller. The path must not be there yet. Errors as
 * km_model_save. */
KM_API KM_NODISCARD km_status km_model_export_gguf(const km_model *model, const char *path,
                                                   km_save_dtype dtype, const km_export_pair *pairs,
                                                   int64_t n_pairs, km_error *err);

/* A text of the file's metadata, such as "tokenizer.chat_template" of a GGUF file; *out is NULL
 * when it is not there or the model is a folder. Borrowed, n bytes without NUL. */
KM_API KM_NODISCARD km_status km_model_metadata(const char **out, size_t *n, const km_model *model,
                                                const char *key, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
