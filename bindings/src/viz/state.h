/* state.h: the state of the extension module _kmviz. No C globals. */
#ifndef KM_PY_VIZ_STATE_H
#define KM_PY_VIZ_STATE_H

#include "args.h"
#include "km/viz.h"
#include "km_doc.h"

typedef struct km_viz_state {
    km_errors errors; /* the classes of _km */
    PyTypeObject *graph_type;
    km_ctx *ctx;
} km_viz_state;

extern PyType_Spec km_py_graph_spec;

#endif
