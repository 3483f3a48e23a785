/* km/model.h: a language model held for exact measurement: configuration, weights, forward pass.
 *
 * Letters: T tokens of a tree, D model width, H heads, K KV heads, Dh head width, F feed-forward
 * width, L layers, V vocabulary. Activations are float32. A km_model is immutable and may be shared
 * between threads; calls on one context take turns.
 */
#ifndef KM_MODEL_H
#define KM_MODEL_H

#include "km/ctx.h"
#include "km/points.h"
#include "km/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_model km_model;

typedef enum km_activation { KM_ACT_SILU = 0, KM_ACT_GELU_TANH, KM_ACT_GELU_ERF } km_activation;
typedef enum km_norm_kind { KM_NORM_RMS = 0, KM_NORM_LAYER } km_norm_kind; /* LAYER has a bias */
typedef enum km_position_kind { KM_POSITION_ROPE = 0, KM_POSITION_LEARNED } km_position_kind;
/* Which two elements of a head a rotary angle turns: (2i, 2i+1) as GGUF's llama files are permuted
 * to, or (i, i + Dh/2) as Hugging Face writes. */
typedef enum km_rope_pairs { KM_ROPE_INTERLEAVED = 0, KM_ROPE_HALVES } km_rope_pairs;

#define KM_MAX_LAYERS 1024

/* What distinguishes one architecture from another; the forward and backward passes know nothing
 * else of it. */
typedef struct km_config {
    char arch[32]; /* "llama", "gemma3", "gpt2", ... as GGUF names it */
    char name[128];
    int32_t n_layers, d_model, n_heads, n_kv_heads, head_dim, d_ffn, vocab_size, context_length;
    km_norm_kind norm;
    double norm_eps;
    float norm_offset; /* added to every RMSNorm weight: 1 for Gemma from Hugging Face, else 0 */
    km_activation activation;
    bool gated_mlp;         /* act(x Wg') * (x Wu'); else act(x Wu') */
    bool parallel_residual; /* x + attn(norm1(x)) + mlp(norm2(x)): GPT-NeoX */
    bool qk_norm;           /* RMSNorm over each head of q and k before the rotary embedding */
    bool post_norms; /* Gemma: RMSNorm on attention and MLP outputs before the residual add */
    bool qkv_bias, attn_out_bias, mlp_bias;
    bool tied_embeddings;
    float embed_scale;   /* 1, or sqrt(D) for Gemma */
    float attn_scale;    /* multiplies q.k; 1/sqrt(Dh) unless the file says otherwise */
    float attn_softcap;  /* scores become c tanh(s/c); 0: none */
    float final_softcap; /* the same of logits */
    km_position_kind position;
    km_rope_pairs rope_pairs;
    int32_t rotary_dim;       /* elements of a head that turn, its first ones; Dh unless partial */
    double rope_base;         /* of layers that see everything */
    double rope_base_local;   /* of sliding-window layers; equal to rope_base without windows */
    double rope_linear_scale; /* positions of full layers are divided by this; 1: none */
    /* Llama 3: each frequency is divided by a factor between 1 and rope_factor by its wavelength;
     * rope_factor 0: none. GGUF files hold the factors themselves (tensor rope_freqs.weight). */
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int32_t rope_original_context;
    int32_t sliding_window; /* 0: none; a token sees itself and window-1 tokens before it */
    uint8_t windowed[KM_MAX_LAYERS]; /* which layers have the window */
} km_config;

typedef struct km_model_options {
    int64_t max_bytes; /* refuse to load when weights that cannot stay in the mapped file as they
                          are need more; 0: what is available */
} km_model_options;
#define KM_MODEL_OPTIONS_INIT {0}

/* Load a .gguf file or a Hugging Face folder. Errors name the file and the tensor, key or field. */
KM_API KM_NODISCARD km_status km_model_load(km_model **out, km_ctx *ctx, const char *path,
                                            const km_model_options *options, km_error *err);
/* A model of the same shape with fresh weights: matrices normal(0, 0.02), norm gains 1 (0 where
 * norm_offset is 1); the control every recall figure stands beside (docs/decisions). */
KM_API KM_NODISCARD km_status km_model_random_like(km_model **out, const km_model *model,
                                                   uint64_t seed, km_error *err);
/* One reference more; the model itself. */
KM_API km_model *km_model_ref(km_model *model);
/* Drop one reference; the last one frees weights and file map. NULL is a no-op. */
KM_API void km_model_free(km_model *model);

/* What the file says of the architecture. Borrowed, as are the three after it. */
KM_API const km_config *km_model_config(const km_model *model);
/* The tokenizer that came with the weights. */
KM_API const km_tokenizer *km_model_tokenizer(const km_model *model);
/* The context the model was loaded in. */
KM_API km_ctx *km_model_ctx(const km_model *model);
/* The path as given to km_model_load; of a model made from another, that one's; of km_model_new,
 * where its tokenizer came from. */
KM_API const char *km_model_path(const km_model *model);
/* Number of weights; shared ones (tied embeddings) count once. */
KM_API int64_t km_model_parameters(const km_model *model);
/* The commonest type of a matrix in the file, such as "Q4_1". Borrowed. */
KM_API const char *km_model_precision(const km_model *model);
/* SHA-256 (hex, 65 bytes with NUL) over the sorted configuration and each tensor's name, type,
 * shape and bytes. Computed in parallel on first need, then remembered by the model. */
