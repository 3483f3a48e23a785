/* save.c: `_km.Model`: weights by name, edited copies, writing to disk. */
#define PY_SSIZE_T_CLEAN /* y# of PyArg_ParseTuple */

#include "save.h"

#include <string.h>

#include "tick.h"
#include "wrap.h"

static PyObject *shape_of(const km_weight *weight) {
    PyObject *shape = PyTuple_New(weight->n_dims);
    for (int i = 0; shape != NULL && i < weight->n_dims; i++) {
        PyObject *size = PyLong_FromLongLong(weight->dims[i]);
        if (size == NULL || PyTuple_SetItem(shape, i, size) < 0) {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

/* (name, dtype, shape) */
static PyObject *describe(const km_weight *weight) {
    PyObject *shape = shape_of(weight);
    PyObject *row =
        shape == NULL ? NULL : Py_BuildValue("(ssO)", weight->name, weight->dtype, shape);
    Py_XDECREF(shape);
    return row;
}

PyObject *km_py_model_weights(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    const km_model *model = km_py_model_get(self);
    km_args in;
    PyObject *list = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_weights, args, nargs, kwnames)) {
        list = PyList_New(0);
    }
    for (int64_t i = 0; list != NULL && i < km_model_n_weights(model); i++) {
        km_weight weight;
        km_error err = KM_ERROR_INIT;
        PyObject *row = NULL;
        if (km_model_weight_at(&weight, model, i, &err) != KM_OK) {
            km_py_raise(&state->errors, &err);
        } else {
            row = describe(&weight);
        }
        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    km_args_clear(&in);
    return list;
}

typedef struct read_job {
    float *out;
    const km_model *model;
    const char *name;
} read_job;

static km_status read_weight(void *payload, km_error *err) {
    read_job *job = payload;
    return km_model_weight_into(job->out, job->model, job->name, err);
}

/* The file's own floats, read-only, or a dequantised copy. */
static PyObject *weight_array(PyObject *self, km_state *state, const km_weight *weight) {
    PyTypeObject *type = state->types[KM_TYPE_ARRAY];
    if (weight->n_dims > KM_MAX_DIMS) {
        return km_py_raise_format(&state->errors, KM_EUNSUPPORTED,
                                  "weight '%s' has %d dimensions; at most %d are given as arrays",
                                  weight->name, weight->n_dims, KM_MAX_DIMS);
    }
    if (weight->data != NULL) {
        return km_array_view(type, KM_F32, weight->n_dims, weight->dims, weight->data, self);
    }
    void *data = NULL;
    PyObject *array = km_array_new(type, KM_F32, weight->n_dims, weight->dims, &data);
    read_job job = {data, km_py_model_get(self), weight->name};
    if (array != NULL &&
        !km_py_run(&state->errors, km_model_ctx(job.model), read_weight, &job, NULL)) {
        Py_CLEAR(array);
    }
    return array;
}

PyObject *km_py_model_weight(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    km_error err = KM_ERROR_INIT;
    km_weight weight;
    const char *name = NULL;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_weight, args, nargs, kwnames) &&
        km_arg_str(&in, "name", &name)) {
        result = km_model_weight_find(&weight, km_py_model_get(self), name, &err) == KM_OK
                     ? weight_array(self, state, &weight)
                     : km_py_raise(&state->errors, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- edited copies ---- */

typedef struct edit_job {
    km_model *out;
    const km_model *model;
    km_weight_edit *edits;
    Py_buffer *buffers;
    int64_t n, n_buffers;
} edit_job;

static km_status edit_model(void *payload, km_error *err) {
    edit_job *job = payload;
    return km_model_with_weights(&job->out, job->model, job->edits, job->n, err);
}

/* Borrow one array of float32; false with an exception that names the weight. */
static bool take_values(km_args *in, edit_job *job, PyObject *value, const char *name) {
    Py_buffer *buffer = &job->buffers[job->n_buffers];
    km_weight_edit *edit = &job->edits[job->n_buffers];
    if (PyObject_GetBuffer(value, buffer, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        return false;
    }
    job->n_buffers++;
    if (buffer->format == NULL || strcmp(buffer->format, "f") != 0 ||
        buffer->ndim > KM_WEIGHT_MAX_DIMS) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): the values of '%s' are not float32",
                           in->signature->name, name);
        return false;
    }
    *edit = (km_weight_edit){.name = name, .data = buffer->buf, .n_dims = buffer->ndim};
    for (int i = 0; i < buffer->ndim; i++) {
        edit->dims[i] = buffer->shape[i];
    }
    return true;
}

static bool read_edits(km_args *in, edit_job *job) {
    const char *const *names = NULL;
    PyObject *given = km_arg_object(in, "values");
    if (!km_arg_strings(in, "names", &names, &job->n)) {
        return false;
    }
    PyObject *values = km_args_tuple(in, given, "parameter 'values'");
    if (values == NULL) {
        return false;
    }
    if (PyTuple_Size(values) != (Py_ssize_t)job->n) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): %zd values for %lld names",
                           in->signature->name, PyTuple_Size(values), (long long)job->n);
        return false;
    }
    job->edits = km_args_alloc(in, (size_t)job->n, sizeof *job->edits);
    job->buffers = km_args_alloc(in, (size_t)job->n, sizeof *job->buffers);
    bool good = job->edits != NULL && job->buffers != NULL;
    for (int64_t i = 0; good && i < job->n; i++) {
        good = take_values(in, job, PyTuple_GetItem(values, (Py_ssize_t)i), names[i]);
    }
    return good;
}

