/* trainer.c: `_km.Trainer`: gradients, optimiser and adapters of one trainable model. One thread at
 * a time: a second one gets BusyError. */
#include "km/trainer.h"

#include <string.h>

#include "tick.h"
#include "wrap.h"

typedef struct trainer_object {
    PyObject_HEAD
    km_trainer *trainer;
    PyObject *model; /* a Model never refers back: no cycles */
} trainer_object;

static void trainer_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    trainer_object *self = (trainer_object *)object;
    km_trainer_free(self->trainer);
    Py_XDECREF(self->model);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* ---- options ---- */

static bool read_kind(const km_args *in, km_optimizer_options *options) {
    const char *name = NULL;
    if (!km_arg_str(in, "optimizer", &name)) {
        return false;
    }
    if (strcmp(name, "adamw") != 0 && strcmp(name, "sgd") != 0) {
        km_py_raise_format(in->errors, KM_EINVAL, "%s(): 'optimizer' must be 'adamw' or 'sgd'",
                           in->signature->name);
        return false;
    }
    options->kind = name[0] == 'a' ? KM_ADAMW : KM_SGD;
    return km_arg_double(in, "beta1", &options->beta1) &&
           km_arg_double(in, "beta2", &options->beta2) && km_arg_double(in, "eps", &options->eps) &&
           km_arg_double(in, "momentum", &options->momentum) &&
           km_arg_double(in, "weight_decay", &options->weight_decay);
}

/* One flag a parameter; absent: NULL. */
static bool read_flags(km_args *in, const char *name, const km_model *model, const bool **out) {
    const int64_t n = km_model_n_tensors(model);
    km_view flags = {NULL};
    if (km_arg_object(in, name) == NULL) {
        return true;
    }
    if (!km_arg_view(in, name, KM_BOOL, "(parameters)", &flags)) {
        return false;
    }
    if (flags.n != n) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): '%s' has %lld flags for %lld parameters",
                           in->signature->name, name, (long long)flags.n, (long long)n);
        return false;
    }
    *out = flags.data;
    return true;
}

static bool read_options(km_args *in, const km_model *model, km_trainer_options *options) {
    int rank = 0;
    *options = (km_trainer_options)KM_TRAINER_OPTIONS_INIT;
    if (!read_kind(in, &options->optimizer) ||
        !read_flags(in, "trained", model, &options->trained) ||
        !read_flags(in, "decays", model, &options->decays) ||
        !km_arg_double(in, "clip", &options->clip) || !km_arg_int(in, "rank", &rank) ||
        !km_arg_double(in, "alpha", &options->alpha) ||
        !km_arg_uint64(in, "seed", &options->seed)) {
        return false;
    }
    options->rank = rank;
    return true;
}

/* ---- making one ---- */

typedef struct new_job {
    km_trainer **out;
    km_model *model;
    km_trainer_options options;
} new_job;

static km_status make(void *payload, km_error *err) {
    new_job *job = payload;
    return km_trainer_new(job->out, job->model, &job->options, err);
}

static PyObject *trainer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_state *state = KM_TYPE_STATE(type);
    km_args in;
    PyObject *model = NULL;
    trainer_object *self = NULL;
    new_job job;
    if (km_args_bind_new(&in, &state->errors, KM_SIG_Trainer, args, kwargs) &&
        km_arg_instance(&in, "model", state->types[KM_TYPE_MODEL], &model) &&
        read_options(&in, job.model = km_py_model_get(model), &job.options) &&
        (self = (trainer_object *)PyType_GenericAlloc(type, 0)) != NULL) {
        self->model = Py_NewRef(model);
        job.out = &self->trainer;
        if (!km_py_run(&state->errors, km_model_ctx(job.model), make, &job, NULL)) {
            Py_CLEAR(self);
        }
    }
    km_args_clear(&in);
    return (PyObject *)self;
}

static km_ctx *context(PyObject *self) {
    return km_model_ctx(km_py_model_get(((trainer_object *)self)->model));
}

