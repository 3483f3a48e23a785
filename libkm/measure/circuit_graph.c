/* circuit_graph.c: how the nodes of a circuit are numbered, and what attention heads write. */
#include <string.h>

#include "measure/circuit.h"
#include "model/model_private.h"

km__graph km__graph_of(const km_model *model) {
    const km_config *c = km_model_config(model);
    km__graph g = {.model = model, .config = c, .width = c->d_model, .blocks = c->post_norms};
    g.z_width = g.blocks ? g.width : (int64_t)c->n_heads * c->head_dim;
    g.writers = g.blocks ? 1 : c->n_heads;
    g.layer_sources = g.writers + 1;
    g.layer_targets = (int64_t)c->n_heads + 2 * (int64_t)c->n_kv_heads + 1;
    g.n_sources = 1 + c->n_layers * g.layer_sources;
    g.n_targets = c->n_layers * g.layer_targets + 1;
    return g;
}

int64_t km__graph_attention(const km__graph *graph, int64_t layer) {
    return 1 + layer * graph->layer_sources;
}

int64_t km__graph_mlp(const km__graph *graph, int64_t layer) {
    return km__graph_attention(graph, layer) + graph->writers;
}

int64_t km__graph_target(const km__graph *graph, int64_t layer, km_point point) {
    const int64_t first = layer * graph->layer_targets, h = graph->config->n_heads;
    const int64_t k = graph->config->n_kv_heads;
    switch (point) {
    case KM_POINT_Q_INPUT:
        return first;
    case KM_POINT_K_INPUT:
        return first + h;
    case KM_POINT_V_INPUT:
        return first + h + k;
    default:
        return first + h + 2 * k;
    }
}

km__graph_place km__graph_source_place(const km__graph *graph, int64_t source) {
    if (source == 0) {
        return (km__graph_place){-1, -1, KM_POINT_EMBED};
    }
    const int64_t layer = (source - 1) / graph->layer_sources;
    const int64_t at = (source - 1) % graph->layer_sources;
    if (at == graph->writers) {
        return (km__graph_place){layer, -1, KM_POINT_MLP_OUT};
    }
    return (km__graph_place){layer, graph->blocks ? -1 : at, KM_POINT_ATTN_OUT};
}

km__graph_place km__graph_target_place(const km__graph *graph, int64_t target) {
    static const km_point POINTS[] = {KM_POINT_MLP_INPUT, KM_POINT_V_INPUT, KM_POINT_K_INPUT,
                                      KM_POINT_Q_INPUT};
    const int64_t layer = target / graph->layer_targets;
    if (target == graph->n_targets - 1) {
        return (km__graph_place){layer, -1, KM_POINT_LOGITS};
    }
    km__graph_place place = {layer, -1, KM_POINT_MLP_INPUT};
    for (int i = 0; i < 4; i++) {
        const int64_t first = km__graph_target(graph, layer, POINTS[i]);
        if (target >= first) {
            place.point = POINTS[i];
            place.head = POINTS[i] == KM_POINT_MLP_INPUT ? -1 : target - first;
            break;
        }
    }
    return place;
}

int64_t km__graph_reach(const km__graph *graph, int64_t target) {
    const km__graph_place place = km__graph_target_place(graph, target);
    const bool after_attention =
        place.point == KM_POINT_MLP_INPUT && !graph->config->parallel_residual;
    return after_attention ? km__graph_mlp(graph, place.layer)
                           : km__graph_attention(graph, place.layer);
}

km_status km__circuit_check(const km__graph *graph, const km_circuit_task *task, km_error *err) {
    const int32_t vocab = graph->config->vocab_size;
    if (task->n < 1 || task->clean == NULL || task->corrupted == NULL) {
        return KM_SET(err, KM_EINVAL, "a circuit needs two prompts of at least one token");
    }
    if (task->good < 0 || task->good >= vocab || task->bad < 0 || task->bad >= vocab) {
        return KM_SET(err, KM_ERANGE, "good %d and bad %d must be in [0, %d)", task->good,
                      task->bad, vocab);
    }
    if (task->good == task->bad) {
        return KM_SET(err, KM_EINVAL, "good and bad are the same token %d", task->good);
    }
    return KM_OK;
}

/* A row a head and token: the head's part of z, zero elsewhere, so that one product gives what each
 * head writes whatever type the matrix is stored in. */
km_status km__circuit_heads(float *out, float *spread, const km__graph *graph, int64_t layer,
                            const float *z, int64_t n, km_error *err) {
    const int64_t heads = graph->config->n_heads, width = graph->config->head_dim;
    const int64_t row = heads * width;
    const km_matrix *wo = &graph->model->weights.layers[layer].wo;
    memset(spread, 0, (size_t)(heads * n * row) * sizeof *spread);
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(spread + (h * n + i) * row + h * width, z + i * row + h * width,
                   (size_t)width * sizeof *spread);
        }
    }
    const km_linear_job job = {out, spread, wo, NULL, graph->width, row, heads * n};
    return km_linear_many(km_model_ctx(graph->model), &job, 1, err);
}

int64_t km_circuit_sources(const km_model *model) {
    return km__graph_of(model).n_sources;
}

int64_t km_circuit_targets(const km_model *model) {
    return km__graph_of(model).n_targets;
}

int64_t km_circuit_edges(const km_model *model) {
    const km__graph graph = km__graph_of(model);
    int64_t total = 0;
    for (int64_t target = 0; target < graph.n_targets; target++) {
        total += km__graph_reach(&graph, target);
    }
    return total;
}
