/* interpretability.c: logit lens of many prompts, affine lenses, direct logit attribution. */
#include "km/interpretability.h"

#include "km/affine_lens.h"

#include "tick.h"
#include "wrap.h"

/* A new array of up to three axes; an axis of -1 and those after it are not there. */
static PyObject *make_array(PyObject *module, km_element element, int64_t a, int64_t b, int64_t c,
                            void **data) {
    const int64_t shape[3] = {a, b, c};
    const int n_dims = b < 0 ? 1 : c < 0 ? 2 : 3;
    return km_array_new(KM_MODULE_STATE(module)->types[KM_TYPE_ARRAY], element, n_dims, shape,
                        data);
}

/* ---- packed prompts: ids (N), offsets (K+1) ---- */

typedef struct prompts {
    const int32_t *ids;
    const int64_t *offsets;
    int64_t n, batch_tokens;
} prompts;

static bool read_prompts(km_args *in, prompts *out) {
    km_view ids, offsets;
    out->batch_tokens = 1024;
    if (!km_arg_view(in, "ids", KM_I32, "(N)", &ids) ||
        !km_arg_view(in, "offsets", KM_I64, "(K)", &offsets) ||
        !km_arg_int64(in, "batch_tokens", &out->batch_tokens)) {
        return false;
    }
    out->ids = ids.data;
    out->offsets = offsets.data;
    out->n = offsets.n - 1;
    if (out->n < 0 || out->offsets[0] != 0 || out->offsets[out->n] != ids.n ||
        out->batch_tokens < 1) {
        km_py_raise_format(in->errors, KM_EINVAL,
                           "%s(): offsets must go from 0 to the number of ids, and batch_tokens "
                           "must be positive",
                           in->signature->name);
        return false;
    }
    return true;
}

/* ---- the lens ---- */

/* (rank, logprob, top_ids, top_logprobs) */
static PyObject *lens_arrays(PyObject *module, km_lens_arrays *out, int64_t n, int64_t layers,
                             int top_k) {
    PyObject *arrays[4] = {
        make_array(module, KM_I64, n, layers, -1, (void **)&out->rank),
        make_array(module, KM_F64, n, layers, -1, (void **)&out->logprob),
        make_array(module, KM_I32, n, layers, top_k, (void **)&out->top_ids),
        make_array(module, KM_F64, n, layers, top_k, (void **)&out->top_logprobs),
    };
    return pack(arrays, 4);
}

