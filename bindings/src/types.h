/* types.h: the heap types of _km and how C gets at what their instances hold. */
#ifndef KM_PY_TYPES_H
#define KM_PY_TYPES_H

#include "km/model.h"
#include "km/table.h"
#include "state.h"

extern PyType_Spec km_py_array_spec, km_py_table_spec, km_py_context_spec, km_py_model_spec,
    km_py_kb_spec, km_py_session_spec, km_py_trainer_spec, km_py_diffks_spec;

/* Functions of the module: one table a wrapper file, ended by a row of zeros. */
extern PyMethodDef km_py_core_methods[];
extern PyMethodDef km_py_kb_methods[];
extern PyMethodDef km_py_stats_methods[];
extern PyMethodDef km_py_trace_methods[];
extern PyMethodDef km_py_gradient_methods[];
extern PyMethodDef km_py_interpretability_methods[];
extern PyMethodDef km_py_memorization_methods[], km_py_memorization_scores_methods[];
extern PyMethodDef km_py_priming_scores_methods[];
extern PyMethodDef km_py_score_methods[];
extern PyMethodDef km_py_trainer_methods[];
extern PyMethodDef km_py_trainable_methods[], km_py_new_model_methods[];

/* Wrap a table; takes ownership of it, also on failure. */
PyObject *km_py_table_wrap(km_state *state, km_table *table);
/* What an instance holds; borrowed. The argument must be of that type (km_arg_instance). */
km_table *km_py_table_get(PyObject *object);
km_ctx *km_py_context_get(PyObject *object);
km_model *km_py_model_get(PyObject *object);
/* A model of the given context; takes ownership of it, also on failure. */
PyObject *km_py_model_make(PyTypeObject *type, km_model *model, PyObject *context);
/* What a configuration says, as a dictionary. */
PyObject *km_py_config_dict(const km_config *config);
/* A model of the same type and context as `like`; takes ownership of it, also on failure. */
PyObject *km_py_model_wrap(PyObject *like, km_model *model);

/* Methods of Model that save.c holds. */
PyObject *km_py_model_weights(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames);
PyObject *km_py_model_weight(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames);
PyObject *km_py_model_with_weights(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames);
PyObject *km_py_model_save(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                           PyObject *kwnames);
PyObject *km_py_model_export_gguf(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames);
PyObject *km_py_model_metadata(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                               PyObject *kwnames);

/* The context of work that belongs to no model, such as tables built from Python; borrowed,
 * NULL with an exception set. */
km_ctx *km_py_default_ctx(km_state *state);

#endif
