/* forest.h: token sequences merged into a forest, so that every distinct prefix is computed once.
 * Private to measure. */
#ifndef KM_MEASURE_FOREST_H
#define KM_MEASURE_FOREST_H

#include "base/base.h"
#include "km/model.h"

/* A forest that grows; {0} is empty, its memory is given back by km__forest_clear. */
typedef struct km__forest {
    km_ctx *ctx;
    int32_t *ids;               /* (n) */
    int64_t *parent;            /* (n) */
    int64_t *child, *sibling;   /* (n) first child, next child of the same parent; -1: none */
    int64_t n, capacity, roots; /* roots: the first root, the others are its siblings */
} km__forest;

void km__forest_init(km__forest *forest, km_ctx *ctx);
/* Forget the nodes, keep the memory. */
void km__forest_reset(km__forest *forest);
void km__forest_clear(km__forest *forest);
/* Nodes that adding a sequence of n tokens would make. */
int64_t km__forest_count_new(const km__forest *forest, const int32_t *ids, int64_t n);
/* Add a sequence of n >= 1 tokens; *last becomes the node of its last token. */
KM_NODISCARD km_status km__forest_add(int64_t *last, km__forest *forest, const int32_t *ids,
                                      int64_t n, km_error *err);
/* Start anew with prompts first, first+1, ... of n while they fit into batch_tokens nodes (the
 * first one always does); prompt i is ids[offsets[i]] to ids[offsets[i+1]-1]. rows[i - first]
 * becomes its last node, *end the first prompt that is not in. */
KM_NODISCARD km_status km__forest_fill(int64_t *end, km__forest *forest, int64_t *rows,
                                       const int32_t *ids, const int64_t *offsets, int64_t first,
                                       int64_t n, int64_t batch_tokens, km_error *err);
/* The forest as a forward pass takes it. */
km_tree km__forest_tree(const km__forest *forest);

#endif
