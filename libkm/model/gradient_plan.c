/* gradient_plan.c: what a backward pass needs before it starts: the tree's runs sorted by tree, its
 * buffers as one allocation, rotary tables both ways. */
#include <string.h>

#include "model/gradient_private.h"

#define ALIGN_FLOATS 16

/* ---- trees of the forest ---- */

/* tree_of (n): the number of the tree a node is in, trees being numbered by their roots. */
static int64_t number_trees(int64_t *tree_of, const km_tree *tree) {
    int64_t n_trees = 0;
    for (int64_t i = 0; i < tree->n; i++) {
        tree_of[i] = tree->parent[i] < 0 ? n_trees++ : tree_of[tree->parent[i]];
    }
    return n_trees;
}

/* The plan's runs by tree, in the order they have in each. */
static km_status sort_runs(km__back *back, const int64_t *tree_of, km_error *err) {
    const km__plan *plan = &back->plan;
    km_ctx *ctx = back->model->ctx;
    KM_TRY(km_alloc_array((void **)&back->tree_runs, ctx, back->n_trees + 2,
                          sizeof *back->tree_runs, err));
    KM_TRY(km_alloc_array((void **)&back->runs, ctx, plan->n_runs, sizeof *back->runs, err));
    int64_t *next = back->tree_runs + 1; /* counts, then where the next run of a tree goes */
    for (int64_t i = 0; i < plan->n_runs; i++) {
        next[tree_of[plan->runs[i].node] + 1]++;
    }
    for (int64_t t = 1; t <= back->n_trees; t++) {
        next[t] += next[t - 1];
    }
    for (int64_t i = 0; i < plan->n_runs; i++) {
        back->runs[next[tree_of[plan->runs[i].node]]++] = plan->runs[i];
    }
    return KM_OK; /* next[t] is now where tree t ends: tree_runs[t + 1] */
}

km_status km__back_plan(km__back *back, const km_forward_request *forward, km_error *err) {
    km_status status = KM_OK;
    int64_t *tree_of = NULL;
    back->n = forward->tree.n;
    KM_GO(km__plan_init(&back->plan, back->model, forward, err));
    KM_GO(km__plan_need(&back->plan, back->model, forward, err));
    back->n_positions = back->plan.n_positions;
    KM_GO(km_alloc_array((void **)&tree_of, back->model->ctx, back->n, sizeof *tree_of, err));
    back->n_trees = number_trees(tree_of, &forward->tree);
    KM_GO(sort_runs(back, tree_of, err));
done:
    km_free(back->model->ctx, tree_of);
    return status;
}

void km__back_plan_clear(km__back *back) {
    km_ctx *ctx = back->model->ctx;
    km_free(ctx, back->runs);
    km_free(ctx, back->tree_runs);
    km__plan_clear(&back->plan, ctx);
}

/* ---- memory ---- */

int km__back_parts(km__part parts[KM_MAX_PARTS], km__back *back, double n, double positions,
                   double copies) {
    const km_config *c = &back->model->config;
    km__layer_state *s = &back->s;
    const double d = c->d_model, f = c->d_ffn;
    const double q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    const double angles = positions * c->head_dim / 2; /* at least rotary_dim / 2 each */
    const double post = c->post_norms ? 1.0 : 0.0, gated = c->gated_mlp ? 1.0 : 0.0;
    const double head_norms = c->qk_norm ? 1.0 : 0.0;
    const double workers = km_ctx_threads(back->model->ctx);
    const km__part all[] = {
        {&back->attention, (double)back->attention_floats * workers},
        {&s->q, n * q * head_norms * copies},
        {&s->k, n * kv * head_norms * copies},
        {&s->v, n * kv * copies},
        {&s->qr, n * q * copies},
        {&s->kr, n * kv * copies},
        {&s->z, n * q * copies},
        {&s->attn_branch, n * d * post * copies},
        {&s->mid, n * d * copies},
        {&s->pre, n * f * copies},
        {&s->up, n * f * gated * copies},
        {&s->mlp_branch, n * d * post * copies},
        {&s->h, n * d},
        {&s->hidden, n * f},
        {&s->dx, n * d},
        {&s->d, n * d},
        {&s->dz, n * q},
        {&s->dq, n * q},
        {&s->dk, n * kv},
        {&s->dv, n * kv},
        {&s->dk_heads, n * q},
        {&s->dv_heads, n * q},
        {&back->rope[0].cosines, angles},
        {&back->rope[0].sines, angles},
        {&back->rope[1].cosines, angles},
        {&back->rope[1].sines, angles},
        {&back->rope_back[0].sines, angles},
        {&back->rope_back[1].sines, angles},
    };
    memcpy(parts, all, sizeof all);
    return (int)(sizeof all / sizeof all[0]);
}

