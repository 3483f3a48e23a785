/* kb.c: `_km.KnowledgeBase`: the knowledge base. Records enter as JSON text, measurements as
 * tables; km/kb.py makes the objects people use of it. Every call runs without the GIL. A second
 * thread that enters a busy base gets BusyError at once. */
#include "km/kb.h"

#include <stdatomic.h>
#include <string.h>

#include "tick.h"
#include "types.h"

typedef struct kb_object {
    PyObject_HEAD
    km_kb *kb;   /* NULL once closed */
    km_ctx *ctx; /* of its own: Ctrl-C stops its queries and nobody else's */
    PyObject *path;
    atomic_bool busy;
} kb_object;

/* One call: arguments, the base and whether this call holds it. */
typedef struct kb_call {
    kb_object *self;
    km_state *state;
    km_args in;
    km_error err;
    bool entered;
} kb_call;

/* Bind the arguments and take the base. False with an exception; leave() in any case. */
static bool enter(kb_call *call, PyObject *object, const km_signature *signature,
                  PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    *call = (kb_call){(kb_object *)object, KM_OBJECT_STATE(object), {0}, KM_ERROR_INIT, false};
    if (!km_args_bind(&call->in, &call->state->errors, signature, args, nargs, kwnames)) {
        return false;
    }
    if (atomic_exchange(&call->self->busy, true)) {
        km_py_raise_format(&call->state->errors, KM_ESTATE,
                           "the knowledge base is in use by another thread");
        return false;
    }
    call->entered = true;
    if (call->self->kb == NULL) {
        km_py_raise_format(&call->state->errors, KM_ESTATE, "the knowledge base is closed");
        return false;
    }
    return true;
}

/* Give the base back and release the arguments; returns result. */
static PyObject *leave(kb_call *call, PyObject *result) {
    if (call->entered) {
        atomic_store(&call->self->busy, false);
    }
    km_args_clear(&call->in);
    return result;
}

static PyObject *kb_raise(const kb_call *call) {
    return km_py_raise_path(&call->state->errors, &call->err, call->self->path);
}

static PyObject *none_or_raise(const kb_call *call, km_status status) {
    return status == KM_OK ? Py_NewRef(Py_None) : kb_raise(call);
}

/* Wrap a table, or raise. */
static PyObject *table_or_raise(const kb_call *call, km_status status, km_table *table) {
    return status == KM_OK ? km_py_table_wrap(call->state, table) : kb_raise(call);
}

/* ---- opening and closing ---- */

static km_status open_base(kb_object *self, const char *path, const km_kb_options *options,
                           km_error *err) {
    km_ctx_options one_thread = KM_CTX_OPTIONS_INIT;
    one_thread.n_threads = 1;
    km_status status = km_ctx_new(&self->ctx, &one_thread, err);
    if (status == KM_OK) {
        status = km_kb_open(&self->kb, self->ctx, path, options, err);
    }
    return status;
}

static PyObject *kb_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_state *state = KM_TYPE_STATE(type);
    km_error err = KM_ERROR_INIT;
    km_args in;
    km_kb_options options = KM_KB_OPTIONS_INIT;
    const char *path = NULL;
    PyObject *shown = NULL;
    kb_object *self = NULL;
    if (km_args_bind_new(&in, &state->errors, KM_SIG_KnowledgeBase, args, kwargs) &&
        km_arg_path(&in, "path", &path, &shown) &&
        km_arg_bool(&in, "read_only", &options.read_only) &&
        km_arg_bool(&in, "allow_network", &options.allow_network) &&
        km_arg_int(&in, "busy_timeout_ms", &options.busy_timeout_ms)) {
        self = (kb_object *)PyType_GenericAlloc(type, 0);
    }
    if (self != NULL) {
        km_status status;
        atomic_init(&self->busy, false);
        self->path = Py_NewRef(shown);
        Py_BEGIN_ALLOW_THREADS
        status = open_base(self, path, &options, &err);
        Py_END_ALLOW_THREADS
        if (status != KM_OK) {
            km_py_raise_path(&state->errors, &err, shown);
            Py_CLEAR(self);
        }
    }
    km_args_clear(&in);
    return (PyObject *)self;
}

