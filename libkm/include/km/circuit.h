/* km/circuit.h: knowledge circuits by edge attribution patching: which of a model's connections
 * carry the difference between a prompt and a corrupted one (Syed et al. 2023, Hanna et al. 2024,
 * Yao et al. 2024). Letters as in km/model.h. Definitions and sources: docs/measures/circuits.md.
 *
 * Nodes are what is written to the residual stream and what reads it:
 * - sources: "input" (the embedding), "a<l>.h<h>" (a head's part of attn_out), "m<l>" (an MLP);
 *   with norms behind attention heads have no part of their own, and the block is one, "a<l>".
 * - targets: the stream as a head reads it for its query ("q"), key ("k") or value ("v"), as an MLP
 *   reads it ("mlp"), and as the final norm does ("logits"). Heads of k and v are KV heads.
 *
 * Sources are numbered 0 for the input, then layer by layer its heads (or the block) and its MLP;
 * targets layer by layer H queries, K keys, K values, the MLP, at last the logits. An edge leads
 * from each source to each target computed after it.
 */
#ifndef KM_CIRCUIT_H
#define KM_CIRCUIT_H

#include "km/model.h"
#include "km/table.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Two prompts of equal length, and the tokens whose logits after the last position are compared:
 * metric = logit(good) - logit(bad). */
typedef struct km_circuit_task {
    const int32_t *clean, *corrupted; /* (n) */
    int64_t n;
    int32_t good, bad;
} km_circuit_task;

typedef struct km_circuit_options {
    int32_t steps; /* of the path from the corrupted embeddings to the clean ones, 1 to 1000; 1: the
                      derivative on the clean run alone (EAP) */
    int64_t top;   /* edges kept, by absolute score; 0: all */
} km_circuit_options;
#define KM_CIRCUIT_OPTIONS_INIT {5, 5000}

/* Number of sources: 1 + L (H + 1), or 1 + 2 L with norms behind attention. */
KM_API int64_t km_circuit_sources(const km_model *model);
/* Number of targets: L (H + 2 K + 1) + 1. */
KM_API int64_t km_circuit_targets(const km_model *model);
/* Number of edges: of each target, the sources computed before it. */
KM_API int64_t km_circuit_edges(const km_model *model);

/* Score every edge: the sum over positions and elements of (source, corrupted - clean) times the
 * derivative of -metric with respect to the target's input, averaged over the steps k = 1..steps of
 * the embeddings corrupted + (k / steps)(clean - corrupted). A positive score: corrupting the edge
 * lowers the metric. Rows from the largest absolute score down, ties by number; after the cut,
 * edges from sources nothing reaches and to targets that reach nothing are dropped. Columns:
 * source, target (names), kind, score, source_id, target_id, source_layer, target_layer,
 * target_head. Errors: KM_EINVAL for empty prompts, equal tokens or bad options, KM_ERANGE for good
 * or bad, and those of km_model_gradients. */
KM_API KM_NODISCARD km_status km_circuit_run(km_table **out, const km_model *model,
                                             const km_circuit_task *task,
                                             const km_circuit_options *options, km_tick_fn tick,
                                             void *payload, km_error *err);

/* Run the clean prompt with every edge outside the circuit carrying what it carries in the
 * corrupted run. Edges as in the table of km_circuit_run; an edge given twice counts once. Rows:
 * clean, corrupted, circuit; columns: run, metric (logits), rank, logprob (nats) and probability of
 * `good`, recovered (the metric's share of the way from corrupted to clean; null where these are
 * equal). Errors: KM_ERANGE for an edge that does not exist, and those of km_model_forward. */
KM_API KM_NODISCARD km_status km_circuit_evaluate(km_table **out, const km_model *model,
                                                  const km_circuit_task *task,
                                                  const int32_t *sources, const int32_t *targets,
                                                  int64_t n_edges, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
