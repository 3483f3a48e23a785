/* buffers.c: arguments that are arrays, taken by the buffer protocol without a copy.
 *
 * A wrong element type, number of axes or stride is an error that names the parameter, never a
 * silent conversion: a copy of float64 logits that nobody asked for may be gigabytes.
 */
#include "buffers.h"

#include <string.h>

typedef struct element_row {
    km_element element;
    const char *name;
    Py_ssize_t size;
} element_row;

static const element_row ELEMENTS[] = {
    {KM_F32, "float32", 4}, {KM_F64, "float64", 8}, {KM_I32, "int32", 4},
    {KM_I64, "int64", 8},   {KM_BOOL, "bool", 1},   {KM_U8, "uint8", 1},
};
enum { N_ELEMENTS = sizeof ELEMENTS / sizeof ELEMENTS[0] };

static const element_row *find_element(km_element element) {
    for (int i = 0; i < N_ELEMENTS; i++) {
        if (ELEMENTS[i].element == element) {
            return &ELEMENTS[i];
        }
    }
    return &ELEMENTS[0];
}

const char *km_element_name(km_element element) {
    return find_element(element)->name;
}

Py_ssize_t km_element_size(km_element element) {
    return find_element(element)->size;
}

/* The element a buffer's format stands for, 0 when it is none of ours. 'l' is int64 or int32. */
static int element_of(const Py_buffer *view) {
    const char *format = view->format == NULL ? "B" : view->format;
    if (*format == '@' || *format == '=' || (*format == '<' && PY_LITTLE_ENDIAN)) {
        format++;
    }
    if (format[0] == '\0' || format[1] != '\0') {
        return 0;
    }
    if (format[0] == 'l') {
        return view->itemsize == 8 ? KM_I64 : KM_I32;
    }
    return format[0];
}

static int count_dims(const char *shape) {
    int n = 1;
    for (const char *at = shape; *at != '\0'; at++) {
        n += *at == ',' && at[1] == ' ';
    }
    return n;
}

/* Take the buffer into in->views; BufferError (not contiguous) becomes ShapeError. */
static Py_buffer *take(km_args *in, PyObject *value, const char *what, km_element element,
                       const char *shape) {
    Py_buffer *view = &in->views[in->n_views];
    if (in->n_views == KM_MAX_VIEWS) {
        PyErr_SetString(PyExc_SystemError, "too many array arguments");
        return NULL;
    }
    if (!PyObject_CheckBuffer(value)) {
        km_args_type_error(in, what, "an array (an object with the buffer protocol)", value);
        return NULL;
    }
    if (PyObject_GetBuffer(value, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_ValueError)) {
            PyErr_Clear();
            km_py_raise_format(in->errors, KM_ESHAPE,
                               "%s(): '%s' must be a C-contiguous %s array of %s",
                               in->signature->name, what, shape, km_element_name(element));
        }
        return NULL;
    }
    in->n_views++;
    return view;
}

bool km_args_view(km_args *in, PyObject *value, const char *what, km_element element,
                  const char *shape, km_view *out) {
    Py_buffer *view = take(in, value, what, element, shape);
    if (view == NULL) {
        return false;
    }
    if (view->ndim != count_dims(shape) || view->ndim > KM_MAX_DIMS) {
        km_py_raise_format(in->errors, KM_ESHAPE,
                           "%s(): '%s' must be a %s array, not one of %d dimensions",
                           in->signature->name, what, shape, view->ndim);
        return false;
    }
    if (element_of(view) != (int)element) {
        km_py_raise_format(in->errors, KM_ESHAPE,
                           "%s(): '%s' must hold %s, not format '%s'; convert it with "
                           "numpy.asarray(x, '%s')",
                           in->signature->name, what, km_element_name(element),
                           view->format == NULL ? "B" : view->format, km_element_name(element));
        return false;
    }
    /* An empty array may have no memory; the C functions want a pointer all the same. */
    out->data = view->buf == NULL ? (const void *)in : view->buf;
    out->n = view->len / view->itemsize;
    out->n_dims = view->ndim;
    for (int i = 0; i < view->ndim; i++) {
        out->shape[i] = view->shape == NULL ? out->n : view->shape[i];
    }
    return true;
}

bool km_arg_view(km_args *in, const char *name, km_element element, const char *shape,
                 km_view *out) {
    PyObject *value = km_arg_object(in, name);
    return value == NULL || km_args_view(in, value, name, element, shape, out);
}

bool km_args_same_length(const km_args *in, const char *a, int64_t n_a, const char *b,
                         int64_t n_b) {
    if (n_a != n_b) {
        km_py_raise_format(in->errors, KM_ESHAPE, "%s(): '%s' has %lld elements, '%s' has %lld",
                           in->signature->name, b, (long long)n_b, a, (long long)n_a);
    }
    return n_a == n_b;
}