static void close_base(kb_object *self) {
    km_kb *kb = self->kb;
    km_ctx *ctx = self->ctx;
    self->kb = NULL;
    self->ctx = NULL;
    Py_BEGIN_ALLOW_THREADS
    km_kb_close(kb);
    km_ctx_free(ctx);
    Py_END_ALLOW_THREADS
}

static void kb_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    close_base((kb_object *)object);
    Py_XDECREF(((kb_object *)object)->path);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* Closing twice is fine. */
static PyObject *kb_close(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    bool open = enter(&call, object, KM_SIG_KnowledgeBase_close, args, nargs, kwnames);
    if (open) {
        close_base(call.self);
    } else if (call.entered) {
        PyErr_Clear(); /* closed before */
        open = true;
    }
    if (open) {
        result = Py_NewRef(Py_None);
    }
    return leave(&call, result);
}

/* ---- calls of one kind ---- */

typedef km_status (*plain_fn)(km_kb *kb, km_error *err);
typedef km_status (*json_fn)(km_kb *kb, const char *json, size_t n, km_error *err);
typedef km_status (*json_id_fn)(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err);

static km_status rollback(km_kb *kb, km_error *err) {
    (void)err;
    km_kb_rollback(kb);
    return KM_OK;
}

static PyObject *call_plain(PyObject *object, const km_signature *signature, plain_fn function,
                            PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    if (enter(&call, object, signature, args, nargs, kwnames)) {
        km_status status;
        Py_BEGIN_ALLOW_THREADS
        status = function(call.self->kb, &call.err);
        Py_END_ALLOW_THREADS
        result = none_or_raise(&call, status);
    }
    return leave(&call, result);
}

static PyObject *call_json(PyObject *object, const km_signature *signature, json_fn function,
                           PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    km_bytes json;
    if (enter(&call, object, signature, args, nargs, kwnames) &&
        km_arg_text(&call.in, "json", &json)) {
        km_status status;
        Py_BEGIN_ALLOW_THREADS
        status = function(call.self->kb, json.data, (size_t)json.n, &call.err);
        Py_END_ALLOW_THREADS
        result = none_or_raise(&call, status);
    }
    return leave(&call, result);
}

static PyObject *call_json_id(PyObject *object, const km_signature *signature, json_id_fn function,
                              PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    km_bytes json;
    if (enter(&call, object, signature, args, nargs, kwnames) &&
        km_arg_text(&call.in, "json", &json)) {
        km_status status;
        int64_t id = 0;
        Py_BEGIN_ALLOW_THREADS
        status = function(&id, call.self->kb, json.data, (size_t)json.n, &call.err);
        Py_END_ALLOW_THREADS
        result = status == KM_OK ? PyLong_FromLongLong(id) : kb_raise(&call);
    }
    return leave(&call, result);
}

#define KB_METHOD(kind, name, function)                                                            \
    static PyObject *kb_##name(PyObject *object, PyObject *const *args, Py_ssize_t nargs,          \
                               PyObject *kwnames) {                                                \
        return kind(object, KM_SIG_KnowledgeBase_##name, function, args, nargs, kwnames);          \
    }
KB_METHOD(call_plain, begin, km_kb_begin)
KB_METHOD(call_plain, commit, km_kb_commit)
KB_METHOD(call_plain, rollback, rollback)
KB_METHOD(call_json, load_taxonomy, km_kb_load_taxonomy)
KB_METHOD(call_json, put_measure, km_kb_put_measure)
KB_METHOD(call_json_id, put_model, km_kb_put_model)
KB_METHOD(call_json_id, put_facts, km_kb_put_facts)
KB_METHOD(call_json_id, put_texts, km_kb_put_texts)
KB_METHOD(call_json_id, put_lineage, km_kb_put_lineage)
KB_METHOD(call_json_id, begin_run, km_kb_begin_run)
KB_METHOD(call_json_id, freeze, km_kb_freeze)

/* ---- runs and measurements ---- */

static PyObject *kb_finish_run(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    int64_t run = 0;
    const char *outcome = NULL, *key = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_finish_run, args, nargs, kwnames) &&
        km_arg_int64(&call.in, "run", &run) && km_arg_str(&call.in, "outcome", &outcome) &&
        km_arg_str(&call.in, "key", &key)) {
        km_status status;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_finish_run(call.self->kb, run, outcome, key, &call.err);
        Py_END_ALLOW_THREADS
        result = none_or_raise(&call, status);
    }
    return leave(&call, result);
}

