/* table.c: `_km.Table`: a km_table built from Python values, read as cells, arrays or Arrow. */
#include "buffers.h"
#include "km/arrow.h"
#include "types.h"

#include <string.h>

typedef struct table_object {
    PyObject_HEAD
    km_table *table;
} table_object;

static const char *const TYPE_NAMES[] = {"int64", "double", "bool", "text"};
enum { N_COLUMN_TYPES = sizeof TYPE_NAMES / sizeof TYPE_NAMES[0] };

km_table *km_py_table_get(PyObject *object) {
    return ((table_object *)object)->table;
}

static PyObject *wrap_as(PyTypeObject *type, km_table *table) {
    table_object *self = (table_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        km_table_free(table);
        return NULL;
    }
    self->table = table;
    return (PyObject *)self;
}

PyObject *km_py_table_wrap(km_state *state, km_table *table) {
    return wrap_as(state->types[KM_TYPE_TABLE], table);
}

static void table_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    km_table_free(((table_object *)object)->table);
    PyObject_Free(object);
    Py_DECREF(type);
}

/* ---- construction ---- */

/* One (name, type, unit, description). */
static bool read_spec(km_args *in, PyObject *item, km_column_spec *spec) {
    const char *const *parts = NULL;
    int64_t n = 0;
    if (!km_args_strings(in, item, "specs", &parts, &n)) {
        return false;
    }
    if (n != 4) {
        km_py_raise_format(in->errors, KM_EINVAL,
                           "%s(): a spec is (name, type, unit, description), not %lld items",
                           in->signature->name, (long long)n);
        return false;
    }
    for (int i = 0; i < N_COLUMN_TYPES; i++) {
        if (strcmp(parts[1], TYPE_NAMES[i]) == 0) {
            *spec = (km_column_spec){parts[0], (km_column_type)i, parts[2], parts[3]};
            return true;
        }
    }
    km_py_raise_format(in->errors, KM_EINVAL,
                       "%s(): column '%s' has type '%s'; it must be int64, double, bool or text",
                       in->signature->name, parts[0], parts[1]);
    return false;
}

static bool read_specs(km_args *in, km_column_spec **out, int *n_columns) {
    PyObject *tuple = km_args_tuple(in, km_arg_object(in, "specs"), "specs");
    Py_ssize_t n = tuple == NULL ? 0 : PyTuple_Size(tuple);
    if (tuple == NULL || n > 4096) {
        return tuple != NULL && km_py_raise_format(in->errors, KM_EINVAL, "too many columns");
    }
    km_column_spec *specs = km_args_alloc(in, (size_t)n, sizeof *specs);
    for (Py_ssize_t i = 0; specs != NULL && i < n; i++) {
        if (!read_spec(in, PyTuple_GetItem(tuple, i), &specs[i])) {
            return false;
        }
    }
    *out = specs;
    *n_columns = (int)n;
    return specs != NULL;
}

/* The columns as tuples of equal length; false with ShapeError when they are not. */
static bool read_columns(km_args *in, PyObject ***out, int n_columns, Py_ssize_t *n_rows) {
    PyObject *outer = km_args_tuple(in, km_arg_object(in, "columns"), "columns");
    if (outer == NULL ||
        !km_args_same_length(in, "specs", n_columns, "columns", PyTuple_Size(outer))) {
        return false;
    }
    PyObject **columns = km_args_alloc(in, (size_t)n_columns, sizeof *columns);
    for (int i = 0; columns != NULL && i < n_columns; i++) {
        columns[i] = km_args_tuple(in, PyTuple_GetItem(outer, i), "columns");
        if (columns[i] == NULL ||
            !km_args_same_length(in, "first column", PyTuple_Size(columns[0]), "another column",
                                 PyTuple_Size(columns[i]))) {
            return false;
        }
    }
    *n_rows = n_columns > 0 && columns != NULL ? PyTuple_Size(columns[0]) : 0;
    *out = columns;
    return columns != NULL;
}

