/* doors.h: one forward pass over a tree with reads and patches, as Python packs it: a few flat
 * arrays instead of thousands of objects. km/forest.py writes them; the columns are named here. */
#ifndef KM_PY_DOORS_H
#define KM_PY_DOORS_H

#include "buffers.h"
#include "km/model.h"

/* A row of `reads` (R, 6) int64. Nodes are a slice of the array `nodes`. */
enum {
    KM_READ_POINT = 0,
    KM_READ_LAYER,
    KM_READ_HEAD,
    KM_READ_FIRST_NODE,
    KM_READ_N_NODES, /* -1: all of the tree in order */
    KM_READ_OFFSET,  /* in the block of results, floats */
    KM_READ_COLUMNS
};

/* A row of `patches` (P, 11) int64; its factor is `factors`[row]. */
enum {
    KM_PATCH_COLUMN_KIND = 0,
    KM_PATCH_COLUMN_POINT,
    KM_PATCH_COLUMN_LAYER,
    KM_PATCH_COLUMN_HEAD,
    KM_PATCH_COLUMN_FIRST_NODE,
    KM_PATCH_COLUMN_N_NODES, /* -1: all of the tree */
    KM_PATCH_COLUMN_BEGIN,
    KM_PATCH_COLUMN_END,
    KM_PATCH_COLUMN_OFFSET, /* in `values`, floats */
    KM_PATCH_COLUMN_STRIDE,
    KM_PATCH_COLUMN_SAME_FOR_HEADS,
    KM_PATCH_COLUMNS
};

typedef struct km_py_pass {
    km_model *model;
    km_forward_request request; /* tree and patches */
    km_view nodes;
    int64_t n_positions;
} km_py_pass;

/* Parameters model, ids, parent, nodes, patches, factors and values. Everything is checked against
 * the arrays it points into; what the model has to say about it is left to libkm. */
bool km_py_pass_read(km_args *in, PyTypeObject *model_type, km_py_pass *out);
/* Parameters patches, factors and values alone, of a pass whose model and tree are known; without
 * positions to count, points as wide as those are refused. */
bool km_py_pass_patches(km_args *in, km_py_pass *pass);
/* The reads of parameter `name`, which go to `block` (n_block floats). */
bool km_py_pass_reads(km_args *in, const char *name, const km_py_pass *pass, float *block,
                      int64_t n_block, const km_read **out, int64_t *n);

#endif