/* ---- steps ---- */

typedef struct step_job {
    km_trainer *trainer;
    km_training_batch batch;
    km_training_step out;
    double learning_rate;
} step_job;

static km_status run_step(void *payload, km_error *err) {
    step_job *job = payload;
    return km_trainer_step(&job->out, job->trainer, &job->batch, job->learning_rate, err);
}

/* Offsets that rise from 0 to the number of ids. */
static bool check_offsets(const km_args *in, const km_view *offsets, int64_t n_ids) {
    const int64_t *at = offsets->data;
    bool good = offsets->n >= 2 && at[0] == 0 && at[offsets->n - 1] == n_ids;
    for (int64_t i = 1; good && i < offsets->n; i++) {
        good = at[i] > at[i - 1];
    }
    if (!good) {
        km_py_raise_format(in->errors, KM_EINVAL,
                           "%s(): 'offsets' must rise from 0 to the number of ids",
                           in->signature->name);
    }
    return good;
}

static bool read_batch(km_args *in, km_training_batch *batch) {
    km_view ids, offsets, weights;
    bool recompute = false;
    if (!km_arg_view(in, "ids", KM_I32, "(T)", &ids) ||
        !km_arg_view(in, "offsets", KM_I64, "(S + 1)", &offsets) ||
        !km_arg_view(in, "weights", KM_F32, "(T)", &weights) ||
        !km_args_same_length(in, "weights", weights.n, "ids", ids.n) ||
        !check_offsets(in, &offsets, ids.n) ||
        !km_arg_int64(in, "pass_tokens", &batch->pass_tokens)) {
        return false;
    }
    if (km_arg_object(in, "recompute") != NULL) {
        if (!km_arg_bool(in, "recompute", &recompute)) {
            return false;
        }
        batch->recompute = recompute ? KM_RECOMPUTE_ALWAYS : KM_RECOMPUTE_NEVER;
    }
    batch->ids = ids.data;
    batch->offsets = offsets.data;
    batch->n_sequences = offsets.n - 1;
    batch->weights = weights.data;
    return true;
}

static PyObject *step_tuple(const km_training_step *step) {
    return Py_BuildValue("(LdddLL)", (long long)step->step, step->loss, step->norm,
                         step->learning_rate, (long long)step->n_targets,
                         (long long)step->n_tokens);
}

static PyObject *trainer_step(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    step_job job = {.trainer = ((trainer_object *)self)->trainer};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Trainer_step, args, nargs, kwnames) &&
        read_batch(&in, &job.batch) && km_arg_double(&in, "learning_rate", &job.learning_rate) &&
        km_py_run(&state->errors, context(self), run_step, &job, NULL)) {
        result = step_tuple(&job.out);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *trainer_last(PyObject *self, void *closure) {
    (void)closure;
    const km_training_step last = km_trainer_last(((trainer_object *)self)->trainer);
    return step_tuple(&last);
}

static km_status run_reset(void *payload, km_error *err) {
    return km_trainer_reset(payload, err);
}

static PyObject *trainer_reset(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Trainer_reset, args, nargs, kwnames) &&
        km_py_run(&state->errors, context(self), run_reset, ((trainer_object *)self)->trainer,
                  NULL)) {
        result = Py_NewRef(Py_None);
    }
    km_args_clear(&in);
    return result;
}

/* ---- arrays ---- */

static const char *const KINDS[] = {"values", "lora_A", "lora_B", "first", "second"};

static PyObject *trainer_arrays(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    const km_trainer *trainer = ((trainer_object *)self)->trainer;
    km_args in;
    PyObject *list = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Trainer_arrays, args, nargs, kwnames)) {
        list = PyList_New(0);
    }
    for (int64_t i = 0; list != NULL && i < km_trainer_n_arrays(trainer); i++) {
        km_trainer_array array;
        km_error err = KM_ERROR_INIT;
        PyObject *row = NULL;
        if (km_trainer_array_at(&array, trainer, i, &err) != KM_OK) {
            km_py_raise(&state->errors, &err);
        } else {
            row = Py_BuildValue("(Lss)", (long long)array.parameter, KINDS[array.kind],
                                KINDS[array.of]);
        }
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    km_args_clear(&in);
    return list;
}

