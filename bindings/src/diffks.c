/* diffks.c: `_km.DiffKS`: a knowledge selection model with a context of its own. One thread at a
 * time: a second one gets BusyError. */
#include <stdatomic.h>
#include <string.h>

#include "buffers.h"
#include "km/select.h"
#include "tick.h"
#include "types.h"

typedef struct diffks_object {
    PyObject_HEAD
    km_ctx *ctx;
    km_diffks *model;
    atomic_bool busy;
} diffks_object;

static void diffks_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    diffks_object *self = (diffks_object *)object;
    PyThreadState *thread = PyEval_SaveThread(); /* ends the pool's threads */
    km_diffks_free(self->model);
    km_ctx_free(self->ctx);
    PyEval_RestoreThread(thread);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* ---- calls ---- */

/* One call: arguments, and whether this call holds the model. */
typedef struct diffks_call {
    diffks_object *self;
    km_state *state;
    km_args in;
    bool entered;
} diffks_call;

/* Bind the arguments and take the model. False with an exception; leave() in any case. */
static bool enter(diffks_call *call, PyObject *object, const km_signature *signature,
                  PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    *call = (diffks_call){(diffks_object *)object, KM_OBJECT_STATE(object), {0}, false};
    if (!km_args_bind(&call->in, &call->state->errors, signature, args, nargs, kwnames)) {
        return false;
    }
    if (atomic_exchange(&call->self->busy, true)) {
        km_py_raise_format(&call->state->errors, KM_ESTATE,
                           "the model is in use by another thread");
        return false;
    }
    call->entered = true;
    return true;
}

static PyObject *leave(diffks_call *call, PyObject *result) {
    if (call->entered) {
        atomic_store(&call->self->busy, false);
    }
    km_args_clear(&call->in);
    return result;
}

static bool run(diffks_call *call, km_py_work work, void *payload) {
    return km_py_run(&call->state->errors, call->self->ctx, work, payload, NULL);
}

/* Batches of at most this many words take a few milliseconds: short enough to be waited for without
 * looking at signals, and too short to be worth a thread of their own. */
#define SHORT_BATCH 4096

static bool is_short(const km_diffks_batch *batch) {
    return batch->sentence_offsets[batch->n_sentences] + batch->context_offsets[batch->n_turns] <=
           SHORT_BATCH;
}

static bool run_here(diffks_call *call, km_py_work work, void *payload) {
    km_error err = KM_ERROR_INIT;
    PyThreadState *thread = PyEval_SaveThread();
    const km_status status = work(payload, &err);
    PyEval_RestoreThread(thread);
    if (status != KM_OK) {
        km_py_raise(&call->state->errors, &err);
    }
    return status == KM_OK && PyErr_CheckSignals() == 0;
}

static bool bad_argument(const km_args *in, const char *name, const char *wanted) {
    km_py_raise_format(in->errors, KM_EINVAL, "%s(): '%s' must be %s", in->signature->name, name,
                       wanted);
    return false;
}

/* ---- making one ---- */

static bool read_variant(const km_args *in, km_diffks_variant *out) {
    static const char *const NAMES[] = {"fused", "disentangled", "context", "posterior"};
    const char *name = NULL;
    if (!km_arg_str(in, "variant", &name)) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (km_diffks_variant)i;
            return true;
        }
    }
    return bad_argument(in, "variant", "'fused', 'disentangled', 'context' or 'posterior'");
}

static bool read_weights(km_args *in, km_diffks_config *config) {
    km_view weights = {NULL};
    if (!km_arg_view(in, "weights", KM_F64, "(M)", &weights)) {
        return false;
    }
    config->history = weights.n;
    if (weights.n < 1 || weights.n > KM_DIFFKS_MAX_HISTORY) {
        return bad_argument(in, "weights", "1 to 16 numbers");
    }
    memcpy(config->weights, weights.data, (size_t)weights.n * sizeof(double));
    return true;
}

