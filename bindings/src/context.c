/* context.c: `_km.Context`: threads, CPU variant and cancellation. */
#include "types.h"

typedef struct context_object {
    PyObject_HEAD
    km_ctx *ctx;
} context_object;

static PyObject *context_make(PyTypeObject *type, const km_ctx_options *options) {
    km_error err = KM_ERROR_INIT;
    context_object *self = (context_object *)PyType_GenericAlloc(type, 0);
    if (self != NULL && km_ctx_new(&self->ctx, options, &err) != KM_OK) {
        Py_DECREF(self);
        return km_py_raise(&KM_TYPE_STATE(type)->errors, &err);
    }
    return (PyObject *)self;
}

static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_args in;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    PyObject *result = NULL;
    if (km_args_bind_new(&in, &KM_TYPE_STATE(type)->errors, KM_SIG_Context, args, kwargs) &&
        km_arg_int(&in, "threads", &options.n_threads) && km_arg_str(&in, "cpu", &options.cpu)) {
        result = context_make(type, &options);
    }
    km_args_clear(&in);
    return result;
}

static void context_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    km_ctx *ctx = ((context_object *)object)->ctx;
    PyThreadState *thread = PyEval_SaveThread(); /* ends the pool's threads */
    km_ctx_free(ctx);
    PyEval_RestoreThread(thread);
    PyObject_Free(object);
    Py_DECREF(type);
}

km_ctx *km_py_context_get(PyObject *object) {
    return ((context_object *)object)->ctx;
}

km_ctx *km_py_default_ctx(km_state *state) {
    km_error err = KM_ERROR_INIT;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    options.n_threads = 1;
    if (state->ctx == NULL && km_ctx_new(&state->ctx, &options, &err) != KM_OK) {
        km_py_raise(&state->errors, &err);
    }
    return state->ctx;
}

static PyObject *context_cancel(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    km_args in;
    bool bound = km_args_bind(&in, &KM_OBJECT_STATE(object)->errors, KM_SIG_Context_cancel, args,
                              nargs, kwnames);
    km_args_clear(&in);
    if (!bound) {
        return NULL;
    }
    km_ctx_cancel(km_py_context_get(object));
    return Py_NewRef(Py_None);
}

static PyObject *context_threads(PyObject *object, void *closure) {
    (void)closure;
    return PyLong_FromLong(km_ctx_threads(km_py_context_get(object)));
}

static PyObject *context_cpu(PyObject *object, void *closure) {
    (void)closure;
    return PyUnicode_FromString(km_ctx_cpu(km_py_context_get(object)));
}

static PyObject *context_blas_core(PyObject *object, void *closure) {
    (void)closure;
    return PyUnicode_FromString(km_ctx_blas_core(km_py_context_get(object)));
}

static PyObject *context_repr(PyObject *object) {
    const km_ctx *ctx = km_py_context_get(object);
    return PyUnicode_FromFormat("<km context: %d threads, cpu %s, BLAS core %s>",
                                km_ctx_threads(ctx), km_ctx_cpu(ctx), km_ctx_blas_core(ctx));
}

static PyMethodDef context_methods[] = {
    KM_METHOD("cancel", context_cancel, KM_DOC_Context_cancel),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef context_getset[] = {
    {"threads", context_threads, NULL, KM_DOC_Context_threads, NULL},
    {"cpu", context_cpu, NULL, KM_DOC_Context_cpu, NULL},
    {"blas_core", context_blas_core, NULL, KM_DOC_Context_blas_core, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot context_slots[] = {
    {Py_tp_doc, KM_DOC_Context},
    {Py_tp_new, context_new},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_repr, context_repr},
    {Py_tp_methods, context_methods},
    {Py_tp_getset, context_getset},
    {0, NULL},
};

PyType_Spec km_py_context_spec = {"km._km.Context", sizeof(context_object), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, context_slots};
