/* core.c: module functions about the library itself. */
#include "km/ctx.h"
#include "types.h"

static PyObject *core_version(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_args in;
    bool bound =
        km_args_bind(&in, &KM_MODULE_STATE(module)->errors, KM_SIG_version, args, nargs, kwnames);
    km_args_clear(&in);
    return bound ? PyUnicode_FromString(km_version()) : NULL;
}

static PyObject *core_memory_available(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                                       PyObject *kwnames) {
    km_args in;
    bool bound = km_args_bind(&in, &KM_MODULE_STATE(module)->errors, KM_SIG_memory_available, args,
                              nargs, kwnames);
    km_args_clear(&in);
    return bound ? PyLong_FromSize_t(km_memory_available()) : NULL;
}

PyMethodDef km_py_core_methods[] = {
    KM_METHOD("version", core_version, KM_DOC_version),
    KM_METHOD("memory_available", core_memory_available, KM_DOC_memory_available),
    {NULL, NULL, 0, NULL},
};