static bool array_arg(const km_args *in, PyObject *self, km_trainer_array *out) {
    int64_t index = 0;
    km_error err = KM_ERROR_INIT;
    if (!km_arg_int64(in, "index", &index)) {
        return false;
    }
    if (km_trainer_array_at(out, ((trainer_object *)self)->trainer, index, &err) != KM_OK) {
        km_py_raise(in->errors, &err);
        return false;
    }
    return true;
}

static PyObject *trainer_array(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    km_trainer_array array;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Trainer_array, args, nargs, kwnames) &&
        array_arg(&in, self, &array)) {
        const int64_t shape[2] = {array.rows, array.cols};
        result = km_array_lend(state->types[KM_TYPE_ARRAY], KM_F32, 2, shape, array.data, self);
    }
    km_args_clear(&in);
    return result;
}

typedef struct restored_job {
    km_trainer *trainer;
    int64_t steps;
} restored_job;

static km_status run_restored(void *payload, km_error *err) {
    const restored_job *job = payload;
    return km_trainer_restored(job->trainer, job->steps, err);
}

static PyObject *trainer_restored(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    restored_job job = {((trainer_object *)self)->trainer, 0};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Trainer_restored, args, nargs, kwnames) &&
        km_arg_int64(&in, "steps", &job.steps) &&
        km_py_run(&state->errors, context(self), run_restored, &job, NULL)) {
        result = Py_NewRef(Py_None);
    }
    km_args_clear(&in);
    return result;
}

/* ---- memory ---- */

FUNCTION(trainer_estimate) {
    km_args in;
    km_model *model;
    km_trainer_options options;
    km_trainer_memory memory;
    int64_t n_tokens = 0, longest = 0, n_targets = 0;
    bool recompute = false;
    PyObject *result = NULL;
    if (BIND(in, module, trainer_estimate) && model_arg(&in, module, &model) &&
        read_options(&in, model, &options) && km_arg_int64(&in, "n_tokens", &n_tokens) &&
        km_arg_int64(&in, "longest", &longest) && km_arg_int64(&in, "n_targets", &n_targets) &&
        km_arg_bool(&in, "recompute", &recompute)) {
        km_error err = KM_ERROR_INIT;
        const km_status status = km_trainer_estimate(&memory, model, &options, n_tokens, longest,
                                                     n_targets, recompute, &err);
        result = status == KM_OK ? Py_BuildValue("(LLLL)", (long long)memory.weights,
                                                 (long long)memory.gradients,
                                                 (long long)memory.averages, (long long)memory.pass)
                                 : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_trainer_methods[] = {
    KM_METHOD("trainer_estimate", trainer_estimate, KM_DOC_trainer_estimate),
    {NULL, NULL, 0, NULL},
};

static PyMethodDef trainer_methods[] = {
    KM_METHOD("step", trainer_step, KM_DOC_Trainer_step),
    KM_METHOD("reset", trainer_reset, KM_DOC_Trainer_reset),
    KM_METHOD("arrays", trainer_arrays, KM_DOC_Trainer_arrays),
    KM_METHOD("array", trainer_array, KM_DOC_Trainer_array),
    KM_METHOD("restored", trainer_restored, KM_DOC_Trainer_restored),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef trainer_getset[] = {
    {"last", trainer_last, NULL, KM_DOC_Trainer_last, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot trainer_slots[] = {
    {Py_tp_doc, KM_DOC_Trainer},      {Py_tp_new, trainer_new},
    {Py_tp_dealloc, trainer_dealloc}, {Py_tp_methods, trainer_methods},
    {Py_tp_getset, trainer_getset},   {0, NULL},
};

PyType_Spec km_py_trainer_spec = {"km._km.Trainer", sizeof(trainer_object), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, trainer_slots};
