/* buffers.h: arrays in (any object with the buffer protocol, no copy) and out (`_km.Array`). */
#ifndef KM_PY_BUFFERS_H
#define KM_PY_BUFFERS_H

#include "args.h"

#define KM_MAX_DIMS 3

/* Element types, named by their format character of Python's struct module. */
typedef enum km_element {
    KM_F32 = 'f',
    KM_F64 = 'd',
    KM_I32 = 'i',
    KM_I64 = 'q',
    KM_BOOL = '?',
    KM_U8 = 'B'
} km_element;

/* numpy's name ("float32") and the bytes of an element. */
const char *km_element_name(km_element element);
Py_ssize_t km_element_size(km_element element);

/* A C-contiguous array lent by a Python object until km_args_clear. */
typedef struct km_view {
    const void *data; /* never NULL */
    int64_t n;        /* elements */
    int n_dims;
    int64_t shape[KM_MAX_DIMS];
} km_view;

/* The array of a parameter. `shape` names its axes for messages, such as "(T, V)", and its commas
 * give the number of dimensions. Wrong dtype, dimensions or strides: ShapeError; no buffer at all:
 * TypeError. An absent parameter leaves *out untouched. */
bool km_arg_view(km_args *in, const char *name, km_element element, const char *shape,
                 km_view *out);
/* The same from any object; `what` names it in messages. */
bool km_args_view(km_args *in, PyObject *value, const char *what, km_element element,
                  const char *shape, km_view *out);
/* ShapeError unless the two lengths agree, "f(): 'b' has 3 elements, 'a' has 4". */
bool km_args_same_length(const km_args *in, const char *a, int64_t n_a, const char *b, int64_t n_b);

/* A new, zeroed, writable `_km.Array` of the given shape; *data is its memory. */
PyObject *km_array_new(PyTypeObject *array_type, km_element element, int n_dims,
                       const int64_t *shape, void **data);
/* A read-only `_km.Array` over memory that lives as long as `owner`, which must not refer back. */
PyObject *km_array_view(PyTypeObject *array_type, km_element element, int n_dims,
                        const int64_t *shape, const void *data, PyObject *owner);
/* The same, writable. */
PyObject *km_array_lend(PyTypeObject *array_type, km_element element, int n_dims,
                        const int64_t *shape, void *data, PyObject *owner);

#endif
