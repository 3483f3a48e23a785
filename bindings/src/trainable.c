/* trainable.c: parameters of models, and models whose weights can change. Arrays of values are
 * passed as sequences with an entry a parameter, in the order of `parameters`. */
#include "km/training.h"

#include <string.h>

#include "tick.h"
#include "wrap.h"

/* The model of the parameter `model`, and its context or an exception. */
static bool bind_model(km_args *in, PyObject *module, km_model **model, PyObject **object) {
    return km_arg_instance(in, "model", KM_MODULE_STATE(module)->types[KM_TYPE_MODEL], object) &&
           (*model = km_py_model_get(*object), true);
}

/* ---- what there is ---- */

/* (name, kind, layer, rows, cols, trainable) */
static PyObject *describe(const km_parameter *p) {
    static const char *const kinds[] = {"matrix", "embedding", "gain", "bias"};
    return Py_BuildValue("(ssiLLN)", p->name, kinds[p->kind], p->layer, (long long)p->rows,
                         (long long)p->cols, PyBool_FromLong(p->values != NULL));
}

static PyObject *list_parameters(PyObject *module, const km_model *model) {
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < km_model_n_tensors(model); i++) {
        km_parameter p;
        km_error err = KM_ERROR_INIT;
        PyObject *row = NULL;
        if (km_model_parameter_at(&p, model, i, &err) != KM_OK) {
            km_py_raise(ERRORS(module), &err);
        } else {
            row = describe(&p);
        }
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

FUNCTION(parameters) {
    km_args in;
    km_model *model = NULL;
    PyObject *result = NULL;
    if (BIND(in, module, parameters) && model_arg(&in, module, &model)) {
        result = list_parameters(module, model);
    }
    km_args_clear(&in);
    return result;
}

/* ---- values as arrays ---- */

typedef struct values_job {
    km_model *model, *made;
    const float **values; /* (n) */
    Py_buffer *buffers;   /* (n) released by values_clear */
    int64_t n, n_buffers;
    bool given; /* `values` is not None */
} values_job;

static bool take_values(km_args *in, values_job *job, PyObject *value, int64_t index, int flags) {
    km_parameter p;
    km_error err = KM_ERROR_INIT;
    Py_buffer *buffer = &job->buffers[job->n_buffers];
    if (value == Py_None) {
        return true;
    }
    if (km_model_parameter_at(&p, job->model, index, &err) != KM_OK) {
        km_py_raise(in->errors, &err);
        return false;
    }
    if (PyObject_GetBuffer(value, buffer, flags | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        return false;
    }
    job->n_buffers++;
    if (buffer->format == NULL || strcmp(buffer->format, "f") != 0 ||
        buffer->len != (Py_ssize_t)sizeof(float) * p.n) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): '%s' takes %lld float32 values",
                           in->signature->name, p.name, (long long)p.n);
        return false;
    }
    job->values[index] = buffer->buf;
    return true;
}

/* Borrow the arrays of the parameter `values`. */
static bool read_values(km_args *in, values_job *job, int flags) {
    PyObject *given = km_arg_object(in, "values");
    job->n = km_model_n_tensors(job->model);
    job->given = given != NULL;
    if (given == NULL) {
        return true;
    }
    PyObject *values = km_args_tuple(in, given, "parameter 'values'");
    if (values == NULL) {
        return false;
    }
    if (PyTuple_Size(values) != (Py_ssize_t)job->n) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): %zd values for %lld parameters",
                           in->signature->name, PyTuple_Size(values), (long long)job->n);
        return false;
    }
    job->values = km_args_alloc(in, (size_t)job->n, sizeof *job->values);
    job->buffers = km_args_alloc(in, (size_t)job->n, sizeof *job->buffers);
    bool good = job->values != NULL && job->buffers != NULL;
    for (int64_t i = 0; good && i < job->n; i++) {
        good = take_values(in, job, PyTuple_GetItem(values, (Py_ssize_t)i), i, flags);
    }
    return good;
}

static void values_clear(values_job *job, km_args *in) {
    for (int64_t i = 0; i < job->n_buffers; i++) {
        PyBuffer_Release(&job->buffers[i]);
    }
    km_args_clear(in);
}

static bool run(PyObject *module, values_job *job, km_py_work work) {
    return km_py_run(ERRORS(module), km_model_ctx(job->model), work, job, NULL);
}

static km_status copy_out(void *payload, km_error *err) {
    values_job *job = payload;
    return km_model_parameters_into((float *const *)(uintptr_t)job->values, job->model, err);
}

FUNCTION(parameters_into) {
    km_args in;
    values_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, parameters_into) && model_arg(&in, module, &job.model) &&
        read_values(&in, &job, PyBUF_WRITABLE) && run(module, &job, copy_out)) {
        result = Py_NewRef(Py_None);
    }
    values_clear(&job, &in);
    return result;
}

static km_status restore(void *payload, km_error *err) {
    values_job *job = payload;
    return km_model_restore(job->model, job->values, err);
}

FUNCTION(trainable_restore) {
    km_args in;
    values_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, trainable_restore) && model_arg(&in, module, &job.model) &&
        read_values(&in, &job, 0) && run(module, &job, restore)) {
        result = Py_NewRef(Py_None);
    }
    values_clear(&job, &in);
    return result;
}

static km_status replace(void *payload, km_error *err) {
    values_job *job = payload;
    return km_model_with_parameters(&job->made, job->model, job->values, err);
}

FUNCTION(parameters_replace) {
    km_args in;
    values_job job = {0};
    PyObject *object = NULL, *result = NULL;
    if (BIND(in, module, parameters_replace) && bind_model(&in, module, &job.model, &object) &&
        read_values(&in, &job, 0)) {
        if (run(module, &job, replace)) {
            result = km_py_model_wrap(object, job.made);
            job.made = NULL;
        }
        km_model_free(job.made);
    }
    values_clear(&job, &in);
    return result;
}