PyObject *km_py_model_with_weights(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    edit_job job = {.model = km_py_model_get(self)};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_with_weights, args, nargs, kwnames) &&
        read_edits(&in, &job)) {
        if (km_py_run(&state->errors, km_model_ctx(job.model), edit_model, &job, NULL)) {
            result = km_py_model_wrap(self, job.out);
            job.out = NULL;
        }
        km_model_free(job.out);
    }
    for (int64_t i = 0; i < job.n_buffers; i++) {
        PyBuffer_Release(&job.buffers[i]);
    }
    km_args_clear(&in);
    return result;
}

/* ---- writing ---- */

typedef struct save_job {
    const km_model *model;
    const char *path;
    km_save_options options;
} save_job;

static km_status save_model(void *payload, km_error *err) {
    save_job *job = payload;
    return km_model_save(job->model, job->path, &job->options, err);
}

/* The place of a text among `names` (n), or false with an exception that lists them. */
static bool read_choice(km_args *in, const char *parameter, const char *const *names, int n,
                        int *out) {
    const char *text = NULL;
    if (!km_arg_str(in, parameter, &text)) {
        return false;
    }
    for (int i = 0; text != NULL && i < n; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return true;
        }
    }
    km_py_raise_format(in->errors, KM_EINVAL, "%s(): no %s '%s'", in->signature->name, parameter,
                       text != NULL ? text : "");
    return false;
}

PyObject *km_py_model_save(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames) {
    static const char *const formats[] = {"same", "gguf", "hf"};
    static const char *const dtypes[] = {"keep", "F32", "F16", "BF16", "Q8_0"};
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    save_job job = {km_py_model_get(self), NULL, KM_SAVE_OPTIONS_INIT};
    int format = 0, dtype = 0;
    PyObject *shown = NULL, *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_save, args, nargs, kwnames) &&
        km_arg_path(&in, "path", &job.path, &shown) &&
        read_choice(&in, "format", formats, 3, &format) &&
        read_choice(&in, "dtype", dtypes, 5, &dtype) &&
        km_arg_bool(&in, "overwrite", &job.options.overwrite)) {
        job.options.format = (km_save_format)format;
        job.options.dtype = (km_save_dtype)dtype;
        if (km_py_run(&state->errors, km_model_ctx(job.model), save_model, &job, shown)) {
            result = Py_NewRef(Py_None);
        }
    }
    km_args_clear(&in);
    return result;
}

/* ---- the other format ---- */

typedef struct export_job {
    const km_model *model;
    const char *path;
    km_save_dtype dtype;
    km_export_pair *pairs;
    int64_t n;
} export_job;

static km_status export_gguf(void *payload, km_error *err) {
    export_job *job = payload;
    return km_model_export_gguf(job->model, job->path, job->dtype, job->pairs, job->n, err);
}

/* (key, type, element, n, bytes) */
static bool read_pair(km_export_pair *pair, PyObject *item) {
    int type = 0, element = 0;
    long long n = 0;
    const char *data = NULL;
    Py_ssize_t size = 0;
    if (!PyArg_ParseTuple(item, "siiLy#", &pair->key, &type, &element, &n, &data, &size)) {
        return false;
    }
    *pair = (km_export_pair){pair->key, (uint32_t)type, (uint32_t)element, n, data, (size_t)size};
    return true;
}

bool km_py_read_pairs(km_args *in, km_export_pair **pairs, int64_t *n) {
    PyObject *given = km_arg_object(in, "pairs");
    PyObject *items = given == NULL ? NULL : km_args_tuple(in, given, "parameter 'pairs'");
    if (items == NULL) {
        return given == NULL;
    }
    *n = (int64_t)PyTuple_Size(items);
    *pairs = km_args_alloc(in, (size_t)*n, sizeof **pairs);
    bool good = *pairs != NULL;
    for (int64_t i = 0; good && i < *n; i++) {
        PyObject *item = PyTuple_GetItem(items, (Py_ssize_t)i);
        good = PyTuple_Check(item) ? read_pair(&(*pairs)[i], item)
                                   : km_args_type_error(in, "pairs", "tuples", item);
    }
    return good;
}

static bool read_export(km_args *in, export_job *job, PyObject **shown) {
    static const char *const dtypes[] = {"keep", "F32", "F16", "BF16", "Q8_0"};
    int dtype = 0;
    if (!km_arg_path(in, "path", &job->path, shown) ||
        !read_choice(in, "dtype", dtypes, 5, &dtype)) {
        return false;
    }
    job->dtype = (km_save_dtype)dtype;
    return true;
}

PyObject *km_py_model_export_gguf(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    export_job job = {.model = km_py_model_get(self)};
    PyObject *shown = NULL, *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_export_gguf, args, nargs, kwnames) &&
        read_export(&in, &job, &shown) && km_py_read_pairs(&in, &job.pairs, &job.n) &&
        km_py_run(&state->errors, km_model_ctx(job.model), export_gguf, &job, shown)) {
        result = Py_NewRef(Py_None);
    }
    km_args_clear(&in);
    return result;
}

PyObject *km_py_model_metadata(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    km_error err = KM_ERROR_INIT;
    const char *key = NULL, *text = NULL;
    size_t n = 0;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Model_metadata, args, nargs, kwnames) &&
        km_arg_str(&in, "key", &key)) {
        if (km_model_metadata(&text, &n, km_py_model_get(self), key, &err) != KM_OK) {
            km_py_raise(&state->errors, &err);
        } else {
            result = text == NULL ? Py_NewRef(Py_None)
                                  : PyUnicode_DecodeUTF8(text, (Py_ssize_t)n, "strict");
        }
    }
    km_args_clear(&in);
    return result;
}
