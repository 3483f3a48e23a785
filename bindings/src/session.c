/* session.c: `_km.Session`: keys and values kept between passes. One thread at
 * a time: a second one gets BusyError. */
#include "km/model.h"

#include <string.h>

#include "doors.h"
#include "tick.h"
#include "types.h"

typedef struct session_object {
    PyObject_HEAD
    km_session *session;
    PyObject *model; /* keeps model and context alive; a Model never refers back:
                        no cycles */
} session_object;

/* Passes of at most this many tokens are short enough to be waited for without
 * looking at signals, and too short to be worth a thread of their own. */
#define SHORT_PASS 16

static void session_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    session_object *self = (session_object *)object;
    km_session_free(self->session);
    Py_XDECREF(self->model);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *session_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_state *state = KM_TYPE_STATE(type);
    km_error err = KM_ERROR_INIT;
    km_args in;
    PyObject *model = NULL;
    int64_t capacity = 0;
    session_object *self = NULL;
    if (km_args_bind_new(&in, &state->errors, KM_SIG_Session, args, kwargs) &&
        km_arg_instance(&in, "model", state->types[KM_TYPE_MODEL], &model) &&
        km_arg_int64(&in, "capacity", &capacity) &&
        (self = (session_object *)PyType_GenericAlloc(type, 0)) != NULL) {
        self->model = Py_NewRef(model);
        if (km_session_new(&self->session, km_py_model_get(model), capacity, &err) != KM_OK) {
            km_py_raise(&state->errors, &err);
            Py_CLEAR(self);
        }
    }
    km_args_clear(&in);
    return (PyObject *)self;
}

/* ---- append ---- */

typedef struct append_job {
    const km_model *model;
    km_forward_request request;
    float *out;     /* ((1 + n_reads) n_rows, V): the output's rows, then those of each layer */
    float *streams; /* (n_reads, n_rows, D) */
    bool norm;
} append_job;

static km_status keep_row(void *payload, int64_t index, int32_t layer, const float *logits,
                          int64_t vocab, km_error *err) {
    const append_job *job = payload;
    (void)layer;
    (void)err;
    memcpy(job->out + index * vocab, logits, (size_t)vocab * sizeof *logits);
    return KM_OK;
}

static km_status append(void *payload, km_error *err) {
    append_job *job = payload;
    const int64_t n = job->request.n_rows, vocab = km_model_config(job->model)->vocab_size;
    km_status status = km_model_forward(job->model, &job->request, err);
    if (status != KM_OK || job->request.n_reads == 0) {
        return status;
    }
    return km_model_unembed_into(job->out + n * vocab, job->model, job->streams,
                                 job->request.n_reads * n, job->norm, err);
}

static bool run_append(const km_state *state, append_job *job) {
    km_error err = KM_ERROR_INIT;
    if (job->request.tree.n > SHORT_PASS) {
        return km_py_run(&state->errors, km_model_ctx(job->model), append, job, NULL);
    }
    PyThreadState *thread = PyEval_SaveThread();
    km_status status = append(job, &err);
    PyEval_RestoreThread(thread);
    if (status != KM_OK) {
        km_py_raise(&state->errors, &err);
    }
    return status == KM_OK && PyErr_CheckSignals() == 0;
}

static bool read_patches(km_args *in, append_job *job) {
    km_py_pass pass = {.model = (km_model *)job->model, .request = job->request};
    if (km_arg_object(in, "patches") != NULL && !km_py_pass_patches(in, &pass)) {
        return false;
    }
    job->request = pass.request;
    return true;
}

static PyObject *make_rows(const km_state *state, append_job *job) {
    const int64_t shape[2] = {(1 + job->request.n_reads) * job->request.n_rows,
                              km_model_config(job->model)->vocab_size};
    void *data = NULL;
    PyObject *result = km_array_new(state->types[KM_TYPE_ARRAY], KM_F32, 2, shape, &data);
    job->out = data;
    return result;
}

/* The stream after `layer` blocks, of every wanted row. */
static km_read read_of_layer(const append_job *job, int64_t layer, float *out) {
    const int32_t n_layers = km_model_config(job->model)->n_layers;
    const bool last = layer == n_layers;
    return (km_read){.point = last ? KM_POINT_RESID_POST : KM_POINT_RESID_PRE,
                     .layer = last ? n_layers - 1 : (int32_t)layer,
                     .head = -1,
                     .nodes = job->request.rows,
                     .n_nodes = job->request.n_rows,
                     .out = out};
}