static km_status set_int64(km_table *table, int column, PyObject *value, km_error *err) {
    PyObject *index = PyNumber_Index(value);
    long long number = index == NULL ? -1 : PyLong_AsLongLong(index);
    Py_XDECREF(index);
    return number == -1 && PyErr_Occurred() ? KM_ECALLBACK
                                            : km_table_set_int64(table, column, number, err);
}

static km_status set_double(km_table *table, int column, PyObject *value, km_error *err) {
    double number = PyFloat_AsDouble(value);
    return number == -1.0 && PyErr_Occurred() ? KM_ECALLBACK
                                              : km_table_set_double(table, column, number, err);
}

static km_status set_bool(km_table *table, int column, PyObject *value, km_error *err) {
    int truth = PyObject_IsTrue(value);
    return truth < 0 ? KM_ECALLBACK : km_table_set_bool(table, column, truth == 1, err);
}

static km_status set_text(km_table *table, int column, PyObject *value, km_error *err) {
    Py_ssize_t n = 0;
    const char *text = PyUnicode_AsUTF8AndSize(value, &n);
    return text == NULL ? KM_ECALLBACK : km_table_set_text(table, column, text, n, err);
}

/* KM_ECALLBACK: Python has raised (TypeError, OverflowError, UnicodeEncodeError). */
static km_status set_cell(km_table *table, int column, PyObject *value, km_error *err) {
    if (value == Py_None) {
        return KM_OK;
    }
    switch (km_table_spec(table, column)->type) {
    case KM_COLUMN_INT64:
        return set_int64(table, column, value, err);
    case KM_COLUMN_DOUBLE:
        return set_double(table, column, value, err);
    case KM_COLUMN_BOOL:
        return set_bool(table, column, value, err);
    case KM_COLUMN_TEXT:
        return set_text(table, column, value, err);
    }
    return KM_OK;
}

static km_status fill(km_table *table, PyObject **columns, Py_ssize_t n_rows, km_error *err) {
    for (Py_ssize_t row = 0; row < n_rows; row++) {
        km_status status = km_table_add_row(table, err);
        for (int i = 0; status == KM_OK && i < km_table_columns(table); i++) {
            status = set_cell(table, i, PyTuple_GetItem(columns[i], row), err);
        }
        if (status != KM_OK) {
            return status;
        }
    }
    return KM_OK;
}

static PyObject *table_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_state *state = KM_TYPE_STATE(type);
    km_error err = KM_ERROR_INIT;
    km_args in;
    km_column_spec *specs = NULL;
    PyObject **columns = NULL, *result = NULL;
    int n_columns = 0;
    Py_ssize_t n_rows = 0;
    km_table *table = NULL;
    km_ctx *ctx = km_py_default_ctx(state);
    if (!km_args_bind_new(&in, &state->errors, KM_SIG_Table, args, kwargs) || ctx == NULL ||
        !read_specs(&in, &specs, &n_columns) || !read_columns(&in, &columns, n_columns, &n_rows)) {
        goto done;
    }
    if (km_table_new(&table, ctx, specs, n_columns, &err) != KM_OK ||
        fill(table, columns, n_rows, &err) != KM_OK) {
        km_py_raise(&state->errors, &err);
        goto done;
    }
    result = wrap_as(type, table);
    table = NULL;
done:
    km_table_free(table);
    km_args_clear(&in);
    return result;
}

static PyObject *table_append(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_error err = KM_ERROR_INIT;
    km_args in;
    PyObject *other = NULL, *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Table_append, args, nargs, kwnames) &&
        km_arg_instance(&in, "other", Py_TYPE(self), &other)) {
        km_status status = km_table_append(km_py_table_get(self), km_py_table_get(other), &err);
        result = status == KM_OK ? Py_NewRef(Py_None) : km_py_raise(&state->errors, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- reading ---- */

static PyObject *cell(const km_table *table, int column, int64_t row) {
    int64_t n = 0;
    if (km_table_is_null(table, column, row)) {
        return Py_NewRef(Py_None);
    }
    switch (km_table_spec(table, column)->type) {
    case KM_COLUMN_INT64:
        return PyLong_FromLongLong(km_table_int64(table, column, row));
    case KM_COLUMN_DOUBLE:
        return PyFloat_FromDouble(km_table_double(table, column, row));
    case KM_COLUMN_BOOL:
        return PyBool_FromLong(km_table_bool(table, column, row));
    case KM_COLUMN_TEXT:
        break;
    }
    const char *text = km_table_text(table, column, row, &n);
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)n, "replace");
}