static bool read_config(km_args *in, km_diffks_config *config) {
    *config = (km_diffks_config)KM_DIFFKS_CONFIG_INIT;
    config->dropout = 0.0;
    return read_variant(in, &config->variant) &&
           km_arg_int64(in, "vocabulary", &config->vocabulary) &&
           km_arg_int64(in, "embedding", &config->embedding) &&
           km_arg_int64(in, "hidden", &config->hidden) &&
           km_arg_int64(in, "decoder", &config->decoder) && read_weights(in, config) &&
           km_arg_double(in, "dropout", &config->dropout) &&
           km_arg_int64(in, "vectors", &config->vectors) &&
           km_arg_bool(in, "mask_padding", &config->mask_padding) &&
           km_arg_bool(in, "generate", &config->generate) &&
           km_arg_bool(in, "train_embedding", &config->train_embedding) &&
           km_arg_bool(in, "match", &config->match) &&
           km_arg_double(in, "temperature", &config->temperature) &&
           km_arg_double(in, "supervision", &config->supervision);
}

static PyObject *diffks_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    const km_errors *errors = &KM_TYPE_STATE(type)->errors;
    km_args in;
    km_diffks_config config;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    uint64_t seed = 0;
    km_error err = KM_ERROR_INIT;
    diffks_object *self = NULL;
    if (km_args_bind_new(&in, errors, KM_SIG_DiffKS, args, kwargs) && read_config(&in, &config) &&
        km_arg_uint64(&in, "seed", &seed) && km_arg_int(&in, "threads", &options.n_threads) &&
        (self = (diffks_object *)PyType_GenericAlloc(type, 0)) != NULL) {
        atomic_init(&self->busy, false);
        if (km_ctx_new(&self->ctx, &options, &err) != KM_OK ||
            km_diffks_new(&self->model, self->ctx, &config, seed, &err) != KM_OK) {
            km_py_raise(errors, &err);
            Py_CLEAR(self);
        }
    }
    km_args_clear(&in);
    return (PyObject *)self;
}

/* ---- parameters ---- */

static PyObject *lend(diffks_call *call, const km_diffks_parameter *p, float *data) {
    return km_array_lend(call->state->types[KM_TYPE_ARRAY], KM_F32, p->n_dims, p->shape, data,
                         (PyObject *)call->self);
}

typedef PyObject *(*parameter_fn)(diffks_call *call, const km_diffks_parameter *p);

static PyObject *values_of(diffks_call *call, const km_diffks_parameter *p) {
    return lend(call, p, p->values);
}

static PyObject *gradient_of(diffks_call *call, const km_diffks_parameter *p) {
    return lend(call, p, p->gradient);
}

/* None for a parameter that is not trained. */
static PyObject *averages_of(diffks_call *call, const km_diffks_parameter *p) {
    if (p->first == NULL || p->second == NULL) {
        return Py_NewRef(Py_None);
    }
    PyObject *first = lend(call, p, p->first);
    PyObject *second = first == NULL ? NULL : lend(call, p, p->second);
    PyObject *pair = second == NULL ? NULL : PyTuple_Pack(2, first, second);
    Py_XDECREF(first);
    Py_XDECREF(second);
    return pair;
}

