/* new.c: models of a configuration of one's own.
 *
 * A new model is written as a file in memory and loaded from there, so that everything a model from
 * a file can do it can do too, in the format that its tokenizer came in. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "io/write.h"
#include "model/config_private.h"
#include "model/image.h"

/* The files under construction. */
typedef struct files {
    km_map gguf, config, weights;
    const char *path; /* where the tokenizer comes from */
    const km_gguf *tokenizer;
} files;

km_status km_config_from_json(km_config *out, const char *text, size_t n, km_error *err) {
    if (out == NULL || text == NULL) {
        return KM_SET(err, KM_EINVAL, "no configuration or no place for it");
    }
    memset(out, 0, sizeof *out);
    km_status status = km__config_from_json(out, text, n, err);
    if (status != KM_OK) {
        km_error_prefix(err, "configuration");
        return status;
    }
    return km__config_check(out, err);
}

/* ---- writing into memory ---- */

static km_status check_memory(const km_model *fresh, km_error *err) {
    const double mib = 1024.0 * 1024.0;
    const double needed = 2.0 * 4.0 * (double)fresh->n_parameters;
    const double available = (double)km_memory_available();
    if (needed > available) {
        return KM_SET(err, KM_ENOMEM,
                      "to make the model takes another %.1f MiB, %.1f MiB are available",
                      needed / mib, available / mib);
    }
    return KM_OK;
}

/* An allocated list of the image's tensors as they are. */
static km_status list_tensors(km_write_tensor **out, const km__image *image, km_error *err) {
    KM_TRY(km_alloc_array((void **)out, image->ctx, image->n, sizeof **out, err));
    for (int64_t i = 0; i < image->n; i++) {
        (*out)[i] = (km_write_tensor){
            .name = image->infos[i].name, .source = &image->infos[i], .dtype = KM_F32};
    }
    return KM_OK;
}

/* The architecture's entries, then the tokenizer's. */
static km_status list_pairs(km_gguf_pair **out, int64_t *n, const files *f, km_ctx *ctx,
                            const km_new_model *parts, km_error *err) {
    const int64_t n_keys = km_gguf_n_keys(f->tokenizer);
    KM_TRY(km_alloc_array((void **)out, ctx, parts->n_pairs + n_keys, sizeof **out, err));
    *n = 0;
    for (int64_t i = 0; i < parts->n_pairs; i++) {
        const km_export_pair *p = &parts->pairs[i];
        (*out)[(*n)++] = (km_gguf_pair){p->key, p->type, p->element, p->n, p->data, p->nbytes};
    }
    for (int64_t i = 0; i < n_keys; i++) {
        const km_gguf_pair pair = km_gguf_pair_at(f->tokenizer, i);
        if (strncmp(pair.key, "tokenizer.", 10) == 0) {
            (*out)[(*n)++] = pair;
        }
    }
    return KM_OK;
}

static km_status write_gguf(files *f, km_output *output, const km__image *image,
                            const km_new_model *parts, km_error *err) {
    km_write_tensor *tensors = NULL;
    km_gguf_pair *pairs = NULL;
    int64_t n = 0;
    km_status status = KM_OK;
    KM_GO(list_tensors(&tensors, image, err));
    KM_GO(list_pairs(&pairs, &n, f, image->ctx, parts, err));
    KM_GO(km_gguf_write_to(output, image->ctx, pairs, n, tensors, image->n, err));
done:
    km_free(image->ctx, tensors);
    km_free(image->ctx, pairs);
    return status;
}

static km_status write_weights(km_output *output, const km__image *image, km_error *err) {
    km_write_tensor *tensors = NULL;
    km_status status = KM_OK;
    KM_GO(list_tensors(&tensors, image, err));
    KM_GO(km_safetensors_write_to(output, image->ctx, tensors, image->n, err));
done:
    km_free(image->ctx, tensors);
    return status;
}

