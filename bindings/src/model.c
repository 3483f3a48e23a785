/* model.c: `_km.Model`: loading, tokens, log-probabilities. Every long call runs without the GIL
 * and stops on Ctrl-C. A model in use by one thread makes others wait their turn (km/model.h),
 * without the GIL, so there is nothing to be busy. */
#include "km/model.h"

#include <string.h>

#include "buffers.h"
#include "km/memorization.h"
#include "tick.h"
#include "types.h"

typedef struct model_object {
    PyObject_HEAD
    km_model *model;
    PyObject *context; /* keeps the km_ctx alive; a Context never refers back: no cycles */
} model_object;

km_model *km_py_model_get(PyObject *object) {
    return ((model_object *)object)->model;
}

PyObject *km_py_model_make(PyTypeObject *type, km_model *model, PyObject *context) {
    model_object *self = (model_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        km_model_free(model);
        return NULL;
    }
    self->model = model;
    self->context = Py_NewRef(context);
    return (PyObject *)self;
}

PyObject *km_py_model_wrap(PyObject *like, km_model *model) {
    return km_py_model_make(Py_TYPE(like), model, ((model_object *)like)->context);
}

static void model_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    model_object *self = (model_object *)object;
    km_model *model = self->model;
    PyThreadState *thread = PyEval_SaveThread(); /* unmaps a file */
    km_model_free(model);
    PyEval_RestoreThread(thread);
    Py_XDECREF(self->context);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* ---- making ---- */

typedef struct load_job {
    km_model *out;
    km_ctx *ctx;
    const char *path;
    km_model_options options;
} load_job;

static km_status load(void *payload, km_error *err) {
    load_job *job = payload;
    return km_model_load(&job->out, job->ctx, job->path, &job->options, err);
}

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_state *state = KM_TYPE_STATE(type);
    km_args in;
    load_job job = {NULL, NULL, NULL, KM_MODEL_OPTIONS_INIT};
    PyObject *context = NULL, *path = NULL, *result = NULL;
    if (km_args_bind_new(&in, &state->errors, KM_SIG_Model, args, kwargs) &&
        km_arg_path(&in, "path", &job.path, &path) &&
        km_arg_instance(&in, "context", state->types[KM_TYPE_CONTEXT], &context) &&
        km_arg_int64(&in, "max_bytes", &job.options.max_bytes)) {
        job.ctx = km_py_context_get(context);
        if (km_py_run(&state->errors, job.ctx, load, &job, path)) {
            result = km_py_model_make(type, job.out, context);
            job.out = NULL;
        }
        km_model_free(job.out); /* loaded, but a signal came */
    }
    km_args_clear(&in);
    return result;
}

typedef struct random_job {
    km_model *out;
    const km_model *model;
    uint64_t seed;
} random_job;

static km_status make_random(void *payload, km_error *err) {
    random_job *job = payload;
    return km_model_random_like(&job->out, job->model, job->seed, err);
}

static PyObject *model_random_like(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    random_job job = {NULL, km_py_model_get(self), 0};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_random_like, args, nargs, kwnames) &&
        km_arg_uint64(&in, "seed", &job.seed)) {
        if (km_py_run(&state->errors, km_model_ctx(job.model), make_random, &job, NULL)) {
            result = km_py_model_make(Py_TYPE(self), job.out, ((model_object *)self)->context);
            job.out = NULL;
        }
        km_model_free(job.out);
    }
    km_args_clear(&in);
    return result;
}

/* ---- text ---- */

/* bos: None is what the model file says. */
static bool read_encode(km_args *in, km_bytes *text, km_encode_options *options) {
    PyObject *bos = km_arg_object(in, "bos");
    bool wanted = false;
    if (!km_arg_text(in, "text", text) || !km_arg_bool(in, "bos", &wanted) ||
        !km_arg_bool(in, "special", &options->parse_special)) {
        return false;
    }
    options->bos = bos == NULL ? KM_BOS_MODEL : wanted ? KM_BOS_ALWAYS : KM_BOS_NEVER;
    return true;
}