/* name -> make(parameter), without None. */
static PyObject *by_name(diffks_call *call, parameter_fn make) {
    PyObject *dict = PyDict_New();
    for (int64_t i = 0; dict != NULL && i < km_diffks_n_parameters(call->self->model); i++) {
        km_diffks_parameter p;
        km_error err = KM_ERROR_INIT;
        PyObject *value = NULL;
        if (km_diffks_parameter_at(&p, call->self->model, i, &err) != KM_OK) {
            km_py_raise(&call->state->errors, &err);
        } else {
            value = make(call, &p);
        }
        if (value == NULL || (value != Py_None && PyDict_SetItemString(dict, p.name, value) < 0)) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return dict;
}

static PyObject *diffks_parameters(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    diffks_call call;
    const bool good = enter(&call, self, KM_SIG_DiffKS_parameters, args, nargs, kwnames);
    return leave(&call, good ? by_name(&call, values_of) : NULL);
}

static PyObject *diffks_gradients(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    diffks_call call;
    const bool good = enter(&call, self, KM_SIG_DiffKS_gradients, args, nargs, kwnames);
    return leave(&call, good ? by_name(&call, gradient_of) : NULL);
}

static PyObject *diffks_averages(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    diffks_call call;
    const bool good = enter(&call, self, KM_SIG_DiffKS_averages, args, nargs, kwnames);
    return leave(&call, good ? by_name(&call, averages_of) : NULL);
}

static bool is_dict(const km_args *in, PyObject *object, const char *name) {
    return PyDict_Check(object) || km_args_type_error(in, name, "a dict of arrays", object);
}

/* The array of one parameter, checked but not yet copied. */
static bool parameter_view(diffks_call *call, PyObject *dict, const km_diffks_parameter *p,
                           km_view *out) {
    static const char *const SHAPES[] = {"(n)", "(rows, columns)", "(directions, 1, H)"};
    PyObject *value = PyDict_GetItemString(dict, p->name);
    if (value == NULL) {
        km_py_raise_format(&call->state->errors, KM_ENOTFOUND, "%s(): '%s' is missing",
                           call->in.signature->name, p->name);
        return false;
    }
    if (!km_args_view(&call->in, value, p->name, KM_F32, SHAPES[p->n_dims - 1], out)) {
        return false;
    }
    for (int i = 0; i < p->n_dims; i++) {
        if (out->shape[i] != p->shape[i]) {
            km_py_raise_format(&call->state->errors, KM_ESHAPE,
                               "%s(): axis %d of '%s' has %lld elements, the model has %lld",
                               call->in.signature->name, i, p->name, (long long)out->shape[i],
                               (long long)p->shape[i]);
            return false;
        }
    }
    return true;
}

/* All are looked at before the first is copied. */
static bool load_all(diffks_call *call, PyObject *dict) {
    const int64_t n = km_diffks_n_parameters(call->self->model);
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < n; i++) {
            km_diffks_parameter p;
            km_view view;
            const int before = call->in.n_views; /* one view at a time */
            if (km_diffks_parameter_at(&p, call->self->model, i, NULL) != KM_OK ||
                !parameter_view(call, dict, &p, &view)) {
                return false;
            }
            if (pass == 1) {
                memcpy(p.values, view.data, (size_t)p.n * sizeof(float));
            }
            PyBuffer_Release(&call->in.views[before]);
            call->in.n_views = before;
        }
    }
    return true;
}

static PyObject *diffks_load_parameters(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                        PyObject *kwnames) {
    diffks_call call;
    PyObject *result = NULL;
    if (enter(&call, self, KM_SIG_DiffKS_load_parameters, args, nargs, kwnames)) {
        PyObject *dict = km_arg_object(&call.in, "parameters");
        if (is_dict(&call.in, dict, "parameters") && load_all(&call, dict)) {
            result = Py_NewRef(Py_None);
        }
    }
    return leave(&call, result);
}

/* ---- the optimiser ---- */

static PyObject *diffks_optimize(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    diffks_call call;
    km_optimizer_options options = KM_OPTIMIZER_OPTIONS_INIT;
    km_error err = KM_ERROR_INIT;
    PyObject *result = NULL;
    if (enter(&call, self, KM_SIG_DiffKS_optimize, args, nargs, kwnames) &&
        km_arg_double(&call.in, "beta1", &options.beta1) &&
        km_arg_double(&call.in, "beta2", &options.beta2) &&
        km_arg_double(&call.in, "eps", &options.eps) &&
        km_arg_double(&call.in, "weight_decay", &options.weight_decay)) {
        result = km_diffks_optimize(call.self->model, &options, &err) == KM_OK
                     ? Py_NewRef(Py_None)
                     : km_py_raise(&call.state->errors, &err);
    }
    return leave(&call, result);
}

static PyObject *diffks_steps(PyObject *self, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(km_diffks_steps(((diffks_object *)self)->model));
}

static PyObject *diffks_set_steps(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    diffks_call call;
    int64_t steps = 0;
    km_error err = KM_ERROR_INIT;
    PyObject *result = NULL;
    if (enter(&call, self, KM_SIG_DiffKS_set_steps, args, nargs, kwnames) &&
        km_arg_int64(&call.in, "steps", &steps)) {
        result = km_diffks_set_steps(call.self->model, steps, &err) == KM_OK
                     ? Py_NewRef(Py_None)
                     : km_py_raise(&call.state->errors, &err);
    }
    return leave(&call, result);
}

/* ---- batches ---- */

/* An array of a batch; absent or None: false without an exception when it may be. */
static bool batch_array(km_args *in, PyObject *batch, const char *name, km_element element,
                        const char *shape, bool required, km_view *out) {
    PyObject *value = PyDict_GetItemString(batch, name);
    *out = (km_view){NULL};
    if (value == NULL || value == Py_None) {
        return !required || bad_argument(in, name, "in the batch");
    }
    return km_args_view(in, value, name, element, shape, out);
}