/* The column argument, a number or a name; false with an exception. */
static bool read_column(const km_args *in, const km_table *table, int *out) {
    PyObject *value = km_arg_object(in, "column");
    const char *name = NULL;
    if (!PyUnicode_Check(value)) {
        return km_arg_int(in, "column", out) &&
               ((*out >= 0 && *out < km_table_columns(table)) ||
                km_py_raise_format(in->errors, KM_ENOTFOUND, "no column %d in a table of %d", *out,
                                   km_table_columns(table)));
    }
    if (!km_arg_str(in, "column", &name)) {
        return false;
    }
    *out = km_table_find(table, name);
    return *out >= 0 || km_py_raise_format(in->errors, KM_ENOTFOUND, "no column '%s'", name);
}

static PyObject *table_cells(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    const km_table *table = km_py_table_get(self);
    km_args in;
    PyObject *list = NULL;
    int column = 0;
    int64_t start = 0, stop = km_table_rows(table);
    if (!km_args_bind(&in, &KM_OBJECT_STATE(self)->errors, KM_SIG_Table_cells, args, nargs,
                      kwnames) ||
        !read_column(&in, table, &column) || !km_arg_int64(&in, "start", &start) ||
        !km_arg_int64(&in, "stop", &stop)) {
        goto done;
    }
    start = start < 0 ? 0 : start;
    stop = stop > km_table_rows(table) ? km_table_rows(table) : stop;
    list = PyList_New(stop > start ? (Py_ssize_t)(stop - start) : 0);
    for (int64_t row = start; list != NULL && row < stop; row++) {
        PyObject *value = cell(table, column, row);
        if (value == NULL || PyList_SetItem(list, (Py_ssize_t)(row - start), value) < 0) {
            Py_CLEAR(list);
        }
    }
done:
    km_args_clear(&in);
    return list;
}

/* A column's values as an array; nulls are 0, NaN or False. */
static void copy_values(void *out, const km_table *table, int column) {
    int64_t n = km_table_rows(table);
    km_column_type type = km_table_spec(table, column)->type;
    for (int64_t row = 0; row < n; row++) {
        if (type == KM_COLUMN_INT64) {
            ((int64_t *)out)[row] = km_table_int64(table, column, row);
        } else if (type == KM_COLUMN_DOUBLE) {
            ((double *)out)[row] = km_table_double(table, column, row);
        } else {
            ((unsigned char *)out)[row] = km_table_bool(table, column, row);
        }
    }
}

static PyObject *table_values(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    static const km_element elements[] = {KM_I64, KM_F64, KM_BOOL};
    km_state *state = KM_OBJECT_STATE(self);
    const km_table *table = km_py_table_get(self);
    int64_t n = km_table_rows(table);
    km_args in;
    PyObject *array = NULL;
    int column = 0;
    if (km_args_bind(&in, &state->errors, KM_SIG_Table_values, args, nargs, kwnames) &&
        read_column(&in, table, &column)) {
        const km_column_spec *spec = km_table_spec(table, column);
        void *data = NULL;
        if (spec->type == KM_COLUMN_TEXT) {
            km_py_raise_format(&state->errors, KM_EINVAL, "column '%s' holds text; use cells()",
                               spec->name);
        } else {
            array = km_array_new(state->types[KM_TYPE_ARRAY], elements[spec->type], 1, &n, &data);
        }
        if (array != NULL) {
            copy_values(data, table, column);
        }
    }
    km_args_clear(&in);
    return array;
}

