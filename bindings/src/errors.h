/* errors.h: km_error to Python exceptions. Shared by the extension modules _km and _kmviz. */
#ifndef KM_PY_ERRORS_H
#define KM_PY_ERRORS_H

#include <Python.h>

#include <stdbool.h>

#include "km/error.h"

#define KM_N_STATUS (KM_EINTERNAL + 1)

/* Exception class of each status (strong references; NULL at KM_OK). Lives in the module state. */
typedef struct km_errors {
    PyObject *classes[KM_N_STATUS];
} km_errors;

/* _km: make the classes and add them to the module. 0, or -1 with an exception set. */
int km_errors_create(km_errors *errors, PyObject *module);
/* Other modules: take the classes from km._km, so that `except km.Error` sees one hierarchy. */
int km_errors_import(km_errors *errors);
int km_errors_traverse(km_errors *errors, visitproc visit, void *arg);
void km_errors_clear(km_errors *errors);

/* Raise what `err` says and return NULL. KM_EIO becomes OSError with errno, KM_ENOMEM MemoryError,
 * KM_ECALLBACK leaves the callback's exception. An exception already set is never replaced. */
PyObject *km_py_raise(const km_errors *errors, const km_error *err);
/* The same with the path the call was about, which becomes OSError.filename. */
PyObject *km_py_raise_path(const km_errors *errors, const km_error *err, PyObject *path);
/* Raise the class of `code` with a message made here (PyUnicode_FromFormat); returns NULL. */
PyObject *km_py_raise_format(const km_errors *errors, km_status code, const char *format, ...);

#endif
