/* workspace.c: the buffers of one forward pass as one allocation with computed offsets, refused
 * before it is made when the machine does not have the memory. */
#include <string.h>

#include "model/forward_private.h"

#define MLP_ROWS 1024 /* rows of gate and up held at once */
#define ALIGN_FLOATS 16

typedef struct part {
    float **where;
    double floats; /* double: cannot overflow before it is compared with the memory there is */
} part;

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* MLP blocks of equal size, in whole panels of the matrix product. */
static int64_t choose_mlp_rows(int64_t n) {
    int64_t n_blocks = (n + MLP_ROWS - 1) / MLP_ROWS;
    int64_t rows = (n + n_blocks - 1) / n_blocks;
    return n < MLP_ROWS ? n : (rows + 255) / 256 * 256;
}

static double rounded(double floats) {
    return (double)(((int64_t)floats + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS);
}

static km_status check_memory(double floats, const km__plan *plan, km_error *err) {
    const double bytes = 4.0 * floats, available = (double)km_memory_available();
    if (bytes > available) {
        return KM_SET(err, KM_ENOMEM,
                      "a forward pass over %lld tokens needs %.0f MiB; %.0f MiB are available",
                      (long long)plan->tree->n, bytes / 1048576.0, available / 1048576.0);
    }
    return KM_OK;
}

static km_status carve(km__workspace *work, km_ctx *ctx, const part *parts, int n_parts,
                       const km__plan *plan, km_error *err) {
    double total = 0.0;
    for (int i = 0; i < n_parts; i++) {
        if (parts[i].floats > 1e15) {
            return check_memory(parts[i].floats, plan, err);
        }
        total += rounded(parts[i].floats);
    }
    KM_TRY(check_memory(total, plan, err));
    KM_TRY(km_alloc((void **)&work->block, ctx, (size_t)total * sizeof(float), err));
    float *next = work->block;
    for (int i = 0; i < n_parts; i++) {
        *parts[i].where = next;
        next += (int64_t)rounded(parts[i].floats);
    }
    return KM_OK;
}

km_status km__workspace_init(km__workspace *work, const km__plan *plan, const km_model *model,
                             const km_forward_request *request, km_error *err) {
    const km_config *config = &model->config;
    const double n = (double)plan->tree->n, width = config->d_model;
    const double q_width = (double)config->n_heads * config->head_dim;
    const double kv_width = (double)config->n_kv_heads * config->head_dim;
    const double angles = (double)plan->n_positions * config->head_dim / 2;
    memset(work, 0, sizeof *work);
    work->mlp_rows = choose_mlp_rows(plan->tree->n);
    const int64_t n_lens = request->n_lens_rows * config->n_layers;
    work->logits_rows = larger(km__logits_rows(request->n_rows, config->vocab_size),
                               km__logits_rows(n_lens, config->vocab_size));
    work->attention_floats = km__attention_floats(config, plan->n_positions);
    const part parts[] = {
        {&work->x, n * width},
        {&work->h, n * width},
        {&work->q, n * q_width},
        {&work->k, n * kv_width},
        {&work->v, n * kv_width},
        {&work->gate, (double)work->mlp_rows * config->d_ffn},
        {&work->up, (double)work->mlp_rows * config->d_ffn},
        {&work->picked, (double)plan->n_needed * width},
        {&work->lens, (double)n_lens * width},
        {&work->normed, (double)work->logits_rows * width},
        {&work->logits, (double)work->logits_rows * config->vocab_size},
        {&work->attention, (double)work->attention_floats * km_ctx_threads(model->ctx)},
        {&work->rope_full.cosines, angles},
        {&work->rope_full.sines, angles},
        {&work->rope_window.cosines, angles},
        {&work->rope_window.sines, angles},
    };
    return carve(work, model->ctx, parts, (int)(sizeof parts / sizeof parts[0]), plan, err);
}

void km__workspace_clear(km__workspace *work, km_ctx *ctx) {
    km_free(ctx, work->block);
    memset(work, 0, sizeof *work);
}
