/* errors.c: one table says which Python exception stands for which status. */
#include "errors.h"

#include <stdarg.h>
#include <string.h>

typedef struct error_row {
    km_status code;
    const char *name; /* class in _km, or NULL for a builtin */
    const char *doc;
} error_row;

/* Error comes first: the others derive from it. Statuses that share a class come after its row. */
static const error_row ROWS[] = {
    {KM_EINTERNAL, "Error", "Base class of km's exceptions; raised itself for a bug in km."},
    {KM_EINVAL, "ArgumentError", "An argument is wrong or outside its range; also a ValueError."},
    {KM_ERANGE, "ArgumentError", NULL},
    {KM_ESHAPE, "ShapeError", "An array has the wrong shape or dtype; also a ValueError."},
    {KM_EFORMAT, "FormatError", "A file's content breaks its format; also a ValueError."},
    {KM_EUNSUPPORTED, "UnsupportedError", "Valid, but not something this version of km handles."},
    {KM_ENOTFOUND, "NotFoundError", "No such model, file, tensor, fact or row; also a KeyError."},
    {KM_ENUMERIC, "NumericError", "NaN or infinity where a finite number is needed."},
    {KM_ESTATE, "BusyError", "The object is closed, or busy in another thread."},
    {KM_ECANCELLED, "CancelledError", "The work was stopped by cancel()."},
    {KM_ENOMEM, NULL, NULL},
    {KM_EIO, NULL, NULL},
    {KM_ECALLBACK, NULL, NULL},
};
enum { N_ROWS = sizeof ROWS / sizeof ROWS[0] };

/* The second base that lets `except ValueError` and `except KeyError` work; NULL: none. */
static PyObject *builtin_base(km_status code) {
    switch ((int)code) {
    case KM_EINVAL:
    case KM_ESHAPE:
    case KM_EFORMAT:
        return PyExc_ValueError;
    case KM_ENOTFOUND:
        return PyExc_KeyError;
    default:
        return NULL;
    }
}

static PyObject *builtin_class(km_status code) {
    switch ((int)code) {
    case KM_ENOMEM:
        return PyExc_MemoryError;
    case KM_EIO:
        return PyExc_OSError;
    default:
        return PyExc_SystemError; /* KM_ECALLBACK without an exception: a bug */
    }
}

/* Class attributes: status and where, so that both exist on exceptions raised in Python too. The
 * base class also restores __str__, which KeyError would turn into a repr. */
static PyObject *class_namespace(const error_row *row, bool is_base) {
    PyObject *dict =
        Py_BuildValue("{s:s,s:O}", "status", km_status_name(row->code), "where", Py_None);
    if (dict == NULL || !is_base) {
        return dict;
    }
    PyObject *str = PyObject_GetAttrString(PyExc_BaseException, "__str__");
    if (str == NULL || PyDict_SetItemString(dict, "__str__", str) < 0) {
        Py_CLEAR(dict);
    }
    Py_XDECREF(str);
    return dict;
}

static PyObject *make_class(const error_row *row, PyObject *error) {
    PyObject *second = builtin_base(row->code);
    PyObject *bases = error == NULL    ? PyTuple_Pack(1, PyExc_RuntimeError)
                      : second == NULL ? PyTuple_Pack(1, error)
                                       : PyTuple_Pack(2, error, second);
    PyObject *dict = class_namespace(row, error == NULL);
    PyObject *name = PyUnicode_FromFormat("km.%s", row->name);
    PyObject *made = NULL;
    if (bases != NULL && dict != NULL && name != NULL) {
        const char *utf8 = PyUnicode_AsUTF8AndSize(name, NULL);
        made = utf8 == NULL ? NULL : PyErr_NewExceptionWithDoc(utf8, row->doc, bases, dict);
    }
    Py_XDECREF(bases);
    Py_XDECREF(dict);
    Py_XDECREF(name);
    return made;
}

