/* module.c: the extension module _km: its state, types and functions. Multi-phase initialisation.
 */
#include "types.h"

/* In the order of km_type_index. */
static PyType_Spec *const TYPES[KM_N_TYPES] = {
    &km_py_array_spec, &km_py_table_spec,   &km_py_context_spec, &km_py_model_spec,
    &km_py_kb_spec,    &km_py_session_spec, &km_py_trainer_spec, &km_py_diffks_spec,
};

/* Functions: one table a wrapper file. */
static PyMethodDef *const FUNCTIONS[] = {
    km_py_core_methods,
    km_py_kb_methods,
    km_py_stats_methods,
    km_py_trace_methods,
    km_py_gradient_methods,
    km_py_memorization_methods,
    km_py_interpretability_methods,
    km_py_memorization_scores_methods,
    km_py_priming_scores_methods,
    km_py_score_methods,
    km_py_trainer_methods,
    km_py_trainable_methods,
    km_py_new_model_methods,
};
enum { N_FUNCTIONS = sizeof FUNCTIONS / sizeof FUNCTIONS[0] };

static int module_exec(PyObject *module) {
    km_state *state = KM_MODULE_STATE(module);
    if (km_errors_create(&state->errors, module) < 0) {
        return -1;
    }
    for (int i = 0; i < KM_N_TYPES; i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, TYPES[i], NULL);
        state->types[i] = (PyTypeObject *)type;
        if (type == NULL || PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            return -1;
        }
    }
    for (int i = 0; i < N_FUNCTIONS; i++) {
        if (PyModule_AddFunctions(module, FUNCTIONS[i]) < 0) {
            return -1;
        }
    }
    return 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    km_state *state = KM_MODULE_STATE(module);
    for (int i = 0; i < KM_N_TYPES; i++) {
        Py_VISIT(state->types[i]);
    }
    return km_errors_traverse(&state->errors, visit, arg);
}

static int module_clear(PyObject *module) {
    km_state *state = KM_MODULE_STATE(module);
    for (int i = 0; i < KM_N_TYPES; i++) {
        Py_CLEAR(state->types[i]);
    }
    km_ctx_free(state->ctx);
    state->ctx = NULL;
    km_errors_clear(&state->errors);
    return 0;
}

static void module_free(void *module) {
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_def = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_km",
    .m_doc = "The compiled part of km. Use the package `km`; this module may change.",
    .m_size = sizeof(km_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__km(void);
PyMODINIT_FUNC PyInit__km(void) {
    return PyModuleDef_Init(&module_def);
}
