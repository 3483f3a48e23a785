/* state.h: the state of the extension module _km. No C globals: each interpreter has its own. */
#ifndef KM_PY_STATE_H
#define KM_PY_STATE_H

#include "args.h"
#include "km/ctx.h"
#include "km_doc.h"

/* One entry a heap type; the specs are listed in module.c in this order. */
typedef enum km_type_index {
    KM_TYPE_ARRAY = 0,
    KM_TYPE_TABLE,
    KM_TYPE_CONTEXT,
    KM_TYPE_MODEL,
    KM_TYPE_KNOWLEDGE_BASE,
    KM_TYPE_SESSION,
    KM_TYPE_TRAINER,
    KM_TYPE_DIFFKS,
    KM_N_TYPES
} km_type_index;

typedef struct km_state {
    km_errors errors;
    PyTypeObject *types[KM_N_TYPES];
    km_ctx *ctx; /* of tables built from Python; made on first need */
} km_state;

/* The state from a module function's `self`, and from an instance of one of our types (none can be
 * subclassed, so the instance's type is always ours). */
#define KM_MODULE_STATE(module) ((km_state *)PyModule_GetState(module))
#define KM_OBJECT_STATE(self) ((km_state *)PyType_GetModuleState(Py_TYPE(self)))
#define KM_TYPE_STATE(type) ((km_state *)PyType_GetModuleState(type))

#endif