/* Offsets and what they point into. */
static bool batch_offsets(km_args *in, PyObject *batch, const char *name, const char *of,
                          km_element element, bool required, km_view *offsets, km_view *things) {
    if (!batch_array(in, batch, name, KM_I64, "(n + 1)", required, offsets) ||
        !batch_array(in, batch, of, element, "(n)", required, things)) {
        return false;
    }
    if ((offsets->data == NULL) != (things->data == NULL)) {
        return bad_argument(in, name, "given together with what it points into");
    }
    if (offsets->data != NULL &&
        (offsets->n < 1 || ((const int64_t *)offsets->data)[offsets->n - 1] != things->n)) {
        km_py_raise_format(in->errors, KM_EINVAL, "%s(): '%s' must end at %lld, the length of '%s'",
                           in->signature->name, name, (long long)things->n, of);
        return false;
    }
    return true;
}

static bool same_turns(const km_args *in, const km_view *offsets, const char *name, int64_t n) {
    if (offsets->data != NULL && offsets->n != n + 1) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): '%s' has %lld elements for %lld turns",
                           in->signature->name, name, (long long)offsets->n, (long long)n);
        return false;
    }
    return true;
}

/* One vector a word. */
static bool batch_vectors(km_args *in, PyObject *batch, const char *name, int64_t n_words,
                          int64_t width, const float **out) {
    km_view view;
    if (width == 0) {
        return true;
    }
    if (!batch_array(in, batch, name, KM_F32, "(words, vectors)", true, &view)) {
        return false;
    }
    if (view.shape[0] != n_words || view.shape[1] != width) {
        km_py_raise_format(in->errors, KM_ESHAPE,
                           "%s(): '%s' has the shape (%lld, %lld), not (%lld, %lld)",
                           in->signature->name, name, (long long)view.shape[0],
                           (long long)view.shape[1], (long long)n_words, (long long)width);
        return false;
    }
    *out = view.data;
    return true;
}

static bool read_words(km_args *in, PyObject *batch, km_diffks_batch *out, int64_t width) {
    km_view offsets, tokens;
    if (!batch_offsets(in, batch, "sentence_offsets", "sentence_tokens", KM_I32, true, &offsets,
                       &tokens) ||
        !batch_vectors(in, batch, "sentence_vectors", tokens.n, width, &out->sentence_vectors)) {
        return false;
    }
    out->n_sentences = offsets.n - 1;
    out->sentence_offsets = offsets.data;
    out->sentence_tokens = tokens.data;
    if (!batch_offsets(in, batch, "context_offsets", "context_tokens", KM_I32, true, &offsets,
                       &tokens) ||
        !same_turns(in, &offsets, "context_offsets", out->n_turns) ||
        !batch_vectors(in, batch, "context_vectors", tokens.n, width, &out->context_vectors)) {
        return false;
    }
    out->context_offsets = offsets.data;
    out->context_tokens = tokens.data;
    if (!batch_offsets(in, batch, "response_offsets", "response_tokens", KM_I32, false, &offsets,
                       &tokens) ||
        !same_turns(in, &offsets, "response_offsets", out->n_turns)) {
        return false;
    }
    out->response_offsets = offsets.data;
    out->response_tokens = tokens.data;
    return true;
}

static bool read_turns(km_args *in, PyObject *batch, km_diffks_batch *out) {
    km_view offsets, things, gold;
    if (!batch_array(in, batch, "turn_lists", KM_I64, "(T)", true, &things) ||
        !batch_array(in, batch, "dialogue_offsets", KM_I64, "(n + 1)", true, &offsets) ||
        !batch_array(in, batch, "gold", KM_I64, "(T)", false, &gold) ||
        (gold.data != NULL && !km_args_same_length(in, "turn_lists", things.n, "gold", gold.n))) {
        return false;
    }
    if (offsets.n < 1) {
        return bad_argument(in, "dialogue_offsets", "one longer than there are dialogues");
    }
    out->n_turns = things.n;
    out->turn_lists = things.data;
    out->n_dialogues = offsets.n - 1;
    out->dialogue_offsets = offsets.data;
    out->gold = gold.data;
    if (!batch_offsets(in, batch, "list_offsets", "list_sentences", KM_I64, true, &offsets,
                       &things)) {
        return false;
    }
    out->n_lists = offsets.n - 1;
    out->list_offsets = offsets.data;
    out->list_sentences = things.data;
    if (!batch_offsets(in, batch, "history_offsets", "history_sentences", KM_I64, false, &offsets,
                       &things) ||
        !same_turns(in, &offsets, "history_offsets", out->n_turns)) {
        return false;
    }
    out->history_offsets = offsets.data;
    out->history_sentences = things.data;
    return true;
}

