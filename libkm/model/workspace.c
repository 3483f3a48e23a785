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

/* MLP blocks of equal size, in whole panels of the matrix product; a visitor sees all rows. */
static int64_t choose_mlp_rows(int64_t n, const km_forward_request *request) {
    const uint32_t inside = UINT32_C(1) << KM_POINT_MLP_PRE | UINT32_C(1) << KM_POINT_MLP_HIDDEN;
    if (n <= MLP_ROWS || (request->visit != NULL && (request->visit_points & inside) != 0)) {
        return n;
    }
    int64_t n_blocks = (n + MLP_ROWS - 1) / MLP_ROWS;
    return ((n + n_blocks - 1) / n_blocks + 255) / 256 * 256;
}

/* Copies of the stream a token needs where single heads' inputs are changed. */
static int64_t split_heads(const km__doors *doors, const km_config *config) {
    static const km_point points[] = {KM_POINT_Q_INPUT, KM_POINT_K_INPUT, KM_POINT_V_INPUT,
                                      KM_POINT_MLP_INPUT};
    int64_t most = 0;
    for (int32_t layer = 0; doors->open != NULL && layer < config->n_layers; layer++) {
        for (int i = 0; i < 4; i++) {
            if ((doors->open[layer] >> points[i] & 1) != 0) {
                most = larger(most, km_point_heads(points[i], config));
            }
        }
    }
    return most;
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

/* An allocation of at least `total` floats; one that is large enough stays. A session's grows with
 * its positions: then with room for some more, so that most steps of decoding allocate nothing. */
static km_status provide(km__workspace *work, km_ctx *ctx, double total, const km__plan *plan,
                         km_error *err) {
    if (work->block != NULL && total <= work->floats) {
        return KM_OK;
    }
    const double floats = work->block == NULL ? total : rounded(1.25 * total);
    km__workspace_clear(work, ctx);
    KM_TRY(check_memory(floats, plan, err));
    KM_TRY(km_alloc((void **)&work->block, ctx, (size_t)floats * sizeof(float), err));
    work->floats = floats;
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
    KM_TRY(provide(work, ctx, total, plan, err));
    float *next = work->block;
    for (int i = 0; i < n_parts; i++) {
        *parts[i].where = next;
        next += (int64_t)rounded(parts[i].floats);
    }
    return KM_OK;
}

/* Output rows computed: those wanted and those whose logits are read. */
static int64_t count_output_rows(const km_forward_request *request) {
    int64_t n = request->n_rows;
    for (int64_t i = 0; i < request->n_reads; i++) {
        const km_read *read = &request->reads[i];
        if (read->point == KM_POINT_LOGITS) {
            n += read->nodes == NULL ? request->tree.n : read->n_nodes;
        }
    }
    return n;
}

km_status km__workspace_fit(km__workspace *work, const km__plan *plan, const km_model *model,
                            const km_forward_request *request, const km__doors *doors,
                            km_error *err) {
    const km_config *config = &model->config;
    const double n = (double)plan->tree->n, width = config->d_model;
    const double q_width = (double)config->n_heads * config->head_dim;
    const double kv_width = (double)config->n_kv_heads * config->head_dim;
    const double angles =
        (double)(plan->n_positions - plan->first_position) * config->rotary_dim / 2;
    const double own_kv = request->session == NULL ? n * kv_width : 0.0;
    const int64_t n_lens = request->n_lens_rows * config->n_layers;
    const int64_t mlp_rows = choose_mlp_rows(plan->tree->n, request);
    const int64_t logits_rows =
        larger(km__logits_rows(count_output_rows(request), config->vocab_size),
               km__logits_rows(n_lens, config->vocab_size));
    const int64_t attention_floats = km__attention_floats(config, plan);
    const part parts[] = {
        {&work->x, n * width},
        {&work->h, n * width},
        {&work->m, config->parallel_residual ? n * width : 0.0},
        {&work->q, n * q_width},
        {&work->k, own_kv},
        {&work->v, own_kv},
        {&work->gate, (double)mlp_rows * config->d_ffn},
        {&work->up, config->gated_mlp ? (double)mlp_rows * config->d_ffn : 0.0},
        {&work->picked, (double)plan->n_needed * width},
        {&work->split, n * (double)split_heads(doors, config) * width},
        {&work->lens, (double)n_lens * width},
        {&work->normed, (double)logits_rows * width},
        {&work->logits, (double)logits_rows * config->vocab_size},
        {&work->attention, (double)attention_floats * km_ctx_threads(model->ctx)},
        {&work->rope_full.cosines, angles},
        {&work->rope_full.sines, angles},
        {&work->rope_window.cosines, angles},
        {&work->rope_window.sines, angles},
    };
    KM_TRY(carve(work, model->ctx, parts, (int)(sizeof parts / sizeof parts[0]), plan, err));
    work->mlp_rows = mlp_rows;
    work->logits_rows = logits_rows;
    work->attention_floats = attention_floats;
    work->rope_full.first_position = work->rope_window.first_position = plan->first_position;
    return KM_OK;
}

void km__workspace_clear(km__workspace *work, km_ctx *ctx) {
    km_free(ctx, work->block);
    memset(work, 0, sizeof *work);
}