static bool run_encode(const km_state *state, km_tokens *out, PyObject *self, const km_bytes *text,
                       const km_encode_options *options) {
    km_error err = KM_ERROR_INIT;
    km_status status;
    const km_tokenizer *tokenizer = km_model_tokenizer(km_py_model_get(self));
    PyThreadState *thread = PyEval_SaveThread();
    status = km_tokenizer_encode(out, tokenizer, text->data, (size_t)text->n, options, &err);
    PyEval_RestoreThread(thread);
    if (status != KM_OK) {
        km_py_raise(&state->errors, &err);
    }
    return status == KM_OK;
}

/* The ids as an int32 array; spans (n, 2) int64 too when *spans is not NULL. */
static PyObject *token_arrays(const km_state *state, const km_tokens *tokens, PyObject **spans) {
    void *ids = NULL, *bounds = NULL;
    int64_t shape[2] = {tokens->n, 2};
    PyTypeObject *type = state->types[KM_TYPE_ARRAY];
    PyObject *array = km_array_new(type, KM_I32, 1, shape, &ids);
    if (array != NULL && spans != NULL) {
        *spans = km_array_new(type, KM_I64, 2, shape, &bounds);
        if (*spans == NULL) {
            Py_CLEAR(array);
        }
    }
    for (int64_t i = 0; array != NULL && i < tokens->n; i++) {
        ((int32_t *)ids)[i] = tokens->items[i].id;
        if (bounds != NULL) {
            ((int64_t *)bounds)[2 * i] = tokens->items[i].start;
            ((int64_t *)bounds)[2 * i + 1] = tokens->items[i].end;
        }
    }
    return array;
}

static PyObject *model_encode(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    km_bytes text = {NULL, 0};
    km_encode_options options = KM_ENCODE_OPTIONS_INIT;
    km_tokens tokens = KM_TOKENS_INIT;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_encode, args, nargs, kwnames) &&
        read_encode(&in, &text, &options) && run_encode(state, &tokens, self, &text, &options)) {
        result = token_arrays(state, &tokens, NULL);
    }
    km_tokens_clear(&tokens);
    km_args_clear(&in);
    return result;
}

static PyObject *model_tokens(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    km_bytes text = {NULL, 0};
    km_encode_options options = KM_ENCODE_OPTIONS_INIT;
    km_tokens tokens = KM_TOKENS_INIT;
    PyObject *ids = NULL, *spans = NULL, *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_tokens, args, nargs, kwnames) &&
        read_encode(&in, &text, &options) && run_encode(state, &tokens, self, &text, &options)) {
        ids = token_arrays(state, &tokens, &spans);
        result = ids == NULL ? NULL : PyTuple_Pack(2, ids, spans);
    }
    Py_XDECREF(ids);
    Py_XDECREF(spans);
    km_tokens_clear(&tokens);
    km_args_clear(&in);
    return result;
}

static PyObject *model_decode(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    const km_tokenizer *tokenizer = km_model_tokenizer(km_py_model_get(self));
    km_error err = KM_ERROR_INIT;
    km_status status;
    km_args in;
    km_view ids;
    bool special = true;
    char *text = NULL;
    size_t n = 0;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_decode, args, nargs, kwnames) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &ids) && km_arg_bool(&in, "special", &special)) {
        PyThreadState *thread = PyEval_SaveThread();
        status = km_tokenizer_decode(&text, &n, tokenizer, ids.data, ids.n, special, &err);
        PyEval_RestoreThread(thread);
        result = status == KM_OK ? PyBytes_FromStringAndSize(text, (Py_ssize_t)n)
                                 : km_py_raise(&state->errors, &err);
        km_text_free(tokenizer, text);
    }
    km_args_clear(&in);
    return result;
}