/* An array of `rows` times `columns` floats. */
static bool batch_matches(km_args *in, PyObject *batch, const char *name, const char *shape,
                          int64_t rows, int64_t columns, const float **out) {
    km_view view;
    if (!batch_array(in, batch, name, KM_F32, shape, true, &view)) {
        return false;
    }
    if (view.shape[0] != rows || view.n != rows * columns) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): '%s' must have the shape %s, %lld by %lld",
                           in->signature->name, name, shape, (long long)rows, (long long)columns);
        return false;
    }
    *out = view.data;
    return true;
}

/* How alike words and sentences are, for a model that reads it; offsets are not checked yet. */
static bool read_matches(km_args *in, PyObject *batch, km_diffks_batch *out) {
    int64_t n = 0;
    for (int64_t t = 0; t < out->n_turns; t++) {
        const int64_t list = out->turn_lists[t];
        if (list < 0 || list >= out->n_lists) {
            return bad_argument(in, "turn_lists", "indices of lists");
        }
        const int64_t begin = out->list_offsets[list], end = out->list_offsets[list + 1];
        if (begin < 0 || end < begin || end > out->list_offsets[out->n_lists]) {
            return bad_argument(in, "list_offsets", "rising from 0");
        }
        n += end - begin;
    }
    return batch_matches(in, batch, "word_matches", "(C)", n, 1, &out->word_matches) &&
           batch_matches(in, batch, "sentence_matches", "(S, S)", out->n_sentences,
                         out->n_sentences, &out->sentence_matches);
}

static bool read_batch(diffks_call *call, km_diffks_batch *out) {
    const km_diffks_config config = km_diffks_get_config(call->self->model);
    PyObject *batch = km_arg_object(&call->in, "batch");
    *out = (km_diffks_batch){0};
    return is_dict(&call->in, batch, "batch") && read_turns(&call->in, batch, out) &&
           read_words(&call->in, batch, out, config.vectors) &&
           (!config.match || read_matches(&call->in, batch, out));
}

static bool read_history(const km_args *in, km_diffks_options *options) {
    static const char *const NAMES[] = {"gold", "own", "sampled"};
    const char *name = NULL;
    if (!km_arg_str(in, "history", &name)) {
        return false;
    }
    for (int i = 0; name != NULL && i < 3; i++) {
        if (strcmp(name, NAMES[i]) == 0) {
            options->history = (km_diffks_history)i;
            name = NULL;
        }
    }
    return (name == NULL || bad_argument(in, "history", "'gold', 'own' or 'sampled'")) &&
           km_arg_double(in, "probability", &options->probability) &&
           km_arg_bool(in, "allow_none", &options->allow_none);
}

/* ---- losses ---- */

typedef struct loss_job {
    km_diffks *model;
    km_diffks_batch batch;
    km_diffks_options options;
    km_diffks_losses out;
    km_status (*work)(km_diffks_losses *, km_diffks *, const km_diffks_batch *,
                      const km_diffks_options *, km_error *);
} loss_job;

static km_status run_losses(void *payload, km_error *err) {
    loss_job *job = payload;
    return job->work(&job->out, job->model, &job->batch, &job->options, err);
}

static PyObject *losses_dict(const km_diffks_losses *l) {
    return Py_BuildValue("{s:d,s:d,s:d,s:d,s:d,s:L,s:L,s:L}", "loss", l->loss, "selection_loss",
                         l->selection_loss, "word_loss", l->word_loss, "perplexity", l->perplexity,
                         "norm", l->norm, "labelled", (long long)l->n_labelled, "correct",
                         (long long)l->n_correct, "words", (long long)l->n_words);
}

/* loss, gradient and step, whose parameters `job` has defaults of. */
static PyObject *lose(diffks_call *call, loss_job *job) {
    job->model = call->self->model;
    if (read_batch(call, &job->batch) && read_history(&call->in, &job->options) &&
        km_arg_double(&call->in, "word_weight", &job->options.word_weight) &&
        run(call, run_losses, job)) {
        return losses_dict(&job->out);
    }
    return NULL;
}

