/* fingerprint.c: one SHA-256 for a model's configuration and weights.
 *
 * A tensor's digest is the hash of the digests of its 4 MiB pieces, so that pieces run in parallel
 * and one large embedding does not hold up the rest. The model's digest hashes, in this order: the
 * configuration as sorted "name=value" lines, then for each tensor, sorted by name, the line
 * "name type shape" and its digest. Neither path nor display name enter. A random control hashes
 * the configuration, the seed and the initialiser's version instead of bytes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/image.h"

#define PIECE_BYTES ((size_t)4 << 20)
#define DIGEST 32

enum { FINGERPRINT_ABSENT = 0, FINGERPRINT_WRITING, FINGERPRINT_READY };

typedef struct piece {
    const unsigned char *data;
    size_t n;
} piece;

typedef struct hashing {
    const km_container *container;
    const km__image *image;         /* tensors in place of the container's */
    const km_tensor_info **tensors; /* (n_tensors) sorted by name */
    int64_t n_tensors;
    piece *pieces;
    unsigned char *digests; /* (n_pieces, DIGEST) */
    int64_t n_pieces;
} hashing;

static int compare_names(const void *a, const void *b) {
    const km_tensor_info *x = *(const km_tensor_info *const *)a;
    const km_tensor_info *y = *(const km_tensor_info *const *)b;
    return strcmp(x->name, y->name);
}

static int64_t pieces_of(const km_tensor_info *info) {
    return (int64_t)((info->nbytes + PIECE_BYTES - 1) / PIECE_BYTES);
}

/* ---- configuration ---- */

static void hash_int(km_sha256 *sha, const char *name, int64_t value) {
    char line[96];
    int n = snprintf(line, sizeof(line), "%s=%" PRId64 "\n", name, value);
    km_sha256_update(sha, line, (size_t)n);
}

static void hash_real(km_sha256 *sha, const char *name, double value) {
    char line[96];
    int n = snprintf(line, sizeof(line), "%s=%.17g\n", name, value);
    km_sha256_update(sha, line, (size_t)n);
}

/* The p for which every p-th layer is full and no other (layers + 1 when none is); 0 without
 * windows, -1 when there is no such p. */
static int64_t window_period(const km_config *c) {
    int64_t period = c->sliding_window > 0 ? 1 : 0;
    while (period > 0 && period <= c->n_layers && c->windowed[period - 1]) {
        period++;
    }
    for (int32_t i = 0; period > 0 && i < c->n_layers; i++) {
        if (c->windowed[i] != ((i + 1) % period != 0)) {
            return -1;
        }
    }
    return period;
}

/* Later fields enter only where they differ from a plain Llama model's, so that fingerprints made
 * before there was such a field hold. */
static void hash_int_unless(km_sha256 *sha, const char *name, int64_t value, int64_t plain) {
    if (value != plain) {
        hash_int(sha, name, value);
    }
}

static void hash_real_unless(km_sha256 *sha, const char *name, double value, double plain) {
    if (value != plain) {
        hash_real(sha, name, value);
    }
}

/* Windows in no regular order, a digit a layer. */
static void hash_windows(km_sha256 *sha, const km_config *c) {
    if (window_period(c) != -1) {
        return;
    }
    km_sha256_update(sha, "windowed=", 9);
    for (int32_t i = 0; i < c->n_layers; i++) {
        km_sha256_update(sha, c->windowed[i] ? "1" : "0", 1);
    }
    km_sha256_update(sha, "\n", 1);
}

