/* circuit.h: what attribution and evaluation of circuits share: the numbering of nodes, and what
 * each source writes in a run. Private to measure. */
#ifndef KM_MEASURE_CIRCUIT_H
#define KM_MEASURE_CIRCUIT_H

#include "base/base.h"
#include "km/circuit.h"

/* The shape of a model's graph. */
typedef struct km__graph {
    const km_model *model;
    const km_config *config;
    int64_t width;   /* D */
    int64_t z_width; /* H*Dh: attn_head_out; with blocks D: attn_out */
    int64_t writers; /* attention sources a layer: H, or 1 with post norms */
    int64_t layer_sources, layer_targets;
    int64_t n_sources, n_targets;
    bool blocks; /* attention is one source a layer */
} km__graph;

km__graph km__graph_of(const km_model *model);
/* First attention source and MLP source of a layer. */
int64_t km__graph_attention(const km__graph *graph, int64_t layer);
int64_t km__graph_mlp(const km__graph *graph, int64_t layer);
/* First target of a layer that reads at q_input, k_input, v_input or mlp_input. */
int64_t km__graph_target(const km__graph *graph, int64_t layer, km_point point);
/* Sources 0 .. this - 1 have edges to the target: all that are computed before it. */
int64_t km__graph_reach(const km__graph *graph, int64_t target);

/* Where a number is: its layer (L for the logits, -1 for the input), point and head (-1: none). */
typedef struct km__graph_place {
    int64_t layer, head;
    km_point point;
} km__graph_place;
km__graph_place km__graph_source_place(const km__graph *graph, int64_t source);
km__graph_place km__graph_target_place(const km__graph *graph, int64_t target);

/* Errors as km_circuit_run. */
KM_NODISCARD km_status km__circuit_check(const km__graph *graph, const km_circuit_task *task,
                                         km_error *err);

/* out (H, n, D): what each head writes, without the output bias, given z (n, H, Dh). `spread` is
 * scratch of n * H * H * Dh floats. */
KM_NODISCARD km_status km__circuit_heads(float *out, float *spread, const km__graph *graph,
                                         int64_t layer, const float *z, int64_t n, km_error *err);

#endif