static PyObject *kb_find_run(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    const char *key = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_find_run, args, nargs, kwnames) &&
        km_arg_str(&call.in, "key", &key)) {
        km_status status;
        int64_t run = -1;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_find_run(&run, call.self->kb, key, &call.err);
        Py_END_ALLOW_THREADS
        if (status != KM_OK) {
            kb_raise(&call);
        } else {
            result = run < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(run);
        }
    }
    return leave(&call, result);
}

static PyObject *kb_put_evidence(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                 PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    int64_t run = 0;
    km_bytes json;
    if (enter(&call, object, KM_SIG_KnowledgeBase_put_evidence, args, nargs, kwnames) &&
        km_arg_int64(&call.in, "run", &run) && km_arg_text(&call.in, "json", &json)) {
        km_status status;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_put_evidence(call.self->kb, run, json.data, (size_t)json.n, &call.err);
        Py_END_ALLOW_THREADS
        result = none_or_raise(&call, status);
    }
    return leave(&call, result);
}

static PyObject *kb_put_verdict(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    int64_t run = 0, id = 0;
    km_bytes json;
    if (enter(&call, object, KM_SIG_KnowledgeBase_put_verdict, args, nargs, kwnames) &&
        km_arg_int64(&call.in, "run", &run) && km_arg_text(&call.in, "json", &json)) {
        km_status status;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_put_verdict(&id, call.self->kb, run, json.data, (size_t)json.n, &call.err);
        Py_END_ALLOW_THREADS
        result = status == KM_OK ? PyLong_FromLongLong(id) : kb_raise(&call);
    }
    return leave(&call, result);
}

static PyObject *kb_edit_taxonomy(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    km_bytes json;
    if (enter(&call, object, KM_SIG_KnowledgeBase_edit_taxonomy, args, nargs, kwnames) &&
        km_arg_text(&call.in, "json", &json)) {
        km_status status;
        km_table *table = NULL;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_edit_taxonomy(&table, call.self->kb, json.data, (size_t)json.n, &call.err);
        Py_END_ALLOW_THREADS
        result = table_or_raise(&call, status, table);
    }
    return leave(&call, result);
}

static PyObject *kb_store_chunk(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    static const char *const outcomes[] = {"stored", "same", "differs"};
    kb_call call;
    PyObject *result = NULL, *table = NULL;
    int64_t run = 0;
    const char *key = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_store_chunk, args, nargs, kwnames) &&
        km_arg_int64(&call.in, "run", &run) && km_arg_str(&call.in, "key", &key) &&
        km_arg_instance(&call.in, "table", call.state->types[KM_TYPE_TABLE], &table)) {
        km_status status;
        km_kb_stored stored = KM_KB_STORED;
        Py_BEGIN_ALLOW_THREADS
        status =
            km_kb_store_chunk(&stored, call.self->kb, run, key, km_py_table_get(table), &call.err);
        Py_END_ALLOW_THREADS
        result = status == KM_OK ? PyUnicode_FromString(outcomes[stored]) : kb_raise(&call);
    }
    return leave(&call, result);
}

static PyObject *kb_load_chunk(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    const char *key = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_load_chunk, args, nargs, kwnames) &&
        km_arg_str(&call.in, "key", &key)) {
        km_status status;
        km_table *table = NULL;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_load_chunk(&table, call.self->kb, key, &call.err);
        Py_END_ALLOW_THREADS
        result = status == KM_OK && table == NULL ? Py_NewRef(Py_None)
                                                  : table_or_raise(&call, status, table);
    }
    return leave(&call, result);
}

static PyObject *kb_use_chunk(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL;
    int64_t run = 0;
    const char *key = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_use_chunk, args, nargs, kwnames) &&
        km_arg_int64(&call.in, "run", &run) && km_arg_str(&call.in, "key", &key)) {
        km_status status;
        Py_BEGIN_ALLOW_THREADS
        status = km_kb_use_chunk(call.self->kb, run, key, &call.err);
        Py_END_ALLOW_THREADS
        result = none_or_raise(&call, status);
    }
    return leave(&call, result);
}

/* ---- questions: long enough to be stopped by Ctrl-C ---- */