/* Fields in alphabetical order. */
static void hash_config(km_sha256 *sha, const km_config *c) {
    char line[96];
    int n = snprintf(line, sizeof(line), "activation=%d\narch=%s\n", (int)c->activation, c->arch);
    km_sha256_update(sha, line, (size_t)n);
    hash_int_unless(sha, "attn_out_bias", c->attn_out_bias, false);
    hash_real(sha, "attn_scale", (double)c->attn_scale);
    hash_real_unless(sha, "attn_softcap", (double)c->attn_softcap, 0.0);
    hash_int(sha, "context_length", c->context_length);
    hash_int(sha, "d_ffn", c->d_ffn);
    hash_int(sha, "d_model", c->d_model);
    hash_real(sha, "embed_scale", (double)c->embed_scale);
    hash_real_unless(sha, "final_softcap", (double)c->final_softcap, 0.0);
    hash_int_unless(sha, "gated_mlp", c->gated_mlp, true);
    hash_int(sha, "head_dim", c->head_dim);
    hash_int_unless(sha, "mlp_bias", c->mlp_bias, false);
    hash_int(sha, "n_heads", c->n_heads);
    hash_int(sha, "n_kv_heads", c->n_kv_heads);
    hash_int(sha, "n_layers", c->n_layers);
    hash_int_unless(sha, "norm", (int64_t)c->norm, KM_NORM_RMS);
    hash_real(sha, "norm_eps", c->norm_eps);
    hash_real(sha, "norm_offset", (double)c->norm_offset);
    hash_int_unless(sha, "parallel_residual", c->parallel_residual, false);
    hash_int_unless(sha, "position", (int64_t)c->position, KM_POSITION_ROPE);
    hash_int(sha, "post_norms", c->post_norms);
    hash_int(sha, "qk_norm", c->qk_norm);
    hash_int_unless(sha, "qkv_bias", c->qkv_bias, false);
    hash_real(sha, "rope_base", c->rope_base);
    hash_real(sha, "rope_base_local", c->rope_base_local);
    hash_real_unless(sha, "rope_factor", c->rope_factor, 0.0);
    hash_real_unless(sha, "rope_high_freq_factor", c->rope_high_freq_factor, 0.0);
    hash_real(sha, "rope_linear_scale", c->rope_linear_scale);
    hash_real_unless(sha, "rope_low_freq_factor", c->rope_low_freq_factor, 0.0);
    hash_int_unless(sha, "rope_original_context", c->rope_original_context, 0);
    hash_int(sha, "rope_pairs", (int64_t)c->rope_pairs);
    hash_int_unless(sha, "rotary_dim", c->rotary_dim, c->head_dim);
    hash_int(sha, "sliding_pattern", window_period(c));
    hash_int(sha, "sliding_window", c->sliding_window);
    hash_int(sha, "tied_embeddings", c->tied_embeddings);
    hash_int(sha, "vocab_size", c->vocab_size);
    hash_windows(sha, c);
}

/* ---- tensors ---- */

static km_status list_pieces(hashing *work, km_ctx *ctx, km_error *err) {
    work->n_tensors = km_container_n_tensors(work->container);
    KM_TRY(
        km_alloc_array((void **)&work->tensors, ctx, work->n_tensors, sizeof(*work->tensors), err));
    for (int64_t i = 0; i < work->n_tensors; i++) {
        const km_tensor_info *info = km_container_tensor(work->container, i);
        const km_tensor_info *changed = km__image_find(work->image, info->name);
        work->tensors[i] = changed != NULL ? changed : info;
        work->n_pieces += pieces_of(work->tensors[i]);
    }
    qsort(work->tensors, (size_t)work->n_tensors, sizeof(*work->tensors), compare_names);
    KM_TRY(km_alloc_array((void **)&work->pieces, ctx, work->n_pieces, sizeof(*work->pieces), err));
    KM_TRY(km_alloc_array((void **)&work->digests, ctx, work->n_pieces, DIGEST, err));
    int64_t at = 0;
    for (int64_t i = 0; i < work->n_tensors; i++) {
        const km_tensor_info *info = work->tensors[i];
        for (size_t begin = 0; begin < info->nbytes; begin += PIECE_BYTES) {
            size_t left = info->nbytes - begin;
            work->pieces[at++] = (piece){(const unsigned char *)info->data + begin,
                                         left < PIECE_BYTES ? left : PIECE_BYTES};
        }
    }
    return KM_OK;
}

static km_status hash_pieces(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const hashing *work = payload;
    for (int64_t i = begin; i < end; i++) {
        km_sha256 sha;
        km_sha256_init(&sha);
        km_sha256_update(&sha, work->pieces[i].data, work->pieces[i].n);
        km_sha256_final(&sha, work->digests + i * DIGEST);
    }
    return KM_OK;
}