/* The token id of a parameter; false with ArgumentError outside the vocabulary. */
static bool read_id(km_args *in, const km_tokenizer *tokenizer, int *id) {
    if (!km_arg_int(in, "id", id)) {
        return false;
    }
    if (*id < 0 || *id >= km_tokenizer_vocab_size(tokenizer)) {
        km_py_raise_format(in->errors, KM_ERANGE, "%s(): id %d is outside the vocabulary of %lld",
                           in->signature->name, *id, (long long)km_tokenizer_vocab_size(tokenizer));
        return false;
    }
    return true;
}

static PyObject *model_piece(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    const km_tokenizer *tokenizer = km_model_tokenizer(km_py_model_get(self));
    km_args in;
    int id = 0;
    PyObject *result = NULL;
    if (km_args_bind(&in, &KM_OBJECT_STATE(self)->errors, KM_SIG_Model_piece, args, nargs,
                     kwnames) &&
        read_id(&in, tokenizer, &id)) {
        size_t n = 0;
        const char *piece = km_tokenizer_piece(tokenizer, id, &n);
        result = PyBytes_FromStringAndSize(piece == NULL ? "" : piece, (Py_ssize_t)n);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *model_is_special(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    const km_tokenizer *tokenizer = km_model_tokenizer(km_py_model_get(self));
    km_args in;
    int id = 0;
    PyObject *result = NULL;
    if (km_args_bind(&in, &KM_OBJECT_STATE(self)->errors, KM_SIG_Model_is_special, args, nargs,
                     kwnames) &&
        read_id(&in, tokenizer, &id)) {
        result = PyBool_FromLong(km_tokenizer_is_special(tokenizer, id));
    }
    km_args_clear(&in);
    return result;
}

/* ---- the forward pass ---- */

typedef km_status (*logprobs_fn)(float *out, const km_model *model, const int32_t *ids, int64_t n,
                                 km_error *err);

typedef struct logprobs_job {
    logprobs_fn compute;
    float *out;
    const km_model *model;
    km_view ids;
} logprobs_job;

static km_status compute_logprobs(void *payload, km_error *err) {
    logprobs_job *job = payload;
    return job->compute(job->out, job->model, job->ids.data, job->ids.n, err);
}

/* An array of n_out float32 that `compute` fills. */
static PyObject *run_logprobs(km_state *state, logprobs_job *job, int64_t n_out) {
    void *data = NULL;
    PyObject *array = km_array_new(state->types[KM_TYPE_ARRAY], KM_F32, 1, &n_out, &data);
    job->out = data;
    if (array != NULL &&
        !km_py_run(&state->errors, km_model_ctx(job->model), compute_logprobs, job, NULL)) {
        Py_CLEAR(array);
    }
    return array;
}

static PyObject *model_logprobs(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    logprobs_job job = {.compute = km_model_logprobs_into, .model = km_py_model_get(self)};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_logprobs, args, nargs, kwnames) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &job.ids)) {
        result = run_logprobs(state, &job, job.ids.n > 0 ? job.ids.n - 1 : 0);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *model_next_logprobs(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                     PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    logprobs_job job = {.compute = km_model_next_logprobs_into, .model = km_py_model_get(self)};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_next_logprobs, args, nargs, kwnames) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &job.ids)) {
        result = run_logprobs(state, &job, km_model_config(job.model)->vocab_size);
    }
    km_args_clear(&in);
    return result;
}

typedef struct lens_job {
    km_table *out;
    const km_model *model;
    km_view ids;
    int target, top_k;
} lens_job;

static km_status compute_lens(void *payload, km_error *err) {
    lens_job *job = payload;
    return km_lens_run(&job->out, job->model, job->ids.data, job->ids.n, job->target, job->top_k,
                       err);
}

static PyObject *model_lens(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    lens_job job = {.model = km_py_model_get(self), .top_k = 5};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_lens, args, nargs, kwnames) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &job.ids) &&
        km_arg_int(&in, "target", &job.target) && km_arg_int(&in, "top_k", &job.top_k)) {
        if (km_py_run(&state->errors, km_model_ctx(job.model), compute_lens, &job, NULL)) {
            result = km_py_table_wrap(state, job.out);
            job.out = NULL;
        }
        km_table_free(job.out);
    }
    km_args_clear(&in);
    return result;
}