static double rounded(double floats) {
    const double blocks = (floats + ALIGN_FLOATS - 1) / ALIGN_FLOATS;
    return blocks > 1e15 ? floats : (double)((int64_t)blocks * ALIGN_FLOATS);
}

double km__parts_floats(const km__part *parts, int n_parts) {
    double total = 0.0;
    for (int i = 0; i < n_parts; i++) {
        total += rounded(parts[i].floats);
    }
    return total;
}

km_status km__back_check_memory(double bytes, const km__back *back, const char *what,
                                km_error *err) {
    const double available = (double)km_memory_available();
    if (bytes > available) {
        return KM_SET(err, KM_ENOMEM, "%s over %lld tokens need %.0f MiB; %.0f MiB are available",
                      what, (long long)back->n, bytes / 1048576.0, available / 1048576.0);
    }
    return KM_OK;
}

km_status km__parts_allocate(km__back *back, const km__part *parts, int n_parts, const char *what,
                             km_error *err) {
    km__layer_state *s = &back->s;
    const double total = km__parts_floats(parts, n_parts);
    if (back->block == NULL || back->block_floats < total) {
        km_free(back->model->ctx, back->block);
        back->block = NULL;
        KM_TRY(km__back_check_memory(total * sizeof(float), back, what, err));
        KM_TRY(
            km_alloc((void **)&back->block, back->model->ctx, (size_t)total * sizeof(float), err));
        back->block_floats = total;
    }
    float *next = back->block;
    for (int i = 0; i < n_parts; i++) {
        *parts[i].where = next;
        next += (int64_t)rounded(parts[i].floats);
    }
    if (!back->model->config.qk_norm) {
        s->q = s->qr;
        s->k = s->kr;
    }
    for (int which = 0; which < 2; which++) {
        back->rope_back[which].cosines = back->rope[which].cosines;
    }
    return KM_OK;
}

float *km__spare_take(const km_model *model, double *floats) {
    km_spare *spare = (km_spare *)(uintptr_t)&model->spare;
    float *block = NULL;
    if (model->is_trainable && !atomic_exchange(&spare->busy, true)) {
        block = spare->block;
        *floats = spare->floats;
        spare->block = NULL;
        atomic_store(&spare->busy, false);
    }
    return block;
}

void km__spare_keep(const km_model *model, float *block, double floats) {
    km_spare *spare = (km_spare *)(uintptr_t)&model->spare;
    if (model->is_trainable && !atomic_exchange(&spare->busy, true)) {
        float *before = spare->block;
        spare->block = block;
        spare->floats = floats;
        block = before;
        atomic_store(&spare->busy, false);
    }
    km_free(model->ctx, block);
}

km_status km__back_ropes(const km__back *back, km_error *err) {
    const km_model *model = back->model;
    const km_config *config = &model->config;
    const int64_t n = (int64_t)back->n_positions * (config->rotary_dim / 2);
    if (config->position != KM_POSITION_ROPE) {
        return KM_OK;
    }
    for (int which = 0; which < 2; which++) {
        KM_TRY(km__rope_fill(&back->rope[which], model, which == 1, back->n_positions, err));
        for (int64_t i = 0; i < n; i++) {
            back->rope_back[which].sines[i] = -back->rope[which].sines[i];
        }
    }
    return KM_OK;
}