static void hash_tensor(km_sha256 *sha, const km_tensor_info *info, const unsigned char *digests) {
    char text[160];
    unsigned char digest[DIGEST];
    km_sha256 inner;
    int n = snprintf(text, sizeof(text), " %s (", km_dtype_get(info->dtype)->name);
    for (int i = 0; i < info->n_dims; i++) {
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%" PRId64, i > 0 ? "," : "",
                      info->dims[i]);
    }
    n += snprintf(text + n, sizeof(text) - (size_t)n, ")\n");
    km_sha256_init(&inner);
    km_sha256_update(&inner, digests, (size_t)pieces_of(info) * DIGEST);
    km_sha256_final(&inner, digest);
    km_sha256_update(sha, info->name, strlen(info->name));
    km_sha256_update(sha, text, (size_t)n);
    km_sha256_update(sha, digest, sizeof(digest));
}

static km_status hash_tensors(km_sha256 *sha, const km_model *model, const km__image *image,
                              km_error *err) {
    km_status status = KM_OK;
    km_ctx *ctx = model->ctx;
    hashing work = {model->container, image, NULL, 0, NULL, NULL, 0};
    KM_GO(km_container_check(model->container, err));
    KM_GO(list_pieces(&work, ctx, err));
    KM_GO(km_parallel_for(ctx, work.n_pieces, 1, hash_pieces, &work, err));
    const unsigned char *digests = work.digests;
    for (int64_t i = 0; i < work.n_tensors; i++) {
        hash_tensor(sha, work.tensors[i], digests);
        digests += pieces_of(work.tensors[i]) * DIGEST;
    }
done:
    km_free(ctx, work.tensors);
    km_free(ctx, work.pieces);
    km_free(ctx, work.digests);
    return status;
}

/* A trainable model's weights as its immutable copy would hold them. */
static km_status hash_weights(km_sha256 *sha, const km_model *model, km_error *err) {
    km__image image = {0};
    km_status status = KM_OK;
    if (model->is_trainable) {
        KM_GO(km__image_make(&image, model, NULL, err));
    }
    KM_GO(hash_tensors(sha, km__model_with_container(model), &image, err));
done:
    km__image_clear(&image);
    return status;
}

/* A control keeps the rope factors that a GGUF file holds as a tensor. */
static void hash_factors(km_sha256 *sha, const km_model *model) {
    const km_config *c = &model->config;
    for (int32_t i = 0;
         model->weights.rope_factors != NULL && c->rope_factor == 0.0 && i < c->rotary_dim / 2;
         i++) {
        hash_real(sha, "rope_frequency", (double)model->weights.rope_factors[i]);
    }
}

static km_status compute(char out[65], const km_model *model, km_error *err) {
    km_sha256 sha;
    unsigned char digest[DIGEST];
    km_sha256_init(&sha);
    hash_config(&sha, &model->config);
    if (model->container != NULL || model->is_trainable) {
        KM_TRY(hash_weights(&sha, model, err));
    } else {
        char line[96];
        int n = snprintf(line, sizeof(line), "initialiser=%d\nseed=%" PRIu64 "\n",
                         KM_INITIALISER_VERSION, model->random_seed);
        km_sha256_update(&sha, line, (size_t)n);
        hash_factors(&sha, model);
    }
    km_sha256_final(&sha, digest);
    km_sha256_hex(out, digest);
    return KM_OK;
}

/* The model is constant to its users; the remembered fingerprint is guarded by an atomic state: one
 * thread writes it, others that come meanwhile compute their own. */
km_status km_model_fingerprint(char out[65], const km_model *model, km_error *err) {
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "no model or no place for the fingerprint");
    }
    km_model *self = (km_model *)(uintptr_t)model;
    if (atomic_load(&self->fingerprint_state) == FINGERPRINT_READY) {
        memcpy(out, model->fingerprint, sizeof(model->fingerprint));
        return KM_OK;
    }
    KM_TRY(compute(out, model, err));
    int absent = FINGERPRINT_ABSENT;
    if (atomic_compare_exchange_strong(&self->fingerprint_state, &absent, FINGERPRINT_WRITING)) {
        memcpy(self->fingerprint, out, sizeof(self->fingerprint));
        atomic_store(&self->fingerprint_state, FINGERPRINT_READY);
    }
    return KM_OK;
}