static PyObject *table_nulls(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    const km_table *table = km_py_table_get(self);
    int64_t n = km_table_rows(table);
    km_args in;
    PyObject *array = NULL;
    void *data = NULL;
    int column = 0;
    if (km_args_bind(&in, &state->errors, KM_SIG_Table_nulls, args, nargs, kwnames) &&
        read_column(&in, table, &column)) {
        array = km_array_new(state->types[KM_TYPE_ARRAY], KM_BOOL, 1, &n, &data);
        for (int64_t row = 0; array != NULL && row < n; row++) {
            ((unsigned char *)data)[row] = km_table_is_null(table, column, row);
        }
    }
    km_args_clear(&in);
    return array;
}

static PyObject *table_specs(PyObject *self, void *closure) {
    (void)closure;
    const km_table *table = km_py_table_get(self);
    int n = km_table_columns(table);
    PyObject *list = PyList_New(n);
    for (int i = 0; list != NULL && i < n; i++) {
        const km_column_spec *spec = km_table_spec(table, i);
        PyObject *item = Py_BuildValue("(ssss)", spec->name, TYPE_NAMES[spec->type], spec->unit,
                                       spec->description);
        if (item == NULL || PyList_SetItem(list, i, item) < 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

static Py_ssize_t table_length(PyObject *self) {
    return (Py_ssize_t)km_table_rows(km_py_table_get(self));
}

static PyObject *table_repr(PyObject *self) {
    const km_table *table = km_py_table_get(self);
    return PyUnicode_FromFormat("<km table: %lld rows, %d columns>",
                                (long long)km_table_rows(table), km_table_columns(table));
}

/* ---- Arrow ---- */

static void free_stream(PyObject *capsule) {
    struct ArrowArrayStream *stream = PyCapsule_GetPointer(capsule, "arrow_array_stream");
    if (stream->release != NULL) { /* NULL once a consumer has moved it out */
        stream->release(stream);
    }
    PyMem_Free(stream);
}

static PyObject *export_stream(km_state *state, const km_table *table) {
    km_error err = KM_ERROR_INIT;
    struct ArrowArrayStream *stream = PyMem_Calloc(1, sizeof *stream);
    if (stream == NULL) {
        return PyErr_NoMemory();
    }
    if (km_table_export_stream(stream, table, &err) != KM_OK) {
        PyMem_Free(stream);
        return km_py_raise(&state->errors, &err);
    }
    PyObject *capsule = PyCapsule_New(stream, "arrow_array_stream", free_stream);
    if (capsule == NULL) {
        stream->release(stream);
        PyMem_Free(stream);
    }
    return capsule;
}

/* The requested schema is a wish the protocol lets a producer ignore; km has one schema. */
static PyObject *table_arrow(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames) {
    km_state *state = KM_OBJECT_STATE(self);
    km_args in;
    PyObject *capsule = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_Table___arrow_c_stream__, args, nargs, kwnames)) {
        capsule = export_stream(state, km_py_table_get(self));
    }
    km_args_clear(&in);
    return capsule;
}

static PyMethodDef table_methods[] = {
    KM_METHOD("append", table_append, KM_DOC_Table_append),
    KM_METHOD("cells", table_cells, KM_DOC_Table_cells),
    KM_METHOD("values", table_values, KM_DOC_Table_values),
    KM_METHOD("nulls", table_nulls, KM_DOC_Table_nulls),
    KM_METHOD("__arrow_c_stream__", table_arrow, KM_DOC_Table___arrow_c_stream__),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef table_getset[] = {
    {"specs", table_specs, NULL, KM_DOC_Table_specs, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot table_slots[] = {
    {Py_tp_doc, KM_DOC_Table},      {Py_tp_new, table_new},
    {Py_tp_dealloc, table_dealloc}, {Py_tp_repr, table_repr},
    {Py_tp_methods, table_methods}, {Py_tp_getset, table_getset},
    {Py_sq_length, table_length},   {0, NULL},
};

PyType_Spec km_py_table_spec = {"km._km.Table", sizeof(table_object), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, table_slots};
