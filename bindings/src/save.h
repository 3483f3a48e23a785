/* save.h: what wrappers that write models share. */
#ifndef KM_PY_SAVE_H
#define KM_PY_SAVE_H

#include "args.h"
#include "km/save.h"

/* GGUF metadata from the parameter `pairs`, tuples (key, type, element, n, bytes); lives as long as
 * `in`. */
bool km_py_read_pairs(km_args *in, km_export_pair **pairs, int64_t *n);

#endif