FUNCTION(lens_run) {
    km_args in;
    km_model *model;
    prompts texts;
    km_view targets;
    km_lens_arrays out = {0};
    int top_k = 0;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, lens_run) && model_arg(&in, module, &model) && read_prompts(&in, &texts) &&
        km_arg_view(&in, "targets", KM_I32, "(K)", &targets) &&
        km_args_same_length(&in, "targets", targets.n, "offsets[1:]", texts.n) &&
        km_arg_int(&in, "top_k", &top_k) && km_arg_callable(&in, "progress", &progress) &&
        (result = lens_arrays(module, &out, texts.n, km_model_config(model)->n_layers + 1,
                              top_k < 0 ? 0 : top_k)) != NULL) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status =
            km_lens_run_into(&out, model, texts.ids, texts.offsets, texts.n, targets.data, top_k,
                             texts.batch_tokens, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- affine lenses ---- */

/* The maps as arguments weights (L, D, D) and biases (L, D), of the model's shape. */
static bool read_lens(km_args *in, const km_model *model, km_affine_lens *out) {
    const km_config *config = km_model_config(model);
    const int64_t layers = config->n_layers, width = config->d_model;
    km_view weights, biases;
    if (!km_arg_view(in, "weights", KM_F32, "(L, D, D)", &weights) ||
        !km_arg_view(in, "biases", KM_F32, "(L, D)", &biases)) {
        return false;
    }
    if (weights.shape[0] != layers || weights.shape[1] != width || weights.shape[2] != width ||
        biases.shape[0] != layers || biases.shape[1] != width) {
        km_py_raise_format(in->errors, KM_EINVAL,
                           "%s(): weights must be (%lld, %lld, %lld) and biases (%lld, %lld)",
                           in->signature->name, (long long)layers, (long long)width,
                           (long long)width, (long long)layers, (long long)width);
        return false;
    }
    *out = (km_affine_lens){weights.data, biases.data};
    return true;
}

FUNCTION(affine_lens_fit) {
    km_args in;
    km_model *model;
    prompts texts;
    double ridge;
    PyObject *progress = NULL, *result = NULL;
    float *weights, *biases;
    if (BIND(in, module, affine_lens_fit) && model_arg(&in, module, &model) &&
        read_prompts(&in, &texts) && km_arg_double(&in, "ridge", &ridge) &&
        km_arg_callable(&in, "progress", &progress)) {
        const km_config *config = km_model_config(model);
        const int64_t width = config->d_model;
        PyObject *arrays[2] = {
            make_array(module, KM_F32, config->n_layers, width, width, (void **)&weights),
            make_array(module, KM_F32, config->n_layers, width, -1, (void **)&biases),
        };
        result = pack(arrays, 2);
    }
    if (result != NULL) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status =
            km_affine_lens_fit_into(weights, biases, model, texts.ids, texts.offsets, texts.n,
                                    ridge, texts.batch_tokens, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* (kl_affine, kl_logit, agree_affine, agree_logit), rows being what is left of the tokens. */
static PyObject *comparison_arrays(PyObject *module, km_affine_lens_arrays *out,
                                   const prompts *texts, int64_t layers) {
    const int64_t rows = texts->offsets[texts->n] - texts->n;
    PyObject *arrays[4] = {
        make_array(module, KM_F64, rows < 0 ? 0 : rows, layers, -1, (void **)&out->kl_affine),
        make_array(module, KM_F64, rows < 0 ? 0 : rows, layers, -1, (void **)&out->kl_logit),
        make_array(module, KM_F64, rows < 0 ? 0 : rows, layers, -1, (void **)&out->agree_affine),
        make_array(module, KM_F64, rows < 0 ? 0 : rows, layers, -1, (void **)&out->agree_logit),
    };
    return pack(arrays, 4);
}

FUNCTION(affine_lens_evaluate) {
    km_args in;
    km_model *model;
    prompts texts;
    km_affine_lens lens;
    km_affine_lens_arrays out = {0};
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, affine_lens_evaluate) && model_arg(&in, module, &model) &&
        read_lens(&in, model, &lens) && read_prompts(&in, &texts) &&
        km_arg_callable(&in, "progress", &progress) &&
        (result = comparison_arrays(module, &out, &texts, km_model_config(model)->n_layers)) !=
            NULL) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status =
            km_affine_lens_evaluate_into(&out, model, &lens, texts.ids, texts.offsets, texts.n,
                                         texts.batch_tokens, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* (rank, logprob, entropy, top_ids, top_logprobs) */
static PyObject *affine_arrays(PyObject *module, km_lens_arrays *out, int64_t n, int64_t layers,
                               int top_k) {
    PyObject *arrays[5] = {
        make_array(module, KM_I64, n, layers, -1, (void **)&out->rank),
        make_array(module, KM_F64, n, layers, -1, (void **)&out->logprob),
        make_array(module, KM_F64, n, layers, -1, (void **)&out->entropy),
        make_array(module, KM_I32, n, layers, top_k, (void **)&out->top_ids),
        make_array(module, KM_F64, n, layers, top_k, (void **)&out->top_logprobs),
    };
    return pack(arrays, 5);
}

FUNCTION(affine_lens_run) {
    km_args in;
    km_model *model;
    prompts texts;
    km_view targets;
    km_affine_lens lens;
    km_lens_arrays out = {0};
    int top_k = 0;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, affine_lens_run) && model_arg(&in, module, &model) &&
        read_lens(&in, model, &lens) && read_prompts(&in, &texts) &&
        km_arg_view(&in, "targets", KM_I32, "(K)", &targets) &&
        km_args_same_length(&in, "targets", targets.n, "offsets[1:]", texts.n) &&
        km_arg_int(&in, "top_k", &top_k) && km_arg_callable(&in, "progress", &progress) &&
        (result = affine_arrays(module, &out, texts.n, km_model_config(model)->n_layers + 1,
                                top_k < 0 ? 0 : top_k)) != NULL) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status = km_affine_lens_run_into(&out, model, &lens, texts.ids, texts.offsets,
                                                   texts.n, targets.data, top_k, texts.batch_tokens,
                                                   km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- direct logit attribution ---- */

FUNCTION(attribution_run) {
    km_args in;
    km_model *model;
    prompts texts;
    km_view tokens, contrasts = {0};
    PyObject *progress = NULL, *result = NULL;
    double *parts, *logits;
    if (BIND(in, module, attribution_run) && model_arg(&in, module, &model) &&
        read_prompts(&in, &texts) && km_arg_view(&in, "tokens", KM_I32, "(K)", &tokens) &&
        km_args_same_length(&in, "tokens", tokens.n, "offsets[1:]", texts.n) &&
        km_arg_view(&in, "contrasts", KM_I32, "(K)", &contrasts) &&
        km_args_same_length(&in, "contrasts", contrasts.n, "offsets[1:]", texts.n) &&
        km_arg_callable(&in, "progress", &progress)) {
        PyObject *arrays[2] = {
            make_array(module, KM_F64, texts.n, km_attribution_parts(model), -1, (void **)&parts),
            make_array(module, KM_F64, texts.n, -1, -1, (void **)&logits),
        };
        result = pack(arrays, 2);
    }
    if (result != NULL) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status = km_attribution_run_into(
            parts, logits, model, texts.ids, texts.offsets, texts.n, tokens.data, contrasts.data,
            texts.batch_tokens, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_interpretability_methods[] = {
    KM_METHOD("lens_run", lens_run, KM_DOC_lens_run),
    KM_METHOD("affine_lens_fit", affine_lens_fit, KM_DOC_affine_lens_fit),
    KM_METHOD("affine_lens_evaluate", affine_lens_evaluate, KM_DOC_affine_lens_evaluate),
    KM_METHOD("affine_lens_run", affine_lens_run, KM_DOC_affine_lens_run),
    KM_METHOD("attribution_run", attribution_run, KM_DOC_attribution_run),
    {NULL, NULL, 0, NULL},
};