/* ---- facts about the model ---- */

typedef struct fingerprint_job {
    char out[65];
    const km_model *model;
} fingerprint_job;

static km_status compute_fingerprint(void *payload, km_error *err) {
    fingerprint_job *job = payload;
    return km_model_fingerprint(job->out, job->model, err);
}

static PyObject *model_fingerprint(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    fingerprint_job job = {{0}, km_py_model_get(self)};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_fingerprint, args, nargs, kwnames) &&
        km_py_run(&state->errors, km_model_ctx(job.model), compute_fingerprint, &job, NULL)) {
        result = PyUnicode_FromString(job.out);
    }
    km_args_clear(&in);
    return result;
}

/* Indices of the layers with a sliding window. */
static PyObject *windowed_layers(const km_config *c) {
    PyObject *list = PyList_New(0);
    for (int32_t i = 0; list != NULL && c->sliding_window > 0 && i < c->n_layers; i++) {
        PyObject *index = c->windowed[i] ? PyLong_FromLong(i) : NULL;
        if (c->windowed[i] && (index == NULL || PyList_Append(list, index) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(index);
    }
    return list;
}

PyObject *km_py_config_dict(const km_config *c) {
    static const char *const ACTIVATIONS[] = {"silu", "gelu_tanh", "gelu_erf"};
    return Py_BuildValue(
        "{ss ss si si si si si si si si ss sd sd ss sN sN sN sN sN sN sN sN sd sd sd sd ss ss si "
        "sd "
        "sd sd sd sd sd si si sN}",
        "arch", c->arch, "name", c->name, "n_layers", c->n_layers, "d_model", c->d_model, "n_heads",
        c->n_heads, "n_kv_heads", c->n_kv_heads, "head_dim", c->head_dim, "d_ffn", c->d_ffn,
        "vocab_size", c->vocab_size, "context_length", c->context_length, "norm",
        c->norm == KM_NORM_LAYER ? "layer" : "rms", "norm_eps", c->norm_eps, "norm_offset",
        (double)c->norm_offset, "activation", ACTIVATIONS[c->activation], "gated_mlp",
        PyBool_FromLong(c->gated_mlp), "parallel_residual", PyBool_FromLong(c->parallel_residual),
        "qk_norm", PyBool_FromLong(c->qk_norm), "post_norms", PyBool_FromLong(c->post_norms),
        "qkv_bias", PyBool_FromLong(c->qkv_bias), "attn_out_bias",
        PyBool_FromLong(c->attn_out_bias), "mlp_bias", PyBool_FromLong(c->mlp_bias),
        "tied_embeddings", PyBool_FromLong(c->tied_embeddings), "embed_scale",
        (double)c->embed_scale, "attn_scale", (double)c->attn_scale, "attn_softcap",
        (double)c->attn_softcap, "final_softcap", (double)c->final_softcap, "position",
        c->position == KM_POSITION_LEARNED ? "learned" : "rope", "rope_pairs",
        c->rope_pairs == KM_ROPE_HALVES ? "halves" : "interleaved", "rotary_dim", c->rotary_dim,
        "rope_base", c->rope_base, "rope_base_local", c->rope_base_local, "rope_linear_scale",
        c->rope_linear_scale, "rope_factor", c->rope_factor, "rope_low_freq_factor",
        c->rope_low_freq_factor, "rope_high_freq_factor", c->rope_high_freq_factor,
        "rope_original_context", c->rope_original_context, "sliding_window", c->sliding_window,
        "windowed_layers", windowed_layers(c));
}

static PyObject *model_config(PyObject *self, void *closure) {
    (void)closure;
    return km_py_config_dict(km_model_config(km_py_model_get(self)));
}

static PyObject *model_context(PyObject *self, void *closure) {
    (void)closure;
    return Py_NewRef(((model_object *)self)->context);
}

static PyObject *model_path(PyObject *self, void *closure) {
    (void)closure;
    const char *path = km_model_path(km_py_model_get(self));
    return PyUnicode_DecodeFSDefault(path == NULL ? "" : path);
}

static PyObject *model_precision(PyObject *self, void *closure) {
    (void)closure;
    return PyUnicode_FromString(km_model_precision(km_py_model_get(self)));
}

static PyObject *model_n_parameters(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(km_model_parameters(km_py_model_get(self)));
}

static PyObject *model_tokenizer_hash(PyObject *self, void *closure) {
    (void)closure;
    return PyUnicode_FromString(km_tokenizer_hash(km_model_tokenizer(km_py_model_get(self))));
}

/* -1 in C is None in Python. */
static PyObject *id_or_none(int32_t id) {
    return id < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(id);
}

static PyObject *model_bos(PyObject *self, void *closure) {
    (void)closure;
    return id_or_none(km_tokenizer_bos(km_model_tokenizer(km_py_model_get(self))));
}

static PyObject *model_eos(PyObject *self, void *closure) {
    (void)closure;
    return id_or_none(km_tokenizer_eos(km_model_tokenizer(km_py_model_get(self))));
}

static PyObject *model_adds_bos(PyObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(km_tokenizer_adds_bos(km_model_tokenizer(km_py_model_get(self))));
}

static PyObject *model_repr(PyObject *self) {
    const km_model *model = km_py_model_get(self);
    return PyUnicode_FromFormat("<km model %s: %s, %lld parameters>", km_model_config(model)->name,
                                km_model_precision(model), (long long)km_model_parameters(model));
}

static PyMethodDef model_methods[] = {
    KM_METHOD("encode", model_encode, KM_DOC_Model_encode),
    KM_METHOD("tokens", model_tokens, KM_DOC_Model_tokens),
    KM_METHOD("decode", model_decode, KM_DOC_Model_decode),
    KM_METHOD("piece", model_piece, KM_DOC_Model_piece),
    KM_METHOD("is_special", model_is_special, KM_DOC_Model_is_special),
    KM_METHOD("logprobs", model_logprobs, KM_DOC_Model_logprobs),
    KM_METHOD("next_logprobs", model_next_logprobs, KM_DOC_Model_next_logprobs),
    KM_METHOD("lens", model_lens, KM_DOC_Model_lens),
    KM_METHOD("random_like", model_random_like, KM_DOC_Model_random_like),
    KM_METHOD("fingerprint", model_fingerprint, KM_DOC_Model_fingerprint),
    KM_METHOD("weights", km_py_model_weights, KM_DOC_Model_weights),
    KM_METHOD("weight", km_py_model_weight, KM_DOC_Model_weight),
    KM_METHOD("with_weights", km_py_model_with_weights, KM_DOC_Model_with_weights),
    KM_METHOD("save", km_py_model_save, KM_DOC_Model_save),
    KM_METHOD("export_gguf", km_py_model_export_gguf, KM_DOC_Model_export_gguf),
    KM_METHOD("metadata", km_py_model_metadata, KM_DOC_Model_metadata),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef model_getset[] = {
    {"config", model_config, NULL, KM_DOC_Model_config, NULL},
    {"context", model_context, NULL, KM_DOC_Model_context, NULL},
    {"path", model_path, NULL, KM_DOC_Model_path, NULL},
    {"precision", model_precision, NULL, KM_DOC_Model_precision, NULL},
    {"n_parameters", model_n_parameters, NULL, KM_DOC_Model_n_parameters, NULL},
    {"tokenizer_hash", model_tokenizer_hash, NULL, KM_DOC_Model_tokenizer_hash, NULL},
    {"bos", model_bos, NULL, KM_DOC_Model_bos, NULL},
    {"eos", model_eos, NULL, KM_DOC_Model_eos, NULL},
    {"adds_bos", model_adds_bos, NULL, KM_DOC_Model_adds_bos, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, KM_DOC_Model},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_repr, model_repr},
    {Py_tp_methods, model_methods},
    {Py_tp_getset, model_getset},
    {0, NULL},
};

PyType_Spec km_py_model_spec = {"km._km.Model", sizeof(model_object), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, model_slots};
