/* forest.h: trees of tokens for tests of the forward pass, and what a request showed of them. */
#ifndef KM_TESTS_FOREST_H
#define KM_TESTS_FOREST_H

#include "km_test.h"
#include "synthetic_model.h"

#define MAX_NODES 700

typedef struct forest {
    int32_t ids[MAX_NODES];
    int64_t parent[MAX_NODES];
    int64_t n;
} forest;

/* Greatest depth + 1. */
static inline int64_t count_positions(const forest *f) {
    int64_t positions = 0, depth[MAX_NODES];
    for (int64_t i = 0; i < f->n; i++) {
        depth[i] = f->parent[i] < 0 ? 1 : depth[f->parent[i]] + 1;
        positions = depth[i] > positions ? depth[i] : positions;
    }
    return positions;
}

static inline void fill_ids(forest *f, int32_t vocab) {
    for (int64_t i = 0; i < f->n; i++) {
        f->ids[i] = (int32_t)km_random_below((uint64_t)vocab, 3, 1, (uint64_t)i);
    }
}

static inline void make_chain(forest *f, int64_t n, int32_t vocab) {
    f->n = n;
    for (int64_t i = 0; i < n; i++) {
        f->parent[i] = i - 1;
    }
    fill_ids(f, vocab);
}

/* `stay` of 10 tokens follow the one before; the others hang anywhere or start a sequence. */
static inline void make_random_forest(forest *f, int64_t n, uint64_t stay, int32_t vocab) {
    f->n = n;
    for (int64_t i = 0; i < n; i++) {
        bool follow = i > 0 && km_random_below(10, 5, stay, (uint64_t)i) < stay;
        f->parent[i] =
            follow ? i - 1 : (int64_t)km_random_below((uint64_t)i + 1, 6, stay, (uint64_t)i) - 1;
    }
    fill_ids(f, vocab);
}

/* What a request showed: (L+1, n, V), the output of row i at layer L. */
typedef struct seen {
    float *logits;
    int *count; /* (L+1, n) visits */
    int64_t n, vocab;
} seen;

static inline km_status look(void *payload, int64_t index, int32_t layer, const float *logits,
                             int64_t vocab, km_error *err) {
    (void)err;
    seen *s = payload;
    s->count[layer * s->n + index]++;
    memcpy(s->logits + (layer * s->n + index) * vocab, logits, (size_t)vocab * sizeof(float));
    return KM_OK;
}

static inline void seen_init(seen *s, const km_config *c, int64_t n) {
    s->n = n;
    s->vocab = c->vocab_size;
    s->logits = calloc((size_t)((c->n_layers + 1) * n * s->vocab), sizeof(float));
    s->count = calloc((size_t)((c->n_layers + 1) * n), sizeof(int));
}

static inline void seen_clear(seen *s) {
    free(s->logits);
    free(s->count);
}

/* All rows and all lens rows of a forest. */
static inline void run_all(seen *s, const km_model *model, const forest *f) {
    int64_t rows[MAX_NODES];
    for (int64_t i = 0; i < f->n; i++) {
        rows[i] = i;
    }
    km_forward_request request = {.tree = {f->ids, f->parent, f->n},
                                  .rows = rows,
                                  .n_rows = f->n,
                                  .lens_rows = rows,
                                  .n_lens_rows = f->n,
                                  .on_logits = look,
                                  .payload = s};
    km_error err = KM_ERROR_INIT;
    seen_init(s, &model->config, f->n);
    km_status status = km_model_forward(model, &request, &err);
    if (status != KM_OK) {
        fail_msg("%s", err.message);
    }
}

/* The path from the root to a node as a sequence of its own. */
static inline void path_of(forest *path, const forest *f, int64_t node) {
    path->n = 0;
    for (int64_t i = node; i >= 0; i = f->parent[i]) {
        path->n++;
    }
    int64_t at = path->n;
    for (int64_t i = node; i >= 0; i = f->parent[i]) {
        path->ids[--at] = f->ids[i];
        path->parent[at] = at - 1;
    }
}

#endif