typedef struct question_job {
    km_table *out;
    km_kb *kb;
    const char *text, *params; /* SQL, the name of a question, or words to search */
    const char *kind;
    int timeout_ms;
    int64_t limit;
    bool full;
} question_job;

static km_status run_query(void *payload, km_error *err) {
    question_job *job = payload;
    return km_kb_query(&job->out, job->kb, job->text, job->params, job->timeout_ms, job->limit,
                       err);
}

static km_status run_ask(void *payload, km_error *err) {
    question_job *job = payload;
    return km_kb_ask(&job->out, job->kb, job->text, job->params, err);
}

static km_status run_search(void *payload, km_error *err) {
    question_job *job = payload;
    return km_kb_search(&job->out, job->kb, job->text, job->kind, job->limit, err);
}

static km_status run_info(void *payload, km_error *err) {
    question_job *job = payload;
    return km_kb_info(&job->out, job->kb, err);
}

static km_status run_check(void *payload, km_error *err) {
    question_job *job = payload;
    return km_kb_check(&job->out, job->kb, job->full, err);
}

static PyObject *answer(kb_call *call, question_job *job, km_py_work work) {
    job->kb = call->self->kb;
    if (!km_py_run(&call->state->errors, call->self->ctx, work, job, call->self->path)) {
        km_table_free(job->out); /* answered, but a signal came */
        return NULL;
    }
    return km_py_table_wrap(call->state, job->out);
}

static PyObject *kb_query(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames) {
    kb_call call;
    question_job job = {0};
    PyObject *result = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_query, args, nargs, kwnames) &&
        km_arg_str(&call.in, "sql", &job.text) && km_arg_str(&call.in, "params", &job.params) &&
        km_arg_int(&call.in, "timeout_ms", &job.timeout_ms) &&
        km_arg_int64(&call.in, "max_rows", &job.limit)) {
        result = answer(&call, &job, run_query);
    }
    return leave(&call, result);
}

static PyObject *kb_ask(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                        PyObject *kwnames) {
    kb_call call;
    question_job job = {0};
    PyObject *result = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_ask, args, nargs, kwnames) &&
        km_arg_str(&call.in, "name", &job.text) && km_arg_str(&call.in, "params", &job.params)) {
        result = answer(&call, &job, run_ask);
    }
    return leave(&call, result);
}

static PyObject *kb_search(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames) {
    kb_call call;
    question_job job = {0};
    PyObject *result = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_search, args, nargs, kwnames) &&
        km_arg_str(&call.in, "text", &job.text) && km_arg_str(&call.in, "kind", &job.kind) &&
        km_arg_int64(&call.in, "limit", &job.limit)) {
        result = answer(&call, &job, run_search);
    }
    return leave(&call, result);
}

static PyObject *kb_info(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                         PyObject *kwnames) {
    kb_call call;
    question_job job = {0};
    PyObject *result = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_info, args, nargs, kwnames)) {
        result = answer(&call, &job, run_info);
    }
    return leave(&call, result);
}

static PyObject *kb_check(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames) {
    kb_call call;
    question_job job = {0};
    PyObject *result = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_check, args, nargs, kwnames) &&
        km_arg_bool(&call.in, "full", &job.full)) {
        result = answer(&call, &job, run_check);
    }
    return leave(&call, result);
}