static km_status write_files(files *f, const km__image *image, const km_new_model *parts,
                             km_error *err) {
    km_output *output = NULL;
    km_status status = KM_OK;
    KM_GO(km_output_open_memory(&output, image->ctx, err));
    KM_GO(f->tokenizer != NULL ? write_gguf(f, output, image, parts, err)
                               : write_weights(output, image, err));
    status = km_output_map(f->tokenizer != NULL ? &f->gguf : &f->weights, output, err);
    output = NULL;
    if (status != KM_OK || f->tokenizer != NULL) {
        goto done;
    }
    KM_GO(km_output_open_memory(&output, image->ctx, err));
    KM_GO(km_output_write(output, parts->config, parts->n_config, err));
    status = km_output_map(&f->config, output, err);
    output = NULL;
done:
    km_output_abort(output);
    return status;
}

/* Fresh weights of `config`, written. */
static km_status make_files(files *f, km_ctx *ctx, const km_config *config,
                            const km_new_model *parts, km_error *err) {
    km_model *fresh = NULL;
    km__image image = {0};
    km_status status = KM_OK;
    KM_GO(km__model_shell(&fresh, ctx, f->path, err));
    fresh->config = *config;
    if (f->tokenizer != NULL) {
        fresh->config.norm_offset = 0.0f; /* GGUF holds gains as they are used */
    }
    KM_GO(km__weights_randomise(fresh, parts->seed, err));
    KM_GO(check_memory(fresh, err));
    const km_weight_naming naming =
        f->tokenizer != NULL ? km__weight_naming_written(config) : km__weight_naming_folder(config);
    KM_GO(km__image_whole(&image, fresh, &naming, err));
    KM_GO(write_files(f, &image, parts, err));
done:
    km__image_clear(&image);
    km_model_free(fresh);
    return status;
}

/* ---- what was written says what was asked for ---- */

typedef struct field {
    const char *name;
    size_t place;
    enum { INTEGER, FLAG, REAL, SINGLE } type;
} field;

#define FIELD(name, type) {#name, offsetof(km_config, name), type}

static double number_at(const km_config *config, const field *f) {
    const char *place = (const char *)config + f->place;
    int32_t integer = 0;
    double real = 0.0;
    float single = 0.0f;
    bool flag = false;
    switch (f->type) {
    case INTEGER:
        memcpy(&integer, place, sizeof integer);
        return integer;
    case FLAG:
        memcpy(&flag, place, sizeof flag);
        return flag;
    case REAL:
        memcpy(&real, place, sizeof real);
        return real;
    default:
        memcpy(&single, place, sizeof single);
        return (double)single;
    }
}

static km_status check_same(const km_config *got, const km_config *wanted, km_error *err) {
    static const field FIELDS[] = {
        FIELD(n_layers, INTEGER),       FIELD(d_model, INTEGER),
        FIELD(n_heads, INTEGER),        FIELD(n_kv_heads, INTEGER),
        FIELD(head_dim, INTEGER),       FIELD(d_ffn, INTEGER),
        FIELD(vocab_size, INTEGER),     FIELD(context_length, INTEGER),
        FIELD(norm_eps, REAL),          FIELD(activation, INTEGER),
        FIELD(parallel_residual, FLAG), FIELD(qkv_bias, FLAG),
        FIELD(attn_out_bias, FLAG),     FIELD(mlp_bias, FLAG),
        FIELD(tied_embeddings, FLAG),   FIELD(attn_scale, SINGLE),
        FIELD(attn_softcap, SINGLE),    FIELD(final_softcap, SINGLE),
        FIELD(rotary_dim, INTEGER),     FIELD(rope_base, REAL),
        FIELD(rope_base_local, REAL),   FIELD(rope_linear_scale, REAL),
        FIELD(rope_factor, REAL),       FIELD(sliding_window, INTEGER),
    };
    for (size_t i = 0; i < sizeof FIELDS / sizeof FIELDS[0]; i++) {
        const double a = number_at(got, &FIELDS[i]), b = number_at(wanted, &FIELDS[i]);
        if (fabs(a - b) > 1e-6 * fabs(b)) { /* GGUF keeps reals as float32 */
            return KM_SET(err, KM_EINVAL, "the metadata make %s %g, the configuration says %g",
                          FIELDS[i].name, a, b);
        }
    }
    const size_t n_layers = (size_t)wanted->n_layers;
    if (strcmp(got->arch, wanted->arch) != 0 ||
        (wanted->sliding_window > 0 && memcmp(got->windowed, wanted->windowed, n_layers) != 0)) {
        return KM_SET(err, KM_EINVAL,
                      "the metadata have another architecture or other windows than the "
                      "configuration");
    }
    return KM_OK;
}

