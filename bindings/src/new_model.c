/* new_model.c: models of a configuration of one's own. */
#include "km/training.h"

#include "save.h"
#include "tick.h"
#include "wrap.h"

FUNCTION(config_from_json) {
    km_args in;
    km_bytes text = {NULL, 0};
    km_config config;
    km_error err = KM_ERROR_INIT;
    PyObject *result = NULL;
    if (BIND(in, module, config_from_json) && km_arg_text(&in, "text", &text)) {
        result = km_config_from_json(&config, text.data, (size_t)text.n, &err) == KM_OK
                     ? km_py_config_dict(&config)
                     : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

typedef struct new_job {
    km_model *out;
    km_ctx *ctx;
    km_new_model parts;
} new_job;

static km_status make(void *payload, km_error *err) {
    new_job *job = payload;
    return km_model_new(&job->out, job->ctx, &job->parts, err);
}

static bool read_parts(km_args *in, PyObject *module, new_job *job, PyObject **shown) {
    PyObject *model = NULL;
    km_bytes config = {NULL, 0};
    km_export_pair *pairs = NULL;
    if (!km_arg_text(in, "config", &config) ||
        !km_arg_path(in, "tokenizer", &job->parts.tokenizer, shown) ||
        !km_arg_instance(in, "tokenizer_of", KM_MODULE_STATE(module)->types[KM_TYPE_MODEL],
                         &model) ||
        !km_py_read_pairs(in, &pairs, &job->parts.n_pairs) ||
        !km_arg_uint64(in, "seed", &job->parts.seed)) {
        return false;
    }
    job->parts.config = config.data;
    job->parts.n_config = (size_t)config.n;
    job->parts.tokenizer_of = model != NULL ? km_py_model_get(model) : NULL;
    job->parts.pairs = pairs;
    return true;
}

FUNCTION(model_new) {
    km_args in;
    new_job job = {0};
    PyObject *context = NULL, *shown = NULL, *result = NULL;
    km_state *state = KM_MODULE_STATE(module);
    if (BIND(in, module, model_new) &&
        km_arg_instance(&in, "context", state->types[KM_TYPE_CONTEXT], &context) &&
        read_parts(&in, module, &job, &shown)) {
        job.ctx = km_py_context_get(context);
        if (km_py_run(&state->errors, job.ctx, make, &job, shown)) {
            result = km_py_model_make(state->types[KM_TYPE_MODEL], job.out, context);
            job.out = NULL;
        }
        km_model_free(job.out);
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_new_model_methods[] = {
    KM_METHOD("config_from_json", config_from_json, KM_DOC_config_from_json),
    KM_METHOD("model_new", model_new, KM_DOC_model_new),
    {NULL, NULL, 0, NULL},
};