static PyObject *diffks_loss(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    diffks_call call;
    loss_job job = {.options = KM_DIFFKS_OPTIONS_INIT, .work = km_diffks_loss};
    const bool good = enter(&call, self, KM_SIG_DiffKS_loss, args, nargs, kwnames);
    return leave(&call, good ? lose(&call, &job) : NULL);
}

static PyObject *diffks_gradient(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    diffks_call call;
    loss_job job = {.options = KM_DIFFKS_OPTIONS_INIT, .work = km_diffks_gradient};
    const bool good = enter(&call, self, KM_SIG_DiffKS_gradient, args, nargs, kwnames);
    return leave(&call, good ? lose(&call, &job) : NULL);
}

static PyObject *diffks_step(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    diffks_call call;
    loss_job job = {.options = KM_DIFFKS_OPTIONS_INIT, .work = km_diffks_step};
    const bool good = enter(&call, self, KM_SIG_DiffKS_step, args, nargs, kwnames) &&
                      km_arg_double(&call.in, "learning_rate", &job.options.learning_rate) &&
                      km_arg_double(&call.in, "clip", &job.options.clip);
    return leave(&call, good ? lose(&call, &job) : NULL);
}

/* ---- selecting ---- */

typedef struct select_job {
    km_diffks *model;
    km_diffks_batch batch;
    km_diffks_options options;
    km_diffks_scores out;
} select_job;

static km_status run_select(void *payload, km_error *err) {
    select_job *job = payload;
    return km_diffks_select(&job->out, job->model, &job->batch, &job->options, err);
}

/* A new array (n) or (n, m), m at least 0. */
static PyObject *new_result(diffks_call *call, km_element element, int64_t n, int64_t m,
                            void *data) {
    const int64_t shape[2] = {n, m};
    return km_array_new(call->state->types[KM_TYPE_ARRAY], element, m < 0 ? 1 : 2, shape, data);
}

/* C of a batch that nothing has checked yet; -1 with an exception. */
static int64_t count_candidates(const km_args *in, const km_diffks_batch *batch) {
    for (int64_t t = 0; t < batch->n_turns; t++) {
        if (batch->turn_lists[t] < 0 || batch->turn_lists[t] >= batch->n_lists) {
            (void)bad_argument(in, "turn_lists", "indices of lists");
            return -1;
        }
    }
    const int64_t n = km_diffks_n_candidates(batch);
    if (n < 0 || n > INT32_MAX) {
        (void)bad_argument(in, "list_offsets", "rising");
        return -1;
    }
    return n;
}

static PyObject *select_results(diffks_call *call, select_job *job, bool explain) {
    const int64_t n = count_candidates(&call->in, &job->batch);
    const int64_t most = km_diffks_get_config(job->model).history;
    PyObject *arrays[4] = {NULL};
    PyObject *result = NULL;
    if (n < 0) {
        return NULL;
    }
    arrays[0] = new_result(call, KM_I64, job->batch.n_turns, -1, &job->out.chosen);
    arrays[1] = new_result(call, KM_F32, n, -1, &job->out.scores);
    arrays[2] = explain ? new_result(call, KM_F32, n, -1, &job->out.context) : Py_NewRef(Py_None);
    arrays[3] =
        explain ? new_result(call, KM_F32, n, most, &job->out.contributions) : Py_NewRef(Py_None);
    if (arrays[0] != NULL && arrays[1] != NULL && arrays[2] != NULL && arrays[3] != NULL &&
        (is_short(&job->batch) ? run_here(call, run_select, job) : run(call, run_select, job))) {
        result = PyTuple_Pack(4, arrays[0], arrays[1], arrays[2], arrays[3]);
    }
    for (int i = 0; i < 4; i++) {
        Py_XDECREF(arrays[i]);
    }
    return result;
}

static PyObject *diffks_select(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    diffks_call call;
    select_job job = {.model = ((diffks_object *)self)->model, .options = KM_DIFFKS_OPTIONS_INIT};
    bool explain = false;
    PyObject *result = NULL;
    job.options.history = KM_DIFFKS_OWN;
    if (enter(&call, self, KM_SIG_DiffKS_select, args, nargs, kwnames) &&
        read_batch(&call, &job.batch) && read_history(&call.in, &job.options) &&
        km_arg_bool(&call.in, "explain", &explain)) {
        result = select_results(&call, &job, explain);
    }
    return leave(&call, result);
}

/* ---- answering ---- */