/* A new reference to the class of a row; rows without a doc share the class made before. */
static PyObject *row_class(const km_errors *errors, const error_row *row, PyObject *module) {
    if (row->name == NULL) {
        return Py_NewRef(builtin_class(row->code));
    }
    if (row->doc == NULL) {
        return PyObject_GetAttrString(module, row->name);
    }
    PyObject *made = make_class(row, errors->classes[KM_EINTERNAL]);
    if (made != NULL && PyModule_AddObjectRef(module, row->name, made) < 0) {
        Py_CLEAR(made);
    }
    return made;
}

int km_errors_create(km_errors *errors, PyObject *module) {
    for (int i = 0; i < N_ROWS; i++) {
        PyObject *class = row_class(errors, &ROWS[i], module);
        if (class == NULL) {
            return -1;
        }
        errors->classes[ROWS[i].code] = class;
    }
    return 0;
}

int km_errors_import(km_errors *errors) {
    PyObject *module = PyImport_ImportModule("km._km");
    for (int i = 0; module != NULL && i < N_ROWS; i++) {
        const error_row *row = &ROWS[i];
        PyObject *class = row->name == NULL ? Py_NewRef(builtin_class(row->code))
                                            : PyObject_GetAttrString(module, row->name);
        if (class == NULL) {
            Py_CLEAR(module);
            return -1;
        }
        errors->classes[row->code] = class;
    }
    Py_XDECREF(module);
    return module == NULL ? -1 : 0;
}

int km_errors_traverse(km_errors *errors, visitproc visit, void *arg) {
    for (int i = 0; i < KM_N_STATUS; i++) {
        Py_VISIT(errors->classes[i]);
    }
    return 0;
}

void km_errors_clear(km_errors *errors) {
    for (int i = 0; i < KM_N_STATUS; i++) {
        Py_CLEAR(errors->classes[i]);
    }
}

/* OSError picks its own subclass (FileNotFoundError...) when it is called with errno first. */
static PyObject *new_os_error(const km_error *err, PyObject *message, PyObject *path) {
    if (err->os_errno == 0) {
        return PyObject_CallFunctionObjArgs(PyExc_OSError, message, NULL);
    }
    return PyObject_CallFunction(PyExc_OSError, path == NULL ? "iO" : "iOO", err->os_errno, message,
                                 path);
}

/* exception.status and exception.where ("function:line"). */
static int annotate(PyObject *exception, const km_error *err) {
    PyObject *status = PyUnicode_FromString(km_status_name(err->code));
    PyObject *where = PyUnicode_FromFormat("%s:%d", err->func == NULL ? "?" : err->func, err->line);
    int failed = status == NULL || where == NULL ||
                 PyObject_SetAttrString(exception, "status", status) < 0 ||
                 PyObject_SetAttrString(exception, "where", where) < 0;
    Py_XDECREF(status);
    Py_XDECREF(where);
    return failed ? -1 : 0;
}

PyObject *km_py_raise_path(const km_errors *errors, const km_error *err, PyObject *path) {
    if (PyErr_Occurred()) {
        return NULL;
    }
    PyObject *class = err->code > KM_OK && err->code < KM_N_STATUS ? errors->classes[err->code]
                                                                   : PyExc_SystemError;
    PyObject *message =
        PyUnicode_DecodeUTF8(err->message, (Py_ssize_t)strlen(err->message), "replace");
    PyObject *exception = NULL;
    if (message != NULL) {
        exception = err->code == KM_EIO ? new_os_error(err, message, path)
                                        : PyObject_CallFunctionObjArgs(class, message, NULL);
    }
    if (exception != NULL && annotate(exception, err) == 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    }
    Py_XDECREF(message);
    Py_XDECREF(exception);
    return NULL;
}

PyObject *km_py_raise(const km_errors *errors, const km_error *err) {
    return km_py_raise_path(errors, err, NULL);
}

PyObject *km_py_raise_format(const km_errors *errors, km_status code, const char *format, ...) {
    va_list list;
    va_start(list, format);
    PyObject *message = PyUnicode_FromFormatV(format, list);
    va_end(list);
    if (message != NULL) {
        PyErr_SetObject(errors->classes[code], message);
        Py_DECREF(message);
    }
    return NULL;
}
