/* args.c: binding of arguments to the signature in the stub, and conversion with clear messages.
 *
 * PyArg_Parse would need a format string that repeats the stub and says "an integer is required"
 * without the parameter's name. Here every refusal names function and parameter. Converted objects
 * are held until km_args_clear, because the GIL is released while C works on what they lend.
 */
#include "args.h"

#include <limits.h>
#include <string.h>

/* ---- binding ---- */

static bool fail_binding(const km_signature *signature, const char *format, PyObject *name) {
    PyObject *text = PyUnicode_FromFormat(format, name);
    if (text != NULL) {
        PyErr_Format(PyExc_TypeError, "%s() %U", signature->name, text);
        Py_DECREF(text);
    }
    return false;
}

/* Position of a keyword among the parameters that may be given by name, -1 when there is none. */
static int find_keyword(const km_signature *signature, PyObject *keyword) {
    for (int i = signature->n_positional_only; i < signature->n; i++) {
        if (PyUnicode_CompareWithASCIIString(keyword, signature->names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool bind_keyword(km_args *in, PyObject *keyword, PyObject *value) {
    int i = find_keyword(in->signature, keyword);
    if (i < 0) {
        return fail_binding(in->signature, "got an unexpected keyword argument %R", keyword);
    }
    if (in->values[i] != NULL) {
        return fail_binding(in->signature, "got multiple values for parameter %R", keyword);
    }
    in->values[i] = value;
    return true;
}

static bool begin(km_args *in, const km_errors *errors, const km_signature *signature,
                  Py_ssize_t nargs) {
    in->signature = signature;
    in->errors = errors;
    in->held = NULL;
    in->n_views = 0;
    memset(in->values, 0, sizeof in->values);
    if (nargs > signature->n_positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %d positional arguments (%zd given)",
                     signature->name, signature->n_positional, nargs);
        return false;
    }
    return true;
}

static bool check_required(const km_args *in) {
    for (int i = 0; i < in->signature->n; i++) {
        if (in->values[i] == NULL && (in->signature->required >> i & 1U)) {
            PyErr_Format(PyExc_TypeError, "%s() missing required parameter '%s'",
                         in->signature->name, in->signature->names[i]);
            return false;
        }
    }
    return true;
}

bool km_args_bind(km_args *in, const km_errors *errors, const km_signature *signature,
                  PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    if (!begin(in, errors, signature, nargs)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        in->values[i] = args[i];
    }
    Py_ssize_t n_keywords = kwnames == NULL ? 0 : PyTuple_Size(kwnames);
    for (Py_ssize_t i = 0; i < n_keywords; i++) {
        if (!bind_keyword(in, PyTuple_GetItem(kwnames, i), args[nargs + i])) {
            return false;
        }
    }
    return check_required(in);
}

bool km_args_bind_new(km_args *in, const km_errors *errors, const km_signature *signature,
                      PyObject *args, PyObject *kwargs) {
    Py_ssize_t nargs = PyTuple_Size(args);
    if (!begin(in, errors, signature, nargs)) {
        return false;
    }
    for (Py_ssize_t i = 0; i < nargs; i++) {
        in->values[i] = PyTuple_GetItem(args, i);
    }
    PyObject *key = NULL, *value = NULL;
    Py_ssize_t at = 0;
    while (kwargs != NULL && PyDict_Next(kwargs, &at, &key, &value)) {
        if (!bind_keyword(in, key, value)) {
            return false;
        }
    }
    return check_required(in);
}

void km_args_clear(km_args *in) {
    for (int i = 0; i < in->n_views; i++) {
        PyBuffer_Release(&in->views[i]);
    }
    in->n_views = 0;
    Py_CLEAR(in->held);
}

bool km_args_hold(km_args *in, PyObject *object) {
    if (in->held == NULL) {
        in->held = PyList_New(0);
    }
    return in->held != NULL && PyList_Append(in->held, object) == 0;
}

static void free_scratch(PyObject *capsule) {
    PyMem_Free(PyCapsule_GetPointer(capsule, "km.scratch"));
}

void *km_args_alloc(km_args *in, size_t count, size_t size) {
    void *memory = PyMem_Calloc(count == 0 ? 1 : count, size);
    if (memory == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    PyObject *capsule = PyCapsule_New(memory, "km.scratch", free_scratch);
    if (capsule == NULL) {
        PyMem_Free(memory);
        return NULL;
    }
    bool held = km_args_hold(in, capsule);
    Py_DECREF(capsule);
    return held ? memory : NULL;
}

/* ---- conversion ---- */

bool km_args_type_error(const km_args *in, const char *name, const char *wanted, PyObject *value) {
    PyObject *type = PyType_GetName(Py_TYPE(value));
    if (type != NULL) {
        PyErr_Format(PyExc_TypeError, "%s(): parameter '%s' must be %s, not %U",
                     in->signature->name, name, wanted, type);
        Py_DECREF(type);
    }
    return false;
}

PyObject *km_arg_object(const km_args *in, const char *name) {
    for (int i = 0; i < in->signature->n; i++) {
        if (strcmp(in->signature->names[i], name) == 0) {
            bool absent = in->values[i] == Py_None && (in->signature->nullable >> i & 1U);
            return absent ? NULL : in->values[i];
        }
    }
    return NULL;
}

bool km_arg_instance(const km_args *in, const char *name, PyTypeObject *type, PyObject **out) {
    PyObject *value = km_arg_object(in, name);
    if (value == NULL) {
        return true;
    }
    if (!PyObject_TypeCheck(value, type)) {
        PyObject *wanted = PyType_GetName(type);
        const char *utf8 = wanted == NULL ? NULL : PyUnicode_AsUTF8AndSize(wanted, NULL);
        if (utf8 != NULL) {
            km_args_type_error(in, name, utf8, value);
        }
        Py_XDECREF(wanted);
        return false;
    }
    *out = value;
    return true;
}

bool km_arg_callable(const km_args *in, const char *name, PyObject **out) {
    PyObject *value = km_arg_object(in, name);
    if (value != NULL && !PyCallable_Check(value)) {
        return km_args_type_error(in, name, "callable", value);
    }
    *out = value == NULL ? *out : value;
    return true;
}

bool km_arg_bool(const km_args *in, const char *name, bool *out) {
    PyObject *value = km_arg_object(in, name);
    if (value != NULL && !PyBool_Check(value)) {
        return km_args_type_error(in, name, "bool", value);
    }
    *out = value == NULL ? *out : value == Py_True;
    return true;
}

static bool out_of_range(const km_args *in, const char *name, PyObject *value) {
    PyErr_Clear();
    km_py_raise_format(in->errors, KM_ERANGE, "%s(): parameter '%s' is out of range: %S",
                       in->signature->name, name, value);
    return false;
}

/* A new reference to an int (bool is refused: True is rarely meant as 1); NULL with TypeError. */
static PyObject *as_index(const km_args *in, const char *name, PyObject *value) {
    PyObject *index = PyBool_Check(value) ? NULL : PyNumber_Index(value);
    if (index == NULL) {
        PyErr_Clear();
        km_args_type_error(in, name, "int", value);
    }
    return index;
}

bool km_arg_int64(const km_args *in, const char *name, int64_t *out) {
    PyObject *value = km_arg_object(in, name);
    if (value == NULL) {
        return true;
    }
    PyObject *index = as_index(in, name, value);
    if (index == NULL) {
        return false;
    }
    long long number = PyLong_AsLongLong(index);
    Py_DECREF(index);
    if (number == -1 && PyErr_Occurred()) {
        return out_of_range(in, name, value);
    }
    *out = number;
    return true;
}

bool km_arg_int(const km_args *in, const char *name, int *out) {
    int64_t number = *out;
    if (!km_arg_int64(in, name, &number)) {
        return false;
    }
    if (number < INT_MIN || number > INT_MAX) {
        return out_of_range(in, name, km_arg_object(in, name));
    }
    *out = (int)number;
    return true;
}

bool km_arg_uint64(const km_args *in, const char *name, uint64_t *out) {
    PyObject *value = km_arg_object(in, name);
    if (value == NULL) {
        return true;
    }
    PyObject *index = as_index(in, name, value);
    if (index == NULL) {
        return false;
    }
    unsigned long long number = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (number == ULLONG_MAX && PyErr_Occurred()) {
        return out_of_range(in, name, value);
    }
    *out = number;
    return true;
}

bool km_arg_double(const km_args *in, const char *name, double *out) {
    PyObject *value = km_arg_object(in, name);
    if (value == NULL) {
        return true;
    }
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred()) {
        PyErr_Clear();
        return km_args_type_error(in, name, "float", value);
    }
    *out = number;
    return true;
}

/* UTF-8 of a str that C will read up to its first NUL. */
static const char *c_string(const km_args *in, const char *name, PyObject *value) {
    if (!PyUnicode_Check(value)) {
        km_args_type_error(in, name, "str", value);
        return NULL;
    }
    Py_ssize_t n = 0;
    const char *utf8 = PyUnicode_AsUTF8AndSize(value, &n);
    if (utf8 != NULL && strlen(utf8) != (size_t)n) {
        km_py_raise_format(in->errors, KM_EINVAL, "%s(): '%s' contains a NUL character",
                           in->signature->name, name);
        return NULL;
    }
    return utf8;
}

bool km_arg_str(const km_args *in, const char *name, const char **out) {
    PyObject *value = km_arg_object(in, name);
    if (value == NULL) {
        return true;
    }
    const char *utf8 = c_string(in, name, value);
    *out = utf8 == NULL ? *out : utf8;
    return utf8 != NULL;
}

bool km_arg_text(const km_args *in, const char *name, km_bytes *out) {
    PyObject *value = km_arg_object(in, name);
    if (value == NULL) {
        return true;
    }
    if (PyUnicode_Check(value)) {
        out->data = PyUnicode_AsUTF8AndSize(value, &out->n);
        return out->data != NULL;
    }
    if (PyBytes_Check(value)) {
        out->data = PyBytes_AsString(value);
        out->n = PyBytes_Size(value);
        return true;
    }
    return km_args_type_error(in, name, "str or bytes", value);
}

bool km_arg_path(km_args *in, const char *name, const char **out, PyObject **shown) {
    PyObject *value = km_arg_object(in, name);
    PyObject *bytes = NULL;
    if (value == NULL) {
        return true;
    }
    if (!PyUnicode_FSConverter(value, &bytes)) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            km_args_type_error(in, name, "str, bytes or os.PathLike", value);
        }
        return false;
    }
    bool held = km_args_hold(in, bytes);
    *out = PyBytes_AsString(bytes);
    Py_DECREF(bytes);
    if (shown != NULL) {
        *shown = value;
    }
    return held;
}

PyObject *km_args_tuple(km_args *in, PyObject *iterable, const char *what) {
    PyObject *tuple = PyUnicode_Check(iterable) ? NULL : PySequence_Tuple(iterable);
    if (tuple == NULL) {
        if (!PyErr_Occurred() || PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            km_args_type_error(in, what, "a sequence", iterable);
        }
        return NULL;
    }
    bool held = km_args_hold(in, tuple);
    Py_DECREF(tuple);
    return held ? tuple : NULL;
}

bool km_args_strings(km_args *in, PyObject *sequence, const char *what, const char *const **out,
                     int64_t *n) {
    PyObject *tuple = km_args_tuple(in, sequence, what);
    Py_ssize_t count = tuple == NULL ? 0 : PyTuple_Size(tuple);
    const char **strings = tuple == NULL ? NULL : km_args_alloc(in, (size_t)count, sizeof *strings);
    if (strings == NULL) {
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        strings[i] = c_string(in, what, PyTuple_GetItem(tuple, i));
        if (strings[i] == NULL) {
            return false;
        }
    }
    *out = strings;
    *n = count;
    return true;
}

bool km_arg_strings(km_args *in, const char *name, const char *const **out, int64_t *n) {
    PyObject *value = km_arg_object(in, name);
    *n = 0;
    return value == NULL || km_args_strings(in, value, name, out, n);
}