static km_status check_vocabulary(const km_tokenizer *tokenizer, const km_config *config,
                                  km_error *err) {
    const int64_t n = km_tokenizer_vocab_size(tokenizer);
    if (n > config->vocab_size) {
        return KM_SET(err, KM_EINVAL, "vocab_size is %d, the tokenizer has %lld tokens",
                      config->vocab_size, (long long)n);
    }
    return KM_OK;
}

static km_status load_files(km_model **out, km_ctx *ctx, files *f, const km_config *config,
                            km_error *err) {
    static const km_model_options defaults = KM_MODEL_OPTIONS_INIT;
    km_model *model = NULL;
    km_status status = KM_OK;
    KM_GO(km__model_shell(&model, ctx, f->path, err));
    KM_GO(km_container_from_maps(&model->container, ctx, f->path,
                                 f->tokenizer != NULL ? &f->gguf : NULL, &f->config, &f->weights,
                                 err));
    KM_GO(km__config_read(&model->config, model->container, err));
    KM_GO(check_same(&model->config, config, err));
    KM_GO(km__tokenizer_read(&model->tokenizer, ctx, model->container, err));
    KM_GO(check_vocabulary(model->tokenizer, config, err));
    KM_GO(km__weights_load(model, &defaults, err));
    *out = model;
    model = NULL;
done:
    km_model_free(model);
    return status;
}

static km_status find_tokenizer(files *f, const km_new_model *parts, km_error *err) {
    if (parts->config == NULL || (parts->tokenizer == NULL) == (parts->tokenizer_of == NULL)) {
        return KM_SET(err, KM_EINVAL,
                      "a new model needs a configuration and a tokenizer: a folder, or a model's");
    }
    f->path = parts->tokenizer;
    if (parts->tokenizer_of != NULL) {
        const km_container *container = km__model_with_container(parts->tokenizer_of)->container;
        f->path = km_container_path(container);
        f->tokenizer = km_container_gguf(container);
    }
    return KM_OK;
}

km_status km_model_new(km_model **out, km_ctx *ctx, const km_new_model *parts, km_error *err) {
    const km_map none = {NULL, 0, -1};
    files f = {none, none, none, NULL, NULL};
    km_config *config = NULL;
    km_status status = KM_OK;
    if (out == NULL || ctx == NULL || parts == NULL) {
        return KM_SET(err, KM_EINVAL, "no context, parts or place for the model");
    }
    KM_TRY(find_tokenizer(&f, parts, err));
    KM_GO(km_alloc_array((void **)&config, ctx, 1, sizeof *config, err));
    KM_GO(km_config_from_json(config, parts->config, parts->n_config, err));
    if (parts->tokenizer_of != NULL) {
        KM_GO(check_vocabulary(parts->tokenizer_of->tokenizer, config, err));
    }
    KM_GO(make_files(&f, ctx, config, parts, err));
    KM_GO(load_files(out, ctx, &f, config, err));
done:
    km_free(ctx, config);
    km_map_close(&f.gguf);
    km_map_close(&f.config);
    km_map_close(&f.weights);
    return status;
}
