/* array.c: `_km.Array`, memory made or lent by km that Python reads through the buffer protocol. */
#include "buffers.h"
#include "types.h"

#include <string.h>

typedef struct array_object {
    PyObject_HEAD
    void *data;
    PyObject *owner; /* of lent memory; NULL: data is our own */
    bool readonly;
    km_element element;
    char format[2];
    int n_dims;
    Py_ssize_t n; /* elements */
    Py_ssize_t shape[KM_MAX_DIMS], strides[KM_MAX_DIMS];
} array_object;

/* Shape, strides and element count; false when the byte size would overflow. */
static bool set_shape(array_object *self, const int64_t *shape) {
    Py_ssize_t size = km_element_size(self->element);
    self->n = 1;
    for (int i = self->n_dims - 1; i >= 0; i--) {
        self->shape[i] = (Py_ssize_t)shape[i];
        self->strides[i] = self->n * size;
        if (shape[i] < 0 || (shape[i] > 0 && self->n > PY_SSIZE_T_MAX / size / shape[i])) {
            return false;
        }
        self->n *= shape[i];
    }
    return true;
}

PyObject *km_array_new(PyTypeObject *array_type, km_element element, int n_dims,
                       const int64_t *shape, void **data) {
    array_object *self = (array_object *)PyType_GenericAlloc(array_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->element = element;
    self->format[0] = (char)element;
    self->n_dims = n_dims;
    if (set_shape(self, shape)) {
        self->data =
            PyMem_Calloc((size_t)(self->n == 0 ? 1 : self->n), (size_t)km_element_size(element));
    }
    if (self->data == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    *data = self->data;
    return (PyObject *)self;
}

PyObject *km_array_view(PyTypeObject *array_type, km_element element, int n_dims,
                        const int64_t *shape, const void *data, PyObject *owner) {
    array_object *self = (array_object *)PyType_GenericAlloc(array_type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->element = element;
    self->format[0] = (char)element;
    self->n_dims = n_dims;
    self->owner = Py_NewRef(owner);
    self->readonly = true;
    if (!set_shape(self, shape)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->data = (void *)(uintptr_t)data;
    return (PyObject *)self;
}

PyObject *km_array_lend(PyTypeObject *array_type, km_element element, int n_dims,
                        const int64_t *shape, void *data, PyObject *owner) {
    PyObject *array = km_array_view(array_type, element, n_dims, shape, data, owner);
    if (array != NULL) {
        ((array_object *)array)->readonly = false;
    }
    return array;
}

static void array_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    array_object *self = (array_object *)object;
    if (self->owner == NULL) {
        PyMem_Free(self->data);
    }
    Py_XDECREF(self->owner);
    PyObject_Free(object);
    Py_DECREF(type);
}

static int array_getbuffer(PyObject *object, Py_buffer *view, int flags) {
    array_object *self = (array_object *)object;
    if (self->readonly && (flags & PyBUF_WRITABLE) != 0) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "the array is read-only");
        return -1;
    }
    view->buf = self->data;
    view->obj = Py_NewRef(object);
    view->itemsize = km_element_size(self->element);
    view->len = self->n * view->itemsize;
    view->readonly = self->readonly;
    view->ndim = self->n_dims;
    view->format = (flags & PyBUF_FORMAT) ? self->format : NULL;
    view->shape = (flags & PyBUF_ND) ? self->shape : NULL;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL;
    view->suboffsets = NULL;
    view->internal = NULL;
    return 0;
}

static Py_ssize_t array_length(PyObject *object) {
    const array_object *self = (const array_object *)object;
    return self->n_dims == 0 ? 1 : self->shape[0];
}

static PyObject *array_tolist(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_args in;
    PyObject *result = NULL;
    if (km_args_bind(&in, &KM_OBJECT_STATE(object)->errors, KM_SIG_Array_tolist, args, nargs,
                     kwnames)) {
        PyObject *view = PyMemoryView_FromObject(object);
        result = view == NULL ? NULL : PyObject_CallMethod(view, "tolist", NULL);
        Py_XDECREF(view);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *array_shape(PyObject *object, void *closure) {
    (void)closure;
    const array_object *self = (const array_object *)object;
    PyObject *shape = PyTuple_New(self->n_dims);
    for (int i = 0; shape != NULL && i < self->n_dims; i++) {
        PyObject *size = PyLong_FromSsize_t(self->shape[i]);
        if (size == NULL || PyTuple_SetItem(shape, i, size) < 0) {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

static PyObject *array_dtype(PyObject *object, void *closure) {
    (void)closure;
    return PyUnicode_FromString(km_element_name(((array_object *)object)->element));
}

static PyObject *array_repr(PyObject *object) {
    PyObject *shape = array_shape(object, NULL);
    PyObject *text = shape == NULL
                         ? NULL
                         : PyUnicode_FromFormat("<km array %S %s>", shape,
                                                km_element_name(((array_object *)object)->element));
    Py_XDECREF(shape);
    return text;
}

static PyMethodDef array_methods[] = {
    KM_METHOD("tolist", array_tolist, KM_DOC_Array_tolist),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef array_getset[] = {
    {"shape", array_shape, NULL, KM_DOC_Array_shape, NULL},
    {"dtype", array_dtype, NULL, KM_DOC_Array_dtype, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot array_slots[] = {
    {Py_tp_doc, KM_DOC_Array},          {Py_tp_dealloc, array_dealloc},
    {Py_tp_repr, array_repr},           {Py_tp_methods, array_methods},
    {Py_tp_getset, array_getset},       {Py_sq_length, array_length},
    {Py_bf_getbuffer, array_getbuffer}, {0, NULL},
};

PyType_Spec km_py_array_spec = {
    "km._km.Array", sizeof(array_object), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, array_slots};
