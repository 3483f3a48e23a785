/* module.c: the extension module _kmviz, apart from _km so that `import km` needs no Graphviz. */
#include <string.h>

#include "state.h"

static PyObject *text_width(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                            PyObject *kwnames) {
    km_viz_state *state = PyModule_GetState(module);
    km_args in;
    const char *text = "";
    double size = 10.0;
    bool bold = false;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_text_width, args, nargs, kwnames) &&
        km_arg_str(&in, "text", &text) && km_arg_double(&in, "size", &size) &&
        km_arg_bool(&in, "bold", &bold)) {
        result = PyFloat_FromDouble(km_text_width(text, strlen(text), size, bold));
    }
    km_args_clear(&in);
    return result;
}

static PyObject *paint_hex(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames) {
    km_viz_state *state = PyModule_GetState(module);
    km_args in;
    const char *name = "";
    bool dark = false;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state->errors, KM_SIG_paint_hex, args, nargs, kwnames) &&
        km_arg_str(&in, "name", &name) && km_arg_bool(&in, "dark", &dark)) {
        int paint = km_paint_from_name(name);
        result = paint < 0 ? km_py_raise_format(&state->errors, KM_EINVAL,
                                                "paint_hex(): no colour is named '%s'", name)
                           : PyUnicode_FromString(km_paint_hex((km_paint)paint, dark));
    }
    km_args_clear(&in);
    return result;
}

static PyMethodDef module_methods[] = {
    KM_METHOD("paint_hex", paint_hex, KM_DOC_paint_hex),
    KM_METHOD("text_width", text_width, KM_DOC_text_width),
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module) {
    km_viz_state *state = PyModule_GetState(module);
    km_error err = KM_ERROR_INIT;
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    options.n_threads = 1;
    if (km_errors_import(&state->errors) < 0) {
        return -1;
    }
    if (km_ctx_new(&state->ctx, &options, &err) != KM_OK) {
        km_py_raise(&state->errors, &err);
        return -1;
    }
    state->graph_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &km_py_graph_spec, NULL);
    return state->graph_type == NULL ? -1 : PyModule_AddType(module, state->graph_type);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    km_viz_state *state = PyModule_GetState(module);
    Py_VISIT(state->graph_type);
    return km_errors_traverse(&state->errors, visit, arg);
}

static int module_clear(PyObject *module) {
    km_viz_state *state = PyModule_GetState(module);
    Py_CLEAR(state->graph_type);
    km_errors_clear(&state->errors);
    return 0;
}

/* Graphs hold their type, which holds the module: none is left when this runs. */
static void module_free(void *object) {
    PyObject *module = object;
    km_viz_state *state = PyModule_GetState(module);
    (void)module_clear(module);
    km_ctx_free(state->ctx);
    state->ctx = NULL;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kmviz",
    .m_doc = "Pictures through Graphviz. Use `km.draw`; this module may change.",
    .m_size = sizeof(km_viz_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__kmviz(void);
PyMODINIT_FUNC PyInit__kmviz(void) {
    return PyModuleDef_Init(&module_def);
}