/* ---- one parameter ---- */

static PyObject *parameter_array(PyObject *module, PyObject *object, int64_t index) {
    km_model *model = km_py_model_get(object);
    PyTypeObject *type = KM_MODULE_STATE(module)->types[KM_TYPE_ARRAY];
    km_parameter p;
    km_error err = KM_ERROR_INIT;
    void *data = NULL;
    if (km_model_parameter_at(&p, model, index, &err) != KM_OK) {
        return km_py_raise(ERRORS(module), &err);
    }
    const bool vector = p.kind == KM_PARAMETER_GAIN || p.kind == KM_PARAMETER_BIAS;
    const int64_t shape[2] = {vector ? p.n : p.rows, p.cols};
    if (p.values != NULL) {
        return km_array_lend(type, KM_F32, vector ? 1 : 2, shape, p.values, object);
    }
    const int64_t n = km_model_n_tensors(model);
    const float **values = PyMem_Calloc((size_t)n, sizeof *values);
    PyObject *array = values == NULL ? PyErr_NoMemory()
                                     : km_array_new(type, KM_F32, vector ? 1 : 2, shape, &data);
    if (array != NULL) {
        values[index] = data;
        values_job job = {.model = model, .values = values, .n = n};
        if (!run(module, &job, copy_out)) {
            Py_CLEAR(array);
        }
    }
    PyMem_Free(values);
    return array;
}

FUNCTION(parameter) {
    km_args in;
    km_model *model = NULL;
    const char *name = NULL;
    int64_t index = 0;
    km_error err = KM_ERROR_INIT;
    PyObject *object = NULL, *result = NULL;
    if (BIND(in, module, parameter) && bind_model(&in, module, &model, &object) &&
        km_arg_str(&in, "name", &name)) {
        result = km_model_parameter_find(&index, model, name, &err) == KM_OK
                     ? parameter_array(module, object, index)
                     : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- trainable copies ---- */

typedef struct copy_job {
    km_model *out;
    const km_model *model;
    bool *which;
    int64_t max_bytes;
} copy_job;

static km_status make_copy(void *payload, km_error *err) {
    copy_job *job = payload;
    return km_model_trainable(&job->out, job->model, job->which, job->max_bytes, err);
}

static bool read_flags(km_args *in, copy_job *job) {
    PyObject *flags = km_args_tuple(in, km_arg_object(in, "which"), "parameter 'which'");
    const int64_t n = km_model_n_tensors(job->model);
    if (flags == NULL) {
        return false;
    }
    if (PyTuple_Size(flags) != (Py_ssize_t)n) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): %zd flags for %lld parameters",
                           in->signature->name, PyTuple_Size(flags), (long long)n);
        return false;
    }
    job->which = km_args_alloc(in, (size_t)n, sizeof *job->which);
    for (int64_t i = 0; job->which != NULL && i < n; i++) {
        job->which[i] = PyTuple_GetItem(flags, (Py_ssize_t)i) == Py_True;
    }
    return job->which != NULL;
}

FUNCTION(trainable_new) {
    km_args in;
    km_model *model = NULL;
    copy_job job = {0};
    PyObject *object = NULL, *result = NULL;
    if (BIND(in, module, trainable_new) && bind_model(&in, module, &model, &object)) {
        job.model = model;
        if (read_flags(&in, &job) && km_arg_int64(&in, "max_bytes", &job.max_bytes) &&
            km_py_run(ERRORS(module), km_model_ctx(model), make_copy, &job, NULL)) {
            result = km_py_model_wrap(object, job.out);
            job.out = NULL;
        }
        km_model_free(job.out);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(trainable_changed) {
    km_args in;
    km_model *model = NULL;
    PyObject *result = NULL;
    if (BIND(in, module, trainable_changed) && model_arg(&in, module, &model)) {
        km_model_changed(model);
        result = Py_NewRef(Py_None);
    }
    km_args_clear(&in);
    return result;
}

static km_status compare(void *payload, km_error *err) {
    copy_job *job = payload;
    return km_model_differs(job->which, job->model, err);
}

FUNCTION(trainable_differs) {
    km_args in;
    km_model *model = NULL;
    copy_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, trainable_differs) && model_arg(&in, module, &model)) {
        const int64_t n = km_model_n_tensors(model);
        job.model = model;
        job.which = km_args_alloc(&in, (size_t)n, sizeof *job.which);
        if (job.which != NULL &&
            km_py_run(ERRORS(module), km_model_ctx(model), compare, &job, NULL)) {
            result = PyList_New((Py_ssize_t)n);
        }
        for (int64_t i = 0; result != NULL && i < n; i++) {
            PyList_SetItem(result, (Py_ssize_t)i, PyBool_FromLong(job.which[i]));
        }
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_trainable_methods[] = {
    KM_METHOD("parameters", parameters, KM_DOC_parameters),
    KM_METHOD("parameter", parameter, KM_DOC_parameter),
    KM_METHOD("parameters_into", parameters_into, KM_DOC_parameters_into),
    KM_METHOD("parameters_replace", parameters_replace, KM_DOC_parameters_replace),
    KM_METHOD("trainable_new", trainable_new, KM_DOC_trainable_new),
    KM_METHOD("trainable_changed", trainable_changed, KM_DOC_trainable_changed),
    KM_METHOD("trainable_differs", trainable_differs, KM_DOC_trainable_differs),
    KM_METHOD("trainable_restore", trainable_restore, KM_DOC_trainable_restore),
    {NULL, NULL, 0, NULL},
};
