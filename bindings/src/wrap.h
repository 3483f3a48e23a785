/* wrap.h: what wrappers of functions share: their shape, arguments and arrays of results, and a
 * result or an exception. */
#ifndef KM_PY_WRAP_H
#define KM_PY_WRAP_H

#include "buffers.h"
#include "types.h"

#define ERRORS(module) (&KM_MODULE_STATE(module)->errors)
#define FUNCTION(name)                                                                             \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t nargs,               \
                          PyObject *kwnames)
#define BIND(in, module, name)                                                                     \
    km_args_bind(&(in), ERRORS(module), KM_SIG_##name, args, nargs, kwnames)

/* `result` when the call went well, else the exception. Steals result. */
static inline PyObject *finish(PyObject *module, PyObject *result, km_status status,
                               const km_error *err) {
    if (status != KM_OK) {
        Py_XDECREF(result);
        return km_py_raise(ERRORS(module), err);
    }
    return result;
}

static inline PyObject *from_double(PyObject *module, double value, km_status status,
                                    const km_error *err) {
    return finish(module, status == KM_OK ? PyFloat_FromDouble(value) : NULL, status, err);
}

/* The model of the parameter `model`; borrowed. */
static inline bool model_arg(const km_args *in, PyObject *module, km_model **out) {
    PyObject *object;
    if (!km_arg_instance(in, "model", KM_MODULE_STATE(module)->types[KM_TYPE_MODEL], &object)) {
        return false;
    }
    *out = km_py_model_get(object);
    return true;
}

static inline km_ctx *context_of(PyObject *module) {
    return km_py_default_ctx(KM_MODULE_STATE(module));
}

/* A new float64 or int64 array (n), or (n, m) where m is not negative; NULL with an exception. */
static inline PyObject *new_array(PyObject *module, km_element element, int64_t n, int64_t m,
                                  void **data) {
    int64_t shape[2] = {n, m};
    return km_array_new(KM_MODULE_STATE(module)->types[KM_TYPE_ARRAY], element, m < 0 ? 1 : 2,
                        shape, data);
}

/* Several arrays as a tuple; steals them, and gives NULL when one is missing. */
static inline PyObject *pack(PyObject **arrays, int n) {
    PyObject *tuple = PyTuple_New(n);
    for (int i = 0; i < n; i++) {
        if (tuple != NULL && arrays[i] != NULL) {
            PyTuple_SetItem(tuple, i, arrays[i]);
        } else {
            Py_XDECREF(arrays[i]);
            Py_CLEAR(tuple);
        }
    }
    return tuple;
}

#endif
