/* args.h: typed arguments of METH_FASTCALL | METH_KEYWORDS functions.
 *
 * The stub (km/_km.pyi) says which parameters exist, which are required and which may be None;
 * tools/gen_docs.py turns that into KM_SIG_<name>. A wrapper binds once and then asks for each
 * parameter by name. An absent parameter, or None where the stub's default is None, leaves the
 * output untouched, so initialise it with the default:
 *
 *     km_args in;
 *     PyObject *result = NULL;
 *     bool special = false;
 *     km_bytes text;
 *     if (!km_args_bind(&in, &state->errors, KM_SIG_Model_encode, args, nargs, kwnames) ||
 *         !km_arg_text(&in, "text", &text) || !km_arg_bool(&in, "special", &special)) {
 *         goto done;
 *     }
 *     ...
 * done:
 *     km_args_clear(&in);
 *     return result;
 *
 * Everything borrowed through km_args stays valid until km_args_clear, also without the GIL. Every
 * km_arg_ function returns false with an exception set that names the function and the parameter.
 */
#ifndef KM_PY_ARGS_H
#define KM_PY_ARGS_H

#include "errors.h"

#define KM_MAX_ARGS 24
#define KM_MAX_VIEWS 20

/* The signature of a wrapper function, for PyMethodDef casts: KM_METHOD(name, function, doc). */
typedef PyObject *(*km_fastcall)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
#define KM_METHOD(name, function, doc)                                                             \
    {name, (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS, doc}

typedef struct km_signature {
    const char *name; /* "Model.encode" */
    const char *const *names;
    int n, n_positional_only, n_positional;
    uint32_t required, nullable; /* bit i: parameter i */
} km_signature;

typedef struct km_args {
    const km_signature *signature;
    const km_errors *errors;
    PyObject *values[KM_MAX_ARGS]; /* borrowed; NULL: absent */
    PyObject *held;                /* list of objects kept until km_args_clear; NULL: none yet */
    Py_buffer views[KM_MAX_VIEWS];
    int n_views;
} km_args;

typedef struct km_bytes {
    const char *data;
    Py_ssize_t n;
} km_bytes;

bool km_args_bind(km_args *in, const km_errors *errors, const km_signature *signature,
                  PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
/* The same for tp_new. */
bool km_args_bind_new(km_args *in, const km_errors *errors, const km_signature *signature,
                      PyObject *args, PyObject *kwargs);
/* Release buffers and held objects. Safe after a failed bind. */
void km_args_clear(km_args *in);

/* The object given for a parameter; NULL when absent (or None, where that is the default). */
PyObject *km_arg_object(const km_args *in, const char *name);
/* An instance of `type`; borrowed. */
bool km_arg_instance(const km_args *in, const char *name, PyTypeObject *type, PyObject **out);
bool km_arg_callable(const km_args *in, const char *name, PyObject **out);
bool km_arg_bool(const km_args *in, const char *name, bool *out); /* True or False only */
bool km_arg_int(const km_args *in, const char *name, int *out);
bool km_arg_int64(const km_args *in, const char *name, int64_t *out);
bool km_arg_uint64(const km_args *in, const char *name, uint64_t *out); /* such as a seed */
bool km_arg_double(const km_args *in, const char *name, double *out);
/* NUL-terminated UTF-8 of a str without NUL characters. */
bool km_arg_str(const km_args *in, const char *name, const char **out);
/* The UTF-8 of a str, or the bytes of a bytes. */
bool km_arg_text(const km_args *in, const char *name, km_bytes *out);
/* str, bytes or os.PathLike in the file system's encoding; *shown (NULL allowed) is the object
 * for km_py_raise_path. */
bool km_arg_path(km_args *in, const char *name, const char **out, PyObject **shown);
/* A sequence of str as C strings (n); an absent one gives n = 0. */
bool km_arg_strings(km_args *in, const char *name, const char *const **out, int64_t *n);

/* For nested arguments: the same from any object; `what` names it in messages. */
bool km_args_strings(km_args *in, PyObject *sequence, const char *what, const char *const **out,
                     int64_t *n);
/* Any iterable as a tuple (borrowed, held by `in`), which no other thread can change. */
PyObject *km_args_tuple(km_args *in, PyObject *iterable, const char *what);
/* Zeroed scratch memory that lives as long as `in`; NULL with MemoryError. */
void *km_args_alloc(km_args *in, size_t count, size_t size);
/* Keep a strong reference until km_args_clear. */
bool km_args_hold(km_args *in, PyObject *object);
/* Raise TypeError "f(): parameter 'x' must be <wanted>, not <type>"; returns false. */
bool km_args_type_error(const km_args *in, const char *name, const char *wanted, PyObject *value);

#endif