typedef struct respond_job {
    km_diffks *model;
    km_diffks_batch batch;
    const int64_t *chosen;
    int64_t max_words;
    int32_t *tokens;
    int64_t *lengths;
} respond_job;

static km_status run_respond(void *payload, km_error *err) {
    const respond_job *job = payload;
    return km_diffks_respond(job->tokens, job->lengths, job->model, &job->batch, job->chosen,
                             job->max_words, err);
}

static PyObject *answers(diffks_call *call, respond_job *job) {
    PyObject *result = NULL;
    PyObject *tokens = new_result(call, KM_I32, job->batch.n_turns, job->max_words, &job->tokens);
    PyObject *lengths =
        tokens == NULL ? NULL : new_result(call, KM_I64, job->batch.n_turns, -1, &job->lengths);
    if (lengths != NULL && run(call, run_respond, job)) {
        result = PyTuple_Pack(2, tokens, lengths);
    }
    Py_XDECREF(tokens);
    Py_XDECREF(lengths);
    return result;
}

static PyObject *diffks_respond(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    diffks_call call;
    respond_job job = {.model = ((diffks_object *)self)->model, .max_words = 40};
    km_view chosen;
    PyObject *result = NULL;
    if (enter(&call, self, KM_SIG_DiffKS_respond, args, nargs, kwnames) &&
        read_batch(&call, &job.batch) && km_arg_view(&call.in, "chosen", KM_I64, "(T)", &chosen) &&
        km_args_same_length(&call.in, "turn_lists", job.batch.n_turns, "chosen", chosen.n) &&
        km_arg_int64(&call.in, "max_words", &job.max_words)) {
        job.chosen = chosen.data;
        if (job.max_words >= 1 && job.max_words <= 1 << 20) {
            result = answers(&call, &job);
        } else {
            (void)bad_argument(&call.in, "max_words", "from 1 to 1048576");
        }
    }
    return leave(&call, result);
}

static PyObject *diffks_pass_bytes(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    diffks_call call;
    km_diffks_batch batch;
    bool training = true;
    int64_t bytes = 0;
    km_error err = KM_ERROR_INIT;
    PyObject *result = NULL;
    if (enter(&call, self, KM_SIG_DiffKS_pass_bytes, args, nargs, kwnames) &&
        read_batch(&call, &batch) && km_arg_bool(&call.in, "training", &training)) {
        result = km_diffks_pass_bytes(&bytes, call.self->model, &batch, training, &err) == KM_OK
                     ? PyLong_FromLongLong(bytes)
                     : km_py_raise(&call.state->errors, &err);
    }
    return leave(&call, result);
}

/* ---- the type ---- */

static PyMethodDef diffks_methods[] = {
    KM_METHOD("parameters", diffks_parameters, KM_DOC_DiffKS_parameters),
    KM_METHOD("load_parameters", diffks_load_parameters, KM_DOC_DiffKS_load_parameters),
    KM_METHOD("gradients", diffks_gradients, KM_DOC_DiffKS_gradients),
    KM_METHOD("averages", diffks_averages, KM_DOC_DiffKS_averages),
    KM_METHOD("optimize", diffks_optimize, KM_DOC_DiffKS_optimize),
    KM_METHOD("set_steps", diffks_set_steps, KM_DOC_DiffKS_set_steps),
    KM_METHOD("loss", diffks_loss, KM_DOC_DiffKS_loss),
    KM_METHOD("gradient", diffks_gradient, KM_DOC_DiffKS_gradient),
    KM_METHOD("step", diffks_step, KM_DOC_DiffKS_step),
    KM_METHOD("select", diffks_select, KM_DOC_DiffKS_select),
    KM_METHOD("respond", diffks_respond, KM_DOC_DiffKS_respond),
    KM_METHOD("pass_bytes", diffks_pass_bytes, KM_DOC_DiffKS_pass_bytes),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef diffks_getset[] = {
    {"steps", diffks_steps, NULL, KM_DOC_DiffKS_steps, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot diffks_slots[] = {
    {Py_tp_doc, KM_DOC_DiffKS},      {Py_tp_new, diffks_new},       {Py_tp_dealloc, diffks_dealloc},
    {Py_tp_methods, diffks_methods}, {Py_tp_getset, diffks_getset}, {0, NULL},
};

PyType_Spec km_py_diffks_spec = {"km._km.DiffKS", sizeof(diffks_object), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, diffks_slots};