/* Parameters layers and norm. */
static bool read_layers(km_args *in, append_job *job) {
    km_view layers;
    const km_config *config = km_model_config(job->model);
    const int64_t a_layer = job->request.n_rows * config->d_model;
    if (km_arg_object(in, "layers") == NULL || job->request.n_rows == 0) {
        return true;
    }
    if (!km_arg_view(in, "layers", KM_I64, "(N)", &layers) ||
        !km_arg_bool(in, "norm", &job->norm)) {
        return false;
    }
    const int64_t *wanted = layers.data;
    km_read *reads = km_args_alloc(in, (size_t)layers.n + 1, sizeof *reads);
    job->streams = km_args_alloc(in, (size_t)(layers.n * a_layer) + 1, sizeof(float));
    if (reads == NULL || job->streams == NULL) {
        return false;
    }
    for (int64_t i = 0; i < layers.n; i++) {
        if (wanted[i] < 0 || wanted[i] > config->n_layers) {
            km_py_raise_format(in->errors, KM_ERANGE, "layers[%lld] is %lld; the model has 0 to %d",
                               (long long)i, (long long)wanted[i], config->n_layers);
            return false;
        }
        reads[i] = read_of_layer(job, wanted[i], job->streams + i * a_layer);
    }
    job->request.reads = reads;
    job->request.n_reads = layers.n;
    return true;
}

static PyObject *session_append(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    session_object *object = (session_object *)self;
    km_args in;
    km_view ids, parents, rows;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Session_append, args, nargs, kwnames) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &ids) &&
        km_arg_view(&in, "parents", KM_I64, "(T)", &parents) &&
        km_args_same_length(&in, "parents", parents.n, "ids", ids.n) &&
        km_arg_view(&in, "rows", KM_I64, "(R)", &rows)) {
        append_job job = {.model = km_py_model_get(object->model), .norm = true};
        job.request = (km_forward_request){.tree = {ids.data, parents.data, ids.n},
                                           .rows = rows.data,
                                           .n_rows = rows.n,
                                           .on_logits = keep_row,
                                           .payload = &job,
                                           .session = object->session};
        if (read_patches(&in, &job) && read_layers(&in, &job)) {
            result = make_rows(state, &job);
        }
        if (result != NULL && !run_append(state, &job)) {
            Py_CLEAR(result);
        }
    }
    km_args_clear(&in);
    return result;
}

/* ---- the rest ---- */

static PyObject *none_or_error(const km_state *state, km_status status, const km_error *err) {
    return status == KM_OK ? Py_NewRef(Py_None) : km_py_raise(&state->errors, err);
}

static PyObject *session_truncate(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_error err = KM_ERROR_INIT;
    km_args in;
    int64_t length = 0;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Session_truncate, args, nargs, kwnames) &&
        km_arg_int64(&in, "length", &length)) {
        km_status status = km_session_truncate(((session_object *)self)->session, length, &err);
        result = none_or_error(state, status, &err);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *session_keep(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_error err = KM_ERROR_INIT;
    km_args in;
    km_view nodes;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Session_keep, args, nargs, kwnames) &&
        km_arg_view(&in, "nodes", KM_I64, "(N)", &nodes)) {
        PyThreadState *thread = PyEval_SaveThread();
        km_status status =
            km_session_keep(((session_object *)self)->session, nodes.data, nodes.n, &err);
        PyEval_RestoreThread(thread);
        result = none_or_error(state, status, &err);
    }
    km_args_clear(&in);
    return result;
}

static Py_ssize_t session_length(PyObject *self) {
    return (Py_ssize_t)km_session_length(((session_object *)self)->session);
}

static PyMethodDef session_methods[] = {
    KM_METHOD("append", session_append, KM_DOC_Session_append),
    KM_METHOD("truncate", session_truncate, KM_DOC_Session_truncate),
    KM_METHOD("keep", session_keep, KM_DOC_Session_keep),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot session_slots[] = {
    {Py_tp_doc, KM_DOC_Session},      {Py_tp_new, session_new},
    {Py_tp_dealloc, session_dealloc}, {Py_tp_methods, session_methods},
    {Py_sq_length, session_length},   {0, NULL},
};

PyType_Spec km_py_session_spec = {"km._km.Session", sizeof(session_object), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, session_slots};