KM_API KM_NODISCARD km_status km_model_fingerprint(char out[65], const km_model *model,
                                                   km_error *err);

/* ---- forward pass over a tree of tokens ---- */

/* A packed forest. parent[i] < i, or -1 for the first token of a sequence. A token attends to
 * itself and its ancestors; its position is its depth (roots at 0). */
typedef struct km_tree {
    const int32_t *ids;    /* (n) */
    const int64_t *parent; /* (n) */
    int64_t n;
} km_tree;

/* Sees one row of unnormalised logits (V float32); called on worker threads, once for each wanted
 * (row, layer), in no promised order; must not keep `logits`. layer is L for the model's output and
 * l in [0, L) for the logit lens after block l (final norm and unembedding applied to resid_post).
 * `index` is the position in the request's rows (or lens_rows). */
typedef km_status (*km_logits_fn)(void *payload, int64_t index, int32_t layer, const float *logits,
                                  int64_t vocab, km_error *err);

/* Whether layer `layer` and those below it are still wanted of lens_rows[index]. Asked on the
 * calling thread, after every logits row above `layer` that was wanted has been seen; once it says
 * no, that row is shown no more. */
typedef bool (*km_lens_open_fn)(void *payload, int64_t index, int32_t layer);

typedef struct km_session km_session;

typedef struct km_forward_request {
    km_tree tree;
    const int64_t *rows; /* nodes whose output logits are wanted */
    int64_t n_rows;
    const int64_t *lens_rows; /* nodes whose logit lens of every layer 0..L-1 is wanted */
    int64_t n_lens_rows;
    km_logits_fn on_logits;
    void *payload;
    km_lens_open_fn lens_open; /* NULL: every layer is wanted */
    /* The only doors into a running model (km/points.h); all optional. */
    const km_read *reads;
    int64_t n_reads;
    const km_patch *patches;
    int64_t n_patches;
    uint32_t visit_points; /* bit 1 << point for each point `visit` wants to see */
    km_visit_fn visit;
    void *visit_payload;
    /* Keep keys and values of this pass's tokens and let them attend to those of earlier ones;
     * NULL: none. parent[i] then counts from the session's first token: new token i is node length
     * + i, and parent[i] < length + i. rows, lens_rows, reads and patches count new tokens from 0.
     */
    km_session *session;
} km_forward_request;

/* ---- sessions: keys and values kept between passes (decoding, prefixes used again) ---- */

/* A growing forest of tokens with their keys and values in every layer: 2 * L * K * Dh floats a
 * token. Branches (beams, several prompts) are just nodes with the same parent. Used by one thread
 * at a time: a second one gets KM_ESTATE. */
KM_API KM_NODISCARD km_status km_session_new(km_session **out, const km_model *model,
                                             int64_t capacity, km_error *err);
/* Give it back; NULL is a no-op. It holds a reference to its model. */
KM_API void km_session_free(km_session *session);
/* Tokens held. */
KM_API int64_t km_session_length(const km_session *session);
/* Forget the tokens from index `length` on. */
KM_API KM_NODISCARD km_status km_session_truncate(km_session *session, int64_t length,
                                                  km_error *err);
/* Keep the n given nodes (rising, each with its ancestors) and renumber them 0..n-1. */
KM_API KM_NODISCARD km_status km_session_keep(km_session *session, const int64_t *nodes, int64_t n,
                                              km_error *err);

/* Run the model once over the tree, show the output's rows, then the lens from the last layer down
 * (n_lens_rows * L * D floats are held until then). Same bits for any thread count. Errors:
 * KM_EINVAL, KM_ERANGE (id or context length), KM_ENOMEM, KM_ENUMERIC (non-finite logits, with
 * layer), KM_ECANCELLED. */
KM_API KM_NODISCARD km_status km_model_forward(const km_model *model,
                                               const km_forward_request *request, km_error *err);

/* log p(ids[t] | ids[<t]) in nats for t = 1..n-1 into out (n-1). */
KM_API KM_NODISCARD km_status km_model_logprobs_into(float *out, const km_model *model,
                                                     const int32_t *ids, int64_t n, km_error *err);
/* log p(. | ids) in nats, (V). */
KM_API KM_NODISCARD km_status km_model_next_logprobs_into(float *out, const km_model *model,
                                                          const int32_t *ids, int64_t n,
                                                          km_error *err);

/* Logits (n, V) of residual streams x (n, D): unembedded as they are, or through the final norm
 * first, and soft-capped where the model does so. Errors: KM_EINVAL; KM_ENUMERIC where some are not
 * finite; KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_model_unembed_into(float *out, const km_model *model,
                                                    const float *x, int64_t n, bool norm,
                                                    km_error *err);

/* ---- reductions over one row of logits, deterministic per CPU variant; x is (n) ---- */

/* log of the sum of exp(x); -infinity for n = 0. */
KM_API double km_logits_logsumexp(const km_model *model, const float *x, int64_t n);
/* Number of entries strictly larger than x[index]. */
KM_API int64_t km_logits_rank(const float *x, int64_t n, int64_t index);
/* Lowest index of the largest entry. */
KM_API int64_t km_logits_argmax(const float *x, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