static PyObject *kb_questions(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_MODULE_STATE(module);
    km_error err = KM_ERROR_INIT;
    km_args in;
    km_table *table = NULL;
    PyObject *result = NULL;
    km_ctx *ctx = km_py_default_ctx(state);
    if (km_args_bind(&in, &state->errors, KM_SIG_kb_questions, args, nargs, kwnames) &&
        ctx != NULL) {
        result = km_kb_questions(&table, ctx, &err) == KM_OK ? km_py_table_wrap(state, table)
                                                             : km_py_raise(&state->errors, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- whole files: progress and Ctrl-C ---- */

static PyObject *kb_merge(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL, *shown = NULL, *progress = NULL;
    const char *path = NULL;
    if (enter(&call, object, KM_SIG_KnowledgeBase_merge, args, nargs, kwnames) &&
        km_arg_path(&call.in, "path", &path, &shown) &&
        km_arg_callable(&call.in, "progress", &progress)) {
        km_status status;
        km_table *table = NULL;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        status = km_kb_merge(&table, call.self->kb, path, km_py_tick_call, &tick, &call.err);
        km_py_tick_end(&tick);
        result = status == KM_OK ? km_py_table_wrap(call.state, table)
                                 : km_py_raise_path(&call.state->errors, &call.err, shown);
    }
    return leave(&call, result);
}

static PyObject *kb_snapshot(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    kb_call call;
    PyObject *result = NULL, *shown = NULL, *progress = NULL;
    const char *path = NULL;
    bool overwrite = false;
    if (enter(&call, object, KM_SIG_KnowledgeBase_snapshot, args, nargs, kwnames) &&
        km_arg_path(&call.in, "path", &path, &shown) &&
        km_arg_bool(&call.in, "overwrite", &overwrite) &&
        km_arg_callable(&call.in, "progress", &progress)) {
        km_status status;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        status = km_kb_snapshot(call.self->kb, path, overwrite, km_py_tick_call, &tick, &call.err);
        km_py_tick_end(&tick);
        result = status == KM_OK ? Py_NewRef(Py_None)
                                 : km_py_raise_path(&call.state->errors, &call.err, shown);
    }
    return leave(&call, result);
}

/* ---- properties ---- */

static PyObject *get_path(PyObject *object, void *closure) {
    (void)closure;
    return Py_NewRef(((kb_object *)object)->path);
}

static PyObject *get_closed(PyObject *object, void *closure) {
    (void)closure;
    return PyBool_FromLong(((kb_object *)object)->kb == NULL);
}

static PyObject *get_read_only(PyObject *object, void *closure) {
    (void)closure;
    const km_kb *kb = ((kb_object *)object)->kb;
    return PyBool_FromLong(kb != NULL && km_kb_read_only(kb));
}

static PyObject *get_warning(PyObject *object, void *closure) {
    (void)closure;
    const km_kb *kb = ((kb_object *)object)->kb;
    return PyUnicode_FromString(kb == NULL ? "" : km_kb_warning(kb));
}

#define KB_ENTRY(name) KM_METHOD(#name, kb_##name, KM_DOC_KnowledgeBase_##name)
static PyMethodDef kb_methods[] = {
    KB_ENTRY(close),         KB_ENTRY(begin),       KB_ENTRY(commit),        KB_ENTRY(rollback),
    KB_ENTRY(load_taxonomy), KB_ENTRY(put_model),   KB_ENTRY(put_facts),     KB_ENTRY(put_texts),
    KB_ENTRY(put_measure),   KB_ENTRY(begin_run),   KB_ENTRY(finish_run),    KB_ENTRY(find_run),
    KB_ENTRY(put_evidence),  KB_ENTRY(store_chunk), KB_ENTRY(load_chunk),    KB_ENTRY(use_chunk),
    KB_ENTRY(query),         KB_ENTRY(ask),         KB_ENTRY(search),        KB_ENTRY(info),
    KB_ENTRY(put_lineage),   KB_ENTRY(check),       KB_ENTRY(freeze),        KB_ENTRY(put_verdict),
    KB_ENTRY(merge),         KB_ENTRY(snapshot),    KB_ENTRY(edit_taxonomy), {NULL, NULL, 0, NULL},
};

static PyGetSetDef kb_getset[] = {
    {"path", get_path, NULL, KM_DOC_KnowledgeBase_path, NULL},
    {"closed", get_closed, NULL, KM_DOC_KnowledgeBase_closed, NULL},
    {"read_only", get_read_only, NULL, KM_DOC_KnowledgeBase_read_only, NULL},
    {"warning", get_warning, NULL, KM_DOC_KnowledgeBase_warning, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot kb_slots[] = {
    {Py_tp_doc, KM_DOC_KnowledgeBase}, {Py_tp_new, kb_new},       {Py_tp_dealloc, kb_dealloc},
    {Py_tp_methods, kb_methods},       {Py_tp_getset, kb_getset}, {0, NULL},
};

PyType_Spec km_py_kb_spec = {"km._km.KnowledgeBase", sizeof(kb_object), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, kb_slots};

PyMethodDef km_py_kb_methods[] = {
    KM_METHOD("kb_questions", kb_questions, KM_DOC_kb_questions),
    {NULL, NULL, 0, NULL},
};
